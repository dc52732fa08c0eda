"""Ground truth in COCO's JSON files: instances, stuff and panoptic; and in that of the detail API.

A file is walked through once, and of each annotation only the place in the file is kept: what a picture needs is read
when it is needed. So a file of a hundred thousand annotations takes seconds, and little memory.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.errors import LabelError
from ovseg_cli.evaluation.truth import GroundTruth, ignored_values, only_listed
from ovseg_cli.files.discovery import without_picture_suffix
from ovseg_cli.files.images import MAX_SIDE, decoding
from ovseg_cli.files.json_stream import json_entries, why_unreadable
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
    known: set[int] = field(default_factory=set)  # the places of pictures that the file has, wanted or not
    without: int = 0  # annotations that have no region; their places are not kept

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
        kinds = {named: "a category", "images": "a picture", annotations: "an annotation"}
        kinds.pop("", None)
        seen = set()
        for key, value, start, end in json_entries(path, as_text=(annotations,)):
            seen.add(key)
            if key not in kinds or start == end:  # a list without items has no length
                continue
            if (
                key == annotations and isinstance(value, str) and len(value) == end - start
            ):  # no string: that has quotes
                value = self._parsed(_facts, value, start)
            if not isinstance(value, dict):
                raise LabelError(f"{path} has {kinds[key]} that is no JSON object: {reprlib.repr(value)}.")
            if key == "images":
                if wanted is None or wanted(value):
                    self._add_picture(value, places, image_id)
                elif _is_id(value.get(image_id)):
                    places.known.add(places.place(value[image_id]))
            elif key == annotations:
                self._add_annotation(value, places, start, end)
            else:
                self._add_category(value, categories)
        self._check(seen, annotations, places)
        self._sort(places)
        self.notes: tuple[str, ...] = tuple(self._notes(places))
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
            return self._read_panoptic(key, found, picture)
        regions = [self._region(key, value, picture) for value in found]
        height, width = picture.height, picture.width
        if not (height and width) and regions:
            height, width = regions[0].rle["size"]
            if other := next((region.rle["size"] for region in regions if region.rle["size"] != [height, width]), None):
                raise LabelError(
                    f"{self.path}: the regions of {key} are made for pictures of different sizes, {width}x{height} and "
                    f"{other[1]}x{other[0]} pixels."
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
        if not self._pictures or not (places.starts or places.without):
            raise LabelError(f"{path} has no {'annotations' if self._pictures else 'pictures'}: nothing can be scored.")
        if not places.starts:
            none = f"none of its {places.without} annotations has a segmentation"
            if places.without == 1:
                none = "its only annotation has no segmentation"
            raise LabelError(
                f"{path} has no regions: {none}. Boxes, key points and captions cannot be scored; take the file of "
                "instances, stuff or panoptic regions."
            )

    def _notes(self, places: _Places) -> Iterator[str]:
        """What is left out.

        Raises:
            LabelError: That is everything.
        """
        if places.without == 1:
            yield f"1 annotation of {self.path} has no segmentation and is left out"
        elif places.without:
            yield f"{places.without} annotations of {self.path} have no segmentation and are left out"
        known = np.zeros(len(places.of), dtype=np.bool_)
        known[list(places.known)] = True
        strange = int(np.diff(self._first)[~known].sum())
        if strange == len(places.starts):
            raise LabelError(
                f"{self.path} has no annotation that belongs to one of its pictures: each has an image_id that no "
                "picture has."
            )
        if strange == 1:
            yield f"1 annotation of {self.path} has an image_id that no picture has, and is left out"
        elif strange:
            yield f"{strange} annotations of {self.path} have an image_id that no picture has, and are left out"

    def _add_annotation(self, value: Mapping[str, Any], places: _Places, start: int, end: int) -> None:
        image_id, segments = value.get("image_id"), "segments_info" in value
        if not _is_id(image_id):
            raise LabelError(
                f"{self.path}: the annotation at byte {start} has no image_id that is a whole number or a text."
            )
        self.panoptic |= segments
        if segments or _has_region(value.get("segmentation")):
            places.add(image_id, start, end)
        else:
            places.without += 1

    def _add_picture(self, value: Mapping[str, Any], places: _Places, image_id: str) -> None:
        name, index = value.get("file_name"), value.get(image_id)
        if not isinstance(name, str) or image_id not in value:
            raise LabelError(
                f"{self.path} has a picture without {'an id' if isinstance(name, str) else 'a file_name'}."
            )
        key = str(without_picture_suffix(PurePosixPath(name.replace("\\", "/").lstrip("/"))))
        if key == "." or _UNSHOWN.search(name):
            raise LabelError(f"{self.path} has a picture whose file_name is no name of a file: {reprlib.repr(name)}.")
        if key in self._pictures:
            raise LabelError(f"{self.path} names the picture {key} twice.")
        if not _is_id(index):
            raise LabelError(
                f"{self.path}: the {image_id} of the picture {key} is {reprlib.repr(index)}, neither a whole number "
                "nor a text."
            )
        place = places.place(index)
        if place in places.known:
            raise LabelError(f"{self.path} has two pictures with the {image_id} {reprlib.repr(index)}; {key} is one.")
        places.known.add(place)
        height, width = (self._side(key, side, value.get(side)) for side in ("height", "width"))
        self._check_pixels(key, height, width)
        self._pictures[key] = _Picture(place, height, width)

    def _side(self, key: str, side: str, value: Any) -> int:
        """A side of a picture; 0 where the file does not say."""
        length = 0 if value is None else _whole(value)
        if length is None or length < 0:
            raise LabelError(f"{self.path}: the {side} of the picture {key} is {reprlib.repr(value)}, no whole number.")
        return length

    def _check_pixels(self, key: str, height: int, width: int) -> None:
        """Refuse a size that no picture can have that is opened, before memory is taken for it."""
        most = math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS  # as Pillow has it
        if max(height, width) > MAX_SIDE or height * width > most:
            raise LabelError(
                f"{self.path} says that {key} has {reprlib.repr(width)} x {reprlib.repr(height)} pixels: that is too "
                "large to be opened safely."
            )

    def _add_category(self, value: Mapping[str, Any], categories: dict[int, str]) -> None:
        index, name = _whole(value.get("id")), value.get("name")
        if index is None or not isinstance(name, str) or not name.strip() or not 0 <= index < MAX_ID:
            self._odd_category = f"{self.path} has a category without a name, or without an id in 0..{MAX_ID - 1}."
        elif index in categories:
            self._odd_category = f"{self.path} has two categories with the id {index}."
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
        try:
            with self.path.open("rb") as file:
                for start, end in zip(self._starts[first:last].tolist(), self._ends[first:last].tolist(), strict=True):
                    file.seek(start)
                    found.append(self._parsed(json.loads, file.read(end - start), start))
        except OSError as error:
            raise LabelError(f"{self.path} cannot be read: {error.strerror}.") from error
        if not all(isinstance(value, dict) for value in found):
            raise LabelError(f"{self.path} has changed since it was opened; start again.")
        return found

    def _parsed(self, parse: Callable[[Any], Any], text: str | bytes, start: int) -> Any:
        """What an annotation holds that begins at a byte of the file."""
        try:
            return parse(text)
        except (ValueError, RecursionError) as error:
            raise LabelError(f"{self.path}: the annotation at byte {start} {why_unreadable(error)}.") from error

    def _region(self, key: str, value: Mapping[str, Any], picture: _Picture) -> _Region:
        """The region of an annotation."""
        given, crowd = value.get("category_id"), value.get("iscrowd")
        category = _whole(given)
        if category is None or not 0 <= category <= MAX_ID:
            raise self._wrong(
                key, f"has the category_id {reprlib.repr(given)}, which is no whole number in 0..{MAX_ID}"
            )
        if self._categories and category not in self._categories:
            raise self._wrong(key, f"has the category {category}, which has no name")
        if crowd not in (0, 1, None):
            raise self._wrong(key, f"has the iscrowd {reprlib.repr(crowd)}; it is 0 or 1")
        shape = value.get("segmentation")
        if isinstance(shape, dict) and "counts" in shape:
            rle = self._rle(key, shape, picture)
        elif isinstance(shape, list):
            rle = self._drawn(key, shape, picture)
        else:
            raise self._wrong(key, "has no polygons and no run-length code")
        return _Region(rle, category, bool(crowd))

    def _rle(self, key: str, shape: Mapping[str, Any], picture: _Picture) -> dict[str, Any]:
        """A run-length code as a compressed one, which is sound: what decodes it trusts it, and writes where it says.

        Returns:
            ``size`` (height, width) and ``counts``.
        """
        from pycocotools import mask

        given, counts = shape.get("size"), shape["counts"]
        sides = [_whole(side) for side in given] if isinstance(given, list) else []
        size = [side for side in sides if side and side > 0]
        if len(size) != 2 or len(sides) != 2:
            raise self._wrong(
                key, f"has a run-length code of the size {reprlib.repr(given)}, which is no height and width"
            )
        height, width = size
        if picture.height and picture.width and size != [picture.height, picture.width]:
            raise LabelError(
                f"{self.path}: a region of {key} is made for {reprlib.repr(width)}x{reprlib.repr(height)} pixels; the "
                f"picture has {picture.width}x{picture.height}."
            )
        self._check_pixels(key, height, width)
        pixels = height * width
        runs = _uncompressed(counts) if isinstance(counts, str) else _whole_runs(counts, pixels)
        if runs is None or (runs < 0).any() or (runs > pixels).any():
            raise self._wrong(key, "has a run-length code whose counts are broken")
        if (covered := int(runs.sum())) != pixels:
            raise self._wrong(key, f"has a run-length code of {covered} pixels; the picture has {pixels}")
        if isinstance(counts, str):
            return {"size": size, "counts": counts}
        return dict(mask.frPyObjects({"size": size, "counts": runs.tolist()}, height, width))

    def _drawn(self, key: str, shape: Sequence[Any], picture: _Picture) -> dict[str, Any]:
        """Polygons as a compressed run-length code."""
        from pycocotools import mask

        height, width = picture.height, picture.width
        for polygon in shape:
            if not isinstance(polygon, list) or not all(type(number) in (int, float) for number in polygon):
                raise self._wrong(key, f"has a polygon that is no list of numbers: {reprlib.repr(polygon)}")
            if len(polygon) % 2:
                raise self._wrong(key, f"has a polygon of {len(polygon)} numbers; each corner has two")
        polygons = [polygon for polygon in shape if len(polygon) >= _FEWEST]
        if not polygons:
            raise self._wrong(key, "has no polygon of three corners or more")
        if not height or not width:
            raise LabelError(f"{self.path} does not say how large {key} is, which its polygons need.")
        for polygon in polygons:
            self._check_corners(key, polygon, max(height, width))
        return dict(mask.merge(mask.frPyObjects(polygons, height, width)))

    def _check_corners(self, key: str, polygon: Sequence[float], side: int) -> None:
        """Refuse long ways: what draws polygons walks along their edges, and keeps a number for each step."""
        try:
            corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        except OverflowError:
            corners = np.full((1, 2), np.inf)
        if not np.isfinite(corners).all() or np.abs(corners).max() > _FARTHEST * side:
            raise LabelError(f"{self.path}: a polygon of {key} has a corner that lies nowhere near the picture.")
        if np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum() > _LONGEST_OUTLINE:
            raise LabelError(f"{self.path}: a polygon of {key} has an outline of more than {_LONGEST_OUTLINE} pixels.")

    def _wrong(self, key: str, what: str) -> LabelError:
        return LabelError(f"{self.path}: an annotation of {key} {what}.")

    def _read_panoptic(self, key: str, found: Sequence[Mapping[str, Any]], picture: _Picture) -> Ids:
        if len(found) != 1:
            raise LabelError(f"{self.path} has {len(found)} annotations of {key}; a panoptic file has one a picture.")
        segments = self._segments(key, found[0].get("segments_info"))
        name = found[0].get("file_name")
        if not isinstance(name, str) or not name or _UNSHOWN.search(name):
            raise self._wrong(key, f"has the file_name {reprlib.repr(name)}, which names no image")
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
            raise self._wrong(key, f"has the file_name {name}, which leads out of the folder of its images")
        path = self.path.with_suffix("") / name
        if not path.is_file() and (self.path.parent / name).is_file():
            path = self.path.parent / name  # as Mapillary has it
        with decoding(path) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise LabelError(f"{path} is a {image.mode} image; the ids of panoptic segments are RGB.")
            values = np.asarray(image)[..., :3].astype(np.int32) @ np.array([1, 256, 65536], dtype=np.int32)
        height, width = values.shape
        if picture.height and picture.width and (height, width) != (picture.height, picture.width):
            raise LabelError(
                f"{path} has {width}x{height} pixels; {self.path} says that {key} has {picture.width}x{picture.height}."
            )
        codes, places = np.unique(values, return_inverse=True)
        if unknown := [code for code in codes.tolist() if code and code not in segments]:
            raise LabelError(
                f"{path} has the segment {unknown[0]}, of which {self.path} says nothing: they do not belong together."
            )
        table = np.array([segments.get(code, self._rest) for code in codes.tolist()], dtype=np.int32)
        return table[places].reshape(values.shape)

    def _segments(self, key: str, parts: Any) -> dict[int, int]:
        """The categories of a picture's segments by their ids."""
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise self._wrong(key, "has no segments_info that is a list of segments")
        segments: dict[int, int] = {}
        for part in parts:
            index, category = _whole(part.get("id")), _whole(part.get("category_id"))
            if index is None or not 0 <= index < 1 << 24:
                raise self._wrong(key, f"has a segment of the id {reprlib.repr(part.get('id'))}, which no colour means")
            if index in segments:
                raise self._wrong(key, f"has two segments with the id {index}")
            if category not in self._categories:
                shown = reprlib.repr(part.get("category_id"))
                raise LabelError(f"{self.path}: a segment of {key} has the category {shown}, which has no name.")
            segments[index] = category
        return segments


