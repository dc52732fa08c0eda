"""Makes tests/parity/golden/labels-<method>-<case>.npz by running published code from file to label map (no test).

    python -m tests.parity.makers.labels METHOD --code DIR [--clip DIR] [--dino DIR] [--environment DIR] [--texts FILE]

One method a run, for their packages have the same names. DIR is a checkout of the method's repository; README.md beside
this file names the commits and says what is put in place of what is missing. None of that code is here. It needs
mmsegmentation 1.2, mmengine 0.10, mmcv-lite 2.1 and OpenCV, which ovseg does not.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity.file_inputs import BACKGROUND, LISTS, clip_state, fill_dino, words_of, write_photographs
from tests.parity.inputs import write_golden
from tests.parity.makers.clip_family import Registry, load, module

Labels = tuple[Tensor, Tensor]
"""Labels (H, W), 0 for the background and i for the i-th class; and the score of the best class, (H, W) in [0, 1]."""

Run = Callable[[Path], Labels]
"""From a file."""

CONTEXT = 16
"""Places of a text that the towers have; the longest text needs 14. What stands behind its end changes nothing."""


def main() -> None:
    """Make the label maps of one method."""
    parser = argparse.ArgumentParser(description="Make golden label maps by running published code from files.")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--clip", type=Path, help="checkout of openai/CLIP (MaskCLIP)")
    parser.add_argument("--dino", type=Path, help="checkout of facebookresearch/dino (ProxyCLIP)")
    parser.add_argument("--environment", type=Path, help="folder with open_clip 2.23 (GEM) and einops")
    parser.add_argument("--texts", type=Path, help="where embeddings of texts are kept between methods")
    parser.add_argument("--case", action="append", help="only these")
    arguments = parser.parse_args()
    torch.Tensor.half = lambda tensor: tensor  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        photographs = write_photographs(folder)
        weights = folder / "ViT-B-16.pt"
        torch.save(clip_state(CONTEXT), weights)
        for loaded in [name for name in sys.modules if name.partition(".")[0] == "open_clip"]:
            del sys.modules[loaded]  # methods bring their own
        texts = Texts(arguments.texts)
        published = METHODS[arguments.method](arguments, folder, weights, texts)
        for case, make in published.items():
            if arguments.case and case not in arguments.case:
                continue
            values: dict[str, Any] = {}
            for count, classes in LISTS.items():
                run = make(classes)
                texts.keep()
                for name, file in photographs.items():
                    labels, sure = run(file)
                    _tell(f"{case} {name} {count}", labels, sure)
                    if labels.min() == labels.max():
                        continue  # thresholds are for few words: with many, all can be background
                    values[f"{name}-{count}"] = labels.numpy().astype(np.uint8)
                    values[f"{name}-{count}-sure"] = (sure[::8, ::8] * 255).round().numpy().astype(np.uint8)
            write_golden(f"labels-{arguments.method}-{case}", values)


def _tell(what: str, labels: Tensor, sure: Tensor) -> None:
    counts = torch.bincount(labels.flatten().long()) / labels.numel()
    kinds = sorted(((round(float(n), 3), i) for i, n in enumerate(counts) if n > 0), reverse=True)
    spread = [round(float(sure.float().flatten().quantile(q)), 2) for q in (0.05, 0.5, 0.95)]
    print(what, tuple(labels.shape), len(kinds), "labels", kinds[:8], "sure", spread, flush=True)


class Texts:
    """Embeddings of texts: the methods that have OpenAI's text tower, or open_clip's copy of it, share them.

    What a method computes itself is compared with what another one left.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[bytes, Tensor] = {}
        if path is not None and path.exists():
            self._known = torch.load(path)
        self._fresh = 0

    def teach(self, model: Any) -> Any:
        """Let a model's `encode_text` look here first."""
        encode = model.encode_text

        def encode_text(tokens: Tensor, *_arguments: Any, **_settings: Any) -> Tensor:
            if tokens[:, CONTEXT:].any():
                raise ValueError(f"a text has more than {CONTEXT} tokens")
            rows = tokens[:, :CONTEXT]
            keys = [row.numpy().astype(np.int64).tobytes() for row in rows]
            known = [key in self._known for key in keys]
            if not all(known):
                found = encode(rows[[not there for there in known]]).float()
                self._known.update(
                    zip((key for key, there in zip(keys, known, strict=True) if not there), found, strict=True)
                )
                self._fresh += 1
                if self._fresh % 10 == 0:
                    self.keep()
            elif not hasattr(model, "compared"):
                model.compared = float((encode(rows[:8]) - torch.stack([self._known[k] for k in keys[:8]])).abs().max())
                print("texts differ by", model.compared, flush=True)
            return torch.stack([self._known[key] for key in keys])

        model.encode_text = encode_text
        return model

    def keep(self) -> None:
        """Leave them for the next method."""
        if self._path is not None and self._fresh:
            torch.save(self._known, self._path)
        self._fresh = 0


