"""How good a pack is: one measurement for every line of its table of figures.

    python -m examples.mini_pack.evaluate PACK --what judge clip --json figures.json
    python -m examples.mini_pack.evaluate PACK --sheet sheet.png

`PACK` is a folder laid out like ``ovseg_cli/profiles/mini``. Every figure is the mean over several seeds on
scenes, textures and pictures that no training has seen, and goes through the product's own code with the
settings of the profile ``mini``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

import ovseg_cli
from examples.mini_pack import domain as mini_domain
from examples.mini_pack.glyphs import STYLES, TWEMOJI, FontError, GlyphSet
from examples.mini_pack.judge import Judge, per_class_accuracy
from examples.mini_pack.pack import MINI, pack_profile
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, STUFF_NAMES, THING_NAMES, find_thing
from examples.mini_pack.world import World
from examples.pictograms.scenes import Part, Picture, render_set
from ovseg_cli.api import evaluate
from ovseg_cli.atomic import atomic_path, write_json
from ovseg_cli.backbones.pixels import to_tensor
from ovseg_cli.backbones.unet import Samples
from ovseg_cli.errors import OvsegError
from ovseg_cli.evaluation.report import Report
from ovseg_cli.files.discovery import discover
from ovseg_cli.files.images import open_image
from ovseg_cli.models import Models, load_models
from ovseg_cli.profiles import Profile
from ovseg_cli.profiles.prompts import fill_prompt
from ovseg_cli.prototypes.build import SupportSettings, build_class
from ovseg_cli.prototypes.kinds import resolve_kind
from ovseg_cli.prototypes.masks import class_thresholds, masks_from_attribution, minmax, normalise_attribution
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter, segment_together
from ovseg_cli.store import Store
from ovseg_cli.text.prefilter import ClassPrefilter

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

IMAGES_PER_CLASS: Final = 12
"""Generated images that the judge sees, per class and seed."""
ATTENTION_SCENES: Final = 6
CLIP_SCENES: Final = 15
"""Single-object scenes per class and seed."""
GEM_PICTURES: Final = 40
FAMILY_PICTURES: Final = 16
PROTOTYPE_PICTURES: Final = 24
"""Pictures per seed."""
SUPPORT_IMAGES: Final = 16
UNFAMILIAR_PICTURES: Final = 100
"""Pictures of each kind, per seed."""
SPEED_CLASS: Final = "chocolate glazed donut"

SEGMENTED: Final = (
    "chocolate glazed donut",
    "cat",
    "dog",
    "car",
    "tree",
    "bus",
    "horse",
    "banana",
    "bicycle",
    "airplane",
    "house",
    "apple",
    "penguin",
    "soccer ball",
    "lion",
    "boat",
    "mushroom",
    "frog",
    "strawberry",
    "elephant",
)
"""The classes that get prototypes; everything else in the pictures is background."""

# Seeds far from those of every training set and of the bundled pictures.
_SCENE_SEED: Final = 70_000_000
_BANK_SEED: Final = 170
_PICTURE_SEED: Final = 7_000_000
_IMAGE_SEED: Final = 100_000
_SEED_STEP: Final = 100_000
_CLASS_STEP: Final = 1_000

_SHEET_IMAGES: Final = 6
_SHEET_COLUMNS: Final = 3
_TILE: Final = 84
_SHEET_GAP: Final = 4
_SHEET_LINE: Final = 18


# --------------------------------------------------------------------------- figures


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        what: What was measured.
        unit: "share" (0..1) or "seconds".
        per_seed: The figure for each seed.
        per_class: The mean over the seeds for each class; empty when the figure is not one of classes.
    """

    what: str
    unit: Literal["share", "seconds"]
    per_seed: tuple[float, ...]
    per_class: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.per_seed)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for one seed."""
        return statistics.stdev(self.per_seed) if len(self.per_seed) > 1 else 0.0

    @property
    def worst(self) -> tuple[str, float] | None:
        """The class with the lowest figure."""
        return min(self.per_class.items(), key=lambda item: item[1], default=None)

    def record(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return {**asdict(self), "mean": self.mean, "spread": self.spread, "worst": self.worst}


def over_seeds(
    what: str, runs: Iterable[tuple[float, Mapping[str, float | None]]], unit: Literal["share", "seconds"] = "share"
) -> Figure:
    """Collect the runs of several seeds into one figure.

    Args:
        what: What was measured.
        runs: For each seed the figure, and the figures of the classes; None or NaN where not defined.
        unit: See `Figure`.
    """
    totals: list[float] = []
    classes: dict[str, list[float]] = {}
    for total, per_class in runs:
        totals.append(total)
        for name, value in per_class.items():
            if value is not None and not math.isnan(value):
                classes.setdefault(name, []).append(value)
        _tell(f"{what}: seed {len(totals)}: {_shown(total, unit)}")
    return Figure(what, unit, tuple(totals), {name: statistics.fmean(values) for name, values in classes.items()})


def mask_iou(found: BoolArray, true: BoolArray) -> npt.NDArray[np.float64]:
    """Intersection over union of each pair of masks.

    Args:
        found: bool (N, H, W).
        true: bool (N, H, W).

    Returns:
        float64 (N,) in 0..1; NaN where both are empty.
    """
    both = np.count_nonzero(found & true, axis=(1, 2))
    either = np.count_nonzero(found | true, axis=(1, 2))
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)


# --------------------------------------------------------------------------- what is measured


@dataclass(frozen=True, slots=True)
class Setup:
    """What every measurement is given.

    Attributes:
        pack: Folder of the pack.
        models: The models of the pack.
        glyphs: The font that the pack was trained on.
        second: Another font.
        seeds: Number of seeds.
        images: Generated images per class that the judge sees.
        photographs: A folder of pictures that `unfamiliar` looks at too.
        others: Glyphs of other artists by name, which `styles` looks at beside those of the repository.
        read_size: Side of the square at which `family` reads pictures; None for the profile's.
    """

    pack: Path
    models: Models
    glyphs: GlyphSet
    second: GlyphSet
    seeds: int
    images: int
    photographs: Path | None = None
    others: Mapping[str, GlyphSet] = field(default_factory=dict)
    read_size: int | None = None


def generate(models: Models, name: str, seeds: Sequence[int]) -> Samples:
    """Images of one class as ``add-class`` generates them."""
    spec = models.profile.generator
    return models.generator.generate(
        fill_prompt(spec.prompt, name),
        name,
        seeds,
        image_size=spec.image_size,
        steps=spec.steps,
        guidance=spec.guidance,
        negative_prompt=spec.negative_prompt,
        min_attention_grid=spec.min_attention_grid,
    )


def remember_images(models: Models) -> None:
    """Have no image generated twice: the figures share most of theirs, and an image depends on its own seed only."""
    generator = models.generator
    draw = generator.generate
    drawn: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def generate(prompt: str, phrase: str, seeds: Sequence[int], *, on_step: Any = None, **settings: Any) -> Samples:
        keys = {seed: (prompt, phrase, seed, *sorted(settings.items())) for seed in seeds}
        new = [seed for seed in seeds if keys[seed] not in drawn]
        if new:
            batch = draw(prompt, phrase, new, on_step=on_step, **settings)
            drawn.update(
                zip((keys[seed] for seed in new), zip(batch.images, batch.attribution, strict=True), strict=True)
            )
        images, attribution = zip(*(drawn[keys[seed]] for seed in seeds), strict=True)
        return Samples(torch.stack(images), torch.stack(attribution))

    generator.generate = generate


def judge(setup: Setup) -> list[Figure]:
    """Share of the generated images in which the judge sees the class that was asked for."""
    referee = Judge.load()

    def run(seed: int) -> tuple[float, dict[str, float | None]]:
        first = _IMAGE_SEED + seed * _SEED_STEP
        seeds = range(first, first + setup.images)
        answers = [referee.classify(generate(setup.models, name, seeds).images.numpy()) for name in THING_NAMES]
        return _accuracy(np.concatenate(answers), np.repeat(np.arange(len(THING_NAMES)), setup.images))

    return [over_seeds("generated images named right by the judge", map(run, range(setup.seeds)))]


def attention(setup: Setup) -> list[Figure]:
    """IoU of the class phrase's attention, cut by Otsu, with the object in held-out scenes.

    The scenes' latents are noised to a few timesteps and denoised by one step each with the prompt of
    ``add-class``; the maps are captured and averaged as they are while support images are generated.
    Beside it stands what the true outlines would reach on the same grid: no map can follow thinner things.
    """

    def run(seed: int) -> dict[str, tuple[float, dict[str, float | None]]]:
        found: dict[str, dict[str, float | None]] = {"attention": {}, "outline": {}}
        world = _world(setup, seed)
        for name in THING_NAMES:
            images, labels = _single_scenes(world, name, seed, ATTENTION_SCENES)
            true = labels == LABEL_IDS[name]
            maps = scene_attribution(setup.models, images, name, seed)
            cell = true.shape[1] // maps.shape[1]
            shares = true.reshape(len(true), maps.shape[1], cell, maps.shape[2], cell).mean((2, 4), dtype=np.float32)
            for kind, raw in (("attention", maps), ("outline", shares)):
                found[kind][name] = float(mask_iou(_otsu(raw, images.shape[1]), true).mean())
        return {
            kind: (statistics.fmean(value for value in per_class.values() if value is not None), per_class)
            for kind, per_class in found.items()
        }

    runs = [run(seed) for seed in range(setup.seeds)]
    return [
        over_seeds("attention masks, IoU", [item["attention"] for item in runs]),
        over_seeds("true outlines on the grid of the attention maps, IoU", [item["outline"] for item in runs]),
    ]


def _otsu(maps: npt.NDArray[np.float32], size: int) -> BoolArray:
    """Maps on the latent grid (N, g, g) as masks (N, size, size), enlarged as attribution maps are."""
    from skimage.filters import threshold_otsu

    return np.stack([item > threshold_otsu(item) for item in normalise_attribution(maps, size)])


def scene_attribution(models: Models, images: ByteArray, name: str, noise_seed: int) -> npt.NDArray[np.float32]:
    """Raw attention of the class phrase in given scenes, with the settings of the pack's profile.

    Args:
        models: The models of the pack.
        images: uint8 (N, S, S, 3).
        name: What the scenes show.
        noise_seed: Seed of the noise.

    Returns:
        float32 (N, g, g) on the latent grid.
    """
    spec = models.profile.generator
    maps = models.generator.attribution(
        torch.from_numpy(images).permute(0, 3, 1, 2).float().to(models.device) / 255,
        fill_prompt(spec.prompt, name),
        name,
        timesteps=spec.attribution_timesteps,
        seed=noise_seed,
        size=spec.image_size,
        min_attention_grid=spec.min_attention_grid,
    )
    return maps.numpy()


def clip(setup: Setup) -> list[Figure]:
    """Zero-shot accuracy of CLIP over all objects on held-out scenes."""
    backbone, spec = setup.models.clip, setup.models.profile.clip

    def run(seed: int) -> tuple[float, dict[str, float | None]]:
        text = backbone.embed_text(THING_NAMES, spec.prompts or ("a photo of a {name}.",))
        world = _world(setup, seed)
        answers = []
        for name in THING_NAMES:
            images, _ = _single_scenes(world, name, seed, CLIP_SCENES)
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(setup.models.device) / 255
            trace = backbone.trace(pixels, blocks=(-1,), input_size=spec.input_size, mean=spec.mean, std=spec.std)
            (last,) = trace.blocks.values()
            embedded = backbone.embed(last.outputs[:, :1])[:, 0]
            answers.append((embedded @ text.T).argmax(1).cpu().numpy())
        return _accuracy(np.concatenate(answers), np.repeat(np.arange(len(THING_NAMES)), CLIP_SCENES))

    return [over_seeds("CLIP zero-shot, top-1", map(run, range(setup.seeds)))]


def gem(setup: Setup) -> list[Figure]:
    """Mean IoU of GEM over all objects and stuff, on pictures of the examples' size."""
    names = [*THING_NAMES, *STUFF_NAMES]

    def run(seed: int) -> tuple[float, dict[str, float | None]]:
        pictures = _pictures(setup.glyphs, GEM_PICTURES, seed, THING_NAMES)
        with _temporary_store(setup.models.profile) as store:
            options = SegmentOptions(background=False)
            segmenter = Segmenter(setup.models, store, names, method="gem", options=options)
        # label ids of the world count from 1 in the same order as the classes here
        return _score(segmenter, pictures, [picture.labels for picture in pictures], LABEL_NAMES)

    return [over_seeds("GEM, mIoU of all objects and stuff", map(run, range(setup.seeds)))]


