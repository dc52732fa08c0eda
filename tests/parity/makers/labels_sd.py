"""Makes tests/parity/golden/labels-*.npz: label maps that published code makes of photographs as files (no test).

    python -m tests.parity.makers.labels_sd directions SIZE
    python -m tests.parity.makers.labels_sd METHOD CASE... --code DIR [--clip DIR] [--dino DIR] [--environment DIR]

with DIR a checkout of the method's code (see `README.md`); `--environment` is a folder with the packages that are not
installed: einops, compel 1.2, torch_kmeans 0.2 and open_clip 2.23. None of the code is here. Scripts run as a whole, on
a data set of two photographs that lie where the real one would; their own code opens the files, resizes them and makes
labels. What is changed:

- Networks are those of `file_inputs_sd`, in float32 on a CPU; what asks for half precision or for a GPU gets neither.
- Noise is drawn as `ovseg` draws it: standard normal (1, 4, 64, 64) of a seeded generator on the CPU.
- Lists of classes and of words for the background are those of `file_inputs_sd`.
- Packages for drawing and for tables are empty names.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from scipy.linalg import eigh

from ovseg_cli.methods.background import CLIPER_VOC_WORDS
from tests.clustering.draws import draw_on_a_line
from tests.parity import file_inputs_sd as made
from tests.parity.file_inputs import photographs
from tests.parity.file_inputs_sd import write_photograph
from tests.parity.inputs import GOLDEN, write_golden
from tests.parity.makers.pieces import module, replaced

NOISE_SEED = 42
"""`GeneratorSpec.seed` of the profile sd15."""

NUMBERS = {"chelsea": "2007_000033", "astronaut": "2007_000042"}
"""Names of the photographs in the data sets."""


def add_to_golden(piece: str, values: dict[str, Any]) -> None:
    """Keep label maps beside those that are there."""
    path = GOLDEN / f"labels-{piece}.npz"
    before = dict(np.load(path)) if path.exists() else {}
    write_golden(f"labels-{piece}", before | values)
    for name, labels in values.items():
        found, counts = np.unique(labels, return_counts=True)
        shares = {int(i): round(float(c / labels.size), 3) for i, c in zip(found, counts, strict=True)}
        print(piece, name, labels.shape, shares, flush=True)


@contextlib.contextmanager
def voc_folder(images: str = "JPEGImages", masks: str = "SegmentationClassAug") -> Iterator[Path]:
    """A data set of the photographs, in the folders of PASCAL VOC 2012; masks are empty."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "VOCdevkit" / "VOC2012"
        for each in (images, masks):
            (root / each).mkdir(parents=True)
        for name, number in NUMBERS.items():
            write_photograph(name, root / images / f"{number}.jpg")  # Pillow goes by the content
            Image.new("L", photographs()[name].shape[1::-1]).save(root / masks / f"{number}.png")
        (root / "list.txt").write_text("".join(f"{number}\n" for number in NUMBERS.values()))
        yield root


# --------------------------------------------------------------------------- CLIPer


@functools.cache
def openai_clip(size: made.ClipSize) -> Any:
    """OpenAI's CLIP with known weights."""
    from clip.model import CLIP

    sizes = made.CLIP_SIZES[size]
    seen, read = sizes["vision_cfg"], sizes["text_cfg"]
    model = CLIP(
        sizes["embed_dim"],
        seen["image_size"],
        seen["layers"],
        seen["width"],
        seen["patch_size"],
        read["context_length"],
        read["vocab_size"],
        read["width"],
        read["heads"],
        read["layers"],
    )
    made.fill_clip(model, size)
    known: dict[bytes, Any] = {}
    encode = model.encode_text

    positions, mask = model.positional_embedding.data, model.transformer.resblocks[0].attn_mask

    def once(tokens: Any) -> Any:
        key = tokens.numpy().tobytes()
        if key not in known:
            read = int(tokens.argmax(dim=-1).max()) + 1
            model.positional_embedding.data = positions[:read]
            for block in model.transformer.resblocks:
                block.attn_mask = mask[:read, :read]
            known[key] = encode(tokens[:, :read])
        return known[key].clone()

    # No text is embedded twice, and what stands behind the end of a text, which nothing looks at, is left out: minutes.
    model.encode_text = once
    return model


