from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import platformdirs
import pytest

from ovseg_cli.errors import (
    ClassExistsError,
    ClassNameError,
    ProfileMismatchError,
    StoreCorruptError,
    StoreError,
    StoreNotFoundError,
    UnknownClassError,
    UsageError,
)
from ovseg_cli.store import ClassRecord, ExtractorRecord, PrototypeRecord, Store, default_store_path
from tests.store.helpers import CLIP, SD, FakeProfile, assert_whole, make_class, unit


def folders(path: Path) -> set[str]:
    return {str(folder.relative_to(path / "support")) for folder in (path / "support").glob("*/*")}


class TestOpen:
    def test_creates_folder_and_records_the_profile(self, tmp_path: Path, resolved: list[object]) -> None:
        with Store.open(tmp_path / "a" / "b", profile="mini") as store:
            assert store.profile_name == "mini"
            assert store.profile_record == FakeProfile().record()
            assert store.profile_digest == FakeProfile().digest
            assert store.path == tmp_path / "a" / "b"
            assert store.vector_revision == 0
            assert store.classes() == []
            assert not store.read_only
        assert resolved == ["mini"]

    def test_existing_store_resolves_nothing(self, store_path: Path, resolved: list[object]) -> None:
        assert Store.open(store_path).profile_name == "mini"
        assert Store.open(store_path, profile="mini").profile_name == "mini"
        assert resolved == []

    def test_default_profile_is_left_to_the_registry(self, tmp_path: Path, resolved: list[object]) -> None:
        Store.open(tmp_path / "s")
        assert resolved == [None]

    @pytest.mark.parametrize("asked", ["sd15", FakeProfile(name="sd15")])
    def test_another_profile_is_refused(self, store_path: Path, asked: str | FakeProfile) -> None:
        with pytest.raises(ProfileMismatchError, match=r"made with profile 'mini', not 'sd15'.*--store"):
            Store.open(store_path, profile=asked)

    def test_store_without_a_class_takes_another_profile(self, tmp_path: Path) -> None:
        Store.open(tmp_path / "s", profile=FakeProfile(name="big", digest="b" * 64))
        changed = Store.open(tmp_path / "s", profile=FakeProfile(name="small", digest="c" * 64))
        again = Store.open(tmp_path / "s")
        for store in (changed, again):
            assert (store.profile_name, store.profile_digest) == ("small", "c" * 64)
            assert store.profile_record == FakeProfile(name="small").record()

    def test_empty_database_beside_support_images_is_damage(self, store_path: Path) -> None:
        (store_path / "ovseg.db").write_bytes(b"")
        with pytest.raises(StoreCorruptError, match="empty, but support images"):
            Store.open(store_path)
        assert any((store_path / "support").glob("*/*/*.png"))

    def test_profile_that_cannot_be_had_leaves_no_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def resolve_profile(name: str | None) -> None:
            raise PermissionError("a proxy said no")

        monkeypatch.setitem(sys.modules, "ovseg_cli.profiles", SimpleNamespace(resolve_profile=resolve_profile))
        with pytest.raises(PermissionError, match="proxy"):  # not taken for a store that cannot be written
            Store.open(tmp_path / "s")
        assert list(tmp_path.iterdir()) == []

    def test_absent_store_without_create(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFoundError, match="ovseg add-class"):
            Store.open(tmp_path / "none", create=False)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("left", ["", "folder", "file"])
    def test_interrupted_creation_is_done_again(self, tmp_path: Path, left: str) -> None:
        if left:
            (tmp_path / "s").mkdir()
        if left == "file":
            (tmp_path / "s" / "ovseg.db").touch()
        with pytest.raises(StoreNotFoundError):
            Store.open(tmp_path / "s", create=False)
        assert Store.open(tmp_path / "s", profile=FakeProfile()).class_names() == []

    def test_a_file_is_no_store(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match="is a file"):
            Store.open(tmp_path / "file")
        with pytest.raises(StoreError, match="cannot be used"):
            Store.open(tmp_path / "file" / "below", profile=FakeProfile())

    def test_urls_are_refused(self) -> None:
        with pytest.raises(UsageError, match="A store is a folder"):
            Store.open("postgresql://host/db")

    def test_default_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OVSEG_STORE", raising=False)
        assert default_store_path() == Path(platformdirs.user_data_dir("ovseg", appauthor=False))
        monkeypatch.setenv("OVSEG_STORE", str(tmp_path / "named"))
        assert Store.open(profile=FakeProfile()).path == tmp_path / "named"
        monkeypatch.setenv("OVSEG_STORE", "~/below-home")
        assert default_store_path() == Path.home() / "below-home"

    def test_write_ahead_log_and_nothing_left_open(self, store: Store) -> None:
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(store.path / "ovseg.db")) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        store.class_names()
        assert {path.name for path in store.path.iterdir()} == {"ovseg.db", "index", "support", "write.lock"}


