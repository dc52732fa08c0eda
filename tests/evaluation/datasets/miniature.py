"""Miniature copies of the published data sets: the folders, file formats and ids of the originals, rendered content.

One scene per picture, as class places of a data set (-1 for what is no class, -2 for what is left out); each layout
writes it in its own way, by ids that stand here again and are not those of the code under test.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask
from scipy.io import savemat

NOTHING, LEFT_OUT = -1, -2
SIZE = (36, 48)


def scene(number: int, classes: int, *, unknown: bool = True) -> np.ndarray:
    """`(H, W)` class places: an ellipse and a bar on a ground, none of them the same in two pictures."""
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    picked = random.permutation(classes)[:3]
    places = np.full(SIZE, NOTHING)
    places[SIZE[0] // 2 :] = picked[0]
    places[:, random.integers(2, 12) : random.integers(14, 20)] = picked[1]
    ellipse = ((rows - random.integers(10, 26)) / 7) ** 2 + ((columns - random.integers(16, 40)) / 9) ** 2
    if unknown:
        places[ellipse < 1.5] = LEFT_OUT
    places[ellipse < 1] = picked[2]
    return places


def ids_of(places: np.ndarray, ids, nothing: int, left_out: int, dtype=np.uint8) -> np.ndarray:
    """The ids of a scene."""
    table = {NOTHING: nothing, LEFT_OUT: left_out} | dict(enumerate(ids))
    return np.vectorize(table.__getitem__)(places).astype(dtype)


def save(path: Path, ids: np.ndarray, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def photograph(path: Path, places: np.ndarray) -> None:
    """A picture of a scene: a colour for each class, with noise."""
    random = np.random.default_rng(3)
    colours = random.integers(0, 255, (1000, 3))[places]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(colours + random.normal(0, 9, colours.shape), 0, 255).astype(np.uint8)).save(path)


def voc_palette() -> list[int]:
    """VOC's colours, by the rule of its development kit: the bits of an id, dealt to the three channels."""
    colours = []
    for index in range(256):
        colour, rest = [0, 0, 0], index
        for bit in range(7, -1, -1):
            for channel in range(3):
                colour[channel] |= (rest & 1) << bit
                rest >>= 1
        colours += colour
    return colours