PROTOTYPE_OPTIONS: Final = {
    "with pre-filter": SegmentOptions(prefilter=True),
    "without pre-filter": SegmentOptions(prefilter=False),
    "with pre-filter and PAMR": SegmentOptions(prefilter=True, refine="pamr"),
}


def prototypes(setup: Setup) -> list[Figure]:
    """Mean IoU of prototypes from generated supports, as they are, pre-filtered, and refined; and of the filter itself.

    The pre-filter's recall is the share of the classes in the pictures that it keeps, its precision the share of what
    it keeps that is in the picture.
    """
    truth = np.zeros(len(LABEL_NAMES), np.uint8)
    for number, name in enumerate(SEGMENTED, start=1):
        truth[LABEL_IDS[find_thing(name).name]] = number

    def run(seed: int) -> dict[str, tuple[float, dict[str, float | None]]]:
        pictures = _pictures(setup.glyphs, PROTOTYPE_PICTURES, seed, SEGMENTED)
        labels = [truth[picture.labels] for picture in pictures]
        # Kinds are those that users get: trees and houses, which here are objects, are stuff by COCO-Stuff's list.
        settings = SupportSettings(count=SUPPORT_IMAGES, seed=_IMAGE_SEED + seed * _SEED_STEP)
        with _temporary_store(setup.models.profile) as store:
            for name in SEGMENTED:
                store.add_class(build_class(setup.models, name, settings))
            stuff = [name for name in SEGMENTED if resolve_kind(name, setup.models.clip.embed_text)[0] == "stuff"]
            found = dict(zip(("recall", "precision"), _filtered(setup.models, pictures, labels, stuff), strict=True))
            segmenters = [
                Segmenter(setup.models, store, SEGMENTED, method="prototype", options=options)
                for options in PROTOTYPE_OPTIONS.values()
            ]
            scores = _scores(segmenters, pictures, labels, ("background", *SEGMENTED))
        return found | dict(zip(PROTOTYPE_OPTIONS, scores, strict=True))

    runs = [run(seed) for seed in range(setup.seeds)]
    return [
        *(over_seeds(f"prototypes, {kind}, mIoU", [item[kind] for item in runs]) for kind in PROTOTYPE_OPTIONS),
        *(over_seeds(f"pre-filter, {kind}", [item[kind] for item in runs]) for kind in ("recall", "precision")),
    ]