class TestAddClass:
    def test_everything_comes_back(self, store: Store) -> None:
        record = make_class("Crème  brûlée", 7, supports=3)
        before = datetime.now(UTC)
        info = store.add_class(record)
        assert info.name == "Crème brûlée"
        assert info == store.get_class("crème BRÛLÉE")
        assert before <= info.created_at <= before + timedelta(minutes=1)
        assert info.created_at.tzinfo is not None
        assert (info.kind, info.kind_source, info.rejected) == ("thing", "default", 1)
        assert info.settings == record.settings
        assert info.extractors == (CLIP, SD)
        assert info.prototype_counts["clip", "fg", "instance"] == 3
        assert info.prototype_counts["sd", "bg", "mean"] == 1
        assert len(info.prototype_counts) == 2 * 2 * 3
        files = [path for path in (store.path / "support" / info.slug).rglob("*") if path.is_file()]
        assert len(files) == 9
        vectors = sum(2 * item.vector.size for item in record.prototypes)
        assert info.nbytes == sum(path.stat().st_size for path in files) + vectors
        assert_whole(store, ClassRecord(**{**{f: getattr(record, f) for f in record.__slots__}, "name": info.name}))

    def test_vectors_keep_half_precision_of_their_direction(self, store: Store) -> None:
        rng = np.random.default_rng(3)
        raw = (rng.normal(size=(50, 1280)) * 10.0 ** rng.uniform(-6, 6, (50, 1))).astype(np.float32)
        digest = "e" * 64
        store.add_class(
            ClassRecord(
                name="wide",
                kind="stuff",
                kind_source="user",
                seed=0,
                extractors=(ExtractorRecord(name="x", digest=digest, dim=1280),),
                prototypes=tuple(
                    PrototypeRecord(extractor=digest, role="fg", kind="part", vector=row, pixels=1) for row in raw
                ),
            )
        )
        block = store.prototypes(["wide"], digest)
        assert block.vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(block.vectors, axis=1), 1.0, atol=1e-6)
        exact = np.stack([unit(row) for row in raw])
        # Rounding to half keeps 11 bits; bringing the length back to 1 moves a number by no more than that again.
        assert (np.abs(block.vectors - exact) <= 2.0**-10 * np.abs(exact) + 2.0**-24).all()

    def test_order_revision_and_generation(self, store: Store) -> None:
        revision = store.vector_revision
        old = store.get_class("cat")
        store.add_class(make_class("dog", 1))
        new = store.add_class(make_class("CAT", 2), replace=True)
        assert store.class_names() == ["CAT", "dog"]
        assert [info.name for info in store.classes()] == ["CAT", "dog"]
        assert store.vector_revision == revision + 2
        assert new.id == old.id
        assert new.generation != old.generation
        assert new.created_at > old.created_at

    def test_existing_class_is_left_alone(self, store: Store) -> None:
        before = folders(store.path)
        with pytest.raises(ClassExistsError, match=r"already has a class 'cat'.*--if-exists replace"):
            store.add_class(make_class("Cat", 9))
        assert_whole(store, make_class("cat", 0))
        assert folders(store.path) == before

    def test_a_class_that_appears_meanwhile_is_seen_in_the_transaction(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ovseg_cli.store import support

        def encode(supports: object) -> dict[str, bytes]:
            Store.open(store.path).add_class(make_class("dog", 1))
            return original(supports)  # type: ignore[arg-type]

        original = support.encode
        monkeypatch.setattr(support, "encode", encode)
        monkeypatch.setattr(support, "encode", lambda supports: (monkeypatch.undo(), encode(supports))[1])
        with pytest.raises(ClassExistsError):
            store.add_class(make_class("dog", 2))
        assert_whole(store, make_class("dog", 1))
        assert store.health().orphans == ()

    def test_replace_takes_the_old_files_away(self, store: Store) -> None:
        old = folders(store.path)
        store.add_class(make_class("cat", 5, supports=4), replace=True)
        assert_whole(store, make_class("cat", 5, supports=4))
        assert len(folders(store.path)) == 1
        assert not folders(store.path) & old
        assert store.health().ok

    def test_replace_of_an_absent_class_adds_it(self, store: Store) -> None:
        store.add_class(make_class("dog", 5), replace=True)
        assert_whole(store, make_class("dog", 5))

    def test_bad_name(self, store: Store) -> None:
        with pytest.raises(ClassNameError):
            store.add_class(make_class("a,b"))

    def test_numpy_numbers_are_stored_as_numbers(self, store: Store) -> None:
        record = make_class("dog", 1)
        changed = {f: getattr(record, f) for f in record.__slots__} | {"seed": np.int64(5), "rejected": np.int32(2)}
        info = store.add_class(ClassRecord(**changed))
        assert (info.seed, info.rejected) == (5, 2)

    def test_same_digest_with_another_length_is_refused(self, store: Store) -> None:
        other = ClassRecord(
            name="dog",
            kind="thing",
            kind_source="user",
            seed=0,
            extractors=(ExtractorRecord(name="clip", digest=CLIP, dim=5),),
            prototypes=(
                PrototypeRecord(extractor=CLIP, role="fg", kind="mean", vector=np.ones(5, np.float32), pixels=1),
            ),
        )
        with pytest.raises(ValueError, match="makes 5 numbers"):
            store.add_class(other)
        assert store.class_names() == ["cat"]

    def test_interrupt_leaves_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        from ovseg_cli.store import classes

        def interrupt(*args: object) -> None:
            raise KeyboardInterrupt

        before = folders(store.path)
        monkeypatch.setattr(classes, "vectors_changed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.add_class(make_class("dog", 1))
        assert store.class_names() == ["cat"]
        assert folders(store.path) == before


class TestRemove:
    def test_rows_and_files_go(self, store: Store) -> None:
        store.add_class(make_class("dog", 1))
        store.add_class(make_class("sky", 2))
        removed = store.remove_classes(["sky", "CAT", "cat"])
        assert [info.name for info in removed] == ["cat", "sky"]
        assert store.class_names() == ["dog"]
        assert {folder.split(os.sep)[0] for folder in folders(store.path)} == {"dog"}
        assert_whole(store, make_class("dog", 1))
        assert not (store.path / "support" / "cat").exists()

    def test_all_or_none(self, store: Store) -> None:
        with pytest.raises(UnknownClassError, match="'dgo'"):
            store.remove_classes(["cat", "dgo"])
        assert_whole(store, make_class("cat", 0))

    def test_ids_are_never_given_twice(self, store: Store) -> None:
        ids = store.prototypes(None, CLIP).ids
        store.remove_classes(["cat"])
        info = store.add_class(make_class("dog", 1))
        assert info.id > 1
        assert store.prototypes(None, CLIP).ids.min() > ids.max()

    def test_no_names_no_change(self, store: Store) -> None:
        revision = store.vector_revision
        assert store.remove_classes([]) == []
        assert store.vector_revision == revision


class TestLookUp:
    def test_nearest_names_are_suggested(self, store: Store) -> None:
        store.add_class(make_class("chocolate glazed donut", 1))
        with pytest.raises(UnknownClassError, match="Did you mean 'chocolate glazed donut'"):
            store.get_class("Chocolate glased donut")
        with pytest.raises(UnknownClassError, match="ovseg list-classes"):
            store.supports("zebra")
        store.remove_classes(store.class_names())
        with pytest.raises(UnknownClassError, match="nor any other"):
            store.prototypes(["cat"], CLIP)

    def test_has_class(self, store: Store) -> None:
        assert store.has_class(" CAT ")
        assert not store.has_class("dog")
        assert not store.has_class("\udcff")


class TestPrototypes:
    def test_block_follows_the_order_that_was_asked_for(self, store: Store) -> None:
        store.add_class(make_class("dog", 1))
        store.add_class(make_class("bird", 2))
        block = store.prototypes(["bird", "cat", "BIRD"], SD)
        assert block.classes == ("bird", "cat")
        assert block.class_index.dtype == np.int64
        assert (np.diff(block.class_index) >= 0).all()
        records = [item for seed in (2, 0) for item in make_class(seed=seed).prototypes if item.extractor == SD]
        np.testing.assert_allclose(block.vectors, [unit(item.vector) for item in records], atol=1e-3)
        assert store.class_of(block.ids) == [block.classes[index] for index in block.class_index]

    def test_all_classes(self, store: Store) -> None:
        store.add_class(make_class("dog", 1))
        assert store.prototypes(None, CLIP).classes == ("cat", "dog")

    def test_other_extractor_is_refused_with_the_remedy(self, store: Store) -> None:
        store.add_class(make_class("glazed donut", 1, extractors=(CLIP,)))
        with pytest.raises(ProfileMismatchError, match='ovseg add-class "glazed donut" --if-exists replace'):
            store.prototypes(None, SD)
        assert store.prototypes(["cat"], SD).classes == ("cat",)

    def test_class_without_any_prototype_has_no_rows(self, store: Store) -> None:
        store.add_class(make_class("bare", 1, extractors=()))
        block = store.prototypes(["bare", "cat"], CLIP)
        assert block.classes == ("bare", "cat")
        assert set(block.class_index.tolist()) == {1}
        empty = store.prototypes(["bare"], CLIP)
        assert empty.vectors.shape == (0, 24)
        assert empty.vectors.dtype == np.float32

    def test_class_of_unknown_id(self, store: Store) -> None:
        assert store.class_of([]) == []
        with pytest.raises(ValueError, match="id -1"):
            store.class_of([1, -1])


def test_a_store_can_be_moved_and_copied(store: Store, tmp_path: Path) -> None:
    store.nearest(np.ones((1, 24), np.float32), CLIP, k=1)
    moved = Path(shutil.move(store.path, tmp_path / "elsewhere"))
    with Store.open(moved) as again:
        assert_whole(again, make_class("cat", 0))
        assert again.health().indexes[0].status == "fresh"


def test_two_stores_see_each_others_changes(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    other = Store.open(store.path)
    query = np.ones((1, 24), np.float32)
    other.nearest(query, CLIP, k=1)
    store.add_class(make_class("dog", 1))
    assert other.class_names() == ["cat", "dog"]
    _, ids = other.nearest(query, CLIP, k=100)
    assert set(other.class_of(ids[ids >= 0])) == {"cat", "dog"}
    assert caplog.records == []


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, ovseg_cli.store\n"
        "print([m for m in ('torch', 'faiss', 'alembic', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
