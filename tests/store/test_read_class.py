"""Classes read back, classes that depend on what was read, and several classes at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import (
    ClassChangedError,
    ClassExistsError,
    ClassNameError,
    StoreCorruptError,
    StoreError,
    UnknownClassError,
)
from ovseg_cli.store import ClassRecord, PrototypeRecord, Store
from tests.store.helpers import CLIP, SD, assert_whole, make_class, make_support


def blobs(store: Store, name: str) -> list[tuple[bytes, float]]:
    """What the database keeps of the vectors of a class."""
    with closing(sqlite3.connect(store.path / "ovseg.db")) as connection:
        return connection.execute(
            "SELECT vector, norm FROM prototype JOIN category ON category.id = category_id WHERE name = ? "
            "ORDER BY prototype.id",
            (name,),
        ).fetchall()


class TestReadClass:
    def test_everything_comes_back(self, store: Store) -> None:
        given, read = make_class("cat", 0), store.read_class("CAT")
        for field in ("name", "kind", "kind_source", "seed", "settings", "rejected"):
            assert getattr(read, field) == getattr(given, field)
        assert {item.digest: item for item in read.extractors} == {item.digest: item for item in given.extractors}
        for found, expected in zip(read.supports, given.supports, strict=True):
            assert (found.position, found.seed, found.prompt) == (expected.position, expected.seed, expected.prompt)
            np.testing.assert_array_equal(found.image, expected.image)
            np.testing.assert_array_equal(found.foreground, expected.foreground)
            np.testing.assert_array_equal(found.background, expected.background)
            assert np.abs(found.attribution - expected.attribution).max() <= 0.5 / 255 + 1e-6
        for found, expected in zip(read.prototypes, given.prototypes, strict=True):
            for field in ("extractor", "role", "kind", "pixels", "support"):
                assert getattr(found, field) == getattr(expected, field)
            np.testing.assert_allclose(found.vector, expected.vector, atol=1e-3 * np.linalg.norm(expected.vector))
            length = np.linalg.norm(expected.vector.astype(np.float64))
            assert np.linalg.norm(found.vector.astype(np.float64)) == pytest.approx(length, rel=1e-6)

    def test_stored_again_it_is_the_same_bit_for_bit(self, store: Store) -> None:
        """However often: also where the direction in half precision, brought to length 1, would be rounded anew."""
        rng = np.random.default_rng(0)
        vectors = (rng.normal(size=(300, 24)) * rng.choice([1e-3, 1.0, 50.0], (300, 24))).astype(np.float32)
        prototypes = tuple(
            PrototypeRecord(extractor=CLIP, role="fg", kind="part", vector=row, pixels=1) for row in vectors
        )
        store.add_class(replace(make_class("cat", 0), prototypes=prototypes), replace=True)
        first = blobs(store, "cat")
        for _ in range(3):
            before = store.read_class("cat")
            store.add_class(before, replace=True)
            again = blobs(store, "cat")
            assert [blob for blob, _ in again] == [blob for blob, _ in first]
            np.testing.assert_allclose([norm for _, norm in again], [norm for _, norm in first], rtol=1e-6)
            for one, two in zip(before.supports, store.read_class("cat").supports, strict=True):
                np.testing.assert_array_equal(one.attribution, two.attribution)

    def test_half_must_fit_the_vector(self) -> None:
        vector = np.array([3.0, 4.0], np.float32)
        good = PrototypeRecord(
            extractor=CLIP, role="fg", kind="mean", vector=vector, pixels=1, half=np.array([0.6, 0.8], np.float16)
        )
        assert good.half is not None
        for half in ([0.8, 0.6], [np.nan, 0.8], [6.0, 8.0]):
            with pytest.raises(ValueError, match="direction of vector"):
                replace(good, half=np.array(half, np.float16))
        with pytest.raises(ValueError, match="half must be float16"):
            replace(good, half=np.array([0.6, 0.8], np.float32))

    def test_a_part_may_name_its_support_image(self, store: Store) -> None:
        part = PrototypeRecord(
            extractor=CLIP, role="fg", kind="part", vector=np.ones(24, np.float32), pixels=1, support=1
        )
        store.add_class(replace(make_class("dog", 0), prototypes=(part,)))
        assert store.read_class("dog").prototypes[0].support == 1
        assert [item.digest for item in store.read_class("dog").extractors] == [CLIP]

    def test_without_prototypes_or_images(self, store: Store) -> None:
        bare = ClassRecord(name="bare", kind="stuff", kind_source="list", seed=5)
        store.add_class(bare)
        read = store.read_class("bare")
        assert (read.supports, read.prototypes, read.extractors) == ((), (), ())
        assert (read.kind, read.kind_source) == ("stuff", "list")

    def test_unknown(self, store: Store) -> None:
        with pytest.raises(UnknownClassError):
            store.read_class("dog")

    @pytest.mark.parametrize("suffix", ["png", "mask.png", "attribution.png"])
    @pytest.mark.parametrize("damage", ["gone", "empty", "cut", "noise", "other size", "other mode"])
    def test_a_missing_or_damaged_file(self, store: Store, suffix: str, damage: str) -> None:
        (path,) = (store.path / "support" / "cat").glob(f"*/001.{suffix}")
        data = path.read_bytes()
        if damage == "gone":
            path.unlink()
        elif damage == "other size":
            Image.new({"png": "RGB", "mask.png": "P", "attribution.png": "L"}[suffix], (5, 5)).save(path)
        elif damage == "other mode":
            Image.new("RGBA", (12, 9)).save(path)
        else:
            path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "noise": b"\x00" * 500}[damage])
        with pytest.raises(
            StoreError, match=r"class 'cat' is damaged \(support image 1 .*add-class cat --if-exists rep"
        ):
            store.read_class("cat")
        assert store.get_class("cat").name == "cat"

    def test_a_sound_picture_that_is_another(self, store: Store) -> None:
        (path,) = (store.path / "support" / "cat").glob("*/000.mask.png")
        mask = Image.fromarray(np.full((9, 12), 1, np.uint8))
        mask.putpalette([0, 0, 0] * 8)
        mask.save(path)
        with pytest.raises(StoreCorruptError, match=r"000\.mask\.png is not what was stored"):
            store.read_class("cat")

    @pytest.mark.parametrize("change", ["norm = 0", "norm = 9e999", "pixels = 0"])
    def test_a_damaged_row(self, store: Store, change: str) -> None:
        with closing(sqlite3.connect(store.path / "ovseg.db")) as connection:
            connection.execute(f"UPDATE prototype SET {change}")
            connection.commit()
        with pytest.raises(StoreCorruptError, match="class 'cat' is damaged"):
            store.read_class("cat")

    def test_a_class_that_is_replaced_while_it_is_read(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        from ovseg_cli.store import support

        new = make_class("cat", 5, supports=3)
        original = support.decode

        def decode(*args: object, **options: object) -> object:
            monkeypatch.setattr(support, "decode", original)
            Store.open(store.path).add_class(new, replace=True)  # deletes the files that are about to be read
            return original(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(support, "decode", decode)
        read = store.read_class("cat")
        assert (read.seed, len(read.supports)) == (5, 3)


class TestPrototypeInfo:
    def test_where_prototypes_come_from(self, store: Store) -> None:
        store.add_class(make_class("dog", 1))
        block = store.prototypes(["dog", "cat"], SD)
        infos = store.prototype_info(block.ids[::-1])
        expected = [
            (name, item.extractor, item.role, item.kind, item.pixels, item.support)
            for name, seed in (("dog", 1), ("cat", 0))
            for item in make_class(name, seed).prototypes
            if item.extractor == SD
        ]
        assert [info.id for info in infos] == block.ids[::-1].tolist()
        assert [
            (info.class_name, info.extractor, info.role, info.kind, info.pixels, info.support) for info in infos
        ] == expected[::-1]
        twice = store.prototype_info([block.ids[0], block.ids[0]])
        assert twice[0] == twice[1]
        assert store.prototype_info([]) == []

    def test_an_id_of_none(self, store: Store) -> None:
        with pytest.raises(ValueError, match="no prototype has the id -1"):
            store.prototype_info([1, -1])


class TestExpectedGeneration:
    def test_unchanged(self, store: Store) -> None:
        info = store.get_class("cat")
        record = store.read_class("cat")
        more = replace(record, supports=(*record.supports, make_support(2, 0)))
        new = store.add_class(more, replace=True, expected_generation=info.generation)
        assert (new.id, new.support_count) == (info.id, 3)

    @pytest.mark.parametrize("other", ["changed", "removed"])
    def test_the_work_of_another_process_is_not_lost(self, store: Store, other: str) -> None:
        info = store.get_class("cat")
        if other == "changed":
            store.add_class(make_class("cat", 7), replace=True)
        else:
            store.remove_classes(["cat"])
        with pytest.raises(ClassChangedError, match=f"{other} the class 'cat' meanwhile.*run the command again"):
            store.add_class(make_class("cat", 8), replace=True, expected_generation=info.generation)
        assert [entry.seed for entry in store.classes()] == ([7] if other == "changed" else [])
        assert store.health().orphans == ()

    def test_a_change_at_the_last_moment(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        from ovseg_cli.store import support

        info = store.get_class("cat")
        original = support.encode

        def encode(supports: object) -> dict[str, bytes]:
            monkeypatch.setattr(support, "encode", original)
            Store.open(store.path).add_class(make_class("cat", 7), replace=True)
            return original(supports)  # type: ignore[arg-type]

        monkeypatch.setattr(support, "encode", encode)
        with pytest.raises(ClassChangedError):
            store.add_class(make_class("cat", 8), replace=True, expected_generation=info.generation)
        assert_whole(store, make_class("cat", 7))
        assert store.health().orphans == ()


class TestAddClasses:
    def test_all_in_one_transaction(self, store: Store) -> None:
        revision = store.vector_revision
        infos = store.add_classes([make_class("dog", 1), make_class("bird", 2)])
        assert [info.name for info in infos] == ["dog", "bird"]
        assert store.class_names() == ["cat", "dog", "bird"]
        for seed, name in enumerate(store.class_names()):
            assert_whole(store, make_class(name, seed))
        assert store.vector_revision > revision
        assert store.add_classes([]) == []

    def test_replace(self, store: Store) -> None:
        store.add_classes([make_class("dog", 1), make_class("Cat", 2)], replace=True)
        assert store.class_names() == ["Cat", "dog"]
        assert len(list((store.path / "support").glob("*/*"))) == 2

    @pytest.mark.parametrize(
        ("bad", "error"),
        [
            (lambda: make_class("cat", 3), ClassExistsError),
            (lambda: make_class("DOG", 3), ClassExistsError),
            (lambda: make_class("a/b", 3), ClassNameError),
            (lambda: 1 / 0, ZeroDivisionError),
        ],
    )
    def test_none_when_one_fails(self, store: Store, bad: object, error: type[Exception]) -> None:
        revision = store.vector_revision

        def records() -> Iterator[ClassRecord]:
            yield make_class("dog", 1)
            yield bad()  # type: ignore[operator]

        with pytest.raises(error):
            store.add_classes(records())
        assert store.class_names() == ["cat"]
        assert store.vector_revision == revision
        assert store.health().orphans == ()
        assert_whole(store, make_class("cat", 0))

    def test_a_class_given_twice_is_no_replacement(self, store: Store) -> None:
        with pytest.raises(ClassExistsError):
            store.add_classes([make_class("dog", 1), make_class("dog", 2)], replace=True)
        assert store.class_names() == ["cat"]