def _filtered(
    models: Models, pictures: Sequence[Picture], labels: Sequence[ByteArray], stuff: Sequence[str]
) -> list[tuple[float, dict[str, float | None]]]:
    """Recall and precision of the class pre-filter over all pictures; it always keeps stuff."""
    spec = models.profile.prefilter
    if spec is None:
        raise ValueError(f"the profile {models.profile.name!r} has no pre-filter")
    prefilter = ClassPrefilter(models.clip, models.profile.clip, spec, SEGMENTED, stuff=stuff)
    kept = [set(prefilter(to_tensor(picture.image, models.device)).classes) for picture in pictures]
    true = [set((np.unique(ids[ids > 0]) - 1).tolist()) for ids in labels]
    both = sum(len(a & b) for a, b in zip(kept, true, strict=True))
    return [(both / sum(map(len, true)), {}), (both / sum(map(len, kept)), {})]


def hybrid(setup: Setup) -> list[Figure]:
    """Prototypes and words together, where all classes have prototypes, every second one, or none.

    Beside it stand words alone (the profile's best method), filtered as `hybrid` is; prototypes alone are a figure of
    `prototypes`.
    """
    truth = np.zeros(len(LABEL_NAMES), np.uint8)
    for number, name in enumerate(SEGMENTED, start=1):
        truth[LABEL_IDS[find_thing(name).name]] = number
    shares = {"all classes": SEGMENTED, "every second class": SEGMENTED[::2], "no class": ()}
    best = setup.models.profile.clip.best

    def run(seed: int) -> dict[str, tuple[float, dict[str, float | None]]]:
        pictures = _pictures(setup.glyphs, PROTOTYPE_PICTURES, seed, SEGMENTED)
        labels = [truth[picture.labels] for picture in pictures]
        settings = SupportSettings(count=SUPPORT_IMAGES, seed=_IMAGE_SEED + seed * _SEED_STEP)
        records = {name: build_class(setup.models, name, settings) for name in SEGMENTED}
        found = {}
        names = ("background", *SEGMENTED)
        for share, known in shares.items():
            with _temporary_store(setup.models.profile) as store:
                store.add_classes(records[name] for name in known)
                segmenter = Segmenter(setup.models, store, SEGMENTED, method="hybrid")
                found[f"hybrid, prototypes of {share}"] = _score(
                    segmenter, pictures, labels, ("background", *SEGMENTED)
                )
        with _temporary_store(setup.models.profile) as store:
            segmenter = Segmenter(setup.models, store, SEGMENTED, method=best, options=SegmentOptions(prefilter=True))
            found["words alone, with pre-filter"] = _score(segmenter, pictures, labels, names)
        return found

    runs = [run(seed) for seed in range(setup.seeds)]
    return [over_seeds(f"{what}, mIoU", [item[what] for item in runs]) for what in runs[0]]


