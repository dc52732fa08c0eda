"""Labelled folders of rendered scenes, with names that are held out.

Eleven objects and two textures are novel; most have a look-alike among the others (cat and dog, horse and cow, airplane
and bird), so that both transfer and confusion are seen. In the training folder they do not occur at all; in the variant
"ignore" they do, and their pixels have no label.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from examples.mini_pack.glyphs import GlyphSet
from examples.mini_pack.vocabulary import LABEL_IDS, STUFF_NAMES, THING_NAMES
from examples.mini_pack.world import Scene, World
from ovseg_cli.files.labels import IGNORE, LABELMAP_NAME, LabelMap, read_labelmap, write_label, write_labelmap

NOVEL_THINGS: tuple[str, ...] = (
    *("cat", "horse", "strawberry", "hamburger", "airplane", "car"),
    *("penguin", "frog", "book", "umbrella", "mushroom"),
)
NOVEL_STUFF = ("sand", "wood")
NOVEL = (*NOVEL_THINGS, *NOVEL_STUFF)
BASE_THINGS = tuple(name for name in THING_NAMES if name not in NOVEL_THINGS)
BASE = (*BASE_THINGS, *(name for name in STUFF_NAMES if name not in NOVEL_STUFF))

PICTOGRAMS = Path(__file__).parents[1] / "pictograms"
SIZE = 96
FIRST_SEED = 5_000_000
"""Far from those of the bundled models' training scenes."""


def labelmap() -> LabelMap:
    """The ids of the bundled pictures, which are the world's; one name is longer there. Background never occurs."""
    return read_labelmap(PICTOGRAMS / "labels" / LABELMAP_NAME)


def render(folder: Path, count: int, *, size: int = SIZE, novel: str = "absent", first: int = FIRST_SEED) -> Path:
    """Write a training folder with ``images`` and ``labels``; what is there already is kept.

    Args:
        folder: Where to.
        count: How many scenes.
        size: Side of a scene in pixels.
        novel: "absent", "ignore" (they occur without a label) or "shown" (they occur with one, for tests).
        first: Seed of the first scene.
    """
    images, labels = folder / "images", folder / "labels"
    if labels.is_dir() and len(list(labels.glob("*.png"))) == count:
        return folder
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    world, names = World(GlyphSet(), size=size), labelmap()
    write_labelmap(labels / LABELMAP_NAME, names)
    seed = first
    for number in range(count):
        while True:
            scene = world.scene(seed, things=BASE_THINGS if novel == "absent" else None, captions=1)
            seed += 1
            if novel != "absent" or scene.stuff.name not in NOVEL_STUFF:
                break
        _write(scene, f"{number:05d}", images, labels, names, hide=novel == "ignore")
    return folder


def _write(scene: Scene, name: str, images: Path, labels: Path, names: LabelMap, *, hide: bool) -> None:
    Image.fromarray(scene.image).save(images / f"{name}.png")
    ids = scene.labels.astype(np.int64)
    if hide:
        ids[np.isin(ids, [LABEL_IDS[novel] for novel in NOVEL])] = IGNORE
    write_label(labels / f"{name}.png", ids, names)