CLIPER_CASES: dict[str, tuple[made.ClipSize, str, bool, bool]] = {
    "b16-voc21": ("b16", "voc21", False, False),
    "b16-voc20": ("b16", "voc20", False, False),
    "b16-context": ("b16", "context", True, False),
    "b16-context59": ("b16", "context59", True, False),
    "b16-voc21-windows": ("b16", "voc21", False, True),
    "l14-voc21": ("l14", "voc21", False, False),
}
"""Tower, configuration, whether there are 60 classes, and whether with the sliding windows that stand in the file."""


def cliper(cases: list[str], code: Path, *, refinements: tuple[str, ...]) -> None:
    """`ovs/main_ovs.py` with one of its configurations, from the files to the label maps that it scores."""
    module("texttable", Texttable=None)
    module("cv2", imwrite=None)
    import clip
    import diffusers
    from clip.clip import _transform

    sys.path.insert(0, str(code))
    import diffusion_model.stable_diffusion as diffusion_model
    import yaml
    from data.voc import voc_datasets
    from ovs import pipeline
    from util import miou

    sd: list[Any] = []

    def stable_diffusion(*_arguments: Any, **_settings: Any) -> Any:
        if not sd:
            sd.append(made.sd_pipeline("2.1"))
        return sd[0]

    def noise(shape: tuple[int, ...], *, dtype: torch.dtype, **_settings: Any) -> Any:
        return torch.randn(shape, generator=torch.Generator().manual_seed(NOISE_SEED)).to(dtype)

    diffusers.StableDiffusionPipeline.from_pretrained = stable_diffusion
    diffusion_model.randn_tensor = noise
    theirs = pipeline.diffusion
    pipeline.diffusion = lambda **settings: theirs(**{**settings, "dtype": torch.float32})
    torch.cuda.synchronize = lambda: None  # type: ignore[assignment,misc]
    for case, refinement in product(cases, refinements):
        size, configuration, many, windows = CLIPER_CASES[case]
        model = openai_clip(size)
        clip.load = lambda *_arguments, model=model, **_settings: (model, _transform(224))
        answers: list[Any] = []
        classes = made.SIXTY if many else made.FIVE
        words = "background" if configuration.startswith("context") else ", ".join(CLIPER_VOC_WORDS)
        text = yaml.safe_load((code / f"scripts/config/vit-{size[0]}-{size[1:]}/ovs_{configuration}.yaml").read_text())
        with voc_folder() as root:
            # Which of the lists is taken follows from the name of the folder.
            lists = {"VOC2012_CAT_NAME": [words, *classes], "VOC_CONTEXT_NAME": [words, *classes]}
            text |= {"label_dir": str(root / "SegmentationClassAug"), "voc12_root": str(root)}
            text |= {"img_name_list_path": str(root / "list.txt")}
            if not windows:
                text["sliding_crop_size"] = 0
            (root / "settings.yaml").write_text(yaml.safe_dump(text))
            arguments = ["--cfg-path", root / "settings.yaml", "--refinement", refinement, "--log-path", root]
            with (
                replaced(voc_datasets, **lists),
                replaced(
                    miou.ShowSegmentResult,
                    add_prediction=lambda _self, _truth, found, answers=answers: answers.append(found.copy()),
                    calculate=lambda _self: {"mIoU": 0},
                ),
                replaced(sys, argv=["main_ovs.py", *map(str, arguments)]),
                contextlib.chdir(code / "ovs"),
                torch.no_grad(),
            ):
                runpy.run_path(str(code / "ovs/main_ovs.py"), run_name="__main__")
        kind = "cliper-coarse" if refinement == "None" else "cliper"
        add_to_golden(kind, {f"{case}-{name}": a.astype(np.uint8) for name, a in zip(NUMBERS, answers, strict=True)})
        gc.collect()


