"""The store: an on-disk database of class prototypes that grows class by class."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from ovseg_cli.errors import (
    DiskFullError,
    OvsegError,
    ProfileMismatchError,
    StoreCorruptError,
    StoreError,
    StoreNotFoundError,
    StoreReadOnlyError,
    UnknownClassError,
    UsageError,
)
from ovseg_cli.names import class_key, did_you_mean, listed, normalise_class_name, slugify
from ovseg_cli.places import DATABASE_NAME, default_store_path
from ovseg_cli.store import classes, digests, health, journal, schema, support, sweep, vector_index
from ovseg_cli.store import texts as text_cache
from ovseg_cli.store.classes import PrototypeVectors
from ovseg_cli.store.copying import copy_store
from ovseg_cli.store.database import Database, Mode, corrupt
from ovseg_cli.store.disk import is_writable, os_errors, read_only, refuse_links
from ovseg_cli.store.health import Repair, StoreHealth
from ovseg_cli.store.index_upkeep import IndexUpkeep
from ovseg_cli.store.lock import write_lock
from ovseg_cli.store.records import (
    ClassInfo,
    ClassKind,
    ClassRecord,
    KindSource,
    PrototypeBlock,
    PrototypeInfo,
    Role,
    RunInfo,
    RunItem,
    RunRecord,
    RunStatus,
    StoredSupport,
    SupportRecord,
)
from ovseg_cli.store.sweep import Change
from ovseg_cli.store.tables import Category, Extractor, Prototype, StoreMeta, SupportImage
from ovseg_cli.store.vector_index import Among, Catalogue

logger = logging.getLogger(__name__)

DEFAULT_LOCK_TIMEOUT = 30.0
"""Seconds to wait for another process that is writing."""


class ProfileLike(Protocol):
    """What a store keeps of a profile."""

    @property
    def name(self) -> str:
        """Name of the profile."""
        ...

    @property
    def digest(self) -> str:
        """Digest of everything in it."""
        ...

    def record(self) -> dict[str, Any]:
        """Describe it in JSON-able values."""
        ...


class Store:
    """A folder with a database of classes, their support images, and a search index.

    Several processes may use a store at the same time: readers always see one consistent state, and
    writers wait for each other. A change is there as a whole or not at all, whenever the process dies.
    One `Store` object belongs to one thread.

    Make one with `Store.open`, best in a `with` statement:

        with Store.open("my-store", profile="mini") as store:
            print(store.class_names())

    Attributes:
        path: The store's folder, absolute.
        read_only: Whether the folder or its database cannot be written; reading works all the same.
        profile_name: Name of the profile that the store was created with.
        profile_digest: Digest of that profile.
        profile_record: That profile, described in JSON values.
        lock_timeout: Seconds to wait for another process that is writing.
    """

    def __init__(self, database: Database, meta: StoreMeta, *, lock_timeout: float) -> None:
        """Use `Store.open`."""
        self.path: Path = database.file.parent
        self.read_only: bool = database.mode == "ro"
        self.profile_name: str = meta.profile_name
        self.profile_digest: str = meta.profile_digest
        self.profile_record: dict[str, Any] = meta.profile_record
        self.lock_timeout = lock_timeout
        self._database = database
        self._upkeep = IndexUpkeep(database, self.path, read_only=self.read_only, lock_timeout=lock_timeout)

    @classmethod
    def open(
        cls,
        path: str | Path | None = None,
        *,
        profile: str | ProfileLike | None = None,
        create: bool = True,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    ) -> Self:
        """Open a store, or create it.

        Args:
            path: The store's folder; None for `default_store_path()`.
            profile: Profile (or its name) for a new store. For an existing store it must be the one that
                the store was created with. None takes what is there, or resolves the default.
            create: Whether to create a store that is not there.
            lock_timeout: Seconds to wait for another process that is writing.

        Returns:
            The store.

        Raises:
            StoreNotFoundError: If there is no store and `create` is false.
            NoDefaultStoreError: If no store is named, and this user has no home for the default one.
            ProfileMismatchError: If the store was created with another profile.
            StoreVersionError: If a newer ovseg made the store.
            StoreCorruptError: If the database is damaged or is not a store.
            StoreReadOnlyError: If a store is to be created or upgraded where nothing can be written.
            StoreLockedError: If another process keeps writing.
            DiskFullError: If no space is left for a new store.
        """
        folder = _store_folder(path)
        file = folder / DATABASE_NAME
        with os_errors(folder):
            revision = _revision(file)
        if revision is None and file.exists() and any((folder / "support").glob("*/*")):
            raise corrupt(file, "it is empty, but support images of classes lie beside it")
        if revision is None:
            if not create:
                raise StoreNotFoundError(
                    f"There is no store at {folder}: add a class with `ovseg add-class NAME`, "
                    "or check --store and OVSEG_STORE"
                )
            chosen = _resolve(profile)
            with os_errors(folder):
                _create(file, chosen, lock_timeout)
        elif not schema.is_current(revision, folder):
            with os_errors(folder):
                _upgrade(file, lock_timeout)
        with os_errors(folder):
            database = Database(file, _mode(file))
            with database.read() as session:
                meta = classes.meta(session)
                session.expunge(meta)
        store = cls(database, meta, lock_timeout=lock_timeout)
        if profile is not None:
            store._require(profile)
        return store

    def _require(self, profile: str | ProfileLike) -> None:
        """See that the store has this profile; one without classes takes it.

        Raises:
            ProfileMismatchError: If its classes were made with another one.
        """
        asked = profile if isinstance(profile, str) else profile.name
        own = self.profile_record.get("source") is not None
        if asked == self.profile_name and not (own and _is_known(asked)):
            return
        chosen = _resolve(profile)
        changed = _changes(self.profile_record, chosen) if own else None
        if changed == [] or (changed is None and chosen.name == self.profile_name):
            # The same as a whole, and perhaps in another place.
            if changed is not None and not self.read_only and chosen.record() != self.profile_record:
                self._keep_profile(chosen)
            return
        if self._adopt(chosen):
            return
        if changed and chosen.name == self.profile_name:
            raise ProfileMismatchError(
                f"The store {self.path} was made with another state of the profile {asked!r}, which its prototypes do "
                f"not fit any more: {listed(changed, most=3, between='; ')}. Put the file back, or choose another "
                "folder with --store for what it says now"
            )
        raise ProfileMismatchError(
            f"The store {self.path} was made with profile {self.profile_name!r}, not {asked!r}: leave --profile "
            f"out, or choose another folder with --store for {asked!r}"
        )

    def _adopt(self, profile: ProfileLike) -> bool:
        """Change the profile of a store that holds no class yet; False when it holds one or cannot be written.

        A first command that fails (its weights cannot be had, say) would else tie the store to its profile for good.
        """
        if self.read_only or self.class_names():
            return False
        return self._keep_profile(profile, empty=True)

    def _keep_profile(self, profile: ProfileLike, *, empty: bool = False) -> bool:
        """Note a profile; with `empty` only while there is no class, and False when another process was faster."""
        with self._noting() as session:
            if empty and session.scalars(select(Category.id).limit(1)).first() is not None:
                return False
            meta = classes.meta(session)
            meta.profile_name = self.profile_name = profile.name
            meta.profile_digest = self.profile_digest = profile.digest
            meta.profile_record = self.profile_record = profile.record()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, profile={self.profile_name!r})"

    def close(self) -> None:
        """Let go of the loaded indexes; nothing else is held between two calls."""
        self._upkeep.close()

    @property
    def vector_revision(self) -> int:
        """How often the prototypes in the store have changed, read now."""
        with self._database.read() as session:
            return classes.meta(session).vector_revision

    # Classes

    def classes(self) -> list[ClassInfo]:
        """Describe all classes, in the order in which they were first added."""
        with self._database.read() as session:
            return classes.infos(session)

    def class_names(self) -> list[str]:
        """Give the names of all classes, in the order in which they were first added."""
        with self._database.read() as session:
            return list(session.scalars(select(Category.name).order_by(Category.id)))

    def has_class(self, name: str) -> bool:
        """Whether there is a class of this name, whatever its case."""
        with self._database.read() as session:
            return classes.find(session, name) is not None

    def get_class(self, name: str) -> ClassInfo:
        """Describe one class.

        Args:
            name: Name of the class, in any case.

        Raises:
            UnknownClassError: If there is no such class; the message names the nearest ones.
        """
        with self._database.read() as session:
            return classes.infos(session, [self._row(session, name).id])[0]

    def get_classes(self, names: Sequence[str]) -> list[ClassInfo]:
        """Describe some classes, in the order of the names; of many this is faster than one by one.

        Args:
            names: Names of classes, in any case.

        Raises:
            UnknownClassError: If one of them is not there; the message names the nearest ones.
        """
        with self._database.read() as session:
            numbers = [row.id for row in self._rows(session, names)]
            found = {info.id: info for info in classes.infos(session, numbers if len(numbers) <= 10_000 else None)}
        return [found[number] for number in numbers]

    def supports(self, name: str) -> list[StoredSupport]:
        """Give the support images of a class, by position.

        Args:
            name: Name of the class, in any case.

        Raises:
            UnknownClassError: If there is no such class.
        """
        with self._database.read() as session:
            return classes.stored_supports(session, self.path, self._row(session, name))

    def read_class(self, name: str) -> ClassRecord:
        """Give a whole class back as it was handed in.

        Its prototypes carry `half`, so storing them again changes no bit. Their `vector` has the rounding of half
        precision in its direction, and an attribution map is rounded to 8 bits.

        Args:
            name: Name of the class, in any case.

        Returns:
            The class, with its support images decoded.

        Raises:
            UnknownClassError: If there is no such class.
            StoreCorruptError: If a support image is missing or damaged, or a row has no sound values.
        """
        while True:
            with self._database.read() as session:
                row = self._row(session, name)
                generation = row.generation
                if digests.class_digest(session.connection(), row.id) != row.content_digest:
                    raise _unsound(row.name, "its rows in the database are not what was stored")
                try:
                    extractors = classes.read_extractors(session, row.id)
                    prototypes = classes.read_prototypes(session, row.id, extractors)
                except ValueError as error:
                    raise _unsound(row.name, error) from error
                images = session.scalars(
                    select(SupportImage).where(SupportImage.category_id == row.id).order_by(SupportImage.position)
                ).all()
                session.expunge_all()
            try:
                supports = tuple(self._decode_support(row, image) for image in images)
            except StoreCorruptError:
                if self.get_class(name).generation == generation:
                    raise
                continue  # replaced by another process before its files were read
            return ClassRecord(
                name=row.name,
                kind=cast("ClassKind", row.kind),
                kind_source=cast("KindSource", row.kind_source),
                seed=row.seed,
                settings=row.settings,
                rejected=row.rejected,
                extractors=extractors,
                supports=supports,
                prototypes=prototypes,
            )

    def _decode_support(self, row: Category, image: SupportImage) -> SupportRecord:
        folder = support.folder_of(self.path, (row.slug, row.generation))
        known = support.digests_of(image)

        def read(name: str) -> bytes:
            data = (folder / name).read_bytes()
            if known[name] not in (None, digests.bytes_digest(data)):
                raise ValueError(f"{name} is not what was stored")
            return data

        try:
            return support.decode(
                read,
                position=image.position,
                seed=image.seed,
                prompt=image.prompt,
                size=(image.height, image.width),
            )
        except (OSError, ValueError) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise _unsound(row.name, f"support image {image.position} in {folder}: {reason}") from error

    def add_class(
        self, record: ClassRecord, *, replace: bool = False, expected_generation: str | None = None
    ) -> ClassInfo:
        """Add a class with everything that belongs to it, in one transaction.

        Args:
            record: The class.
            replace: Whether a class of this name may be there; it is then replaced as a whole and keeps
                its place in the order of classes.
            expected_generation: With `replace`, the generation of the class that `record` was made from (see
                `ClassInfo`). So of two processes that extend a class at once, the later one cannot take back what
                the earlier one did.

        Returns:
            The class as stored.

        Raises:
            ClassNameError: If the name cannot be stored.
            ClassExistsError: If the class is there and `replace` is false.
            ClassChangedError: If the class is not there or not of the expected generation.
            StoreReadOnlyError: If the store cannot be written.
            StoreLockedError: If another process keeps writing.
            DiskFullError: If no space is left; the store is then as before.
            ValueError: If the store knows one of the extractor digests with vectors of another length.
        """
        name = normalise_class_name(record.name)
        self._require_writable()

        def check(session: Session) -> None:
            row = classes.find(session, name)
            if expected_generation is not None:
                classes.require_generation(row, name, expected_generation)
            if not replace:
                classes.require_absent(row)

        # Asked twice: here before any work is done, and in the transaction, where the answer counts.
        with self._database.read() as session:
            check(session)
        files = support.encode(record.supports)
        generation = uuid.uuid4().hex
        with self._changing() as change:
            self._stage(change, name, generation, files)
            with self._database.write() as session:
                check(session)
                info = self._put(session, change, record, name, generation, files)
            change.committed = True
            return info

    def _stage(self, change: Change, name: str, generation: str, files: dict[str, bytes]) -> None:
        """Write the files of a class that is to be stored."""
        folder = (slugify(name), generation)
        change.folders.append(folder)
        support.stage(self.path, folder, files)

    def _put(
        self, session: Session, change: Change, record: ClassRecord, name: str, generation: str, files: dict[str, bytes]
    ) -> ClassInfo:
        """Write a class whose files are on disk into the database, in place of what is there of it."""
        before = classes.find(session, name)
        if before is not None:
            change.folders.append((before.slug, before.generation))
            change.went.append(before.generation)
        number = classes.put(session, record, name, generation, files).id
        change.came[generation] = number
        return classes.infos(session, [number])[0]

    def add_classes(self, records: Iterable[ClassRecord], *, replace: bool = False) -> list[ClassInfo]:
        """Add several classes in one transaction: all of them, or none.

        Args:
            records: The classes. They are taken one by one while the store is locked for other writers, so an
                iterator need not hold more than one of them; what it raises leaves the store as it was.
            replace: Whether classes of these names may be there.

        Returns:
            The classes as stored.

        Raises:
            ClassNameError: If a name cannot be stored.
            ClassExistsError: If a class is there and `replace` is false, or is given twice.
            StoreReadOnlyError: If the store cannot be written.
            StoreLockedError: If another process keeps writing.
            DiskFullError: If no space is left; the store is then as before.
            ValueError: If the store knows one of the extractor digests with vectors of another length.
        """
        self._require_writable()
        added: list[ClassInfo] = []
        with self._changing() as change:
            with self._database.write() as session:
                for record in records:
                    name = normalise_class_name(record.name)
                    present = classes.find(session, name)
                    if not replace or (present is not None and present.generation in change.came):
                        classes.require_absent(present)
                    files = support.encode(record.supports)
                    generation = uuid.uuid4().hex
                    self._stage(change, name, generation, files)
                    added.append(self._put(session, change, record, name, generation, files))
            change.committed = True
        return added

    def swap_classes(self, record: ClassRecord, generations: Mapping[str, str]) -> ClassInfo:
        """Store a class in the place of others, in one transaction: they go, and it is there, or nothing happens.

        Args:
            record: The class; it may have the name of one of the others.
            generations: Names of the others, each with the generation that it was read in.

        Raises:
            ClassExistsError: If the class is there, and is none of the others.
            ClassChangedError: If one of the others has been changed meanwhile.
            StoreReadOnlyError: If the store cannot be written.
            StoreLockedError: If another process keeps writing.
            DiskFullError: If no space is left; the store is then as before.
        """
        name = normalise_class_name(record.name)
        others = [other for other in generations if class_key(other) != class_key(name)]
        self._require_writable()
        files, generation = support.encode(record.supports), uuid.uuid4().hex
        with self._changing() as change:
            self._stage(change, name, generation, files)
            with self._database.write() as session:
                for other, expected in generations.items():
                    classes.require_generation(classes.find(session, other), other, expected)
                if len(others) == len(generations):
                    classes.require_absent(classes.find(session, name))
                self._drop(session, change, others)
                info = self._put(session, change, record, name, generation, files)
            change.committed = True
        return info

    def rename_class(self, name: str, new: str) -> ClassInfo:
        """Give a class another name; its place in the order, its prototypes and its support images stay as they are.

        Args:
            name: Name of the class, in any case.
            new: The name that it gets; the same in another spelling is one, too.

        Raises:
            UnknownClassError: If there is no such class.
            ClassNameError: If the new name cannot be stored.
            ClassExistsError: If another class has the new name.
            StoreCorruptError: If what the store holds of the class is damaged.
            StoreReadOnlyError: If the store cannot be written.
            StoreLockedError: If another process keeps writing.
            DiskFullError: If no space is left; the store is then as before.
        """
        new = normalise_class_name(new)
        self._require_writable()
        with self._changing() as change:
            with self._database.read() as session:
                row = self._row(session, name)
                number, before = row.id, (row.slug, row.generation)
                taken = classes.find(session, new)
                if taken is not None and taken.id != number:
                    classes.require_absent(taken)
                if digests.class_digest(session.connection(), number) != row.content_digest:
                    raise _unsound(row.name, "its rows in the database are not what was stored")
            after = (slugify(new), before[1])
            if after != before:
                change.folders += [before, after]
                support.copy(self.path, before, after)
            with self._database.write() as session:
                info = classes.rename(session, number, new)
        return info

    def remove_classes(self, names: Iterable[str]) -> list[ClassInfo]:
        """Remove classes, all of them in one transaction.

        On a full disk the vector index makes room for the transaction, if there is one: the next search makes it anew.

        Args:
            names: Names of the classes, in any case.

        Returns:
            What was removed, in the order of the store.

        Raises:
            UnknownClassError: If one of the classes is not there; then none is removed.
            StoreReadOnlyError: If the store cannot be written.
            StoreLockedError: If another process keeps writing.
            DiskFullError: If there is no room even to note what is to go; the store is then as before.
        """
        self._require_writable()
        names = list(names)
        try:
            return self._remove(names)
        except DiskFullError:
            with os_errors(self.path):
                refuse_links(self.path / vector_index.FOLDER)
                if not vector_index.discard(self.path):
                    raise
        return self._remove(names, index=False)

    def _remove(self, names: Sequence[str], *, index: bool = True) -> list[ClassInfo]:
        with self._changing() as change:
            with self._database.write() as session:
                removed = self._drop(session, change, names)
            change.committed = index
        return removed

    def _drop(self, session: Session, change: Change, names: Sequence[str]) -> list[ClassInfo]:
        """Delete classes from the database; their files go when the change is done."""
        ids = sorted({self._row(session, name).id for name in names})
        removed = classes.infos(session, ids)
        if ids:
            classes.drop(session, ids)
        change.folders += [(info.slug, info.generation) for info in removed]
        change.went += [info.generation for info in removed]
        return removed

    # Prototypes

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let everything that is read inside the block be of one moment, whoever writes meanwhile."""
        with self._database.read():
            yield

    def prototypes(self, names: Sequence[str] | None, extractor: str) -> PrototypeBlock:
        """Read the prototypes that one extractor made for some classes.

        Args:
            names: Names of the classes, in any case; a class named twice counts once. None for all.
            extractor: Digest of the extractor.

        Returns:
            The prototypes, ordered by class and then as they were added. Classes without any prototype
            are listed in `classes` and have no rows.

        Raises:
            UnknownClassError: If there is no such class.
            ProfileMismatchError: If a class has prototypes, but none by this extractor.
        """
        with self._database.read() as session:
            if names is None:
                chosen = list(session.scalars(select(Category).order_by(Category.id)))
            else:
                chosen = list({row.id: row for row in self._rows(session, names)}.values())
            ids = None if names is None else [row.id for row in chosen]
            block = self._read_vectors(session, extractor, ids)
            present = set(np.unique(block.category).tolist())
            self._require_same_extractor(session, [row for row in chosen if row.id not in present], extractor)
        place = {row.id: index for index, row in enumerate(chosen)}
        class_index = np.array([place[number] for number in block.category.tolist()], np.int64)
        order = np.lexsort((block.ids, class_index))
        return PrototypeBlock(
            classes=tuple(row.name for row in chosen),
            vectors=block.vectors[order],
            class_index=class_index[order],
            role_is_fg=block.foreground[order],
            kind=tuple(block.kind[index] for index in order.tolist()),
            ids=block.ids[order],
        )

    def nearest(
        self, vectors: NDArray[np.float32], extractor: str, *, k: int, role: Role = "fg"
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the prototypes of the whole store that are most similar to some features.

        Args:
            vectors: float32 (Q, D), of any length: they are normalised here.
            extractor: Digest of the extractor that made them.
            k: How many prototypes to find for each.
            role: Whether to look among foreground or background prototypes.

        Returns:
            Cosine similarities float32 (Q, k), falling, and database ids int64 (Q, k). Where the store
            has fewer than k prototypes of this role, the rest is -inf and -1.

        Raises:
            ProfileMismatchError: If the store has prototypes, but none by this extractor.
            ValueError: If the vectors have another shape than (Q, D), or `k` is not positive.
        """
        queries = np.asarray(vectors, np.float32)
        if queries.ndim != 2:
            raise ValueError(f"vectors must have shape (Q, D); got {queries.shape}")
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        with self._database.read() as session:
            known = session.execute(
                select(Extractor.id, Extractor.dim).where(Extractor.digest == extractor)
            ).one_or_none()
            if known is None:
                chosen = list(session.scalars(select(Category).order_by(Category.id)))
                self._require_same_extractor(session, chosen, extractor)
                return vector_index.nothing(len(queries), k)
            if queries.shape[1] != known.dim:
                raise ValueError(f"vectors must have shape (Q, {known.dim}) for this extractor; got {queries.shape}")
            norms = np.linalg.norm(queries, axis=1, keepdims=True)
            queries = np.divide(queries, norms, out=np.zeros_like(queries), where=norms > 0)
            return self._upkeep.search(session, extractor, queries, k, foreground=role == "fg")

    def candidates(
        self,
        vectors: NDArray[np.float32],
        extractor: str,
        *,
        k: int,
        role: Role,
        among: Among,
        floors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[int, str]]:
        """Find prototypes that may be the most similar to some features, to be compared exactly afterwards.

        Args:
            vectors: float32 (Q, D), rows of length 1.
            extractor: Digest of the extractor that made them; the store has prototypes by it.
            k: How many prototypes to find for each.
            role: Whether to look among foreground or background prototypes.
            among: Which may be found.
            floors: float32 (Q,), cosines above which nothing may be missed, where that can be had for less than
                comparing everything; None for the recall that the index promises.

        Returns:
            As `nearest`, up to the rounding of the index; and the class of each prototype that was found.
        """
        with self._database.read() as session:
            scores, ids = self._upkeep.search(
                session, extractor, vectors, k, foreground=role == "fg", among=among, rough=True, floors=floors
            )
            return scores, ids, classes.owners(session, set(ids[ids >= 0].tolist()))

    def vectors(self, ids: NDArray[np.int64], extractor: str) -> NDArray[np.float32]:
        """Read the vectors of some prototypes by one extractor, float32 (N, D) of length 1.

        Raises:
            ValueError: If an id is not that of a prototype.
        """
        with self._database.read() as session:
            dim = session.execute(select(Extractor.dim).where(Extractor.digest == extractor)).scalar_one()
            try:
                return classes.vectors_by_id(session, ids, dim)
            except KeyError as error:
                raise ValueError(f"no prototype has the id {error}") from error

    def generations(self) -> dict[str, str]:
        """Give the generation of every class, by its name."""
        with self._database.read() as session:
            return classes.generations_of(session)

    @property
    def vector_token(self) -> str:
        """What is new with every change of the prototypes, read now."""
        with self._database.read() as session:
            return classes.meta(session).vector_token

    def class_of(self, ids: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """Name the classes that some prototypes belong to.

        Args:
            ids: N database ids of prototypes.

        Returns:
            N class names.

        Raises:
            ValueError: If an id is not that of a prototype (-1 of `nearest` is not).
        """
        wanted = [int(number) for number in ids]
        with self._database.read() as session:
            owners = classes.owners(session, set(wanted))
        _require_known(wanted, owners)
        return [owners[number] for number in wanted]

    def prototype_info(self, ids: Sequence[int] | NDArray[np.int64]) -> list[PrototypeInfo]:
        """Say where some prototypes come from.

        Args:
            ids: N database ids of prototypes.

        Returns:
            N descriptions.

        Raises:
            ValueError: If an id is not that of a prototype.
        """
        wanted = [int(number) for number in ids]
        with self._database.read() as session:
            known = classes.prototype_infos(session, set(wanted))
        _require_known(wanted, known)
        return [known[number] for number in wanted]

    # Texts

    def cached_texts(self, model: str, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Read embeddings of texts, as far as the store keeps them.

        Args:
            model: Digest of everything that decides what the embeddings are.
            texts: The texts, any number.

        Returns:
            Text to float32 (E,), for those that are kept.
        """
        with self._database.read() as session:
            return text_cache.load(session, model, texts)

    def keep_texts(self, model: str, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep embeddings of texts for later runs, if that can be done at once.

        They are a cache: where the store cannot be written, or another process is writing, nothing is kept and the log
        says so. Beyond `ovseg_cli.store.texts.MOST_TEXTS` the oldest go.

        Args:
            model: Digest of everything that decides what the embeddings are.
            vectors: Text to float32 (E,).

        Raises:
            ValueError: If a vector is not float32 (E,) and finite.
        """
        for text, vector in vectors.items():
            if vector.dtype != np.float32 or vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
                raise ValueError(f"the embedding of {text!r} must be finite float32 of shape (E,)")
        if not vectors:
            return
        try:
            self._require_writable()
            with (
                os_errors(self.path),
                write_lock(self.path, 0.0),
                self._database.write(patient=False) as session,
            ):
                text_cache.keep(session, model, vectors)
        except OvsegError as error:
            logger.info("the embeddings of %d texts were not kept: %s", len(vectors), error)

    # Runs and evaluations

    def note_run(self, record: RunRecord, items: Sequence[RunItem] = ()) -> None:
        """Note that a run is running, and what became of some of its inputs, in one change.

        The call may be repeated: a caller that was interrupted cannot know whether the change was made. A run that is
        there is not begun again, and items of which the last one is the last that is known are not added again.

        Args:
            record: The run.
            items: What came after the items of the call before; no input twice in a run.

        Raises:
            StoreReadOnlyError: If the store cannot be written.
        """
        with self._noting() as session:
            journal.note(session, record, items)

    def finish_run(self, run_id: str, status: RunStatus) -> None:
        """Note how a run ended: "finished" or "interrupted".

        Raises:
            ValueError: If there is no such run.
            StoreReadOnlyError: If the store cannot be written.
        """
        with self._noting() as session:
            journal.finish(session, run_id, status)

    def last_run(self) -> RunInfo | None:
        """Describe the run that began last, however it ended; None when there is none."""
        with self._database.read() as session:
            return next(iter(journal.infos(session, last=1)), None)

    def runs(self) -> list[RunInfo]:
        """Describe all runs, the latest first."""
        with self._database.read() as session:
            return journal.infos(session)

    def record_evaluation(self, run_id: str | None, report: dict[str, Any]) -> int:
        """Keep a report of an evaluation.

        Args:
            run_id: The run that was scored; None for labels of unknown origin.
            report: JSON-able.

        Returns:
            Its number in the store.

        Raises:
            ValueError: If there is no such run.
            StoreReadOnlyError: If the store cannot be written.
        """
        with self._noting() as session:
            return journal.add_evaluation(session, run_id, report)

    # Care

    def backup(self, target: str | Path) -> Path:
        """Copy the store into a new folder, as it is at one moment, while others may write.

        The index is not copied: it is made again when it is needed.

        Args:
            target: The new folder; it must not exist, or be empty, and may not lie in the store.

        Returns:
            The folder.

        Raises:
            StoreError: If the folder cannot be used, or the disk refuses.
            StoreCorruptError: If a support file is missing: a backup that is not whole is none.
            DiskFullError: If no space is left for it.
        """
        return copy_store(self._database, self.path, target, lock_timeout=self.lock_timeout)

    def repair(self) -> Repair:
        """Take away what dead writers have left, and bring the indexes up to date; nothing of a class is touched.

        Raises:
            StoreReadOnlyError: If the store cannot be written.
            StoreLockedError: If another process keeps writing.
        """
        self._require_writable()
        with os_errors(self.path):
            with write_lock(self.path, self.lock_timeout), self._database.read() as session:
                orphans = sweep.find_orphans(session, self.path)
                sweep.remove(orphans)
                (self.path / sweep.MARK).unlink(missing_ok=True)
            return Repair(removed=tuple(orphans), indexes=tuple(self._upkeep.mend()))

    def reindex(self) -> dict[str, Catalogue]:
        """Make the search indexes anew from the database; give what each consists of, by its extractor's name.

        Raises:
            StoreReadOnlyError: If the store cannot be written.
            StoreLockedError: If another process keeps writing.
            DiskFullError: If no space is left.
        """
        self._require_writable()
        self._upkeep.close()
        return self._upkeep.reindex()

    def vacuum(self) -> tuple[int, int]:
        """Give the room back that removed classes took in the database file; its size before and after.

        Raises:
            StoreReadOnlyError: If the store cannot be written.
            StoreLockedError: If another process keeps writing or reading.
            DiskFullError: If no space is left: SQLite makes a copy first. The store is then as before.
        """
        self._require_writable()
        file = self._database.file
        with os_errors(self.path), write_lock(self.path, self.lock_timeout):
            before = file.stat().st_size
            self._database.vacuum()
            return before, file.stat().st_size

    def health(self) -> StoreHealth:
        """Look the whole store over: the database's integrity, what was stored and is another now, orphans, indexes.

        Reads everything, piece by piece; others may write meanwhile.

        Raises:
            StoreCorruptError: If the database is too damaged to be looked over.
        """
        with os_errors(self.path):
            return health.examine(self._database, self.path, read_only=self.read_only, lock_timeout=self.lock_timeout)

    # Within

    def _require_writable(self) -> None:
        if self.read_only:
            raise read_only(self.path, "it was opened read-only: its folder or database has no write permission")

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        """Hold the write lock around a change of classes; afterwards no file is left that no row names.

        The files of a new class are on disk before the commit that names them, those of a replaced or
        removed class are deleted after it. So whatever a dead process leaves behind is only ever too
        much, never too little, and one sweep serves success, failure and the next writer alike.
        """
        refuse_links(self.path / support.FOLDER, self.path / vector_index.FOLDER)
        with os_errors(self.path), write_lock(self.path, self.lock_timeout):
            change = sweep.begin(self.path)
            try:
                with self._database.read() as session:
                    change.token = classes.meta(session).vector_token
                yield change
                if change.committed:
                    self._upkeep.follow(change)
            except BaseException:
                with suppress(OvsegError, OSError):  # the first error is the one to tell
                    self._sweep(change)
                raise
            try:
                self._sweep(change)
            except (OvsegError, OSError) as error:
                logger.warning("files that nothing uses stay in %s until the next change: %s", self.path, error)

    @contextmanager
    def _noting(self) -> Iterator[Session]:
        """Hold the write lock around a change of the journal."""
        self._require_writable()
        with os_errors(self.path), write_lock(self.path, self.lock_timeout), self._database.write() as session:
            yield session

    def _sweep(self, change: Change) -> None:
        with self._database.read() as session:
            sweep.end(session, self.path, change)

    def _row(self, session: Session, name: str) -> Category:
        row = classes.find(session, name)
        if row is None:
            raise self._unknown(session, name)
        return row

    def _rows(self, session: Session, names: Sequence[str]) -> list[Category]:
        """The rows of classes, in the order of the names; of many this is faster than one by one."""
        known = classes.find_all(session, names)
        for name in names:
            if known[name] is None:
                raise self._unknown(session, name)
        return [row for name in names if (row := known[name]) is not None]

    def _unknown(self, session: Session, name: str) -> UnknownClassError:
        names = list(session.scalars(select(Category.name).order_by(Category.id)))
        if not names:
            return UnknownClassError(f"The store has no class {name!r}, nor any other: add it with `ovseg add-class`")
        if hint := did_you_mean(name, names, most=3):
            return UnknownClassError(f"The store has no class {name!r}.{hint}")
        return UnknownClassError(
            f"The store has no class {name!r}: `ovseg list-classes` shows what there is, `ovseg add-class` adds it"
        )

    def _require_same_extractor(self, session: Session, rows: Sequence[Category], extractor: str) -> None:
        """Raise when one of the classes has prototypes; they are known to be none by this extractor."""
        for row in rows:
            other = session.scalars(
                select(Extractor.name)
                .join(Prototype, Prototype.extractor_id == Extractor.id)
                .where(Prototype.category_id == row.id)
                .limit(1)
            ).first()
            if other is not None:
                raise ProfileMismatchError(
                    f"The prototypes of {row.name!r} were not made by the feature extractor in use "
                    f"({extractor[:16]}): make them anew with `ovseg add-class {_quoted(row.name)} "
                    "--if-exists replace`"
                )

    def _read_vectors(self, session: Session, extractor: str, ids: Sequence[int] | None) -> PrototypeVectors:
        """Read the prototypes of classes by one extractor, in the order of the classes' row ids."""
        row = session.execute(select(Extractor.id, Extractor.dim).where(Extractor.digest == extractor)).one_or_none()
        if row is None:
            return classes.gather((), 0, 0)
        count = classes.count_of(session, row.id, ids)
        return classes.gather(classes.vector_blocks(session, row.id, row.dim, ids), count, row.dim)


def _store_folder(path: str | Path | None) -> Path:
    """Give the absolute folder of a store."""
    if isinstance(path, str) and "://" in path:
        raise UsageError(f"A store is a folder, and databases by URL are not supported; got {path!r}")
    folder = Path(os.path.abspath(default_store_path() if path is None else os.path.expanduser(path)))
    if folder.is_file():
        raise StoreError(f"{folder} is a file, and a store is a folder: choose another one with --store")
    return folder


def _mode(file: Path) -> Mode:
    """Give "rw", or "ro" where the folder or the database cannot be written."""
    return "rw" if is_writable(file.parent, file) else "ro"


def revision_of(path: str | Path | None) -> str | None:
    """Read the schema revision of a store; None when there is none.

    Args:
        path: The store's folder; None for `default_store_path()`.

    Raises:
        StoreCorruptError: If the database is damaged or is not a store.
    """
    folder = _store_folder(path)
    with os_errors(folder):
        return _revision(folder / DATABASE_NAME)


def _revision(file: Path) -> str | None:
    """Read the schema revision of a database; None when there is none, or only an empty one."""
    if not file.exists():
        return None
    with Database(file, _mode(file)).read() as session:
        return schema.database_revision(session.connection(), file)


def _resolve(profile: str | ProfileLike | None) -> ProfileLike:
    """Give the profile for a new store."""
    if profile is None or isinstance(profile, str):
        from ovseg_cli.profiles import resolve_profile

        return resolve_profile(profile)
    return profile


def _is_known(profile: str) -> bool:
    """Whether a profile of the user's own is still there under a name."""
    from ovseg_cli.profiles.own import file_of

    return file_of(profile) is not None


def _changes(kept: Mapping[str, Any], chosen: ProfileLike) -> list[str] | None:
    """What has changed since a profile was kept, as far as a result can depend on it; None for another one."""
    from ovseg_cli.profiles import Profile
    from ovseg_cli.profiles.tables import differences, profile_from_record

    return differences(profile_from_record(kept), chosen) if isinstance(chosen, Profile) and chosen.source else None


def _create(file: Path, profile: ProfileLike, lock_timeout: float) -> None:
    """Create the folder and the database; in the end there is a whole store or an empty database."""
    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True)
    with write_lock(folder, lock_timeout):
        database = Database(file, "rwc")
        database.use_write_ahead_log()
        with database.write(foreign_keys=False) as session:
            if schema.database_revision(session.connection(), file) is not None:
                return  # another process was faster
            schema.upgrade(session.connection())
            session.add(
                StoreMeta(
                    id=1,
                    profile_name=profile.name,
                    profile_digest=profile.digest,
                    profile_record=profile.record(),
                    vector_revision=0,
                    vector_token=uuid.uuid4().hex,
                    created_at=datetime.now(UTC),
                    created_by=ovseg_version(),
                )
            )


def _upgrade(file: Path, lock_timeout: float) -> None:
    if _mode(file) == "ro":
        raise StoreReadOnlyError(
            f"The store {file.parent} is of an older version and has to be upgraded, but cannot be written: "
            "make the folder writable, or use a copy of it"
        )
    with write_lock(file.parent, lock_timeout):
        sweep.mark(file.parent)  # an older version left no mark when it died
        schema.upgrade_with_backup(Database(file, "rw"))


def ovseg_version() -> str:
    """Give the version of ovseg, for the record."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ovseg")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"


def _require_known(ids: Sequence[int], known: Container[int]) -> None:
    for number in ids:
        if number not in known:
            raise ValueError(f"no prototype has the id {number}")


def _unsound(name: str, reason: object) -> StoreCorruptError:
    return StoreCorruptError(
        f"What the store holds of the class {name!r} is damaged ({reason}): put a backup in its place, or make the "
        f"class anew with `ovseg add-class {_quoted(name)} --if-exists replace`"
    )


def _quoted(name: str) -> str:
    """Quote a class name for a command line that is shown."""
    return f'"{name}"' if " " in name else name
