"""What is imported for a CLIP model, in a process of its own: this one has it all."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

from tests.mini import MINI_FOLDER


def run(code: str, *arguments: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_clip_of_open_clip_is_loaded_without_what_it_does_not_need_and_the_rest_can_still_be_had(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"vision_cfg": {"timm_model_name": ""}, "text_cfg": {"hf_model_name": "roberta"}}})
    )
    code = """
        import json, sys
        from pathlib import Path

        import torch

        from ovseg_cli.backbones.clip import ClipBackbone
        from ovseg_cli.backbones.lean import import_open_clip

        clip = ClipBackbone.load(Path(sys.argv[1]), device="cpu")
        clip.trace(torch.zeros(1, 3, 64, 64), blocks=(-1,), input_size=64, mean=(0.5,) * 3, std=(0.5,) * 3)
        heavy = [name for name in ("timm", "transformers", "sympy", "torch._dynamo") if name in sys.modules]
        stand_ins = [name for name in sys.modules if name.startswith("torch._dynamo")]

        open_clip = import_open_clip(Path(sys.argv[2]))
        from torchvision.ops import roi_align

        boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
        pooled = roi_align(torch.ones(1, 1, 8, 8, requires_grad=True), boxes, 2)
        import transformers

        print(json.dumps({
            "heavy": heavy,
            "stand_ins": stand_ins,
            "tokens": clip.tokenizer(["a photo of a cat"]).shape[1] == clip.longest_text,
            "transformers": open_clip.hf_model.transformers is transformers,
            "timm": open_clip.timm_model.timm is None,
            "pooled": pooled.flatten().tolist(),
            "compiler": sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu"),
        }))
    """
    found = run(code, MINI_FOLDER / "clip", tmp_path)
    assert found == {
        "heavy": [],
        "stand_ins": [],
        "tokens": True,
        "transformers": True,
        "timm": True,
        "pooled": [1.0] * 4,
        "compiler": True,
    }
