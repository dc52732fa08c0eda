"""Training scenes on disk: rendered once, memory-mapped by every training.

A data set is a folder with ``images.npy`` (N, S, S, 3), ``labels.npy`` (N, S, S), ``counts.npy`` (N,),
all uint8, ``captions.json`` (N lists of strings) and ``dataset.json`` (what was asked for, and how many
scenes are done). Rendering can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from examples.mini_pack.glyphs import Jitter, Mixed, Styles
from examples.mini_pack.world import World
from examples.mini_pack.world_tensor import TensorWorld
from ovseg_cli.atomic import write_json

ByteArray = npt.NDArray[np.uint8]
_Chunk = tuple[ByteArray, ByteArray, ByteArray, list[tuple[str, ...]]]
"""Images, labels, object counts and captions of some scenes."""

_CHUNK: Final = 1000
"""Scenes per unit of work; the files on disk grow by this much at a time."""


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """What decides the content of a data set.

    Attributes:
        scenes: Number of scenes N.
        first_seed: Seed of the first scene; the others follow.
        bank_seed: Seed of the textures.
        size: Side S of the scenes in pixels.
        captions: Captions per scene.
        count: Number of objects in every scene; None draws it for each.
        jitter: How strongly sprites vary.
        styles: Whose glyphs: names of `glyphs.STYLES`, or paths of fonts and of folders of PNG files.
        mixed: Whether every object is by an artist of its own, or all of a scene by one.
        smallest: See `world.direct`.
    """

    scenes: int
    first_seed: int = 0
    bank_seed: int = 7
    size: int = 64
    captions: int = 3
    count: int | None = None
    jitter: Jitter = field(default_factory=Jitter)
    styles: tuple[str, ...] = ("noto",)
    mixed: Mixed = "glyph"
    smallest: float = 1.0


class Dataset:
    """A rendered data set.

    Attributes:
        images: uint8 (N, S, S, 3), RGB, memory-mapped.
        labels: uint8 (N, S, S) of label ids, memory-mapped.
        counts: uint8 (N,), number of objects.
        captions: N lists of captions.
    """

    def __init__(self, folder: Path) -> None:
        """Open a finished data set.

        Raises:
            FileNotFoundError: If there is none, or it is not finished.
        """
        state = _read_state(folder)
        if state is None or state["done"] < state["spec"]["scenes"]:
            raise FileNotFoundError(f"{folder} holds no finished data set; render it first")
        self.images: ByteArray = np.load(folder / "images.npy", mmap_mode="r")
        self.labels: ByteArray = np.load(folder / "labels.npy", mmap_mode="r")
        self.counts: ByteArray = np.load(folder / "counts.npy")
        lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
        self.captions: list[list[str]] = [json.loads(line) for line in lines[: len(self.images)]]

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.images)


def render_dataset(folder: Path, spec: DatasetSpec, *, workers: int = 1, device: str | None = None) -> Iterator[int]:
    """Render a data set, or what is missing of it.

    Args:
        folder: Where it goes.
        spec: What to render.
        workers: Processes that render side by side.
        device: Render batches of tensors there instead of single scenes in `workers` processes. The scenes are
            the same but for rounding.

    Yields:
        The number of scenes done so far, after every chunk.

    Raises:
        FontError: If a style cannot be used.
        ValueError: If `folder` holds another data set, or tensors cannot render this one (see `world_tensor`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(json.dumps({**asdict(spec), "tensors": device is not None}))
    state = _read_state(folder)
    if state is not None and state["spec"] != wanted:
        raise ValueError(f"{folder} holds a data set of other settings; remove it or choose another folder")
    done = 0 if state is None else int(state["done"])
    shape = (spec.scenes, spec.size, spec.size)
    arrays = {
        "images": _open_array(folder / "images.npy", (*shape, 3), fresh=state is None),
        "labels": _open_array(folder / "labels.npy", shape, fresh=state is None),
        "counts": _open_array(folder / "counts.npy", shape[:1], fresh=state is None),
    }
    text = folder / "captions.jsonl"
    kept = text.read_text(encoding="utf-8").splitlines()[:done] if done else []
    text.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    ranges = [(start, min(start + _CHUNK, spec.scenes)) for start in range(done, spec.scenes, _CHUNK)]
    chunks = _render_all(ranges, spec, workers) if device is None else _render_on(device, ranges, spec)
    for (start, end), (images, labels, counts, captions) in zip(ranges, chunks, strict=True):
        arrays["images"][start:end], arrays["labels"][start:end] = images, labels
        arrays["counts"][start:end] = counts
        for array in arrays.values():
            array.flush()
        with text.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(item) + "\n" for item in captions)
        write_json(folder / "dataset.json", {"spec": wanted, "done": end})
        yield end


def _render_on(device: str, ranges: list[tuple[int, int]], spec: DatasetSpec) -> Iterator[_Chunk]:
    if spec.smallest < 1:
        raise ValueError("tensors render no scenes of smaller objects; render in processes on the CPU instead")
    styles = Styles.named(spec.styles, spec.mixed)
    world = TensorWorld(styles, size=spec.size, bank_seed=spec.bank_seed, jitter=spec.jitter, device=device)
    for start, end in ranges:
        batch = world.scenes(spec.first_seed + start, end - start, count=spec.count, captions=spec.captions)
        images, labels, counts = (part.cpu().numpy() for part in (batch.images, batch.labels, batch.counts))
        yield images, labels, counts, list(batch.captions)


def _render_all(ranges: list[tuple[int, int]], spec: DatasetSpec, workers: int) -> Iterator[_Chunk]:
    Styles.named(spec.styles, spec.mixed)  # what is wrong with them is told here, not as a broken pool
    # every process paints the textures first, needed or not
    with ProcessPoolExecutor(max(1, min(workers, len(ranges))), initializer=_open_world, initargs=(spec,)) as pool:
        yield from pool.map(_render, ranges)


def _read_state(folder: Path) -> dict[str, Any] | None:
    path = folder / "dataset.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _open_array(path: Path, shape: tuple[int, ...], *, fresh: bool) -> np.memmap[Any, np.dtype[np.uint8]]:
    if fresh:
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    return np.lib.format.open_memmap(path, mode="r+")


# One world per worker process: painting the textures takes longer than rendering a thousand scenes.
_world: World | None = None
_spec: DatasetSpec | None = None


def _open_world(spec: DatasetSpec) -> None:
    global _world, _spec
    _spec = spec
    styles = Styles.named(spec.styles, spec.mixed)
    _world = World(styles, size=spec.size, bank_seed=spec.bank_seed, jitter=spec.jitter, smallest=spec.smallest)


def _render(bounds: tuple[int, int]) -> _Chunk:
    assert _world is not None
    assert _spec is not None
    scenes = [
        _world.scene(_spec.first_seed + index, count=_spec.count, captions=_spec.captions) for index in range(*bounds)
    ]
    return (
        np.stack([scene.image for scene in scenes]),
        np.stack([scene.labels for scene in scenes]),
        np.array([len(scene.things) for scene in scenes], np.uint8),
        [scene.captions for scene in scenes],
    )