def transfer(setup: Setup) -> list[Figure]:
    """`gem` and `prototypes` on pictures with glyphs of a font that no training has seen."""
    other = replace(setup, glyphs=setup.second)
    return [replace(figure, what=f"second font: {figure.what}") for figure in (*gem(other), *prototypes(other))]


def styles(setup: Setup) -> list[Figure]:
    """`gem` and the prototypes' mIoU on pictures with each artist's glyphs: the same scenes, drawn by others.

    Each figure names the artist. Which of them a pack was trained on is in its model card.
    """
    found = []
    for name, glyphs in {**{name: GlyphSet(path) for name, path in STYLES.items()}, **setup.others}.items():
        drawn = replace(setup, glyphs=glyphs)
        wanted = [*gem(drawn), *(figure for figure in prototypes(drawn) if figure.what.startswith("prototypes"))]
        found += [replace(figure, what=f"{name}: {figure.what}") for figure in wanted]
    return found


FAMILY: Final = ("gem", "clearclip", "proxyclip", "cliper-coarse", "cliper", "agggem", "diffsegclust")


def family(setup: Setup) -> list[Figure]:
    """Mean IoU of several methods on the same pictures, of which some read the UNet's attention.

    With `Setup.read_size` they read it in pictures of that side: at 128 pixels on a grid of 32x32.
    """
    names = [*THING_NAMES, *STUFF_NAMES]
    models = setup.models
    if setup.read_size is not None:
        generator = replace(models.profile.generator, read_size=setup.read_size, phrase_size=setup.read_size)
        models = load_models(replace(models.profile, generator=generator), device=models.device)

    def run(seed: int) -> dict[str, tuple[float, dict[str, float | None]]]:
        pictures = _pictures(setup.glyphs, FAMILY_PICTURES, seed, THING_NAMES)
        with _temporary_store(models.profile) as store:
            segmenters = [
                Segmenter(models, store, names, method=method, options=SegmentOptions(background=False))
                for method in FAMILY
            ]
            scores = _scores(segmenters, pictures, [picture.labels for picture in pictures], LABEL_NAMES)
        return dict(zip(FAMILY, scores, strict=True))

    runs = [run(seed) for seed in range(setup.seeds)]
    size = "" if setup.read_size is None else f", read at {setup.read_size}"
    return [
        over_seeds(f"{method}{size}, mIoU of all objects and stuff", [item[method] for item in runs])
        for method in FAMILY
    ]


