"""Classes and their prototypes: between records and rows, inside a session that the store opens."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, exists, func, insert, select
from sqlalchemy.orm import Session

from ovseg_cli.errors import ClassChangedError, ClassExistsError, StoreCorruptError
from ovseg_cli.names import class_key, slugify
from ovseg_cli.store import digests, support
from ovseg_cli.store.records import (
    ClassInfo,
    ClassKind,
    ClassRecord,
    ExtractorRecord,
    KindSource,
    PrototypeInfo,
    PrototypeKind,
    PrototypeRecord,
    Role,
    StoredSupport,
    have_unit_length,
)
from ovseg_cli.store.tables import Category, Extractor, Prototype, StoreMeta, SupportImage

VECTOR_DTYPE = np.dtype("<f2")
"""How a vector of length 1 is kept: half precision, little-endian."""

BLOCK_ROWS = 4096
"""Prototypes that are read at once: 6 MB of 768 numbers each, twice that as float32."""

_MAX_PARAMETERS = 10_000  # SQLite takes 32766 in one statement


def printable(text: str) -> str:
    """Make a string storable: bytes of a file name that are no UTF-8 become visible escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def encode_vector(record: PrototypeRecord) -> tuple[bytes, float]:
    """Turn the raw vector of a prototype into what the database keeps.

    Returns:
        The vector of length 1 in half precision, and its length before.
    """
    half, norm = half_and_norm(record)
    return half.astype(VECTOR_DTYPE).tobytes(), norm


def half_and_norm(record: PrototypeRecord) -> tuple[NDArray[np.float16], float]:
    """Give the direction of a prototype, float16 (D,), and the length of its raw vector."""
    exact = record.vector.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    return (exact / norm).astype(np.float16) if record.half is None else record.half, norm


def raw_vector(half: NDArray[np.float16], norm: float) -> NDArray[np.float32]:
    """Give a raw vector back, float32 (D,): the direction `half` brought to length 1, times `norm`."""
    exact = half.astype(np.float64)
    return (exact * (norm / np.linalg.norm(exact))).astype(np.float32)


