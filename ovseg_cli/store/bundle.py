"""Classes in one file: what `export-class` writes and `import-class` reads.

A bundle is a zip archive (see `archive`) of

    manifest.json                       the classes without their arrays; size and SHA-256 of every other member
    classes/0000/vectors-00.npy         float16 (N, D): the prototypes of class 0 by extractor 0, rows of length 1
    classes/0000/support/000.png        its support images, with attribution maps and masks, as in a store
    …

Only the manifest says what a class is; the names of the other members follow from it. Whoever made the file may mean
harm, so everything in it is bounded and checked before it is used, and nothing in it is ever executed: JSON, PNG and
`.npy` without pickles. Whatever is wrong is a `BundleError`.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg_cli.errors import BundleError, ClassNameError
from ovseg_cli.files.layout import MARKED_BACKGROUND, MARKED_FOREGROUND
from ovseg_cli.names import class_key, normalise_class_name
from ovseg_cli.store import support
from ovseg_cli.store.archive import ArchiveReader, ArchiveWriter, unfit, write_archive
from ovseg_cli.store.classes import VECTOR_DTYPE, half_and_norm, raw_vector
from ovseg_cli.store.records import ClassRecord, ExtractorRecord, PrototypeRecord, SupportRecord, have_unit_length

FORMAT = "ovseg classes"
VERSION = 1
MANIFEST = "manifest.json"

DEFAULT_IMAGE_SIDE = 256
"""Support images are shown, not used, so a bundle keeps them small: longest side in pixels."""

MAX_IMAGE_SIDE = 2048
"""Longest side that a support image in a bundle may have."""

_MAX_MANIFEST = 32 * 2**20  # bytes
_MAX_CLASS_PIXELS = 2**27  # of all support images of a class: 512 of 512 x 512, 1.2 GB as arrays
_MAX_CLASS_NUMBERS = 2**26  # of all prototypes of a class: 8700 of 7680, 0.3 GB as arrays
_MAX_DEPTH = 32
_MAX_TEXT = 100_000
_MAX_POSITION = 99_999
_NORMS = (1e-30, 1e30)  # within which a raw vector is certainly float32

_DIGEST = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the classes of a bundle come from.

    Attributes:
        profile_name: Profile of the store that they were exported from.
        profile_digest: Digest of that profile.
        made_by: Version of ovseg that exported them.
    """

    profile_name: str
    profile_digest: str
    made_by: str


# ---------------------------------------------------------------------- writing


def write_bundle(
    records: Iterable[ClassRecord], path: str | Path, origin: Origin, *, image_side: int = DEFAULT_IMAGE_SIDE
) -> None:
    """Write classes into one file, which is there as a whole or not at all.

    The same classes give the same bytes, with the same versions of NumPy and Pillow.

    Args:
        records: The classes; an iterator need not hold more than one of them.
        path: The file.
        origin: What they come from.
        image_side: Longest side of the support images in pixels, at most `MAX_IMAGE_SIDE`; larger ones are scaled
            down, the others stay as they are.

    Raises:
        BundleError: If a class goes beyond what `open_bundle` would take.
        OutputError: If the file cannot be written.
        DiskFullError: If no space is left.
    """
    path = Path(path)
    with write_archive(path) as archive:
        _Writer(archive, path, image_side).write(records, origin)