def speed(setup: Setup) -> list[Figure]:
    """Wall time of ``ovseg add-class`` in a process of its own, start and everything else included."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}

    def run(folder: Path, seed: int) -> tuple[float, dict[str, float | None]]:
        command = ["--profile", MINI.name, "--store", str(folder / f"store-{seed}")]
        command += ["add-class", SPEED_CLASS, "--count", str(SUPPORT_IMAGES)]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "ovseg_cli", *command],
            check=True,
            cwd=folder,
            env={**environment, "PYTHONPATH": str(folder)},
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - start, {}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _install_with(setup.pack, folder)
        runs = [run(folder, seed) for seed in range(setup.seeds)]
    what = f"add-class with {SUPPORT_IMAGES} images, {torch.get_num_threads()} threads"
    return [over_seeds(what, runs, "seconds")]


def unfamiliar(setup: Setup) -> list[Figure]:
    """Share of pictures that are called unfamiliar: of photographs, of the world's scenes, of another font's pictures.

    The classifier was fitted to parts of the photographs that scikit-image and scikit-learn bring along, so each of
    them is judged, whole and in parts, by one that is fitted to the others alone. All else is judged by the pack's own:
    small scenes as in training, larger pictures, and the photographs of `Setup.photographs`.
    """
    models, domain = setup.models, setup.models.domain
    if domain is None:
        raise ValueError(f"{setup.pack} has no domain; make it: python -m examples.mini_pack.domain {setup.pack}")
    with tempfile.TemporaryDirectory() as folder:
        mini_domain.write_pictures(Path(folder), setup.glyphs)
        seen = mini_domain.look_at_all(models, domain.spec, Path(folder))
    whole, cut = [], []
    for place, photograph in enumerate(mini_domain.photographs()):
        others = [one for index, one in enumerate(seen.photographs) if index != place]
        weight, bias = mini_domain.fit(replace(seen, photographs=others))
        whole.append(bool(mini_domain.tokens(models, domain.spec, [photograph])[0] @ weight + bias > 0))
        cut.append(float((seen.photographs[place] @ weight + bias > 0).mean()))

    def called(images: Iterable[Any]) -> tuple[float, dict[str, float | None]]:
        return statistics.fmean(domain.unfamiliar(image) for image in images), {}

    def scenes(seed: int) -> Iterator[ByteArray]:
        world, first = _world(setup, seed), _SCENE_SEED + seed * _SEED_STEP
        return (world.scene(first + index, captions=0).image for index in range(UNFAMILIAR_PICTURES))

    def pictures(glyphs: GlyphSet, seed: int) -> Iterator[ByteArray]:
        return (picture.image for picture in _pictures(glyphs, UNFAMILIAR_PICTURES, seed, THING_NAMES))

    seeds = range(setup.seeds)
    figures = [
        over_seeds("called unfamiliar: photographs", [(statistics.fmean(whole), {})]),
        over_seeds("called unfamiliar: parts of photographs", [(statistics.fmean(cut), {})]),
        over_seeds("called unfamiliar: small scenes", (called(scenes(seed)) for seed in seeds)),
        over_seeds("called unfamiliar: pictures", (called(pictures(setup.glyphs, seed)) for seed in seeds)),
        over_seeds(
            "called unfamiliar: second font's pictures", (called(pictures(setup.second, seed)) for seed in seeds)
        ),
    ]
    if setup.photographs is not None:
        found = (open_image(image.path) for image in discover([setup.photographs]))
        figures.append(over_seeds(f"called unfamiliar: {setup.photographs}", [called(found)]))
    return figures


LINES: Final[dict[str, Callable[[Setup], list[Figure]]]] = {
    "judge": judge,
    "attention": attention,
    "clip": clip,
    "gem": gem,
    "prototypes": prototypes,
    "hybrid": hybrid,
    "transfer": transfer,
    "styles": styles,
    "family": family,
    "speed": speed,
    "unfamiliar": unfamiliar,
}
"""Every measurement by its name on the command line."""


# --------------------------------------------------------------------------- parts of the measurements


def _world(setup: Setup, seed: int) -> World:
    return World(setup.glyphs, size=setup.models.profile.generator.image_size, bank_seed=_BANK_SEED + seed)


def _single_scenes(world: World, name: str, seed: int, count: int) -> tuple[ByteArray, ByteArray]:
    """Scenes with one object of one class: images (N, S, S, 3) and label ids (N, S, S)."""
    first = _SCENE_SEED + seed * _SEED_STEP + LABEL_IDS[name] * _CLASS_STEP
    scenes = [world.scene(first + index, things=[name], count=1, captions=0) for index in range(count)]
    return np.stack([scene.image for scene in scenes]), np.stack([scene.labels for scene in scenes])


def _pictures(glyphs: GlyphSet, count: int, seed: int, focus: Sequence[str]) -> list[Picture]:
    return list(render_set(glyphs, [Part(count, tuple(focus))], _PICTURE_SEED + seed))


def _accuracy(answers: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> tuple[float, dict[str, float | None]]:
    per_class = per_class_accuracy(answers, targets, len(THING_NAMES))
    return float((answers == targets).mean()), dict(zip(THING_NAMES, per_class, strict=True))


def _score(
    segmenter: Segmenter, pictures: Sequence[Picture], truth: Sequence[ByteArray], names: Sequence[str]
) -> tuple[float, dict[str, float | None]]:
    """Segment pictures and compare them with the truth, both as indices into `names`."""
    (score,) = _scores([segmenter], pictures, truth, names)
    return score


def _scores(
    segmenters: Sequence[Segmenter], pictures: Sequence[Picture], truth: Sequence[ByteArray], names: Sequence[str]
) -> list[tuple[float, dict[str, float | None]]]:
    """What `_score` gives for each of several segmenters, which walk through the networks together."""
    found = [[result.ids for result in segment_together(segmenters, item.image)] for item in pictures]
    reports: list[Report] = [evaluate(of_one, truth, names) for of_one in zip(*found, strict=True)]
    return [(report.miou or 0.0, {score.name: score.iou for score in report.classes}) for report in reports]


@contextmanager
def _temporary_store(profile: Profile) -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store", profile=profile) as store:
        yield store


def _install_with(pack: Path, folder: Path) -> None:
    """Copy the package into a folder, with another pack in the place of the bundled one."""
    package = Path(ovseg_cli.__file__).parent
    bundled = package / "profiles" / MINI.name
    shutil.copytree(
        package,
        folder / package.name,
        ignore=lambda parent, names: [MINI.name] if Path(parent) == bundled.parent else [],
    )
    shutil.copytree(pack, folder / package.name / "profiles" / MINI.name)
    if (package.parent / "migrations").is_dir():  # beside the package in a checkout, inside of it in a wheel
        shutil.copytree(package.parent / "migrations", folder / "migrations")


# --------------------------------------------------------------------------- contact sheet


def contact_sheet(models: Models) -> Image.Image:
    """Generated images of every class, with the outlines of the masks that ``add-class`` would cut out."""
    width = _SHEET_IMAGES * (_TILE + _SHEET_GAP) + 3 * _SHEET_GAP
    height = _SHEET_LINE + _TILE + _SHEET_GAP
    rows = -(-len(THING_NAMES) // _SHEET_COLUMNS)
    sheet = Image.new("RGB", (_SHEET_COLUMNS * width, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, name in enumerate(THING_NAMES):
        left, top = number // rows * width + 2 * _SHEET_GAP, number % rows * height
        draw.text((left, top + 1), name, fill="black", font=font)
        result = generate(models, name, range(_IMAGE_SEED, _IMAGE_SEED + _SHEET_IMAGES))
        attention_maps = result.attribution.numpy()
        maps = normalise_attribution(attention_maps, result.images.shape[1])
        masks, _ = masks_from_attribution(maps, class_thresholds(minmax(attention_maps)))
        for index, (image, mask) in enumerate(zip(result.images.numpy(), masks, strict=True)):
            sheet.paste(outlined(image, mask, _TILE), (left + index * (_TILE + _SHEET_GAP), top + _SHEET_LINE))
    return sheet


def outlined(image: ByteArray, mask: BoolArray, side: int) -> Image.Image:
    """An enlarged image on which a mask is outlined in magenta, and what lies outside of it is paler.

    Args:
        image: uint8 (S, S, 3), RGB.
        mask: bool (S, S).
        side: Side of the result in pixels.
    """
    from skimage.segmentation import find_boundaries

    large = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
    inside = np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
    shown = np.where(inside[..., None], large, (large.astype(np.uint16) + 255) // 2).astype(np.uint8)
    shown[find_boundaries(inside, mode="inner")] = (255, 0, 200)
    return Image.fromarray(shown)


# --------------------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except (FontError, OvsegError, OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    models = load_models(pack_profile(options.pack), device=options.device)
    if options.sheet is not None:
        with atomic_path(options.sheet) as part:
            contact_sheet(models).save(part, optimize=True)
    if not options.what:
        return 0
    remember_images(models)
    setup = Setup(
        pack=options.pack,
        models=models,
        glyphs=GlyphSet(),
        second=GlyphSet(options.font),
        seeds=options.seeds,
        images=options.images,
        photographs=options.photographs,
        others={folder.name: GlyphSet(folder) for folder in options.glyphs},
        read_size=options.read_size,
    )
    figures: list[Figure] = []
    for name in dict.fromkeys(options.what):
        figures += LINES[name](setup)
        if options.json is not None:  # after every line: the next ones may take minutes
            record = {"pack": str(options.pack), "seeds": options.seeds, "figures": [item.record() for item in figures]}
            write_json(options.json, record)
    Console().print(table(figures))
    if options.floors is None:
        return 0
    lost = below(figures, json.loads(options.floors.read_text(encoding="utf-8")))
    for line in lost:
        _tell(f"below its floor: {line}")
    return int(bool(lost))


def below(figures: Sequence[Figure], floors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say which figures are worse than they have to be.

    Args:
        figures: What was measured.
        floors: For a figure's name its least ``mean``, the least of its ``worst`` class, or its ``most`` (for times);
            what has no floor passes.
    """
    lost = []
    for figure in figures:
        floor = floors.get(figure.what, {})
        if figure.mean < floor.get("mean", -math.inf) or figure.mean > floor.get("most", math.inf):
            lost.append(f"{figure.what}: {_shown(figure.mean, figure.unit)}")
        if figure.worst is not None and figure.worst[1] < floor.get("worst", -math.inf):
            lost.append(f"{figure.what}, {figure.worst[0]}: {_shown(figure.worst[1], figure.unit)}")
    return lost