def lists(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def voc(root: Path, scenes: dict[str, np.ndarray], *, folder: str = "SegmentationClass", grey: bool = False) -> None:
    base = root / "VOCdevkit" / "VOC2012"
    for name, places in scenes.items():
        photograph(base / "JPEGImages" / f"{name}.jpg", places)
        save(base / folder / f"{name}.png", ids_of(places, range(1, 21), 0, 255), None if grey else voc_palette())
    photograph(base / "JPEGImages" / "2007_999999.jpg", scene(99, 20))  # a picture of another split
    save(base / folder / "2007_999999.png", ids_of(scene(99, 20), range(1, 21), 0, 255), voc_palette())
    lists(base / "ImageSets" / "Segmentation" / "val.txt", list(scenes))


# The ids of the 59 classes among the 459, as the converters of mmsegmentation and CAT-Seg have them.
CONTEXT_MAPPING = sorted(
    (
        *(2, 259, 260, 415, 324, 9, 258, 144, 18, 19, 22, 23, 397, 25, 284, 158, 159, 416, 33, 162, 420, 454, 295, 296),
        *(427, 44, 45, 46, 308, 59, 440, 445, 31, 232, 65, 354, 424, 68, 326, 72, 458, 34, 207, 80, 355, 85, 347, 220),
        *(349, 360, 98, 187, 104, 105, 366, 189, 368, 113, 115),
    )
)


def context(root: Path, scenes: dict[str, np.ndarray], form: str) -> None:
    base = root / "VOC2010"
    for name, places in scenes.items():
        photograph(base / "JPEGImages" / f"{name}.jpg", places)
        if form == "mmsegmentation":
            save(base / "SegmentationClassContext" / f"{name}.png", ids_of(places, range(1, 60), 0, 0))
        elif form == "CAT-Seg":
            save(base / "annotations_detectron2" / "pc59_val" / f"{name}.png", ids_of(places, range(59), 255, 255))
        elif form == "mat":
            (base / "trainval").mkdir(parents=True, exist_ok=True)
            savemat(base / "trainval" / f"{name}.mat", {"LabelMap": ids_of(places, range(1, 460), 0, 0, np.uint16)})
        elif form == "tif":
            save(
                base / "annotations_detectron2" / "pc459_val" / f"{name}.tif",
                ids_of(places, range(459), 65535, 65535, np.uint16),
            )
    if form == "mmsegmentation":
        lists(base / "ImageSets" / "SegmentationContext" / "val.txt", list(scenes))
    if form == "mat":
        lists(base / "pascalcontext_val.txt", list(scenes))
    if form == "detail":
        detail(base / "trainval_merged.json", scenes)


def detail(path: Path, scenes: dict[str, np.ndarray]) -> None:
    """One file of all splits, a run-length code for each class of a picture."""
    images, regions = [], []
    for name, places in scenes.items():
        number = int(name.replace("_", ""))
        images.append({"image_id": number, "file_name": f"{name}.jpg", "phase": "val", "height": 36, "width": 48})
        for place in np.unique(places[places >= 0]):
            code = encoded(places == place)
            regions.append({"image_id": number, "category_id": CONTEXT_MAPPING[place], "segmentation": code})
    images.append({"image_id": 7, "file_name": "2008_000099.jpg", "phase": "train", "height": 36, "width": 48})
    regions.append({"image_id": 7, "category_id": 2, "segmentation": encoded(np.ones(SIZE, bool))})
    categories = [{"category_id": index, "name": f"c{index}"} for index in range(460)]
    path.write_text(json.dumps({"images": images, "annos_segmentation": regions, "categories": categories}))


def encoded(region: np.ndarray) -> dict:
    code = mask.encode(np.asfortranarray(region.astype(np.uint8)))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


# Ids of COCO-Stuff's images that no class has: those of its labels.txt without pictures, one lower.
_UNUSED = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
COCO_IDS = [index for index in range(182) if index not in _UNUSED]


def coco(root: Path, scenes: dict[str, np.ndarray], form: str) -> None:
    """Pictures and labels; in "mixed" the prepared files lie beside the original ones."""
    for name, places in scenes.items():
        photograph(root / "images" / "val2017" / f"{name}.jpg", places)
        raw = ids_of(places, COCO_IDS, 255, 255)
        trained = ids_of(places, range(171), 255, 255)
        things = np.where(places < 0, 255, np.where(places < 80, places + 1, 0)).astype(np.uint8)
        if form == "stuffthingmaps":
            save(root / "stuffthingmaps" / "val2017" / f"{name}.png", raw)
        if form in ("annotations", "mixed"):
            save(root / "annotations" / "val2017" / f"{name}.png", raw)
        if form in ("prepared", "mixed"):
            save(root / "annotations" / "val2017" / f"{name}_labelTrainIds.png", trained)
            save(root / "annotations" / "val2017" / f"{name}_instanceTrainIds.png", things)
        if form == "CAT-Seg":
            save(root / "annotations_detectron2" / "val2017" / f"{name}.png", trained)


def ade(root: Path, scenes: dict[str, np.ndarray], form: str) -> None:
    base = root / "ADEChallengeData2016"
    for name, places in scenes.items():
        photograph(base / "images" / "validation" / f"{name}.jpg", places)
        if form == "ADE20K":
            save(base / "annotations" / "validation" / f"{name}.png", ids_of(places, range(1, 151), 0, 0))
        else:
            save(base / "annotations_detectron2" / "validation" / f"{name}.png", ids_of(places, range(150), 255, 255))


def ade_full(root: Path, scenes: dict[str, np.ndarray], form: str, ids: list[int]) -> None:
    base = root / "ADE20K_2021_17_01"
    for name, places in scenes.items():
        if form == "CAT-Seg":
            photograph(base / "images_detectron2" / "validation" / f"{name}.jpg", places)
            path = base / "annotations_detectron2" / "validation" / f"{name}.tif"
            save(path, ids_of(places, range(847), 65535, 65535, np.uint16))
        else:
            photograph(base / "images" / "ADE" / "validation" / "street" / f"{name}.jpg", places)
            full = ids_of(places, ids, 0, 0, np.int32)
            instances = np.where(full > 0, 7, 0)
            colours = np.stack([full // 256 * 10, full % 256, instances], axis=-1).astype(np.uint8)
            save(base / "images" / "ADE" / "validation" / "street" / f"{name}_seg.png", colours)


# name: labelId, for the 19 classes; all others are left out.
CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def cityscapes(root: Path, scenes: dict[str, np.ndarray], form: str) -> None:
    for name, places in scenes.items():
        city = name.split("_")[0]
        photograph(root / "leftImg8bit" / "val" / city / f"{name}_leftImg8bit.png", places)
        labels = root / "gtFine" / "val" / city
        save(labels / f"{name}_gtFine_labelIds.png", ids_of(places, CITYSCAPES, 9, 3))
        save(labels / f"{name}_gtFine_instanceIds.png", ids_of(places, range(1000, 1019), 9, 3, np.uint16))
        colours = np.zeros((*SIZE, 4), np.uint8)
        save(labels / f"{name}_gtFine_color.png", colours)
        (labels / f"{name}_gtFine_polygons.json").write_text('{"objects": []}')
        if form == "trainIds":
            save(labels / f"{name}_gtFine_labelTrainIds.png", ids_of(places, range(19), 255, 255))