# --------------------------------------------------------------------------- langseg

NOTEBOOKS = {
    "clip-voc": ("notebooks/clip/voc2012.ipynb", (4, 5, 9)),
    "clip-context": ("notebooks/clip/pascal_context.ipynb", (4, 5, 9)),
    "sd-voc": ("notebooks/diffusion/voc2012.ipynb", (3, 4, 6)),
    "sd-context": ("notebooks/diffusion/pascal_context.ipynb", (3, 4, 5)),
}
"""Notebooks, and which of their cells are run after the first three (imports, settings, data set)."""


@contextlib.contextmanager
def langseg_folder() -> Iterator[Path]:
    """Both of its data sets; a mask has a stripe of each of the five classes, as AggSD is told which are there."""
    with voc_folder(masks="SegmentationClass") as root:
        (root / "SegmentationClassContext").mkdir()
        for name, number in NUMBERS.items():
            height, width = photographs()[name].shape[:2]
            stripes = np.tile(np.arange(width) * len(made.FIVE) // width, (height, 1))
            for folder, classes in (("SegmentationClass", made.TWENTY), ("SegmentationClassContext", made.SIXTY)):
                values = np.array([classes.index(each) + 1 for each in made.FIVE], np.uint8)
                Image.fromarray(values[stripes]).save(root / folder / f"{number}.png")
        for folder in ("Segmentation", "SegmentationContext"):
            (root / "ImageSets" / folder).mkdir(parents=True)
            for split in ("train", "val"):
                (root / "ImageSets" / folder / f"{split}.txt").write_text((root / "list.txt").read_text())
        yield root


class OursKMeans:
    """Stands for `torch_kmeans.KMeans`: its starts are random, so the clusters are those of `ovseg`'s k-means."""

    def __init__(self, *, n_clusters: int, **_settings: Any) -> None:
        self._count = n_clusters

    def __call__(self, points: torch.Tensor) -> SimpleNamespace:
        """Clusters of (1, N, D)."""
        from ovseg_cli.clustering import kmeans

        with patch.object(kmeans, "_race", draw_on_a_line):
            return SimpleNamespace(labels=kmeans.kmeans(points[0].double(), self._count, seed=0)[1][None])


def leading_vectors(matrices: torch.Tensor, *, full_matrices: bool) -> tuple[torch.Tensor, torch.Tensor, None]:
    """Stands for `torch.linalg.svd` where only the first twenty left singular vectors are looked at.

    They are the eigenvectors of A times its transpose, in double precision, in less than half the time. On the matrix
    of a photograph they are those of `torch.linalg.svd` up to the sign: all twenty cosines are 1 to within 2e-7.
    """
    (matrix,) = matrices.double().numpy()
    last = len(matrix) - 1
    squares, vectors = eigh(matrix @ matrix.T, subset_by_index=(last - 19, last), overwrite_a=True)
    first = torch.from_numpy(vectors[:, ::-1].copy()).to(matrices)
    return first[None], torch.from_numpy(squares[::-1].copy()).sqrt().to(matrices)[None], None


def one_by_one(divergence: Callable[..., Any]) -> Callable[..., Any]:
    """`diffseg.KL` of one anchor after another: sixteen at once take 5 GB."""

    def each(anchors: torch.Tensor, others: torch.Tensor) -> Any:
        if anchors.ndim < 4:
            return divergence(anchors, others)
        return torch.cat([divergence(anchor[None], others) for anchor in anchors])

    return each


def langseg(cases: list[str], code: Path) -> None:
    """Notebooks from the files to the label maps that they score, 320 x 320."""
    module("cv2", putText=None, getTextSize=None, FONT_HERSHEY_SIMPLEX=None)
    module("matplotlib", pyplot=module("matplotlib.pyplot"))
    module("igraph")
    import diffusers.models.attention_processor as attention_processor

    attention_processor.USE_PEFT_BACKEND = True
    sys.path.insert(0, str(code))
    import diffusers
    import open_clip
    from datasets import pascal_context, voc2012
    from methods import diffseg, diffusion_seg
    from torchvision.datasets.voc import _VOCBase
    from utils import metrics

    pipeline = made.sd_pipeline("1.5")
    pipeline.to = lambda *_arguments: pipeline
    diffusers.StableDiffusionPipeline.from_pretrained = lambda *_arguments, **_settings: pipeline
    open_clip.create_model = lambda *_arguments, **_settings: made.open_clip_model("b16")
    diffusion_seg.KMeans = OursKMeans
    diffseg.KL = one_by_one(diffseg.KL)
    for case in cases:
        path, cells = NOTEBOOKS[case]
        sources = ["".join(cell["source"]) for cell in json.loads((code / path).read_text())["cells"]]
        answers: list[Any] = []
        begin = _VOCBase.__init__
        space: dict[str, Any] = module("notebook").__dict__
        with (
            langseg_folder() as root,
            replaced(voc2012, voc2012_categories=["background", *made.TWENTY]),
            replaced(pascal_context, pascal_context_categories=[*made.SIXTY]),
            replaced(
                _VOCBase,
                __init__=lambda own, _root, root=root, begin=begin, **settings: begin(own, root.parents[1], **settings),
            ),
            replaced(
                metrics.RunningScore,
                update=lambda _self, _truths, found, answers=answers: answers.append(found),
                get_scores=lambda _self: ({"Mean IoU": 0.0}, {}),
            ),
            replaced(torch.linalg, svd=leading_vectors),
            torch.no_grad(),
        ):
            for number in (0, 1, 2, *cells):
                if number == 2:
                    space["args"].dir_dataset = str(root)
                if (number == 5 and case.startswith("clip")) or number == 3:
                    space["configure_ldm"] = lambda _pipeline: None  # asks for no gradients
                lines = [line for line in sources[number].splitlines() if not line.startswith("%")]
                exec(compile("\n".join(lines), f"{path}:{number}", "exec"), space)
        each = len(answers) // len(NUMBERS)
        kinds = {0: "agggem", 5: "diffsegclust", 6: "specclust"} if case.startswith("clip") else {0: "aggsd"}
        for place, kind in kinds.items():
            maps = {name: answers[i * each + place].reshape(320, 320) for i, name in enumerate(NUMBERS)}
            short = case.partition("-")[2]
            add_to_golden(kind, {f"{short}-{name}": labels.astype(np.uint8) for name, labels in maps.items()})


# --------------------------------------------------------------------------- DiffSegmenter

SEGMENTER_BACKGROUND = 0.5
"""Theirs tries 0.30 to 0.74 and reports the best on the evaluated pictures."""


def diffsegmenter(code: Path) -> None:
    """`voc12/ptp_stable_best.py` from the files to the maps, and `evaluation_voc12.py`'s rule from there to labels.

    Heads are averaged as soon as their attention is stored (all together take 8 GB), and the halves with and without
    a prompt go through the network one after the other, by the script's own switch.
    """
    import diffusers
    import scipy.io
    import transformers
    from diffusers import DDIMScheduler

    from tests.parity.makers.attention import Caption

    module("cv2")
    module("IPython")
    module("IPython.display", display=None)
    sys.path.insert(0, str(code))
    pipeline = made.sd_pipeline("1.5")
    pipeline.unet.__dict__["in_channels"] = 4
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    loaded = {
        diffusers.StableDiffusionPipeline: pipeline,
        diffusers.DDIMScheduler: scheduler,
        transformers.BlipProcessor: Caption(),
        transformers.BlipForConditionalGeneration: Caption(),
    }
    for owner, stand_in in loaded.items():
        owner.from_pretrained = lambda *_arguments, stand_in=stand_in, **_settings: stand_in
    text = (code / "open_vocabulary/voc12/ptp_stable_best.py").read_text()
    for before, after in (
        ("self.step_store[key].append(attn)", "self.step_store[key].append(attn.mean(0, keepdim=True))"),
        ("dtype = torch.float16", "dtype = torch.float32"),
        ("LOW_RESOURCE = False", "LOW_RESOURCE = True"),
    ):
        if text.count(before) != 1:
            raise SystemExit(f"the script is another one: {before}")
        text = text.replace(before, after)

    def noise(size: Any, **_settings: Any) -> torch.Tensor:
        return draw(size, generator=torch.Generator().manual_seed(NOISE_SEED))

    draw = torch.randn
    found = {f"{number}.jpg": list(made.SEGMENTER_CLASSES) for number in NUMBERS.values()}
    with voc_folder() as root, contextlib.chdir(root.parents[1]):
        lists = Path("dataset/voc12")
        lists.mkdir(parents=True)
        (lists / "val_id.txt").write_text((root / "list.txt").read_text())
        (lists / "predict_syn_txt_0.8_img_0.97.json").write_text(
            json.dumps({"image_similarity": found, "text_similarity": {name: [] for name in found}})
        )
        script = Path("ptp_stable_best.py")
        script.write_text(text)
        # Generators of theirs are for another device, and unused.
        with replaced(torch, randn=noise, Generator=generator_or_none(torch.Generator)):
            runpy.run_path(str(script), run_name="__main__")
        for name, number in NUMBERS.items():
            maps = scipy.io.loadmat(f"output/voc12_wo_sy_norm/images/{number}.mat")
            places = {made.SEGMENTER_PLACES[each]: each for each in made.SEGMENTER_CLASSES}
            stacked = np.stack([maps[str(place)] for place in places]) / 255
            scores = np.concatenate([np.full_like(stacked[:1], SEGMENTER_BACKGROUND), stacked])
            add_to_golden("diffsegmenter", {f"voc-{name}": scores.argmax(axis=0).astype(np.uint8)})


def generator_or_none(cls: type[torch.Generator]) -> Callable[..., Any]:
    """Makes generators of torch, but none of a number."""
    return lambda *arguments: None if arguments and isinstance(arguments[0], int) else cls(*arguments)


def main() -> None:
    """Make the label maps of one method."""
    parser = argparse.ArgumentParser(description="Make label maps by running the published code.")
    parser.add_argument("method", choices=[*METHODS, "directions"])
    parser.add_argument("cases", nargs="+")
    for name in ("code", "clip", "dino", "environment"):
        parser.add_argument(f"--{name}", type=Path)
    arguments = parser.parse_args()
    if arguments.environment is not None and arguments.method == "langseg":
        sys.path.insert(0, str(arguments.environment))
    elif arguments.environment is not None:
        sys.path.append(str(arguments.environment))  # its open_clip is old
    if arguments.clip is not None:
        sys.path.insert(0, str(arguments.clip))
    if arguments.method == "directions":
        for size in arguments.cases:
            write_golden(f"labels-directions-{size}", dict(made.common_directions(size)))
    else:
        METHODS[arguments.method](arguments)


METHODS: dict[str, Callable[[argparse.Namespace], None]] = {
    "cliper": lambda given: cliper(given.cases, given.code.absolute(), refinements=("SFSA",)),
    "diffsegmenter": lambda given: diffsegmenter(given.code.absolute()),
    "langseg": lambda given: langseg(given.cases, given.code.absolute()),
    "cliper-coarse": lambda given: cliper(given.cases, given.code.absolute(), refinements=("None",)),
}

if __name__ == "__main__":
    main()