def table(figures: Sequence[Figure]) -> Table:
    """The figures for people."""
    result = Table("what", "mean", "spread", "worst class", "seeds")
    for figure in figures:
        worst = "" if figure.worst is None else f"{figure.worst[0]} {_shown(figure.worst[1], figure.unit)}"
        seeds = " ".join(_shown(value, figure.unit) for value in figure.per_seed)
        result.add_row(figure.what, _shown(figure.mean, figure.unit), _shown(figure.spread, figure.unit), worst, seeds)
    return result


def _shown(value: float, unit: str) -> str:
    return f"{value:.1f} s" if unit == "seconds" else f"{value:.3f}"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a pack of mini models.")
    parser.add_argument("pack", type=Path, help="folder laid out like ovseg_cli/profiles/mini")
    parser.add_argument("--what", nargs="+", choices=list(LINES), default=[], metavar="LINE", help=", ".join(LINES))
    parser.add_argument("--seeds", type=int, default=3, help="seeds of every figure (default: %(default)s)")
    parser.add_argument(
        "--images", type=int, default=IMAGES_PER_CLASS, help="images per class for the judge (default: %(default)s)"
    )
    parser.add_argument(
        "--font", type=Path, default=TWEMOJI, help="font or folder of PNG files for transfer (default: %(default)s)"
    )
    parser.add_argument(
        "--glyphs",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="folders of PNG files by other artists, for styles; examples.mini_pack.artists makes them",
    )
    parser.add_argument("--read-size", type=int, help="side at which family reads pictures (default: the profile's)")
    parser.add_argument("--photographs", type=Path, help="folder of pictures that unfamiliar looks at too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--floors", type=Path, help="JSON file of least figures; fail when one is below")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of all classes to this picture file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
