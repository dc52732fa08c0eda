"""The whole training, with models of a few thousand parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import ViTModel

REPOSITORY = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "examples.mini_pack", "--hardware", "smoke", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, glyphs: object) -> Path:
    """A pack that was trained in two goes."""
    folder = tmp_path_factory.mktemp("training")
    arguments = ("--work", str(folder / "work"), "--out", str(folder / "pack"))
    stopped = command(*arguments, "--minutes", "0")
    assert stopped.returncode == 3, stopped.stderr
    assert "the same command goes on from here" in stopped.stderr
    assert not (folder / "pack").exists()
    finished = command(*arguments)
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.slow
def test_the_pipeline_loads_and_draws(trained: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(
        trained / "pack" / "diffusion", dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    images = [
        pipeline(
            "a good picture of a cat",
            num_inference_steps=2,
            height=32,
            width=32,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images
        for seed in (0, 0, 1)
    ]
    assert images[0].shape == (1, 32, 32, 3)
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()


@pytest.mark.slow
def test_clip_loads_with_its_tokenizer(trained: Path) -> None:
    folder = f"local-dir:{trained / 'pack' / 'clip'}"
    model, _ = open_clip.create_model_from_pretrained(folder)
    text = open_clip.get_tokenizer(folder)(["a photo of a dog"])
    assert model.encode_text(text).shape == (1, 16)


@pytest.mark.slow
def test_the_self_supervised_transformer_loads(trained: Path) -> None:
    model, report = ViTModel.from_pretrained(
        trained / "pack" / "dino", add_pooling_layer=False, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert model.config.image_size == 32


@pytest.mark.slow
def test_weights_are_half_precision_and_name_no_path(trained: Path) -> None:
    for file in (trained / "pack").rglob("*.json"):
        assert str(trained) not in file.read_text(encoding="utf-8")
    config = json.loads((trained / "pack" / "diffusion" / "unet" / "config.json").read_text())
    assert "_name_or_path" not in config
    from safetensors import safe_open

    for file in (trained / "pack").rglob("*.safetensors"):
        with safe_open(file, "pt") as tensors:  # type: ignore[no-untyped-call]
            kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


@pytest.mark.slow
def test_the_curves_are_logged(trained: Path) -> None:
    for stage in ("autoencoder", "diffusion", "clip", "selfsup"):
        lines = (trained / "work" / f"{stage}.csv").read_text().splitlines()
        assert lines[0].startswith("step,samples,seconds,lr,")
        assert lines[-1].startswith("3,")


@pytest.mark.slow
def test_a_pack_can_be_trained_further(trained: Path, tmp_path: Path) -> None:
    pack = trained / "pack"
    result = command("--work", str(tmp_path / "work"), "--out", str(tmp_path / "pack"), "--start-from", str(pack))
    assert result.returncode == 0, result.stderr
    tokenizers = [folder / "diffusion" / "tokenizer" / "vocab.json" for folder in (pack, tmp_path / "pack")]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
