"""From settings to figures: support sets, pictures, and one confusion matrix for each setting, set and seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from examples.ablation.rows import GROUP_NAMES, Group, Prefilter, Setting, groups
from examples.ablation.scoring import Choice, Shortlists, Study, extract, filtered_share, working_picture
from examples.ablation.supports import Classes, Pool, RememberingModels, build_pools
from examples.mini_pack.glyphs import TWEMOJI, GlyphSet
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, STUFF_NAMES, find_thing
from examples.pictograms.render import FOCUS
from examples.pictograms.scenes import Part, render_set
from ovseg_cli.evaluation.confusion import ConfusionMatrix
from ovseg_cli.evaluation.metrics import class_iou, mean_iou
from ovseg_cli.files.labels import read_label
from ovseg_cli.models import Models
from ovseg_cli.profiles.specs import PrefilterSpec
from ovseg_cli.text.prefilter import ClassPrefilter

CLASSES: Final = Classes(things=FOCUS, stuff=STUFF_NAMES)
PICTURES: Final = ("bundled", "large")
RENDERED: Final = 32
"""Pictures of the set "large" for each seed: others for every seed."""

BUNDLED: Final = TWEMOJI.parent

# As in `examples.mini_pack.evaluate`: far from every training set and from the bundled pictures.
_PICTURE_SEED: Final = 7_000_000
_IMAGE_SEED: Final = 100_000
_SEED_STEP: Final = 100_000

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and on what.

    Attributes:
        groups: Names of groups of rows.
        pictures: Names of sets of pictures.
        seeds: Number of support sets.
        rendered: Pictures of the set "large" for each seed.
        supports: Support images per class; None for the profile's default.
        steps: Sampler steps; likewise.
        bundled: How many of the bundled pictures; None for all.
        classes: What is asked for.
    """

    groups: tuple[str, ...] = GROUP_NAMES
    pictures: tuple[str, ...] = PICTURES
    seeds: int = 3
    rendered: int = RENDERED
    supports: int | None = None
    steps: int | None = None
    bundled: int | None = None
    classes: Classes = CLASSES


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A picture and what is in it.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        labels: integers (H, W), ids of the pictogram world.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What was measured.

    Attributes:
        plan: On what.
        groups: The rows.
        miou: By set of pictures and setting, one figure in 0..1 for each seed.
        per_class: Likewise the IoU of each class (background first), averaged over the seeds; None where a class
            is nowhere.
        sizes: Pictures in each set, of all seeds together.
        filtered: By extractor and stuff rule, which share of the things' background prototypes it leaves out.
        kept: By row with a pre-filter, how many things it leaves in a picture, and how many of those that are there it
            loses, both on average.
    """

    plan: Plan
    groups: Mapping[str, Group]
    miou: Mapping[str, Mapping[Setting, tuple[float, ...]]]
    per_class: Mapping[str, Mapping[Setting, Mapping[str, float | None]]]
    sizes: Mapping[str, int]
    filtered: Mapping[str, Mapping[str, float]]
    kept: Mapping[str, Mapping[str, float]]

    def record(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return {
            "seeds": self.plan.seeds,
            "classes": asdict(self.plan.classes),
            "pictures": dict(self.sizes),
            "filtered": {name: dict(shares) for name, shares in self.filtered.items()},
            "kept": {name: dict(means) for name, means in self.kept.items()},
            "rows": [
                {
                    "group": group.title,
                    "row": row.name,
                    "paper": row.paper,
                    "setting": asdict(row.setting),
                    "miou": {name: list(figures[row.setting]) for name, figures in self.miou.items()},
                    "per_class": {name: dict(figures[row.setting]) for name, figures in self.per_class.items()},
                }
                for group in self.groups.values()
                for row in group.rows
            ],
        }


def measure(models: RememberingModels, plan: Plan, tell: Tell = lambda _line: None) -> Result:
    """Measure everything.

    Args:
        models: The mini models.
        plan: What, and on what.
        tell: Told how far it is.
    """
    chosen = {name: group for name, group in groups(models.profile).items() if name in plan.groups}
    settings = list(
        dict.fromkeys(s for group in chosen.values() for row in group.rows for s in (row.setting, row.reference))
    )
    if not plan.classes.stuff:
        settings = [setting for setting in settings if setting.stuff is None]
    pools = []
    for seed in range(plan.seeds):
        start = time.perf_counter()
        first = _IMAGE_SEED + seed * _SEED_STEP
        pools.append(build_pools(models, settings, plan.classes, seed=first, count=plan.supports, steps=plan.steps))
        tell(f"support sets of seed {seed}: {time.perf_counter() - start:.0f} s")
    studies = [Study(models.profile, pool, settings, plan.classes, models.device) for pool in pools]
    tally = _Tally(plan, settings)
    filters = _filters(models, plan.classes, settings)
    for name in plan.pictures:
        start = time.perf_counter()
        for example, seeds in _examples(name, plan):
            features = extract(models, example.image, sorted(pools[0]))
            models.forget()  # another picture has other features
            present = np.unique(_truth(plan.classes, stuff=False)[example.labels])
            kept = _keep(filters, models, example, present)
            for seed in seeds:
                for setting, ids in studies[seed].label_maps(features, kept).items():
                    tally.count(name, setting, seed, example, ids)
            tally.kept(name, kept, present)
        tell(f"{tally.sizes[name]} pictures of {name!r}: {time.perf_counter() - start:.0f} s")
    return tally.result(chosen, _filtered(models, plan.classes, pools, settings))


def _examples(name: str, plan: Plan) -> Iterator[tuple[Example, Sequence[int]]]:
    """Pictures of a set, each with the seeds whose support sets it is segmented with."""
    if name == "bundled":
        for file in sorted((BUNDLED / "images").glob("*.jpg"))[: plan.bundled]:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
            yield Example(pixels, read_label(BUNDLED / "labels" / f"{file.stem}.png")), range(plan.seeds)
        return
    glyphs = GlyphSet()
    for seed in range(plan.seeds):
        for picture in render_set(glyphs, [Part(plan.rendered, FOCUS)], _PICTURE_SEED + seed):
            yield Example(picture.image, picture.labels), [seed]


def _truth(classes: Classes, *, stuff: bool) -> npt.NDArray[np.uint8]:
    """For each id of the world the label that a segmentation should have there; 0 for all that is not asked for."""
    truth = np.zeros(len(LABEL_NAMES), np.uint8)
    for label, name in enumerate(classes.names if stuff else classes.things, start=1):
        truth[LABEL_IDS[name if name in classes.stuff else find_thing(name).name]] = label
    return truth


def _filters(models: Models, classes: Classes, settings: Sequence[Setting]) -> dict[Prefilter, ClassPrefilter]:
    """Every pre-filter that some setting wants, but the one that is told. Stuff passes all of them: it is left out."""
    wanted = {setting.prefilter for setting in settings if isinstance(setting.prefilter, PrefilterSpec)}
    return {spec: ClassPrefilter(models.clip, models.profile.clip, spec, classes.things) for spec in wanted}


def _keep(
    filters: Mapping[Prefilter, ClassPrefilter], models: Models, example: Example, present: npt.NDArray[np.uint8]
) -> Shortlists:
    picture = working_picture(example.image, models)
    kept: dict[Prefilter, Sequence[int]] = {spec: prefilter(picture).classes for spec, prefilter in filters.items()}
    return kept | {"labels": [int(label) - 1 for label in present if label > 0]}


def _filtered(
    models: Models, classes: Classes, pools: Sequence[Mapping[str, Pool]], settings: Sequence[Setting]
) -> dict[str, dict[str, float]]:
    """By extractor and stuff rule, the mean over the seeds of `filtered_share`."""
    similarity = models.profile.inference.stuff_similarity
    shares: dict[str, dict[str, float]] = {}
    for setting in settings:
        if setting.stuff is not None:
            for name in setting.extractors:
                found = [filtered_share(pool[name], Choice.of(setting), classes, similarity) for pool in pools]
                shares.setdefault(name, {})[setting.stuff] = float(np.mean(found))
    return shares


class _Tally:
    """Counts pixels and classes while pictures go by."""

    def __init__(self, plan: Plan, settings: Sequence[Setting]) -> None:
        self._plan = plan
        self._truth = {stuff: _truth(plan.classes, stuff=stuff) for stuff in (False, True)}
        self._names = {
            stuff: ("background", *(plan.classes.names if stuff else plan.classes.things)) for stuff in (False, True)
        }
        self._matrices = {
            name: {
                setting: [ConfusionMatrix(len(self._names[setting.stuff is not None])) for _ in range(plan.seeds)]
                for setting in settings
            }
            for name in plan.pictures
        }
        self.sizes = dict.fromkeys(plan.pictures, 0)
        self._kept: dict[Prefilter, list[tuple[int, int, int]]] = {}

    def count(self, name: str, setting: Setting, seed: int, example: Example, ids: npt.NDArray[np.uint16]) -> None:
        truth = self._truth[setting.stuff is not None][example.labels]
        self._matrices[name][setting][seed].update(truth, ids)

    def kept(self, name: str, kept: Shortlists, present: npt.NDArray[np.uint8]) -> None:
        """Note one picture."""
        self.sizes[name] += 1
        there = {int(label) - 1 for label in present if label > 0}
        for prefilter, places in kept.items():
            self._kept.setdefault(prefilter, []).append((len(places), len(there), len(there - set(places))))

    def result(self, chosen: Mapping[str, Group], filtered: Mapping[str, Mapping[str, float]]) -> Result:
        names = {row.setting.prefilter: row.name for group in chosen.values() for row in group.rows}
        return Result(
            plan=self._plan,
            groups=chosen,
            miou={
                name: {
                    setting: tuple(mean_iou(matrix.counts) for matrix in matrices)
                    for setting, matrices in by_setting.items()
                }
                for name, by_setting in self._matrices.items()
            },
            per_class={
                name: {setting: self._per_class(setting, matrices) for setting, matrices in by_setting.items()}
                for name, by_setting in self._matrices.items()
            },
            sizes=self.sizes,
            filtered=filtered,
            kept={
                names[prefilter]: {
                    "classes": float(np.mean([kept for kept, _, _ in pictures])),
                    "there": float(np.mean([there for _, there, _ in pictures])),
                    "lost": float(np.mean([lost for _, _, lost in pictures])),
                }
                for prefilter, pictures in self._kept.items()
                if prefilter in names
            },
        )

    def _per_class(self, setting: Setting, matrices: Sequence[ConfusionMatrix]) -> dict[str, float | None]:
        ious = np.stack([class_iou(matrix.counts) for matrix in matrices])
        names = self._names[setting.stuff is not None]
        defined = {name: column[~np.isnan(column)] for name, column in zip(names, ious.T, strict=True)}
        return {name: float(values.mean()) if values.size else None for name, values in defined.items()}
