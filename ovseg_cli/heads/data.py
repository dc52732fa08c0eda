"""A labelled folder as training data: what is in it, what is wrong with it, and batches of crops.

Everything is read once before anything is trained, so that a bad label is told then and not an hour later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ovseg_cli.backbones.pixels import to_tensor
from ovseg_cli.errors import LabelError, UsageError
from ovseg_cli.evaluation.sources import open_truth
from ovseg_cli.evaluation.truth import GroundTruth
from ovseg_cli.files.discovery import discover
from ovseg_cli.files.images import decoding, open_image
from ovseg_cli.files.labels import LABELMAP_NAME, is_background, is_void
from ovseg_cli.heads.catseg import IGNORED, NOTHING
from ovseg_cli.names import ClassList, did_you_mean, listed, listed_names, shown_name

MOST_KEPT = 2**29
"""Bytes of decoded pictures that are kept in memory."""

_TAKEN_SHARE = 0.1
_MOST_HELD_OUT = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled picture: what it is called, where it lies, and the file that holds its labels."""

    key: str
    image: Path
    label: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """A checked labelled folder.

    Attributes:
        samples: For training.
        held_out: For the report, where no other pictures are named for it.
        names: The names that are trained: place i is label i.
        novel: Names that are kept from training.
        truth: The folder of labels.
        pixels: Of each trained name.
        nothing: Pixels that show none of the label map's names: the background's.
        left_out: Pixels that count for nothing: without a label, of novel names, or of names that were not asked for.
        digest: SHA-256 (hex) over names, labels' contents and pictures' sizes.
        notes: Sentences for people.
    """

    samples: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    names: tuple[str, ...]
    novel: tuple[str, ...]
    truth: GroundTruth
    pixels: dict[str, int]
    nothing: int
    left_out: int
    digest: str
    notes: tuple[str, ...] = ()

    def places(self, key: str) -> npt.NDArray[np.int64]:
        """The labels of a picture as places of names, `IGNORED` and `NOTHING`: int64 (H, W)."""
        return place_table(self.truth, self.names)[self.truth.read(key)]


def read_data(
    images: Path,
    labels: Path,
    *,
    label_map: Path | None = None,
    classes: Sequence[str] = (),
    novel: Sequence[str] = (),
    ignore: int | Sequence[int] | None = None,
    hold_out: bool = True,
    progress: Progress | None = None,
) -> TrainingData:
    """Read all labels of a folder, and refuse what cannot be trained on.

    Args:
        images: Folder of pictures.
        labels: Folder of label images, or a COCO file: whatever ``ovseg eval --gt`` reads.
        label_map: What their ids or colours mean; None for a ``labelmap.txt``.
        classes: Which names are trained; none for all of the label map but `novel`.
        novel: Names that are kept from training: their pixels count for nothing.
        ignore: The values of pixels without a label; None for 255.
        hold_out: Whether some pictures are put aside for the report.
        progress: Told how many labels of how many are read.

    Raises:
        LabelError: A label cannot be read, has an id beyond the map or another size than its picture, or a name that
            was asked for is nowhere.
        UsageError: The names contradict each other, or nothing is left to train.
        NoInputError: There is no picture.
    """
    truth = open_truth(labels, label_map=label_map, ignore=ignore)
    names, novel_names = _names(truth, classes, novel)
    found = {str(image.key): image.file for image in discover([images])}
    pairs = truth.pair(found)
    samples = tuple(Sample(key, cast(Path, image), cast(Path, label)) for key, label, image in pairs.matched)
    counts: Counter[int] = Counter()
    digest = hashlib.sha256(repr((names, novel_names)).encode())
    table = place_table(truth, names, unknown=_UNKNOWN)
    for done, sample in enumerate(samples, start=1):
        _count(sample, truth, table, counts, digest)
        if progress is not None:
            progress(done, len(samples))
    pixels = {name: counts[place] for place, name in enumerate(names)}
    notes = []
    if empty := [name for name in names if not pixels[name]]:
        if classes:
            raise LabelError(
                f"No label shows {listed_names(empty)}, so there is nothing to learn of "
                f"{'it' if len(empty) == 1 else 'them'}. Leave {'it' if len(empty) == 1 else 'them'} out of --classes, "
                "or add labelled pictures."
            )
        notes.append(f"no label shows {listed_names(empty)}: left out of training")
        names = tuple(name for name in names if pixels[name])
        pixels = {name: pixels[name] for name in names}
    if len(names) < 2:
        raise UsageError(
            f"A head needs two names or more to tell apart, and the labels show {len(names)} of those to train. Add "
            "labels, or take names out of --novel."
        )
    if pairs.missing:
        notes.append(f"{len(pairs.missing)} labels have no picture: {listed(pairs.missing)}")
    kept, aside = _held_out(samples) if hold_out else (samples, ())
    return TrainingData(
        samples=kept,
        held_out=aside,
        names=names,
        novel=novel_names,
        truth=truth,
        pixels=pixels,
        nothing=counts[NOTHING],
        left_out=counts[IGNORED],
        digest=digest.hexdigest(),
        notes=tuple(notes),
    )


