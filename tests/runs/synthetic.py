"""Folders as a run leaves them, made without one: pictures, label maps, a journal and a manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap
from ovseg_cli.runs.journal import Entry, write_journal
from ovseg_cli.runs.manifest import Manifest

MANIFEST = Manifest(
    ovseg="0.1.0",
    id="0" * 32,
    status="finished",
    started_at="2026-01-02T03:04:05+00:00",
    finished_at="2026-01-02T03:05:05+00:00",
    argv=("ovseg", "segment", "photos"),
    inputs=("photos",),
    classes=(),
    background=True,
    threshold=None,
    method={"asked": "auto", "used": "gem", "reason": ""},
    digest="d" * 64,
    profile={"name": "mini"},
    profile_digest="e" * 64,
    device="cpu",
    precision="float32",
    libraries={"torch": "2"},
    store={"path": "store", "vector_revision": 0},
)


def write_manifest(output: Path, classes: Sequence[str], **changes: Any) -> None:
    """`run.json` and `labelmap.txt` for these classes."""
    labels = LabelMap.from_classes(classes)
    own = tuple({"id": i, "name": name, "colour": list(colour)} for i, name, colour in labels if i)
    replace(MANIFEST, classes=own, **changes).write(output)
    write_labelmap(output / "labelmap.txt", labels)


def add_picture(
    output: Path, picture: Path, ids: np.ndarray, classes: Sequence[str], *, key: str | None = None, **changes: Any
) -> Entry:
    """Write a label map, and a picture where there is none yet; gives the journal's entry."""
    if not os.path.lexists(picture):
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([(ids * 37 % 256).astype(np.uint8)] * 3, axis=-1)).save(picture)
    name = f"SegmentationClass/{key or picture.stem}.png"
    write_label(output / name, ids.astype(np.uint16), LabelMap.from_classes(classes))
    labels = ("background", *classes)
    shares = {labels[i]: float((ids == i).mean()) for i in np.unique(ids).tolist()}
    values: dict[str, Any] = {
        "path": str(picture),
        "output": name,
        "size": (ids.shape[1], ids.shape[0]),
        "status": "done",
        "method": "gem",
        "shares": shares,
        "scores": dict.fromkeys(shares, 0.5),
        "margin": 0.25,
        "key": "k",
    }
    return Entry(**(values | changes))


def large_run(folder: Path, count: int, *, classes: int = 20, different: int = 100) -> Path:
    """A run on `count` pictures of 640 x 480, of which `different` differ and the others are links to them."""
    random = np.random.default_rng(0)
    names = [f"class {number}" for number in range(1, classes + 1)]
    photos, output = folder / "photos", folder / "out"
    photos.mkdir(parents=True)
    (output / "SegmentationClass").mkdir(parents=True)
    entries: list[Entry] = []
    for number in range(count):
        picture = photos / f"picture {number:05d}.jpg"
        if number < different:
            coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            noise = random.normal(0, 12, (480, 640, 3))  # photographs are not smooth
            pixels = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC)) + noise
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(picture, quality=88)
            present = np.append(random.choice(classes, 5, replace=False) + 1, [0, 0, 0])
            regions = random.random((8, 9, 12)).astype(np.float32)
            grown = [np.asarray(Image.fromarray(one).resize((640, 480), Image.Resampling.BICUBIC)) for one in regions]
            ids = present[np.argmax(grown, axis=0)]
            entries.append(add_picture(output, picture, ids, names, margin=float(random.random())))
            continue
        first = entries[number % different]
        name = f"SegmentationClass/{picture.stem}.png"
        os.link(first.path, picture)
        os.link(output / str(first.output), output / name)
        entries.append(replace(first, path=str(picture), output=name, margin=float(random.random())))
    write_manifest(output, names)
    write_journal(output, entries)
    return output
