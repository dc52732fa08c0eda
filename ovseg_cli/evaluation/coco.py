"""Ground truth in COCO's JSON files: instances, stuff and panoptic; and in that of the detail API.

A file is walked through once, and of each annotation only the place in the file is kept: what a picture needs is read
when it is needed. So a file of a hundred thousand annotations takes seconds, and little memory.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import LabelError
from ovseg_cli.evaluation.truth import GroundTruth, ignored_values, only_listed
from ovseg_cli.files.discovery import without_picture_suffix
from ovseg_cli.files.images import decoding
from ovseg_cli.files.json_stream import json_entries
from ovseg_cli.files.labels import BACKGROUND, MAX_ID, LabelMap, is_background
from ovseg_cli.names import listed

__all__ = ["CocoLabels", "coco_ground_truth", "detail_labels", "is_coco_file"]

Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_VOID = "void"


def is_coco_file(path: Path) -> bool:
    """Whether a path is that of a JSON file, which may hold ground truth."""
    return path.suffix.lower() == ".json" and os.path.isfile(path)


def coco_ground_truth(
    path: Path, *, ignore: int | Sequence[int] | None = None, split: Path | None = None
) -> GroundTruth:
    """The ground truth of a COCO file.

    Pixels that no annotation covers are the background in a file of instances; in files of stuff and in panoptic ones,
    which annotate all that is known, they are left out.

    Args:
        path: The file.
        ignore: Category ids that are left out; None or -1 for none.
        split: A file that lists the pictures that count; None for all.

    Raises:
        LabelError: It holds no regions, or is no COCO file.
    """
    labels = CocoLabels(path)
    files = dict.fromkeys(labels.keys, path)
    return GroundTruth(
        folder=path,
        files=files if split is None else only_listed(files, split, path),
        labels=labels.labelmap,
        source=str(path),
        ignore=ignored_values(ignore) or (),
        loose=True,
        reader=labels.read,
        notes=labels.notes,
        listed=split is not None,
    )


@dataclass(slots=True)
class _Places:
    """Where the annotations of pictures lie in the file, as they come."""

    of: dict[Any, int] = field(default_factory=dict)  # the place of a picture's id
    pictures: array[int] = field(default_factory=lambda: array("q"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    without: int = 0

    def place(self, image_id: Any) -> int:
        return self.of.setdefault(image_id, len(self.of))

    def add(self, image_id: Any, start: int, end: int) -> None:
        self.pictures.append(self.place(image_id))
        self.starts.append(start)
        self.ends.append(end)


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture of the file: its place among the annotations, and its size (0 where the file does not say)."""

    place: int
    height: int
    width: int


