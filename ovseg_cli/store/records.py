"""What goes into a store and what comes out of it: plain frozen dataclasses, numpy and nothing else.

Records (`ClassRecord` and its parts, `RunRecord`, `RunItem`) are what callers hand in. They check
themselves when they are made, so that a store never begins to write something that it cannot keep.
`ClassInfo`, `StoredSupport`, `PrototypeBlock`, `PrototypeInfo` and `RunInfo` are what a store gives back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ovseg_cli.urls import Place

Role: TypeAlias = Literal["fg", "bg"]
"""Whether a prototype describes the object ("fg") or what surrounds it ("bg")."""

PrototypeKind: TypeAlias = Literal["mean", "instance", "part"]
"""How a prototype was pooled: over the whole class, over one image, or over one cluster of pixels."""

ClassKind: TypeAlias = Literal["thing", "stuff"]
"""Countable objects (a cat) or uncountable matter (sky)."""

KindSource: TypeAlias = Literal["user", "list", "clip", "default"]
"""Who decided that a class is a thing or stuff: the user, the bundled word list, CLIP's similarity to that list, or
nobody ("default", in classes made before there was a list)."""

ItemStatus: TypeAlias = Literal["done", "skipped", "failed"]
"""What became of one input of a run."""

RunStatus: TypeAlias = Literal["running", "finished", "interrupted"]
"""Where a run stands; a killed process leaves "running" behind."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNIT = 0.02  # how far from 1 the length of a direction in half precision may be


def have_unit_length(halves: NDArray[np.float16]) -> bool:
    """Whether all rows of float16 (N, D) have length 1, up to the rounding to half precision."""
    norms = np.linalg.norm(halves.astype(np.float32), axis=1)
    return bool((np.abs(norms - 1) < _UNIT).all())  # written so that NaN fails too


def _check_choice(what: str, value: str, choices: Any) -> None:
    """Raise `ValueError` unless `value` is one of the strings of the Literal `choices`."""
    if value not in get_args(choices):
        raise ValueError(f"{what} must be one of {', '.join(get_args(choices))}; got {value!r}")


def _check_at_least(what: str, value: int, least: int) -> None:
    """Raise `ValueError` when `value` is below `least`."""
    if value < least:
        raise ValueError(f"{what} must be at least {least}; got {value}")


def _check_seed(seed: int | None) -> None:
    """Raise `ValueError` unless the database can keep this seed."""
    if seed is not None and not -(2**63) <= seed < 2**63:
        raise ValueError(f"a seed must fit into 64 bits with sign; got {seed}")


def _check_json(what: str, value: Any) -> None:
    """Raise `ValueError` unless `value` can be kept as JSON and read back by any JSON reader."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be plain JSON values: {error}") from error


def _check_array(what: str, array: Any, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `array` has exactly this dtype and shape."""
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.shape != shape:
        received = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else repr(type(array).__name__)
        raise ValueError(f"{what} must be {np.dtype(dtype).name} of shape {shape}; got {received}")


