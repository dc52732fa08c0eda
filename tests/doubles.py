"""Small stand-ins for the networks, for tests of everything around them.

Run as a program (`python -m tests.doubles segment ...`), this is the `ovseg` command with the stand-ins.
"""

from __future__ import annotations

import os
import sys
import time
import types
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ovseg_cli.cli.common import Common
from ovseg_cli.errors import OvsegError
from ovseg_cli.files.labels import voc_colour
from ovseg_cli.files.probabilities import Scores
from ovseg_cli.segmentation import segmenter
from ovseg_cli.store.records import ClassRecord, ExtractorRecord, PrototypeRecord, SupportRecord

DIM = 6


class FakeModels:
    """Models that are none; counts how often they are asked for."""

    device = "cpu"
    computes_in = "float32"
    precision = "auto"
    clip = None
    domain = None
    loaded = 0

    def __init__(self, profile):
        type(self).loaded += 1
        self.profile = profile


class PaintSegmenter(segmenter.Segmenter):
    """Takes a pixel for class i when it has exactly the i-th VOC colour, so that the right answer is known."""

    calls = 0

    def _prepare(self, models, recipe, texts, progress):
        self.models = models
        self.recipe = recipe
        self.names = recipe.classes
        self.settings = dict(recipe.settings)

    def segment(self, image, classes=None):
        type(self).calls += 1
        pause("segment", str(type(self).calls))
        pixels = np.asarray(image)
        ids = np.zeros(pixels.shape[:2], np.uint16)
        for index, name in enumerate(self.names, start=1):
            if classes is None or name in classes:
                ids[(pixels == voc_colour(index)).all(axis=-1)] = index
        labels = ("background", *self.names)
        shares = {labels[i]: float((ids == i).mean()) for i in range(len(labels)) if (ids == i).any()}
        return segmenter.Segmentation(
            ids=ids,
            names=self.names,
            method=self.choice.method,
            shares=shares,
            mean_scores=dict.fromkeys(shares, 0.5),
            kept=self._kept(classes),
            margin=0.125,
            scores=self._scores(ids),
        )

    def _scores(self, ids):
        """Half of what stands for 1 where a class is, and a quarter where the background is."""
        if not self.keep_scores:
            return None
        top = 2**self.keep_scores - 1
        values = np.stack([(ids == i) * (top // (2 if i else 4)) for i in range(len(self.names) + 1)])
        return Scores(values.astype(np.uint8 if top == 255 else np.uint16), np.arange(len(values), dtype=np.uint16))

    def segment_batch(self, images, classes=None):
        return [self.segment(image, own) for image, own in zip(images, classes or [None] * len(images), strict=True)]

    def _kept(self, classes):
        if classes is not None:
            return dict.fromkeys(classes)
        return dict.fromkeys(self.names, 0.25) if "prefilter" in self.settings else None


def segment_batch_together(segmenters, images, classes=None):
    return [segmenter.segment_batch(images, classes) for segmenter in segmenters]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportSettings:
    count: int | None = None
    steps: int | None = None
    seed: int | None = None
    prompt: str | None = None
    kind: str | None = None
    batch_size: int | None = None
    mask_method: str | None = None
    parts: int | None = None
    extractors: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    stage: str
    done: float
    total: int
    rejected: int


def plan_class(profile, name, settings, *, pictures=None):
    return {"name": name, "profile": profile.name, "prompt": f"a picture of a {name}", "count": settings.count or 2}


def build_class(models, name, settings, progress=None, *, pictures=None, existing=None, texts=None):
    """A class of noise: real in form, without meaning."""
    count = settings.count or 2
    seed = settings.seed or 0
    rng = np.random.default_rng([seed, *name.encode()])
    supports = []
    for position in range(count):
        pause("build", name)
        if progress is not None:
            progress(Progress("generate", position + 1, count, 0))
        foreground = np.zeros((16, 16), bool)
        foreground[4:12, 4:12] = True
        supports.append(
            SupportRecord(
                position=position,
                seed=seed + position,
                prompt=settings.prompt or f"a picture of a {name}",
                image=rng.integers(0, 255, (16, 16, 3), dtype=np.uint8),
                attribution=rng.random((16, 16), dtype=np.float32),
                foreground=foreground,
                background=~foreground,
            )
        )
    extractors = tuple(
        ExtractorRecord(name=extractor.name, digest=extractor.digest, dim=DIM, spec=extractor.record())
        for extractor in models.profile.extractors
    )
    prototypes = tuple(
        PrototypeRecord(
            extractor=extractor.digest,
            role=role,
            kind=kind,
            vector=rng.standard_normal(DIM).astype(np.float32),
            pixels=64,
            support=0 if kind == "instance" else None,
        )
        for extractor in extractors
        for role in ("fg", "bg")
        for kind in ("mean", "instance")
    )
    return ClassRecord(
        name=name,
        kind=settings.kind or "thing",
        kind_source="default" if settings.kind is None else "user",
        seed=seed,
        settings={"prompt": f"a picture of a {name}", "steps": settings.steps or 4},
        rejected=1,
        extractors=extractors,
        supports=tuple(supports),
        prototypes=prototypes,
    )


def build_classes(models, items, settings, progress=None, *, texts=None):
    """One by one, by whatever makes one."""
    build = sys.modules["ovseg_cli.prototypes.build"].build_class
    for place, item in enumerate(items):
        own = {"pictures": item.pictures, "existing": item.existing, "texts": texts}
        try:
            yield place, build(models, item.name, settings, progress and partial(progress, item.name), **own)
        except OvsegError as error:
            yield place, error


def pause(where, what):
    """Say in a file that this point is reached, and wait there for a signal, if the environment asks for it."""
    wanted = os.environ.get("OVSEG_TEST_PAUSE_AT")
    if wanted == f"{where}:{what}":
        Path(os.environ["OVSEG_TEST_PAUSE_FILE"]).touch()
        time.sleep(60)
        raise AssertionError("nobody sent a signal")


def repool_class(models, record, progress=None):
    """Other noise, by the extractors that the class was made with."""
    made = build_class(models, record.name, SupportSettings(count=len(record.supports), seed=99))
    positions = [support.position for support in record.supports]
    prototypes = tuple(replace(p, support=None if p.support is None else positions[p.support]) for p in made.prototypes)
    return replace(record, extractors=made.extractors, prototypes=prototypes)


def install(setattr_, setitem):
    """Put the stand-ins in place, with `monkeypatch`'s functions or their like."""
    build = types.ModuleType("ovseg_cli.prototypes.build")
    build.SupportSettings = SupportSettings
    build.Progress = Progress
    build.plan_class = plan_class
    build.build_class = build_class
    build.build_classes = build_classes
    build.repool_class = repool_class
    setitem(sys.modules, "ovseg_cli.prototypes.build", build)
    setattr_(segmenter, "Segmenter", PaintSegmenter)
    setattr_(segmenter, "segment_batch_together", segment_batch_together)
    setattr_(Common, "load_models", lambda self, profile, **_: FakeModels(profile))


if __name__ == "__main__":
    install(setattr, lambda mapping, key, value: mapping.__setitem__(key, value))
    from ovseg_cli.cli.main import run

    run()