_FARTHEST = 4
"""A corner of a polygon may be outside of its picture, but by no more than so many of the picture's longer sides."""
_LONGEST_OUTLINE = 5_000_000
"""Pixels along the outline of a polygon. What draws it takes a hundred bytes for each."""
_FEWEST = 6
"""Numbers of a polygon that encloses something: three corners."""
_UNSHOWN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_IMAGE_ID = re.compile(r'"image_id"\s*:\s*(-?\d+|"[^"\\]*")\s*[,}]')
# Also polygons of two corners or fewer, which enclose nothing.
_SHORT = r"\[(?:[-+.\deE\s]*+,){0,4}+[-+.\deE\s]*+\]"
_NO_REGION = re.compile(rf'"segmentation"\s*:\s*(?:\[\s*(?:{_SHORT}\s*(?:,\s*{_SHORT}\s*)*+)?\]|\{{\s*\}}|null)')


def _whole(value: Any) -> int | None:
    """A whole number as JSON may have it, such as 7 or 7.0; None for anything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_id(value: Any) -> bool:
    """Whether a value can be the id of a picture."""
    return type(value) is int or isinstance(value, str) or _whole(value) is not None


def _has_region(shape: Any) -> bool:
    """Whether a segmentation may enclose something, or is broken; None, nothing and short polygons enclose nothing."""
    if isinstance(shape, list):
        return not all(
            isinstance(part, list) and len(part) < _FEWEST and all(type(number) in (int, float) for number in part)
            for part in shape
        )
    return shape is not None and shape != {}


def _whole_runs(counts: Any, most: int) -> npt.NDArray[np.int64] | None:
    """The runs of an uncompressed code; None where they are no numbers, or larger than the picture."""
    runs = [_whole(count) for count in counts] if isinstance(counts, list) else [None]
    kept = [run for run in runs if run is not None and 0 <= run <= most]
    return np.array(kept, dtype=np.int64) if len(kept) == len(runs) else None


def _uncompressed(counts: str) -> npt.NDArray[np.int64] | None:
    """The runs of a compressed code; None where it is broken.

    A letter holds five bits, and whether more of the same number come. From the fourth on, a number is the difference
    to the one before the last.
    """
    try:
        letters = np.frombuffer(counts.encode("latin-1"), dtype=np.uint8).astype(np.int64) - ord("0")
    except UnicodeEncodeError:
        return None
    if not letters.size:
        return letters
    if letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        return None
    last = np.flatnonzero(letters & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MOST_LETTERS:
        return None
    shifts = 5 * (np.arange(letters.size) - np.repeat(first, lengths))
    runs = np.add.reduceat((letters & 31) << shifts, first)
    runs -= np.where(letters[last] & 16, 1 << 5 * lengths, 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


_MOST_LETTERS = 6
"""Letters of a number: more than any picture needs, and pycocotools shifts bits out of its numbers."""


def _facts(text: str) -> Any:
    """What is needed of an annotation at first: whose it is, and whether it has a region."""
    ids = _IMAGE_ID.findall(text)
    if len(ids) != 1 or text.count('"segmentation"') + text.count('"segments_info"') > 1:
        return json.loads(text.encode("latin-1"))  # somebody's own fields have such names too
    found = ids[0]
    facts: dict[str, Any] = {"image_id": json.loads(found.encode("latin-1")) if found[0] == '"' else int(found)}
    if '"segments_info"' in text:
        facts["segments_info"] = ()
    elif '"segmentation"' in text:
        facts["segmentation"] = None if _NO_REGION.search(text) else ""  # what may be a region is looked at later
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