def unit_rows(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """Bring directions back to length 1 after the rounding to half precision, float32 (N, D)."""
    vectors = halves.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def decode_halves(blobs: Sequence[bytes], dim: int) -> NDArray[np.float16]:
    """Read vectors back as they are kept: float16 (N, D), rows of length 1 up to their rounding.

    Raises:
        StoreCorruptError: If a value has another length, or is no direction.
    """
    if any(len(blob) != dim * VECTOR_DTYPE.itemsize for blob in blobs):
        raise StoreCorruptError(
            f"A prototype in the store does not have {dim} numbers: run `ovseg doctor`, and replace the class "
            "with `ovseg add-class NAME --if-exists replace`"
        )
    halves = np.frombuffer(b"".join(blobs), VECTOR_DTYPE).reshape(len(blobs), dim).astype(np.float16)
    if not have_unit_length(halves):
        raise StoreCorruptError(
            "A prototype in the store is not a direction of length 1: run `ovseg doctor`, and replace the class "
            "with `ovseg add-class NAME --if-exists replace`"
        )
    return halves


def meta(session: Session) -> StoreMeta:
    """Read the row that says what the store is.

    Raises:
        StoreCorruptError: If it is missing.
    """
    row = session.get(StoreMeta, 1)
    if row is None:
        raise StoreCorruptError("The store does not say what it is (store_meta is empty): put a backup in its place")
    return row


def find(session: Session, name: str) -> Category | None:
    """Find a class by name, whatever its case."""
    return session.scalars(select(Category).where(Category.key == printable(class_key(name)))).one_or_none()


def find_all(session: Session, names: Collection[str]) -> dict[str, Category | None]:
    """Find classes by name, whatever their case: each name's class, or None."""
    keys = {name: printable(class_key(name)) for name in names}
    wanted, found = sorted(set(keys.values())), {}
    for start in range(0, len(wanted), _MAX_PARAMETERS):
        some = Category.key.in_(wanted[start : start + _MAX_PARAMETERS])
        found.update({row.key: row for row in session.scalars(select(Category).where(some))})
    return {name: found.get(key) for name, key in keys.items()}


def generations(session: Session, among: Sequence[str] | None = None) -> set[support.Generation]:
    """Give the generation of every class, or only those among some."""
    query = select(Category.slug, Category.generation).where(_among(Category.generation, among))
    return {(row.slug, row.generation) for row in session.execute(query)}


def put(session: Session, record: ClassRecord, name: str, generation: str, files: Mapping[str, bytes]) -> Category:
    """Write a class into the database, in place of what is there of it; nothing is visible before the session commits.

    Args:
        session: Writing session.
        record: The class.
        name: Its name, normalised. A class of this name keeps its id, so its place in the order.
        generation: Generation id of its files.
        files: Its files, by name.

    Returns:
        The row.
    """
    row = find(session, name)
    if row is None:
        row = Category(key=class_key(name), slug=slugify(name))
        session.add(row)
    else:
        session.execute(delete(Prototype).where(Prototype.category_id == row.id))
        session.execute(delete(SupportImage).where(SupportImage.category_id == row.id))
    row.name = name
    row.generation = generation
    row.kind, row.kind_source = record.kind, record.kind_source
    row.created_at = datetime.now(UTC)
    row.seed, row.settings, row.rejected = int(record.seed), record.settings, int(record.rejected)
    row.file_bytes = sum(map(len, files.values()))
    session.flush()
    supports = _insert_supports(session, row.id, record, files)
    _insert_prototypes(session, row.id, record, supports)
    vectors_changed(session)
    # Of the rows as they are now, read back: so the digest cannot hold anything that the database does not.
    row.content_digest = digests.class_digest(session.connection(), row.id)
    session.flush()
    return row


def rename(session: Session, number: int, name: str) -> ClassInfo:
    """Give a class another name, and its files' folder that goes with it.

    Args:
        session: Writing session.
        number: Row id of the class.
        name: The new name, normalised, which no other class has.
    """
    row = session.get_one(Category, number)
    row.name, row.key, row.slug = name, class_key(name), slugify(name)
    session.flush()
    row.content_digest = digests.class_digest(session.connection(), number)
    session.flush()
    return infos(session, [number])[0]


def require_absent(row: Category | None) -> None:
    """Raise when there is a class.

    Raises:
        ClassExistsError: If `row` is one.
    """
    if row is not None:
        raise ClassExistsError(
            f"The store already has a class {row.name!r}: add --if-exists replace to make it anew, "
            "or --if-exists skip to keep it"
        )


def require_generation(row: Category | None, name: str, generation: str) -> None:
    """Raise when the class is not the one that somebody has read before.

    Raises:
        ClassChangedError: If `row` is none, or of another generation.
    """
    if row is None or row.generation != generation:
        what = "removed" if row is None else "changed"
        raise ClassChangedError(
            f"Another process {what} the class {name!r} meanwhile, and its work is not to be lost: "
            "run the command again, so that it starts from what is there now"
        )


def drop(session: Session, ids: Sequence[int]) -> None:
    """Delete classes with everything that hangs on them."""
    session.execute(delete(Category).where(Category.id.in_(ids)))
    vectors_changed(session)


def vectors_changed(session: Session) -> None:
    """Let every index know that it is outdated, and forget extractors without prototypes."""
    row = meta(session)
    row.vector_revision += 1
    row.vector_token = uuid.uuid4().hex
    session.execute(delete(Extractor).where(~exists().where(Prototype.extractor_id == Extractor.id)))


def _insert_supports(
    session: Session, category_id: int, record: ClassRecord, files: Mapping[str, bytes]
) -> dict[int, int]:
    """Insert the support images; give their row ids by position."""

    def digests_of(position: int) -> dict[str, str]:
        names = zip(support.DIGEST_COLUMNS, support.file_names(position), strict=True)
        return {column: digests.bytes_digest(files[name]) for column, name in names}

    rows = [
        SupportImage(
            category_id=category_id,
            position=int(item.position),
            seed=None if item.seed is None else int(item.seed),
            prompt=printable(item.prompt),
            height=item.image.shape[0],
            width=item.image.shape[1],
            **digests_of(item.position),
        )
        for item in record.supports
    ]
    session.add_all(rows)
    session.flush()
    return {row.position: row.id for row in rows}


def _insert_prototypes(session: Session, category_id: int, record: ClassRecord, support_ids: dict[int, int]) -> None:
    used = {prototype.extractor for prototype in record.prototypes}
    extractor_ids = {item.digest: _extractor_id(session, item) for item in record.extractors if item.digest in used}
    if record.prototypes:
        session.execute(
            insert(Prototype),
            [_prototype_values(item, category_id, extractor_ids, support_ids) for item in record.prototypes],
        )


def _prototype_values(
    item: PrototypeRecord, category_id: int, extractor_ids: dict[str, int], support_ids: dict[int, int]
) -> dict[str, Any]:
    blob, norm = encode_vector(item)
    return {
        "category_id": category_id,
        "extractor_id": extractor_ids[item.extractor],
        "support_id": None if item.support is None else support_ids[item.support],
        "role": item.role,
        "kind": item.kind,
        "vector": blob,
        "norm": norm,
        "pixels": int(item.pixels),
    }


def _extractor_id(session: Session, record: ExtractorRecord) -> int:
    row = session.scalars(select(Extractor).where(Extractor.digest == record.digest)).one_or_none()
    if row is None:
        row = Extractor(digest=record.digest, name=record.name, dim=int(record.dim), spec=record.spec)
        session.add(row)
        session.flush()
    elif row.dim != record.dim:
        raise ValueError(
            f"extractor {record.name!r} ({record.digest[:16]}) makes {record.dim} numbers per vector, but the store "
            f"holds vectors of {row.dim} under the same digest"
        )
    return row.id


def infos(session: Session, ids: Sequence[int] | None = None) -> list[ClassInfo]:
    """Describe classes, in the order in which they were first added.

    Args:
        session: Session.
        ids: Only these row ids; None for all.
    """
    # Columns, not objects: of ten thousand classes these take a third of the time.
    columns = (
        *(Category.id, Category.name, Category.slug, Category.generation, Category.kind, Category.kind_source),
        *(Category.created_at, Category.seed, Category.settings, Category.rejected, Category.file_bytes),
    )
    rows = session.execute(select(*columns).where(_among(Category.id, ids)).order_by(Category.id)).all()
    known = {
        row.id: row for row in session.execute(select(Extractor.id, Extractor.name, Extractor.digest, Extractor.dim))
    }
    counts: dict[int, dict[tuple[str, Role, PrototypeKind], int]] = defaultdict(dict)
    extractors: dict[int, dict[str, None]] = defaultdict(dict)
    vector_bytes: dict[int, int] = defaultdict(int)
    # Without a join, and in the order of the index: of the prototypes nothing else is read.
    by = (Prototype.category_id, Prototype.extractor_id, Prototype.role, Prototype.kind)
    groups = session.execute(
        select(*by, func.count()).where(_among(Prototype.category_id, ids)).group_by(*by).order_by(*by)
    )
    # "fg" comes before "bg".
    for category_id, number, role, kind, count in sorted(groups, key=lambda group: (group[1], group[2] == "bg")):
        counted, extractor = counts[category_id], known[number]
        cell = (extractor.name, cast("Role", role), cast("PrototypeKind", kind))
        counted[cell] = counted.get(cell, 0) + count
        extractors[category_id][extractor.digest] = None
        vector_bytes[category_id] += count * extractor.dim * VECTOR_DTYPE.itemsize
    supports = {
        category_id: count
        for category_id, count in session.execute(
            select(SupportImage.category_id, func.count())
            .where(_among(SupportImage.category_id, ids))
            .group_by(SupportImage.category_id)
        )
    }
    return [
        ClassInfo(
            id=number,
            name=name,
            slug=slug,
            generation=generation,
            kind=cast("ClassKind", kind),
            kind_source=cast("KindSource", kind_source),
            created_at=created_at,
            seed=seed,
            settings=settings,
            rejected=rejected,
            support_count=supports.get(number, 0),
            prototype_counts=counts[number],
            extractors=tuple(extractors[number]),
            nbytes=file_bytes + vector_bytes[number],
        )
        for (
            number,
            name,
            slug,
            generation,
            kind,
            kind_source,
            created_at,
            seed,
            settings,
            rejected,
            file_bytes,
        ) in rows
    ]


@dataclass(frozen=True, slots=True, eq=False)
class VectorBlock:
    """Some prototypes by one extractor, those of a class together.

    Attributes:
        ids: int64 (N,), database ids.
        category: int64 (N,), row ids of their classes.
        foreground: bool (N,).
        kind: N strings.
        halves: float16 (N, D), rows of length 1 up to their rounding.
    """

    ids: NDArray[np.int64]
    category: NDArray[np.int64]
    foreground: NDArray[np.bool_]
    kind: list[str]
    halves: NDArray[np.float16]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 (N, D), rows of length 1."""
        return unit_rows(self.halves)


@dataclass(frozen=True, slots=True, eq=False)
class PrototypeVectors:
    """The same of any number of prototypes, with float32 (N, D) rows of length 1."""

    ids: NDArray[np.int64]
    category: NDArray[np.int64]
    foreground: NDArray[np.bool_]
    kind: list[str]
    vectors: NDArray[np.float32]


def gather(blocks: Iterable[VectorBlock], count: int, dim: int) -> PrototypeVectors:
    """Put blocks together; beside what comes of it, one of them is in memory at a time.

    Args:
        blocks: From `vector_blocks`, of one moment with `count`.
        count: How many prototypes they hold, N.
        dim: Length D of the vectors.
    """
    found = PrototypeVectors(
        ids=np.empty(count, np.int64),
        category=np.empty(count, np.int64),
        foreground=np.empty(count, np.bool_),
        kind=[],
        vectors=np.empty((count, dim), np.float32),
    )
    start = 0
    for block in blocks:
        rows = slice(start, start + len(block.ids))
        found.ids[rows], found.category[rows], found.foreground[rows] = block.ids, block.category, block.foreground
        found.vectors[rows] = block.vectors
        found.kind.extend(block.kind)
        start = rows.stop
    return found


def vector_blocks(
    session: Session, extractor_id: int, dim: int, ids: Sequence[int] | None = None
) -> Iterator[VectorBlock]:
    """Read the prototypes by one extractor, `BLOCK_ROWS` at a time at most.

    Args:
        session: Session.
        extractor_id: Row id of the extractor.
        dim: Length D of its vectors.
        ids: Row ids of classes, each once; None for all classes in the order of their ids.

    Raises:
        StoreCorruptError: If a vector is damaged.
    """
    columns = (Prototype.id, Prototype.category_id, Prototype.role, Prototype.kind, Prototype.vector)
    if ids is None:
        ids = session.scalars(select(Category.id).order_by(Category.id)).all()
    for start in range(0, len(ids), _MAX_PARAMETERS):
        # In the order of the index that finds a class: nothing has to be sorted, and no other index looks as good.
        chosen = ids[start : start + _MAX_PARAMETERS]
        query = (
            select(*columns)
            .where(Prototype.extractor_id == extractor_id, Prototype.category_id.in_(chosen))
            .order_by(Prototype.category_id, Prototype.extractor_id, Prototype.role, Prototype.kind, Prototype.id)
        )
        for rows in session.execute(query, execution_options={"yield_per": BLOCK_ROWS}).partitions():
            numbers, categories, roles, kinds, blobs = zip(*rows, strict=True)
            yield VectorBlock(
                ids=np.array(numbers, np.int64),
                category=np.array(categories, np.int64),
                foreground=np.array([role == "fg" for role in roles], np.bool_),
                kind=list(kinds),
                halves=decode_halves(blobs, dim),
            )


def vectors_by_id(session: Session, ids: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
    """Read the vectors of some prototypes, float32 (N, D) of length 1.

    Raises:
        StoreCorruptError: If a vector is damaged.
        KeyError: If an id is not that of a prototype.
    """
    found = dict(_rows_of(session, select(Prototype.id, Prototype.vector), np.unique(ids).tolist()))
    return unit_rows(decode_halves([found[number] for number in ids.tolist()], dim))


def count_of(session: Session, extractor_id: int, ids: Sequence[int] | None) -> int:
    """How many prototypes some classes (all for None) have by an extractor."""
    counted = select(func.count()).select_from(Prototype).where(Prototype.extractor_id == extractor_id)
    if ids is None:
        return session.scalar(counted) or 0
    starts = range(0, len(ids), _MAX_PARAMETERS)
    return sum(
        session.scalar(counted.where(Prototype.category_id.in_(ids[s : s + _MAX_PARAMETERS]))) or 0 for s in starts
    )


def indexed_classes(session: Session, extractor_id: int, among: Sequence[int] | None = None) -> dict[str, int]:
    """The classes, or those among some row ids, that have prototypes by an extractor: generation to row id."""
    has = exists().where(Prototype.category_id == Category.id, Prototype.extractor_id == extractor_id)
    query = select(Category.generation, Category.id).where(has, _among(Category.id, among)).order_by(Category.id)
    rows = session.execute(query)
    return {generation: number for generation, number in rows}


def ids_of_kinds(session: Session, extractor_id: int, kinds: Collection[PrototypeKind]) -> NDArray[np.int64]:
    """The prototypes of some kinds by an extractor: int64 (N,), sorted."""
    query = select(Prototype.id).where(Prototype.extractor_id == extractor_id, Prototype.kind.in_(list(kinds)))
    return np.sort(np.fromiter(session.scalars(query), np.int64))


def generations_of(session: Session) -> dict[str, str]:
    """The generation of every class, by its name."""
    return {name: generation for name, generation in session.execute(select(Category.name, Category.generation))}


def owners(session: Session, ids: Collection[int]) -> dict[int, str]:
    """Give the class name of each of these prototypes; ids of none are left out."""
    query = select(Prototype.id, Category.name).join(Category, Category.id == Prototype.category_id)
    return dict(_rows_of(session, query, ids))


def prototype_infos(session: Session, ids: Collection[int]) -> dict[int, PrototypeInfo]:
    """Say where each of these prototypes comes from; ids of none are left out."""
    query = (
        select(
            Prototype.id,
            Category.name,
            Extractor.digest,
            Prototype.role,
            Prototype.kind,
            Prototype.pixels,
            SupportImage.position,
        )
        .join(Category, Category.id == Prototype.category_id)
        .join(Extractor, Extractor.id == Prototype.extractor_id)
        .outerjoin(SupportImage, SupportImage.id == Prototype.support_id)
    )
    return {
        number: PrototypeInfo(
            id=number,
            class_name=name,
            extractor=digest,
            role=cast("Role", role),
            kind=cast("PrototypeKind", kind),
            pixels=pixels,
            support=position,
        )
        for number, name, digest, role, kind, pixels, position in _rows_of(session, query, ids)
    }


def _rows_of(session: Session, query: Any, ids: Collection[int]) -> Iterator[Any]:
    """The rows of a query over prototypes for these ids."""
    wanted = list(ids)
    for start in range(0, len(wanted), _MAX_PARAMETERS):
        yield from session.execute(query.where(Prototype.id.in_(wanted[start : start + _MAX_PARAMETERS])))


def read_extractors(session: Session, category_id: int) -> tuple[ExtractorRecord, ...]:
    """Give the extractors that a class has prototypes of, in the order in which the store met them."""
    rows = session.scalars(
        select(Extractor)
        .where(exists().where(Prototype.extractor_id == Extractor.id, Prototype.category_id == category_id))
        .order_by(Extractor.id)
    )
    return tuple(ExtractorRecord(name=row.name, digest=row.digest, dim=row.dim, spec=row.spec) for row in rows)


def read_prototypes(
    session: Session, category_id: int, extractors: Sequence[ExtractorRecord]
) -> tuple[PrototypeRecord, ...]:
    """Give the prototypes of a class as they were added, with their raw vectors.

    Raises:
        StoreCorruptError: If a vector is damaged.
    """
    rows = session.execute(
        select(
            Prototype.vector,
            Prototype.norm,
            Prototype.role,
            Prototype.kind,
            Prototype.pixels,
            Extractor.digest,
            SupportImage.position,
        )
        .join(Extractor, Extractor.id == Prototype.extractor_id)
        .outerjoin(SupportImage, SupportImage.id == Prototype.support_id)
        .where(Prototype.category_id == category_id)
        .order_by(Prototype.id)
    ).all()
    dims = {extractor.digest: extractor.dim for extractor in extractors}
    records = []
    for row in rows:
        half = decode_halves([row.vector], dims[row.digest])[0]
        records.append(
            PrototypeRecord(
                extractor=row.digest,
                role=cast("Role", row.role),
                kind=cast("PrototypeKind", row.kind),
                vector=raw_vector(half, row.norm),
                pixels=row.pixels,
                support=row.position,
                half=half,
            )
        )
    return tuple(records)


def stored_supports(session: Session, store: Path, row: Category) -> list[StoredSupport]:
    """Give the support images of a class, by position."""
    folder = support.folder_of(store, (row.slug, row.generation))
    images = session.scalars(
        select(SupportImage).where(SupportImage.category_id == row.id).order_by(SupportImage.position)
    )
    found = []
    for image in images:
        picture, attribution, mask = support.file_names(image.position)
        found.append(
            StoredSupport(
                position=image.position,
                seed=image.seed,
                prompt=image.prompt,
                image_path=folder / picture,
                attribution_path=folder / attribution,
                mask_path=folder / mask,
            )
        )
    return found


def _among(column: Any, values: Sequence[int] | Sequence[str] | None) -> Any:
    """A condition that holds for these values, or for all when there are None."""
    return column.is_not(None) if values is None else column.in_(values)
