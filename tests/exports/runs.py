"""Output folders as `segment` leaves them, with label maps that are hard to export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_cli.files.discovery import picture_id
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap
from ovseg_cli.runs.journal import Entry, write_journal, written

NAMES = ("cat", "glazed donut", "a/b", "a b", "A-B", "雨", "été", "q\"<&>'", "Re: x", "con")
"""Names that are alike, or that some file systems, XML and YAML do not take as they are."""


@dataclass(frozen=True)
class MadeRun:
    folder: Path
    photos: Path
    labels: LabelMap
    truth: dict[str, np.ndarray]  # by key


def ring(size: int, label: int, inner: int = 0) -> np.ndarray:
    """A square of a class with a hole in it, and in the hole an island of another."""
    ids = np.zeros((size, size + 3), np.uint16)
    ids[1:-1, 1:-1] = label
    ids[4:-4, 4:-4] = 0
    ids[6:-6, 6:-6] = inner
    return ids


def shapes(first: int = 1, second: int = 2, third: int = 3) -> dict[str, np.ndarray]:
    """By key: holes in holes, single pixels, lines, nothing, all, noise."""
    rng = np.random.default_rng(3)
    dots = np.zeros((9, 13), np.uint16)
    dots[0, 0] = dots[8, 12] = first
    dots[4, 2:9] = second
    dots[1, 4] = dots[2, 5] = third
    return {
        "x.jpg": ring(20, first, second),
        "x.png": np.full((5, 7), third, np.uint16),
        "sub/deep/y": dots,
        "empty": np.zeros((6, 4), np.uint16),
        "noise": rng.choice([0, first, second, third], (31, 17)).astype(np.uint16),
    }


SUFFIXES = {"x.jpg": "", "x.png": ""}


def make_run(root: Path, classes=NAMES, truth: dict[str, np.ndarray] | None = None) -> MadeRun:
    truth = shapes() if truth is None else truth
    labels = LabelMap.from_classes(classes)
    folder, photos = root / "out", root / "photos"
    entries = []
    for key, ids in truth.items():
        picture = photos / f"{key}{SUFFIXES.get(key, '.png')}"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat(ids[..., None] % 7 * 30, 3, axis=2).astype(np.uint8)).save(picture)
        output = f"SegmentationClass/{key}.png"
        write_label(folder / output, ids, labels)
        nbytes, digest = written(folder / output)
        size = (ids.shape[1], ids.shape[0])
        about = {"output": output, "status": "done", "key": "k", "nbytes": nbytes, "digest": digest, "size": size}
        entries.append(Entry(path=picture_id(picture), **about))
    write_labelmap(folder / "labelmap.txt", labels)
    write_journal(folder, entries)
    return MadeRun(folder, photos, labels, truth)


def many_classes(root: Path) -> MadeRun:
    """Three hundred classes, of which a picture shows those around the border of 8 bits."""
    ids = ring(20, 254, 255)
    ids[0, :4] = [1, 256, 299, 300]
    return make_run(
        root, [f"class {i}" for i in range(1, 301)], {"deep": ids, "other": np.full((3, 3), 300, np.uint16)}
    )


def with_gaps(root: Path, first: str = "sky") -> MadeRun:
    """Label maps of another tool: ids with gaps, one of them called void, and 255 for what does not count."""
    labels = LabelMap((first, "cat", "void", "dog"), (0, 5, 9, 40))
    truth = {"a": ring(16, 5, 40), "sub/b": ring(18, 40, 9)}
    truth["a"][0, :3] = 255
    for key, ids in truth.items():
        picture = root / "photos" / f"{key}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", ids.shape[::-1]).save(picture)
        path = root / "labels" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids.astype(np.uint8)).save(path)
    (root / "labels" / "labelmap.txt").write_text("".join(f"{i}: {name}\n" for i, name, _ in labels))
    return MadeRun(root / "labels", root / "photos", labels, truth)


def classes_only(run: MadeRun, key: str) -> np.ndarray:
    """A label map with 0 for all that is no class; ids are one higher, as 0 may be a class."""
    from ovseg_cli.exports.source import open_source

    known = [i for i, _ in open_source(run.folder).classes]
    ids = run.truth[key].astype(np.int64)
    return np.where(np.isin(ids, known), ids + 1, 0)