class CocoLabels:
    """The label maps that a COCO file describes.

    Args:
        path: The file.
        annotations: The key of its annotations.
        image_id: The key of a picture's id.
        named: The key of what names the categories; empty where they have no names.
        wanted: Which pictures count; None for all.

    Attributes:
        keys: The pictures: their file names without the suffix, in the order of the file.
        labelmap: The categories, and what pixels without annotation are.
        notes: What the reader of figures should know.

    Raises:
        LabelError: It is no such file.
    """

    def __init__(
        self,
        path: Path,
        *,
        annotations: str = "annotations",
        image_id: str = "id",
        named: str = "categories",
        wanted: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        self.path = path
        self.panoptic = False
        self.by_area = True
        places = _Places()
        categories: dict[int, str] = {}
        self._pictures: dict[str, _Picture] = {}
        self._odd_category = ""
        seen = set()
        for key, value, start, end in json_entries(path, as_text=(annotations,)):
            seen.add(key)
            if key == annotations and isinstance(value, str):
                value = _facts(value)
            if not isinstance(value, dict):
                continue
            if key == "images":
                if wanted is None or wanted(value):
                    self._add_picture(value, places, image_id)
            elif key == named:
                self._add_category(value, categories)
            elif key == annotations:
                self.panoptic |= "segments_info" in value
                places.without += not (value.get("segmentation") or "segments_info" in value)
                places.add(value.get("image_id"), start, end)
        self._check(seen, annotations, places)
        self.notes: tuple[str, ...] = ()
        if places.without:
            self.notes = (f"{places.without} annotations of {path} have no segmentation and are left out",)
        self._sort(places)
        self._label(categories)

    @property
    def keys(self) -> tuple[str, ...]:
        """The pictures."""
        return tuple(self._pictures)

    def read(self, key: str) -> Ids:
        """The label map of a picture.

        Regions of many (crowds) are painted first, then the others, the largest first: what is smaller lies on top.

        Returns:
            `(H, W)` int32, ids of `labelmap`.

        Raises:
            LabelError: An annotation is broken.
            ImageError: A panoptic image is missing or damaged.
        """
        picture = self._pictures[key]
        found = self._annotations(picture.place)
        if self.panoptic:
            return self._read_panoptic(key, found)
        regions = [region for value in found if (region := self._region(key, value, picture)) is not None]
        height, width = (
            tuple(regions[0].rle["size"]) if regions and not picture.height else (picture.height, picture.width)
        )
        if not height or not width:
            raise LabelError(f"{self.path} does not say how large {key} is: its picture needs a height and a width.")
        ids = np.full((height, width), self._rest, dtype=np.int32)
        if self.by_area:
            regions.sort(key=lambda region: (not region.crowd, -region.area))
        for region in regions:
            ids[region.mask()] = region.category
        return ids

    def _check(self, seen: set[str], annotations: str, places: _Places) -> None:
        """Refuse a file that is none of COCO's, or has no regions."""
        path = self.path
        if missing := {"images", annotations} - seen:
            raise LabelError(
                f"{path} is no COCO file: it has no {' and no '.join(map(repr, sorted(missing)))} "
                f"(it has {listed(sorted(seen)) or 'nothing'})."
            )
        if odd := self._odd_category:
            raise LabelError(odd)
        if not self._pictures or not places.starts:
            raise LabelError(f"{path} has no {'annotations' if self._pictures else 'pictures'}: nothing can be scored.")
        if places.without == len(places.starts):
            raise LabelError(
                f"{path} has no regions: none of its {places.without} annotations has a segmentation. Boxes, key "
                "points and captions cannot be scored; take the file of instances, stuff or panoptic regions."
            )

    def _add_picture(self, value: Mapping[str, Any], places: _Places, image_id: str) -> None:
        name = value.get("file_name")
        if not isinstance(name, str) or image_id not in value:
            raise LabelError(
                f"{self.path} has a picture without {'an id' if isinstance(name, str) else 'a file_name'}."
            )
        key = str(without_picture_suffix(PurePosixPath(name.replace("\\", "/").lstrip("/"))))
        if key in self._pictures:
            raise LabelError(f"{self.path} names the picture {key} twice.")
        height, width = (int(value.get(side) or 0) for side in ("height", "width"))
        self._pictures[key] = _Picture(places.place(value[image_id]), height, width)

    def _add_category(self, value: Mapping[str, Any], categories: dict[int, str]) -> None:
        index, name = value.get("id"), value.get("name")
        if not isinstance(index, int) or not isinstance(name, str) or not 0 <= index < MAX_ID:
            self._odd_category = f"{self.path} has a category without a name, or without an id in 0..{MAX_ID - 1}."
        else:
            categories[index] = name

    def _sort(self, places: _Places) -> None:
        """Bring the annotations of each picture together."""
        pictures = np.frombuffer(places.pictures, dtype=np.int64) if places.pictures else np.zeros(0, dtype=np.int64)
        order = np.argsort(pictures, kind="stable")
        self._starts = np.array(places.starts, dtype=np.int64)[order]
        self._ends = np.array(places.ends, dtype=np.int64)[order]
        self._first = np.searchsorted(pictures[order], np.arange(len(places.of) + 1))

    def _label(self, categories: dict[int, str]) -> None:
        """What the ids mean: the categories, and what pixels without annotation are."""
        stuff = self.path.name.startswith("stuff_") or categories.get(183) == "other"
        rest = _VOID if self.panoptic or stuff else BACKGROUND
        there = next((index for index, name in categories.items() if rest == BACKGROUND and is_background(name)), None)
        self._rest = there if there is not None else 0 if 0 not in categories else max(categories) + 1
        ids = {self._rest: rest} | categories
        self._categories = frozenset(categories)
        self.labelmap = LabelMap(tuple(ids.values()), tuple(ids))

    def _annotations(self, place: int) -> list[dict[str, Any]]:
        first, last = int(self._first[place]), int(self._first[place + 1])
        found = []
        with self.path.open("rb") as file:
            for start, end in zip(self._starts[first:last].tolist(), self._ends[first:last].tolist(), strict=True):
                file.seek(start)
                found.append(json.loads(file.read(end - start)))
        return found

    def _region(self, key: str, value: Mapping[str, Any], picture: _Picture) -> _Region | None:
        """The region of an annotation; None where it has none."""
        category = value.get("category_id")
        if self._categories and category not in self._categories:
            raise LabelError(f"{self.path}: an annotation of {key} has the category {category!r}, which has no name.")
        rle = self._rle(key, value.get("segmentation"), picture)
        return None if rle is None else _Region(rle, int(category or 0), bool(value.get("iscrowd")))

    def _rle(self, key: str, shape: Any, picture: _Picture) -> dict[str, Any] | None:
        """The shape of an annotation as a compressed run-length code, whatever form it has."""
        from pycocotools import mask

        height, width = picture.height, picture.width
        if not shape:
            return None
        try:
            if isinstance(shape, dict):
                rle = shape if isinstance(shape["counts"], (str, bytes)) else mask.frPyObjects(shape, *shape["size"])
                if height and list(rle["size"]) != [height, width]:
                    size = "x".join(map(str, reversed(rle["size"])))
                    raise LabelError(
                        f"{self.path}: a region of {key} is made for {size} pixels; the picture has {width}x{height}."
                    )
                return dict(rle)
            polygons = [polygon for polygon in shape if len(polygon) >= 6]
            if not polygons:
                return None
            if not height or not width:
                raise LabelError(f"{self.path} does not say how large {key} is, which its polygons need.")
            self._check_corners(key, polygons, max(height, width))
            return dict(mask.merge(mask.frPyObjects(polygons, height, width)))
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise LabelError(
                f"{self.path}: an annotation of {key} has no polygons and no run-length code ({error})."
            ) from error

    def _check_corners(self, key: str, polygons: Sequence[Sequence[float]], side: int) -> None:
        """Refuse corners far outside: what draws polygons walks along their edges, and keeps a number for each step."""
        corners = np.concatenate([np.asarray(polygon, dtype=np.float64).ravel() for polygon in polygons])
        if not np.isfinite(corners).all() or np.abs(corners).max() > _FARTHEST * side:
            raise LabelError(f"{self.path}: a polygon of {key} has a corner that lies nowhere near the picture.")

    def _read_panoptic(self, key: str, found: Sequence[Mapping[str, Any]]) -> Ids:
        if len(found) != 1:
            raise LabelError(f"{self.path} has {len(found)} annotations of {key}; a panoptic file has one a picture.")
        name = str(found[0].get("file_name", ""))
        path = self.path.with_suffix("") / name
        if not path.is_file() and (self.path.parent / name).is_file():
            path = self.path.parent / name  # as Mapillary has it
        with decoding(path) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise LabelError(f"{path} is a {image.mode} image; the ids of panoptic segments are RGB.")
            values = np.asarray(image)[..., :3].astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)
        segments = {int(part["id"]): int(part["category_id"]) for part in found[0]["segments_info"]}
        codes, places = np.unique(values, return_inverse=True)
        if unknown := [code for code in codes.tolist() if code and code not in segments]:
            raise LabelError(
                f"{path} has the segment {unknown[0]}, of which {self.path} says nothing: they do not belong together."
            )
        if nameless := set(segments.values()) - self._categories:
            raise LabelError(f"{self.path}: a segment of {key} has the category {min(nameless)}, which has no name.")
        table = np.array([segments.get(code, self._rest) for code in codes.tolist()], dtype=np.int32)
        return table[places].reshape(values.shape)