def _check_unique(what: str, values: Iterable[object]) -> None:
    """Raise `ValueError` when a value occurs twice."""
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} must be unique; got {value!r} twice")
        seen.add(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorRecord:
    """One feature extractor, as far as it decides what its features mean.

    Attributes:
        name: Short name ("sd", "clip", "dino").
        digest: 64 hexadecimal digits over everything that changes the features.
        dim: Length D of a feature vector.
        spec: JSON-able description: model id, revision, layers by name, timestep, grid, normalisation.

    Raises:
        ValueError: If the digest is not 64 lower-case hexadecimal digits, the dimension is not
            positive, the name is empty or the description is not JSON-able.
    """

    name: str
    digest: str
    dim: int
    spec: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("the name of an extractor must not be empty")
        if _DIGEST.fullmatch(self.digest) is None:
            raise ValueError(f"an extractor digest must be 64 lower-case hex digits; got {self.digest!r}")
        _check_at_least("dim", self.dim, 1)
        _check_json("spec", self.spec)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SupportRecord:
    """One support image with what was found in it.

    Attributes:
        position: Number of the image in its support set, from 0.
        seed: Seed that made it; None for a picture that was not generated.
        prompt: Prompt that made it.
        image: uint8 (H, W, 3), RGB.
        attribution: float32 (H, W) in [0, 1]: how strongly each pixel belongs to the class.
        foreground: bool (H, W).
        background: bool (H, W), disjoint from the foreground.

    Raises:
        ValueError: If a dtype, a shape or a range is another, or if the two masks overlap.
    """

    position: int
    seed: int | None
    prompt: str
    image: NDArray[np.uint8]
    attribution: NDArray[np.float32]
    foreground: NDArray[np.bool_]
    background: NDArray[np.bool_]

    def __post_init__(self) -> None:
        _check_at_least("position", self.position, 0)
        _check_seed(self.seed)
        size = np.shape(self.image)[:2]
        if len(size) != 2 or 0 in size:
            raise ValueError(f"image must be uint8 of shape (H, W, 3); got shape {np.shape(self.image)}")
        _check_array("image", self.image, np.uint8, (*size, 3))
        _check_array("attribution", self.attribution, np.float32, size)
        _check_array("foreground", self.foreground, np.bool_, size)
        _check_array("background", self.background, np.bool_, size)
        low, high = float(self.attribution.min()), float(self.attribution.max())
        if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails too
            raise ValueError(f"attribution must lie in [0, 1]; got values from {low} to {high}")
        if np.logical_and(self.foreground, self.background).any():
            raise ValueError(f"foreground and background of support image {self.position} overlap")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrototypeRecord:
    """One pooled feature vector.

    Attributes:
        extractor: Digest of the extractor that made it.
        role: "fg" or "bg".
        kind: "mean", "instance" or "part".
        vector: float32 (D,), raw: neither normalised nor scaled.
        pixels: How many feature cells were pooled.
        support: Position of the support image: of an "instance", the one that it is from; of a "part", the one that
            most of its cells are from, if that is known; None for a "mean".
        half: float16 (D,), the direction as a store or a bundle kept it; None for a new prototype. With it a
            prototype that is read and stored again stays the same bit for bit: rounding twice could move it.

    Raises:
        ValueError: If the vector is not a finite, non-zero float32 vector, or a field is out of range.
    """

    extractor: str
    role: Role
    kind: PrototypeKind
    vector: NDArray[np.float32]
    pixels: int
    support: int | None = None
    half: NDArray[np.float16] | None = None

    def __post_init__(self) -> None:
        _check_choice("role", self.role, Role)
        _check_choice("kind", self.kind, PrototypeKind)
        _check_at_least("pixels", self.pixels, 1)
        if np.ndim(self.vector) != 1 or np.size(self.vector) == 0:
            raise ValueError(f"vector must be float32 of shape (D,); got shape {np.shape(self.vector)}")
        _check_array("vector", self.vector, np.float32, np.shape(self.vector))
        norm = float(np.linalg.norm(self.vector.astype(np.float64)))
        if not np.isfinite(norm) or norm == 0.0:
            raise ValueError(f"vector must be finite and not zero; its length is {norm}")
        if self.half is not None:
            _check_array("half", self.half, np.float16, np.shape(self.vector))
            # Written so that NaN fails too.
            if not (np.abs(self.vector / norm - self.half).max() < 1e-2 and have_unit_length(self.half[np.newaxis])):
                raise ValueError("half must be the direction of vector")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassRecord:
    """A whole class, ready to be stored in one transaction.

    Attributes:
        name: Name as the user wrote it.
        kind: "thing" or "stuff".
        kind_source: "user", "list", "clip" or "default".
        seed: Seed of the class.
        settings: JSON-able: prompt, steps, guidance, mask method, thresholds and so on.
        rejected: How many degenerate images were made again.
        extractors: Every extractor that the prototypes name.
        supports: The support images.
        prototypes: The prototypes.

    Raises:
        ValueError: If the parts do not fit together: a prototype of an extractor that is not listed,
            of another length than its extractor's, or of a support image that is not there; a
            position or an extractor given twice; a seed beyond 64 bits; settings that are not JSON-able.
    """

    name: str
    kind: ClassKind
    kind_source: KindSource
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    rejected: int = 0
    extractors: tuple[ExtractorRecord, ...] = ()
    supports: tuple[SupportRecord, ...] = ()
    prototypes: tuple[PrototypeRecord, ...] = ()

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, ClassKind)
        _check_choice("kind_source", self.kind_source, KindSource)
        _check_seed(self.seed)
        _check_at_least("rejected", self.rejected, 0)
        _check_json("settings", self.settings)
        _check_unique("positions of support images", (support.position for support in self.supports))
        _check_unique("extractor digests", (extractor.digest for extractor in self.extractors))
        dims = {extractor.digest: extractor.dim for extractor in self.extractors}
        positions = {support.position for support in self.supports}
        for prototype in self.prototypes:
            if prototype.extractor not in dims:
                raise ValueError(f"a prototype names extractor {prototype.extractor!r}, which is not listed")
            _check_array("vector", prototype.vector, np.float32, (dims[prototype.extractor],))
            if prototype.support is not None and prototype.support not in positions:
                raise ValueError(f"a prototype names support image {prototype.support}, which is not there")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """What a store knows about a class, without its vectors and pictures.

    Attributes:
        id: Database id; the order of creation.
        name: Name as stored.
        slug: Folder name under `support/`.
        generation: 32 hexadecimal digits, new whenever the class is made or replaced, in any store:
            two classes with the same generation have the same prototypes.
        kind: "thing" or "stuff".
        kind_source: "user", "list", "clip" or "default".
        created_at: When the class was made or last replaced (UTC).
        seed: Seed of the class.
        settings: As in the record.
        rejected: How many degenerate images were made again.
        support_count: Number of support images.
        prototype_counts: Number of prototypes by (extractor name, role, kind).
        extractors: Digests of the extractors that the class has prototypes of.
        nbytes: Bytes of its files and vectors on disk.
    """

    id: int
    name: str
    slug: str
    generation: str
    kind: ClassKind
    kind_source: KindSource
    created_at: datetime
    seed: int
    settings: dict[str, Any]
    rejected: int
    support_count: int
    prototype_counts: dict[tuple[str, Role, PrototypeKind], int]
    extractors: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSupport:
    """One support image as it lies on disk.

    Attributes:
        position: Number of the image in its support set.
        seed: Seed that made it, or None.
        prompt: Prompt that made it.
        image_path: RGB PNG.
        attribution_path: 8-bit grey PNG, 255 = 1.0.
        mask_path: Palette PNG: 0 neither, 1 foreground, 2 background.
    """

    position: int
    seed: int | None
    prompt: str
    image_path: Path
    attribution_path: Path
    mask_path: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrototypeBlock:
    """Prototypes of several classes by one extractor, ready for a matrix product.

    Attributes:
        classes: Class names; `class_index` counts into them.
        vectors: float32 (N, D), rows of length 1.
        class_index: int64 (N,).
        role_is_fg: bool (N,).
        kind: N strings "mean", "instance" or "part".
        ids: int64 (N,), database ids.
    """

    classes: tuple[str, ...]
    vectors: NDArray[np.float32]
    class_index: NDArray[np.int64]
    role_is_fg: NDArray[np.bool_]
    kind: tuple[str, ...]
    ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeInfo:
    """Where one stored prototype comes from.

    Attributes:
        id: Database id.
        class_name: Name of its class.
        extractor: Digest of the extractor that made it.
        role: "fg" or "bg".
        kind: "mean", "instance" or "part".
        pixels: How many feature cells were pooled.
        support: Position of its support image (see `PrototypeRecord`), or None.
    """

    id: int
    class_name: str
    extractor: str
    role: Role
    kind: PrototypeKind
    pixels: int
    support: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as it begins.

    Attributes:
        id: 32 hexadecimal digits (`uuid.uuid4().hex`).
        command: "segment".
        argv: Arguments of the command line.
        method: Method asked for or resolved ("prototype", "gem").
        classes: Class names in label order: the id of a class is its index + 1.
        background: Whether id 0 is background.
        output: Output folder, absolute.
        inputs: Inputs as they were given.
        started_at: Aware time.
        settings: JSON-able.

    Raises:
        ValueError: If the output is not absolute, the time is naive, or the settings are not JSON-able.
    """

    id: str
    argv: tuple[str, ...]
    method: str
    classes: tuple[str, ...]
    background: bool
    output: Place
    inputs: tuple[str, ...]
    command: str = "segment"
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.output.is_absolute():
            raise ValueError(f"the output folder of a run must be absolute; got {str(self.output)!r}")
        if self.started_at.tzinfo is None:
            raise ValueError(f"started_at must be an aware time; got {self.started_at.isoformat()}")
        _check_json("settings", self.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunItem:
    """What became of one input of a run.

    Attributes:
        source: Path of the input.
        output: Path of the label map, or None.
        status: "done", "skipped" or "failed".
        method: Method that labelled it, or None.
        error: Why it failed, or None.
        width: Width in pixels, if known.
        height: Height in pixels, if known.

    Raises:
        ValueError: If the status is another.
    """

    source: str
    output: str | None
    status: ItemStatus
    method: str | None = None
    error: str | None = None
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        _check_choice("status", self.status, ItemStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo(RunRecord):
    """A run as the store remembers it.

    Attributes:
        status: "running", "finished" or "interrupted".
        finished_at: When it ended (UTC), or None.
        counts: Number of items by status: "done", "skipped", "failed" (each always there).
    """

    status: RunStatus
    finished_at: datetime | None
    counts: dict[str, int]