def _names(truth: GroundTruth, classes: Sequence[str], novel: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that are trained and those that are not, as the label map spells them."""
    every = ClassList.distinct(name for name in truth.labels.names if not is_background(name) and not is_void(name))
    for option, asked in (("--classes", classes), ("--novel", novel)):
        if unknown := every.lacking(asked):
            hint = did_you_mean(unknown[0], every) if len(unknown) == 1 else ""
            raise LabelError(
                f"The label map {truth.source} does not name {listed([*map(shown_name, unknown)])} of {option}.{hint} "
                f"It names {listed_names(every.names, most=10)}."
            )
    novel_list = ClassList.distinct(map(every.spelled, novel))
    if both := [name for name in classes if name in novel_list]:
        raise UsageError(f"{listed_names(both)}: in --classes and in --novel. A name is trained, or it is not.")
    base = [every.spelled(name) for name in (classes or every.names)]
    base = [name for name in ClassList.distinct(base).names if name not in novel_list]
    if not base:
        raise UsageError(
            "All names of the label map are novel, so nothing is left to train: --novel is for names that are held out."
        )
    return tuple(base), tuple(novel_list.names)


def place_table(truth: GroundTruth, names: Sequence[str], *, unknown: int = IGNORED) -> npt.NDArray[np.int64]:
    """What each id of labels means to a head.

    Args:
        truth: The labels.
        names: The names that count.
        unknown: What stands for ids that the label map does not have.

    Returns:
        (ids,): the place of a name in `names`, `NOTHING` for the background, and `IGNORED` for every other name and for
        what is left out.
    """
    places = ClassList(names)
    table = np.full(max(truth.labels.max_id, 255, *truth.ignore) + 1, unknown, dtype=np.int64)
    for label, name, _ in truth.labels:
        place = places.find(name)
        table[label] = place if place is not None else NOTHING if is_background(name) else IGNORED
    if truth.labels.name_of(0) is None and truth.labels.background_id is None:
        table[0] = NOTHING
    table[list(truth.ignore)] = IGNORED
    return table


_UNKNOWN = -3


def _count(sample: Sample, truth: GroundTruth, table: npt.NDArray[np.int64], counts: Counter[int], digest: Any) -> None:
    """Read one label, and count what it shows."""
    ids = truth.read(sample.key)
    numbers = np.bincount(ids.ravel())
    present = np.flatnonzero(numbers)
    beyond = [int(i) for i in present if i >= len(table) or table[i] == _UNKNOWN]
    if beyond:
        raise LabelError(
            f"{sample.label} holds the id {beyond[0]} ({numbers[beyond[0]]} pixels), which the label map does not "
            f"name. Add a line for it to {LABELMAP_NAME}, or give another map with --label-map FILE, or leave it out "
            f"with --ignore {beyond[0]}."
        )
    for label in present:
        counts[int(table[label])] += int(numbers[label])
    with decoding(sample.image) as header:
        size = (header.height, header.width)
        turned = header.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    if ids.shape != (size[::-1] if turned else size):
        raise LabelError(
            f"The sizes differ: {sample.image} is {size[1]}x{size[0]}, {sample.label} is "
            f"{ids.shape[1]}x{ids.shape[0]}. A label has the size of its picture."
        )
    digest.update(f"{sample.key}\0{size}\0{sample.image.stat().st_size}\0".encode("utf-8", "surrogatepass"))
    digest.update(ids.astype("<i4").tobytes())


def _held_out(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """A tenth of the pictures put aside, at most 64, by a hash of their keys: the same ones every time."""
    count = min(_MOST_HELD_OUT, int(len(samples) * _TAKEN_SHARE))
    order = sorted(samples, key=lambda sample: hashlib.sha256(sample.key.encode("utf-8", "surrogatepass")).digest())
    aside = {sample.key for sample in order[:count]}
    return (
        tuple(sample for sample in samples if sample.key not in aside),
        tuple(sample for sample in samples if sample.key in aside),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How crops are cut out of pictures.

    Attributes:
        crop: Side of the square crop, in pixels.
        zoom: The short side of the picture becomes so many crops long, drawn between these.
        flip: How often a crop is mirrored.
        colour: How strongly brightness, contrast and saturation vary; 0 for not at all.
    """

    crop: int
    zoom: tuple[float, float] = (1.0, 2.0)
    flip: float = 0.5
    colour: float = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Crops with their labels.

    Attributes:
        images: float32 (B, 3, S, S) in [0, 1].
        labels: int64 (B, S, S): places of names, `IGNORED` or `NOTHING`.
        samples: Which pictures they are of.
        boxes: (B, 5): top, left, height and width of the crop as shares of its picture, and 1 where it is mirrored.
    """

    images: Tensor
    labels: Tensor
    samples: tuple[int, ...]
    boxes: Tensor


@dataclass(slots=True)
class Pictures:
    """The pictures of a folder with their labels, decoded when they are first needed and kept as memory allows."""

    data: TrainingData
    _kept: dict[int, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]] = field(default_factory=dict)
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self.data.samples)

    def get(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
        """A picture, uint8 (H, W, 3), and its places, int16 (H, W)."""
        if index in self._kept:
            return self._kept[index]
        sample = self.data.samples[index]
        image = np.asarray(open_image(sample.image))
        places = self.data.places(sample.key).astype(np.int16)
        if self._bytes < MOST_KEPT:
            self._kept[index] = image, places
            self._bytes += image.nbytes + places.nbytes
        return image, places


def draw_batch(pictures: Pictures, count: int, how: Augmentation, random: torch.Generator) -> Batch:
    """Crops of pictures that are drawn at random, all chance from one generator.

    Args:
        pictures: Where from.
        count: How many.
        how: How they are cut.
        random: On the CPU.
    """
    chosen = torch.randint(len(pictures), (count,), generator=random).tolist()
    crops = [_crop(*pictures.get(index), how, torch.rand(8, generator=random).tolist()) for index in chosen]
    return Batch(
        images=torch.cat([image for image, _, _ in crops]),
        labels=torch.stack([labels for _, labels, _ in crops]),
        samples=tuple(chosen),
        boxes=torch.tensor([box for _, _, box in crops]),
    )


def _crop(
    image: npt.NDArray[np.uint8], places: npt.NDArray[np.int16], how: Augmentation, chance: Sequence[float]
) -> tuple[Tensor, Tensor, list[float]]:
    """One crop, by eight numbers in [0, 1)."""
    height, width = places.shape
    zoom = how.zoom[0] * (how.zoom[1] / how.zoom[0]) ** chance[0]
    side = min(height, width) / max(1.0, zoom)  # in pixels of the picture
    top, left = chance[1] * (height - side), chance[2] * (width - side)
    box = (left, top, left + side, top + side)
    size = (how.crop, how.crop)
    cut = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC, box=box)
    rows = np.minimum((top + (np.arange(how.crop) + 0.5) * side / how.crop).astype(int), height - 1)
    columns = np.minimum((left + (np.arange(how.crop) + 0.5) * side / how.crop).astype(int), width - 1)
    labels = torch.from_numpy(places[rows][:, columns].astype(np.int64))
    pixels = to_tensor(cut)
    mirrored = chance[3] < how.flip
    if mirrored:
        pixels, labels = pixels.flip(-1), labels.flip(-1)
    if how.colour:
        pixels = _coloured(pixels, how.colour, chance[4:7])
    return pixels, labels, [top / height, left / width, side / height, side / width, float(mirrored)]


def _coloured(pixels: Tensor, strength: float, chance: Sequence[float]) -> Tensor:
    """Brightness, contrast and saturation changed, each by a factor between 1 - strength and 1 + strength."""
    brightness, contrast, saturation = (1 + strength * (2 * one - 1) for one in chance)
    pixels = pixels * brightness
    grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    pixels = grey + saturation * (pixels - grey)
    return (pixels.mean() + contrast * (pixels - pixels.mean())).clamp(0, 1)


def choose_names(labels: Tensor, names: int, wanted: int | None, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of each crop the names that it shows, filled up with names that it does not show.

    All names for all crops take long, and most of them are nowhere near. Names are a crop's own, so that the head
    never gets used to one list.

    Args:
        labels: int64 (B, H, W): places of names, `IGNORED` or `NOTHING`.
        names: How many names there are.
        wanted: How many each crop has; None for all.
        random: On the CPU.

    Returns:
        The places of the chosen names, int64 (B, K); and the labels as places among these.
    """
    batch = len(labels)
    if wanted is None or wanted >= names:
        return torch.arange(names).expand(batch, -1), labels
    seen = torch.zeros(batch, names + 3, dtype=torch.bool)
    seen.scatter_(1, labels.flatten(1) + 3, torch.ones_like(labels.flatten(1), dtype=torch.bool))
    seen = seen[:, 3:]
    # Present names first, then the others, both in random order; a crop that shows more than `wanted` loses some.
    chosen = (seen.float() * 2 + torch.rand(batch, names, generator=random)).topk(wanted, dim=1).indices
    place = torch.full((batch, names + 3), IGNORED, dtype=torch.int64)
    place[:, 3 + NOTHING] = NOTHING
    place.scatter_(1, chosen + 3, torch.arange(wanted).expand(batch, -1))
    return chosen, place.gather(1, labels.flatten(1) + 3).view_as(labels)