class _Writer:
    def __init__(self, archive: ArchiveWriter, path: Path, image_side: int) -> None:
        self._archive = archive
        self._path = path
        self._image_side = image_side
        self._extractors: dict[str, dict[str, Any]] = {}
        self._members: dict[str, dict[str, Any]] = {}

    def write(self, records: Iterable[ClassRecord], origin: Origin) -> None:
        classes = [self._add_class(number, record) for number, record in enumerate(records)]
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "made_by": origin.made_by,
            "profile": {"name": origin.profile_name, "digest": origin.profile_digest},
            "extractors": list(self._extractors.values()),
            "classes": classes,
            "members": self._members,
        }
        data = json.dumps(manifest, allow_nan=False, separators=(",", ":")).encode("ascii")
        if len(data) > _MAX_MANIFEST:
            raise self._beyond("what is to be said of the classes takes too much room: put them into several files")
        self._archive.add(MANIFEST, data)

    def _add_class(self, number: int, record: ClassRecord) -> dict[str, Any]:
        supports = [_shrunk(item, self._image_side) for item in record.supports]
        if sum(item.image[..., 0].size for item in supports) > _MAX_CLASS_PIXELS:
            raise self._beyond(f"the support images of {record.name!r} are too many: scale them down further")
        if sum(item.vector.size for item in record.prototypes) > _MAX_CLASS_NUMBERS:
            raise self._beyond(f"the prototypes of {record.name!r} are too many")
        for extractor in record.extractors:
            self._extractors.setdefault(
                extractor.digest,
                {"name": extractor.name, "digest": extractor.digest, "dim": extractor.dim, "spec": extractor.spec},
            )
        indexes = {digest: index for index, digest in enumerate(self._extractors)}
        halves: dict[int, list[NDArray[np.float16]]] = {}
        prototypes = []
        for item in record.prototypes:
            half, length = half_and_norm(item)
            norm = float(np.float32(length))  # raw vectors are float32 too: more digits would be noise
            if not _NORMS[0] <= norm <= _NORMS[1]:
                raise self._beyond(f"a prototype of {record.name!r} has the length {norm:g}")
            index = indexes[item.extractor]
            halves.setdefault(index, []).append(half)
            prototypes.append(
                {
                    "extractor": index,
                    "role": item.role,
                    "kind": item.kind,
                    "pixels": int(item.pixels),
                    "norm": norm,
                    "support": item.support,
                }
            )
        entry = {
            "name": record.name,
            "kind": record.kind,
            "kind_source": record.kind_source,
            "seed": int(record.seed),
            "settings": record.settings,
            "rejected": int(record.rejected),
            "supports": [_support_entry(item, before) for item, before in zip(supports, record.supports, strict=True)],
            "prototypes": prototypes,
        }
        try:
            _check_values(entry)
        except ValueError as error:
            raise self._beyond(f"what is recorded of {record.name!r} is not fit for other people: {error}") from error
        for index in sorted(halves):
            self._add_member(_vectors_name(number, index), _to_npy(np.stack(halves[index])))
        for name, data in support.encode(supports).items():
            self._add_member(_support_name(number, name), data)
        return entry

    def _add_member(self, name: str, data: bytes) -> None:
        self._archive.add(name, data)
        self._members[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _beyond(self, reason: str) -> BundleError:
        return BundleError(f"{self._path} cannot be written: {reason}")


def _support_entry(item: SupportRecord, before: SupportRecord) -> dict[str, Any]:
    return {
        "position": int(item.position),
        "seed": None if item.seed is None else int(item.seed),
        "prompt": item.prompt,
        "size": list(item.foreground.shape),
        "made_size": list(before.foreground.shape),
    }


def _shrunk(record: SupportRecord, side: int) -> SupportRecord:
    """Scale a support image down until its longest side fits."""
    height, width = record.foreground.shape
    scale = side / max(height, width)
    if scale >= 1:
        return record
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    labels = np.zeros((height, width), np.uint8)
    labels[record.foreground], labels[record.background] = MARKED_FOREGROUND, MARKED_BACKGROUND
    small = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    attribution = Image.fromarray(record.attribution).resize(size, Image.Resampling.BOX)
    return replace(
        record,
        image=np.array(Image.fromarray(record.image).resize(size, Image.Resampling.LANCZOS)),
        attribution=np.clip(np.array(attribution, np.float32), 0, 1),
        foreground=small == MARKED_FOREGROUND,
        background=small == MARKED_BACKGROUND,
    )


# ---------------------------------------------------------------------- reading


def open_bundle(path: str | Path) -> Bundle:
    """Open a file of classes and check everything but their arrays.

    Raises:
        BundleError: If the file is not as `write_bundle` makes it.
    """
    reader = ArchiveReader(Path(path))
    try:
        return Bundle(reader)
    except BaseException:
        reader.close()
        raise


@dataclass(frozen=True, slots=True)
class BundledClass:
    """What a bundle says of one class.

    Attributes:
        name: Its name, normalised.
        images: Number of support images.
        prototypes: Number of prototypes.
        scaled: Whether support images were scaled down for the bundle.
    """

    name: str
    images: int
    prototypes: int
    scaled: bool


class Bundle:
    """An open file of classes; best in a `with` statement. Make one with `open_bundle`.

    Attributes:
        path: The file.
        origin: Where the classes come from.
        extractors: Every extractor that their prototypes name.
        classes: The classes, by number.
    """

    def __init__(self, reader: ArchiveReader) -> None:
        """Use `open_bundle`."""
        self.path = reader.path
        self._reader = reader
        try:
            manifest = _Entry(self._load_manifest(), "manifest")
            profile = manifest.entry("profile")
            self.origin = Origin(
                profile_name=profile.take("name", str),
                profile_digest=_digest(profile.take("digest", str)),
                made_by=manifest.take("made_by", str),
            )
            self.extractors = tuple(
                ExtractorRecord(
                    name=item.take("name", str),
                    digest=item.take("digest", str),
                    dim=item.number("dim", 1, 2**20),
                    spec=item.take("spec", dict),
                )
                for item in manifest.entries("extractors")
            )
            self._entries = manifest.entries("classes")
            self.classes = tuple(_summary(entry) for entry in self._entries)
            self._members = manifest.take("members", dict)
            self._check_classes()
            self._check_members()
        except (ValueError, ClassNameError) as error:
            raise unfit(self.path, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()

    def records(self) -> Iterator[ClassRecord]:
        """Read the classes one by one.

        Raises:
            BundleError: If a member is not what the manifest says.
        """
        return map(self.record, range(len(self.classes)))

    def record(self, number: int) -> ClassRecord:
        """Read one class.

        Args:
            number: Its place in `classes`.

        Raises:
            BundleError: If a member is not what the manifest says.
        """
        entry = self._entries[number]
        try:
            return ClassRecord(
                name=self.classes[number].name,
                kind=entry.take("kind", str),  # type: ignore[arg-type]  # the record checks its values
                kind_source=entry.take("kind_source", str),  # type: ignore[arg-type]
                seed=entry.take("seed", int),
                settings=entry.take("settings", dict),
                rejected=entry.number("rejected", 0, 2**31),
                extractors=tuple(self.extractors[index] for index in sorted(_rows_by_extractor(entry))),
                supports=tuple(self._support(number, item) for item in entry.entries("supports")),
                prototypes=self._prototypes(number, entry),
            )
        except ValueError as error:
            raise unfit(self.path, f"class {self.classes[number].name!r}: {error}") from error

    def _load_manifest(self) -> Any:
        if MANIFEST not in self._reader.names:
            raise ValueError("it has no manifest, so it is not a file that ovseg has exported")
        data = self._reader.read(MANIFEST, _MAX_MANIFEST)
        try:
            manifest = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its manifest is no JSON that can be read: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError("its manifest is not one of exported classes")
        if manifest.get("version") != VERSION:
            raise BundleError(
                f"{self.path} has the format {str(manifest.get('version'))[:20]!r}, and this ovseg reads the format "
                f"{VERSION}: update ovseg, or export the classes again with this version"
            )
        _check_values(manifest)
        return manifest

    def _check_classes(self) -> None:
        """Check what can be known of the classes without their arrays."""
        if not self.classes:
            raise ValueError("it holds no class")
        for what, values in (
            ("class", [class_key(item.name) for item in self.classes]),
            ("extractor", [item.digest for item in self.extractors]),
        ):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"it has the {what} {twice[0]!r} twice")
        for entry in self._entries:
            pixels = sum(math.prod(_size(item)) for item in entry.entries("supports"))
            if pixels > _MAX_CLASS_PIXELS:
                raise ValueError(f"{entry.where} has support images of {pixels} pixels together")
            rows = _rows_by_extractor(entry)
            if max(rows, default=0) >= len(self.extractors):
                raise ValueError(f"{entry.where} names an extractor that is not listed")
            if sum(count * self.extractors[index].dim for index, count in rows.items()) > _MAX_CLASS_NUMBERS:
                raise ValueError(f"{entry.where} has too many prototypes")

    def _check_members(self) -> None:
        """The members must be those that the classes have, no more and no less, in the archive and in the manifest."""
        needed: set[str] = set()
        for number, entry in enumerate(self._entries):
            needed.update(_vectors_name(number, index) for index in _rows_by_extractor(entry))
            for item in entry.entries("supports"):
                needed.update(_support_name(number, name) for name in support.file_names(_position(item)))
        for where, there in (("it", self._reader.names - {MANIFEST}), ("its manifest", frozenset(self._members))):
            for name in sorted(there - needed):
                raise ValueError(f"{where} has a member {name[:100]!r}, which belongs to no class")
            for name in sorted(needed - there):
                raise ValueError(f"{where} has no member {name!r}")
        for name in needed:
            member = _Entry(self._members[name], f"member {name!r}")
            _digest(member.take("sha256", str))
            if member.take("bytes", int) != self._reader.size(name):
                raise ValueError(f"{name!r} has another size than the manifest says")

    def _read(self, name: str, most: int) -> bytes:
        data = self._reader.read(name, most)
        if hashlib.sha256(data).hexdigest() != self._members[name]["sha256"]:
            raise ValueError(f"{name!r} has another SHA-256 than the manifest says")
        return data

    def _support(self, number: int, item: _Entry) -> SupportRecord:
        size = _size(item)
        most = 4 * math.prod(size) + 2**16  # a PNG of noise, and room for what else a PNG may hold
        seed = item.data.get("seed")
        try:
            return support.decode(
                lambda name: self._read(_support_name(number, name), most),
                position=_position(item),
                seed=None if seed is None else item.take("seed", int),
                prompt=item.take("prompt", str),
                size=size,
            )
        except ValueError as error:
            raise ValueError(f"{item.where}: {error}") from error

    def _prototypes(self, number: int, entry: _Entry) -> tuple[PrototypeRecord, ...]:
        rows = {}
        for index, count in _rows_by_extractor(entry).items():
            shape = (count, self.extractors[index].dim)
            name = _vectors_name(number, index)
            rows[index] = iter(_from_npy(self._read(name, 2 * math.prod(shape) + 2**16), shape, name))
        records = []
        for item in entry.entries("prototypes"):
            index = item.take("extractor", int)
            half = next(rows[index])
            norm = item.take("norm", float)
            if not _NORMS[0] <= norm <= _NORMS[1]:
                raise ValueError(f"{item.where} has the length {norm}")
            records.append(
                PrototypeRecord(
                    extractor=self.extractors[index].digest,
                    role=item.take("role", str),  # type: ignore[arg-type]  # the record checks its values
                    kind=item.take("kind", str),  # type: ignore[arg-type]
                    vector=raw_vector(half, norm),
                    pixels=item.number("pixels", 1, 2**31),
                    support=None if item.data.get("support") is None else item.take("support", int),
                    half=half,
                )
            )
        return tuple(records)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A JSON object, and where it stands; what it lacks is a `ValueError` that says so."""

    data: Any
    where: str

    def __post_init__(self) -> None:
        if not isinstance(self.data, dict):
            raise ValueError(f"{self.where} is not an object")

    def take(self, key: str, kind: type[_T]) -> _T:
        """Give a value of exactly this type: JSON's true is no number."""
        value = self.data.get(key)
        if type(value) is not kind:
            raise ValueError(f"{self.where} must have {key!r} of type {kind.__name__}")
        return value

    def number(self, key: str, least: int, most: int) -> int:
        """Give an integer within bounds."""
        value = self.take(key, int)
        if not least <= value <= most:
            raise ValueError(f"{self.where} has {key!r} out of bounds: {value}")
        return value

    def entry(self, key: str) -> _Entry:
        """Give an object."""
        return _Entry(self.data.get(key), f"{self.where}.{key}")

    def entries(self, key: str) -> list[_Entry]:
        """Give a list of objects."""
        values = self.take(key, list)
        return [_Entry(value, f"{self.where}.{key}[{index}]") for index, value in enumerate(values)]


def _summary(entry: _Entry) -> BundledClass:
    supports = entry.entries("supports")
    return BundledClass(
        name=normalise_class_name(entry.take("name", str)),
        images=len(supports),
        prototypes=len(entry.entries("prototypes")),
        scaled=any(item.take("size", list) != item.take("made_size", list) for item in supports),
    )


def _rows_by_extractor(entry: _Entry) -> Counter[int]:
    """How many prototypes of a class each extractor made, by its place in the list of extractors."""
    return Counter(item.number("extractor", 0, 2**16) for item in entry.entries("prototypes"))


def _position(item: _Entry) -> int:
    return item.number("position", 0, _MAX_POSITION)


def _size(item: _Entry) -> tuple[int, int]:
    """Height and width of a support image."""
    size = item.take("size", list)
    if len(size) != 2 or any(type(side) is not int or not 1 <= side <= MAX_IMAGE_SIDE for side in size):
        raise ValueError(f"{item.where} has an impossible size")
    return size[0], size[1]


def _digest(value: str) -> str:
    if _DIGEST.fullmatch(value) is None:
        raise ValueError(f"{value[:80]!r} is not a SHA-256")
    return value


def _vectors_name(number: int, extractor: int) -> str:
    return f"classes/{number:04d}/vectors-{extractor:02d}.npy"


def _support_name(number: int, file: str) -> str:
    return f"classes/{number:04d}/support/{file}"


def _to_npy(vectors: NDArray[np.float16]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype(VECTOR_DTYPE), allow_pickle=False)
    return buffer.getvalue()


def _from_npy(data: bytes, shape: tuple[int, int], name: str) -> NDArray[np.float16]:
    """Read float16 (N, D) with rows of length 1.

    The header is compared before the array is made, because NumPy makes it as large as the header says.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        found = np.lib.format.read_array_header_1_0(stream) if version == (1, 0) else None
    except Exception as error:  # the header is parsed as Python literals, whose errors have no common base
        raise ValueError(f"{name!r} is no array: {error}") from error
    if found != (shape, False, VECTOR_DTYPE) or len(data) - stream.tell() != math.prod(shape) * VECTOR_DTYPE.itemsize:
        raise ValueError(f"{name!r} is not a whole float16 array of shape {shape}")
    vectors = np.frombuffer(data, VECTOR_DTYPE, offset=stream.tell()).reshape(shape).astype(np.float16)
    if not have_unit_length(vectors):
        raise ValueError(f"{name!r} has vectors that are not of length 1")
    return vectors


def _check_values(value: Any) -> None:
    """Check JSON values from anywhere: not too deep, numbers that can be kept, text that a terminal can show.

    Raises:
        ValueError: If they are not.
    """
    level: Sequence[Any] = [value]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, (list, tuple)):
                below += item
            elif isinstance(item, str):
                _check_text(item)
            elif isinstance(item, int) and not -(2**63) <= item < 2**63:
                raise ValueError("it has a number beyond 64 bits")
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("it has a number that is not finite")
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")


def _check_text(text: str) -> None:
    """Raise `ValueError` for a text that is endless, or that a terminal would take for commands."""
    if len(text) > _MAX_TEXT:
        raise ValueError(f"it has a text of {len(text)} characters")
    if not text.isprintable():
        for character in text:
            if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs"):
                raise ValueError(f"it has a text with a control character: {text[:60]!r}")