_FARTHEST = 4
"""A corner of a polygon may be outside of its picture, but by no more than so many of the picture's longer sides."""
_IMAGE_ID = re.compile(r'"image_id"\s*:\s*(-?\d+|"[^"\\]*")\s*[,}]')
_NO_REGION = re.compile(r'"segmentation"\s*:\s*(?:\[\s*\]|\{\s*\}|null)')


def _facts(text: str) -> Any:
    """What is needed of an annotation at first: whose it is, and whether it has a region."""
    ids = _IMAGE_ID.findall(text)
    if len(ids) != 1 or text.count('"segmentation"') + text.count('"segments_info"') > 1:
        return json.loads(text.encode("latin-1"))  # somebody's own fields have such names too
    facts: dict[str, Any] = {"image_id": json.loads(ids[0].encode("latin-1"))}
    if '"segments_info"' in text:
        facts["segments_info"] = ()
    elif '"segmentation"' in text:
        facts["segmentation"] = _NO_REGION.search(text) is None
    return facts


@dataclass(frozen=True, slots=True)
class _Region:
    """One region: its run-length code, category, and whether it is one of many things that nobody told apart."""

    rle: dict[str, Any]
    category: int
    crowd: bool

    @property
    def area(self) -> int:
        """Its pixels."""
        from pycocotools import mask

        return int(mask.area(self.rle))

    def mask(self) -> Mask:
        """`(H, W)` bool."""
        from pycocotools import mask

        return np.asarray(mask.decode(self.rle), dtype=bool)


def detail_labels(path: Path, split: str) -> CocoLabels:
    """The labels of Pascal Context as the detail API keeps them: one file of all splits, later regions on top."""
    labels = CocoLabels(
        path,
        annotations="annos_segmentation",
        image_id="image_id",
        named="",
        wanted=lambda picture: picture.get("phase") == split,
    )
    labels.by_area = False
    return labels