# --------------------------------------------------------------------------- mmsegmentation 1


def install_mmseg() -> None:
    """mmsegmentation, without the compiled part of mmcv, which nothing of this needs."""
    module("mmcv.ops", __getattr__=lambda _name: None)
    import mmseg.datasets.transforms  # noqa: F401  (registers them)
    from mmengine.registry import init_default_scope

    init_default_scope("mmseg")


def class_file(path: Path, classes: Sequence[str], background: Sequence[str], mark: str) -> Path:
    """A file like the published ones: a line for each class, its words with a mark between them."""
    lines = [mark.join(background)] if background else []
    path.write_text("\n".join(lines + [mark.join(words_of(name)) for name in classes]), encoding="utf-8")
    return path


def mmseg_run(model: Any, config: Any, *, background: bool) -> Run:
    """The test pipeline of a configuration and a model's `test_step`."""
    from mmcv.transforms import Compose

    pipeline = Compose([dict(step) for step in config.test_pipeline if step["type"] != "LoadAnnotations"])
    print([dict(step) for step in config.test_pipeline])

    def run(file: Path) -> Labels:
        packed = pipeline({"img_path": str(file)})
        (sample,) = model.test_step({"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]})
        scores = sample.seg_logits.data
        return sample.pred_sem_seg.data[0] + (0 if background else 1), scores.amax(dim=0)

    return run


Make = Callable[[Sequence[str]], Run]


def mmseg_cases(
    code: Path, folder: Path, build: Callable[..., Any], cases: Iterable[tuple[str, str, dict[str, Any]]], mark: str
) -> dict[str, Make]:
    """Cases of a method by name: which configuration, what is changed of it."""
    from mmengine.config import Config

    def make(config: Any, changes: dict[str, Any], classes: Sequence[str], background: Sequence[str]) -> Run:
        settings = {key: value for key, value in config.model.items() if key != "type"} | changes
        settings["name_path"] = str(class_file(folder / "classes.txt", classes, background, mark))
        print(settings)
        model = build(**settings, device=torch.device("cpu")).eval()
        return mmseg_run(model, config, background=bool(background))

    found: dict[str, Make] = {}
    for name, file, changes in cases:
        config = Config.fromfile(code / "configs" / f"cfg_{file}.py")
        lines = (code / "configs" / f"cls_{file}.txt").read_text(encoding="utf-8").splitlines()
        background: tuple[str, ...] = ()
        if file in ("voc21", "context60"):
            background = tuple(lines[0].split(mark))
            if background not in (BACKGROUND, ("background",)):
                raise ValueError(f"other words for the background: {background}")
        found[name] = lambda classes, c=config, d=changes, b=background: make(c, d, classes, b)  # type: ignore[misc]
    return found


# --------------------------------------------------------------------------- one function a method


def openai_load(clip: Any, weights: Path, texts: Texts) -> None:
    """Let `clip.load` of a copy of OpenAI's package load a file, whatever the name it is asked for."""
    original = clip.load
    cache: list[Any] = []

    def no_archive(*_arguments: Any, **_settings: Any) -> Any:
        raise RuntimeError("not an archive of torch.jit; it is not read, so that it is not left at its end")

    torch.jit.load = no_archive

    def load_weights(*_arguments: Any, **_settings: Any) -> tuple[Any, Any]:
        if not cache:
            model, transform = original(str(weights), device="cpu", jit=False)
            cache.append((texts.teach(model), transform))
        return cache[0]

    clip.load = load_weights


def sclip(arguments: argparse.Namespace, folder: Path, weights: Path, texts: Texts) -> dict[str, Make]:
    """`CLIPForSegmentation`; "plain" is VOC21 without the threshold on areas."""
    install_mmseg()
    sys.path.insert(0, str(arguments.code))
    openai_load(importlib.import_module("clip"), weights, texts)
    build = importlib.import_module("clip_segmentor").CLIPForSegmentation
    cases = [("voc21", "voc21", {}), ("plain", "voc21", {"area_thd": None}), ("voc20", "voc20", {})]
    return mmseg_cases(arguments.code, folder, build, cases, ", ")


def naclip(arguments: argparse.Namespace, folder: Path, weights: Path, texts: Texts) -> dict[str, Make]:
    """`NACLIP` with and without PAMR; Context59 looks through windows."""
    install_mmseg()
    sys.path.insert(0, str(arguments.code))
    openai_load(importlib.import_module("clip"), weights, texts)
    build = importlib.import_module("naclip").NACLIP
    off = {"pamr_steps": 0}
    cases = [("voc21", "voc21", {}), ("plain", "voc21", off), ("voc20", "voc20", off), ("context59", "context59", off)]
    return mmseg_cases(arguments.code, folder, build, cases, ", ")


def clearclip(arguments: argparse.Namespace, folder: Path, weights: Path, texts: Texts) -> dict[str, Make]:
    """`ClearCLIPSegmentation` with its own method, in float32."""
    install_mmseg()
    module("BLIP")
    module("BLIP.models")
    module("BLIP.models.blip_retrieval", blip_retrieval=None)
    module("gem")
    segmentor = open_clip_segmentor(arguments, "clearclip_segmentor", weights, texts)
    changes = {"model_type": "ClearCLIP"}
    cases = [(name, name, changes) for name in ("voc21", "context60", "voc20")]
    return mmseg_cases(arguments.code, folder, segmentor.ClearCLIPSegmentation, cases, ",")


def proxyclip(arguments: argparse.Namespace, folder: Path, weights: Path, texts: Texts) -> dict[str, Make]:
    """`ProxyCLIPSegmentation` with DINO ViT-B/8, in float32."""
    install_mmseg()
    module("segment_anything", sam_model_registry=None)
    module("mae")
    module("mae.models_vit")
    module("mae.pos_embed", interpolate_pos_embed=None)
    module("openpyxl")
    nn.Module.half = lambda network: network  # type: ignore[method-assign,assignment]
    segmentor = open_clip_segmentor(arguments, "proxyclip_segmentor", weights, texts)
    sys.path.insert(0, str(arguments.dino))
    network = load("dino_transformer", arguments.dino / "vision_transformer.py").vit_base(patch_size=8, num_classes=0)
    fill_dino(network)
    torch.hub.load = lambda *_arguments, **_settings: network
    cases: list[tuple[str, str, dict[str, Any]]] = [(name, name, {}) for name in ("voc21", "context60", "voc20")]
    return mmseg_cases(arguments.code, folder, segmentor.ProxyCLIPSegmentation, cases, "; ")


def open_clip_segmentor(arguments: argparse.Namespace, name: str, weights: Path, texts: Texts) -> Any:
    """A segmentor on a copy of open_clip 2.2x, whose "download" is a file, in float32."""
    sys.path[:0] = [str(arguments.code), *([str(arguments.environment)] if arguments.environment else [])]
    openai = importlib.import_module("open_clip.openai")
    openai.download_pretrained_from_url = lambda *_arguments, **_settings: str(weights)
    segmentor = importlib.import_module(name)
    original = segmentor.create_model
    cache: list[Any] = []

    def make(*args: Any, **settings: Any) -> Any:
        if not cache:
            cache.append(texts.teach(original(*args, **(settings | {"precision": "fp32"}))))
        return cache[0]

    segmentor.create_model = make
    return segmentor


def maskclip(arguments: argparse.Namespace, folder: Path, weights: Path, texts: Texts) -> dict[str, Make]:
    """`EncoderDecoder` of mmsegmentation 0.x with its test pipeline, its scripts for texts and weights."""
    code = arguments.code
    sys.path.insert(0, str(arguments.clip))
    openai_load(importlib.import_module("clip"), weights, texts)
    install_mmseg_0(code)
    torch.Tensor.cuda = lambda tensor: tensor  # type: ignore[method-assign,assignment]
    original = torch.load
    torch.load = lambda file, map_location=None: original(file)
    os.chdir(folder)
    Path("pretrain").mkdir()
    before, sys.argv = sys.argv, ["convert", "--model", "ViT16"]
    runpy.run_path(str(code / "tools/maskclip_utils/convert_clip_weights.py"), run_name="__main__")
    sys.argv = ["convert", "--model", "ViT16", "--backbone"]
    runpy.run_path(str(code / "tools/maskclip_utils/convert_clip_weights.py"), run_name="__main__")
    sys.argv = before
    prompts = runpy.run_path(str(code / "tools/maskclip_utils/prompt_engineering.py"))
    from mmengine.config import Config

    def make(config: Any, classes: Sequence[str]) -> Run:
        embedded = prompts["zeroshot_classifier"]("ViT-B/16", list(classes), prompts["prompt_templates"])
        torch.save(embedded.permute(1, 0).float(), "pretrain/made_ViT16_clip_text.pth")
        builder = sys.modules["mmseg.models.builder"]
        settings = config.model.copy()
        head = settings.pop("decode_head")
        head |= {"num_classes": len(classes), "text_categories": len(classes)}
        head |= {"text_embeddings_path": "pretrain/made_ViT16_clip_text.pth"}
        parts = {key: settings.pop(key) for key in ("type", "backbone")}
        visual = builder.made["VisionTransformer"](**without_type(parts["backbone"]))
        builder.build_backbone = lambda _cfg: visual
        builder.build_head = lambda cfg: builder.made["MaskClipHead"](**without_type(cfg))
        model = builder.made["EncoderDecoder"](backbone={}, decode_head=head, **settings).eval()
        report = model.load_state_dict(original("pretrain/ViT16_clip_backbone.pth")["state_dict"], strict=False)
        print(report.missing_keys, report.unexpected_keys)
        pipeline = sys.modules["mmseg.datasets.builder"].pipeline(config.test_pipeline)

        def run(file: Path) -> Labels:
            seen = pipeline({"img_info": {"filename": str(file)}, "img_prefix": None})
            (image,), (meta,) = seen["img"], seen["img_metas"]
            scores = model.inference(image[None].float(), [meta.data], True)
            (labels,) = model.simple_test(image[None].float(), [meta.data])
            sure = (100 * model.whole_inference(image[None].float(), [meta.data], True)).softmax(dim=1).amax(dim=1)[0]
            if not np.array_equal(scores.argmax(dim=1)[0].numpy(), labels):
                raise ValueError("labels are not those of the scores")
            return torch.from_numpy(labels) + 1, sure

        return run

    files = {"voc20": "maskclip_vit16_512x512_voc12aug_20", "context59": "maskclip_vit16_520x520_pascal_context_59"}
    configs = {case: Config.fromfile(code / "configs/maskclip" / f"{file}.py") for case, file in files.items()}
    return {case: lambda classes, c=config: make(c, classes) for case, config in configs.items()}  # type: ignore[misc]


def without_type(config: Any) -> dict[str, Any]:
    """The settings of a configuration's part."""
    return {key: value for key, value in config.items() if key != "type"}


def install_mmseg_0(code: Path) -> None:
    """The modules of MaskCLIP's mmsegmentation 0.x that label a file, on mmcv 2 and mmengine."""
    module("mmcv.ops", __getattr__=lambda _name: None)
    import mmcv
    import mmcv.cnn.bricks.transformer
    import mmengine.fileio
    import mmengine.model
    import mmengine.utils

    mmcv.FileClient = mmengine.fileio.FileClient
    mmcv.is_list_of = mmengine.utils.is_list_of
    plain = lambda *_arguments, **_settings: lambda function: function  # noqa: E731
    module(
        "mmcv.runner",
        BaseModule=mmengine.model.BaseModule,
        ModuleList=mmengine.model.ModuleList,
        _load_checkpoint=None,
        auto_fp16=plain,
        force_fp32=plain,
    )
    module("mmcv.runner.base_module", BaseModule=mmengine.model.BaseModule)
    sys.modules["mmcv.runner"].base_module = sys.modules["mmcv.runner.base_module"]  # type: ignore[attr-defined]
    module("mmcv.cnn.utils.weight_init", constant_init=None, kaiming_init=None, trunc_normal_=None)
    module(
        "mmcv.utils",
        to_2tuple=mmengine.utils.to_2tuple,
        print_log=lambda *_arguments, **_settings: None,
        deprecated_api_warning=plain,
        is_tuple_of=mmengine.utils.is_tuple_of,
        build_from_cfg=lambda cfg, registry: registry.made[cfg["type"]](**without_type(cfg)),
    )
    module("mmcv.parallel", DataContainer=DataContainer)
    for name in ("", ".models", ".models.backbones", ".models.decode_heads", ".models.segmentors", ".models.losses"):
        module(f"mmseg{name}")
    module("mmseg.core", add_prefix=None, build_pixel_sampler=None)
    module("mmseg.utils", get_root_logger=lambda: None)
    wrappers = load("mmseg.ops", code / "mmseg/ops/wrappers.py")
    wrappers.__path__ = []
    kept = Keeping()
    builder = module("mmseg.models.builder", made=kept.made, build_loss=lambda _cfg: None)
    for name in ("BACKBONES", "HEADS", "SEGMENTORS"):
        setattr(builder, name, kept)
    sys.modules["mmseg.models"].builder = builder  # type: ignore[attr-defined]
    sys.modules["mmseg.models.losses"].accuracy = None  # type: ignore[attr-defined]
    module("mmseg.models.utils")
    embed = load("mmseg.models.utils.embed", code / "mmseg/models/utils/embed.py")
    sys.modules["mmseg.models.utils"].PatchEmbed = embed.PatchEmbed  # type: ignore[attr-defined]
    load("mmseg.models.backbones.vit", code / "mmseg/models/backbones/vit.py")
    for name in ("decode_head", "maskclip_head"):
        load(f"mmseg.models.decode_heads.{name}", code / f"mmseg/models/decode_heads/{name}.py")
    for name in ("base", "encoder_decoder"):
        load(f"mmseg.models.segmentors.{name}", code / f"mmseg/models/segmentors/{name}.py")
    steps = Keeping()
    module("mmseg.datasets")
    module(
        "mmseg.datasets.builder",
        PIPELINES=steps,
        pipeline=lambda configs: steps.made["Compose"]([dict(config) for config in configs]),
    )
    module("mmseg.datasets.pipelines")
    module("mmseg.datasets.pipelines.corruptions", corrupt=None)
    for name in ("compose", "formatting", "loading", "transforms", "test_time_aug"):
        load(f"mmseg.datasets.pipelines.{name}", code / f"mmseg/datasets/pipelines/{name}.py")
    steps.made["Compose"] = sys.modules["mmseg.datasets.pipelines.compose"].Compose  # type: ignore[attr-defined]


class Keeping(Registry):
    """Registers by the class's name."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def register_module(self, *_arguments: Any, **_settings: Any) -> Callable[[type], type]:
        return lambda cls: self.made.setdefault(cls.__name__, cls)


class DataContainer:
    """mmcv 1's: something around data."""

    def __init__(self, data: Any, **_settings: Any) -> None:
        self.data = data


def gem(arguments: argparse.Namespace, folder: Path, weights: Path, texts: Texts) -> dict[str, Make]:
    """`create_gem_model` and its transform; maps of 448 x 448 are enlarged to the file's size, which GEM leaves open.

    "cosine" has the best cosine, as `normalize=False` gives it; "minmax" the best stretched map, as the README has it.
    """
    sys.path[:0] = [str(arguments.code), str(arguments.environment)]
    module("matplotlib")
    module("matplotlib.pyplot")
    openai = importlib.import_module("open_clip.openai")
    openai.download_pretrained_from_url = lambda *_arguments, **_settings: str(weights)
    published = importlib.import_module("gem.gem")
    model = published.create_gem_model("ViT-B/16", "openai", device="cpu")
    texts.teach(model.model)
    transform = published.get_gem_img_transform()

    def make(classes: Sequence[str], *, normalize: bool) -> Run:
        def run(file: Path) -> Labels:
            picture = Image.open(file)
            maps = model(transform(picture)[None], list(classes), normalize=normalize)
            maps = F.interpolate(maps, picture.size[::-1], mode="bilinear")[0]
            return maps.argmax(dim=0) + 1, (maps * (1 if normalize else 100)).softmax(dim=0).amax(dim=0)

        return run

    return {
        "cosine": lambda classes: make(classes, normalize=False),
        "minmax": lambda classes: make(classes, normalize=True),
    }


def clipsurgery(arguments: argparse.Namespace, folder: Path, weights: Path, texts: Texts) -> dict[str, Make]:
    """What `demo.py` does at 512 x 512, up to its maps at the file's size.

    "cosine" takes the best cosine (the authors' answers), "surgery" the best similarity of feature surgery.
    """
    import packaging.version  # noqa: F401  (clip.py has it from setuptools)
    from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

    module("pkg_resources", packaging=sys.modules["packaging"])
    sys.path.insert(0, str(arguments.code))
    clip = importlib.import_module("clip.clip")
    build = importlib.import_module("clip.build_model").build_model
    model = build("CS-ViT-B/16", torch.load(weights)).float().eval()
    texts.teach(model)
    norm = Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    transform = Compose([Resize((512, 512), interpolation=InterpolationMode.BICUBIC), ToTensor(), norm])

    def make(classes: Sequence[str], *, surgery: bool) -> Run:
        words = clip.encode_text_with_prompt_ensemble(model, list(classes), "cpu")

        def run(file: Path) -> Labels:
            picture = Image.open(file)
            features = F.normalize(model.encode_image(transform(picture)[None]), dim=-1)
            scores = clip.clip_feature_surgery(features, words) if surgery else features @ words.T
            maps = scores[:, 1:].mT.unflatten(2, (32, 32))
            maps = F.interpolate(maps, picture.size[::-1], mode="bilinear")[0]
            return maps.argmax(dim=0) + 1, (100 * maps).softmax(dim=0).amax(dim=0)

        return run

    return {
        "cosine": lambda classes: make(classes, surgery=False),
        "surgery": lambda classes: make(classes, surgery=True),
    }


METHODS: dict[str, Callable[[argparse.Namespace, Path, Path, Texts], dict[str, Make]]] = {
    "sclip": sclip,
    "naclip": naclip,
    "clearclip": clearclip,
    "proxyclip": proxyclip,
    "maskclip": maskclip,
    "gem": gem,
    "clipsurgery": clipsurgery,
}


if __name__ == "__main__":
    main()
