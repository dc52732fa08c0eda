from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ovseg_cli.store import Store, texts
from tests.store import processes

MODEL = "clip " + "a" * 64


def vectors(names: list[str], seed: int = 0, dim: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(dim).astype(np.float32) for name in names}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for text, vector in expected.items():
        assert found[text].dtype == np.float32
        np.testing.assert_array_equal(found[text], vector)


def test_what_is_kept_comes_back_exactly(store: Store) -> None:
    given = vectors(["a photo of a 猫", "dog", "'; DROP TABLE category; --", ""])
    store.keep_texts(MODEL, given)
    assert_same(store.cached_texts(MODEL, [*given, "bird", "dog"]), given)
    assert_same(Store.open(store.path).cached_texts(MODEL, ["dog"]), {"dog": given["dog"]})
    assert store.cached_texts(MODEL, []) == {}


def test_models_are_kept_apart(store: Store) -> None:
    one, two = vectors(["dog"], 1), vectors(["dog"], 2, dim=5)
    store.keep_texts("one", one)
    store.keep_texts("two", two)
    assert_same(store.cached_texts("one", ["dog"]), one)
    assert_same(store.cached_texts("two", ["dog"]), two)
    assert store.cached_texts("three", ["dog"]) == {}


def test_a_text_that_is_kept_again_takes_the_place(store: Store) -> None:
    store.keep_texts(MODEL, vectors(["dog"], 1))
    second = vectors(["dog", "cat"], 2)
    store.keep_texts(MODEL, second)
    assert_same(store.cached_texts(MODEL, ["dog", "cat"]), second)


def test_thousands_at_once(store: Store) -> None:
    given = vectors([f"class number {index}" for index in range(12_000)])
    store.keep_texts(MODEL, given)
    assert_same(store.cached_texts(MODEL, list(given)), given)


def test_the_oldest_go_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MOST_TEXTS", 5)
    names = [f"text {index}" for index in range(9)]
    given = vectors(names)
    for name in names[:7]:
        store.keep_texts(MODEL, {name: given[name]})
    assert sorted(store.cached_texts(MODEL, names)) == names[2:7]
    store.keep_texts("other", {name: given[name] for name in names[7:]})
    assert sorted(store.cached_texts(MODEL, names)) == names[4:7]
    store.keep_texts(MODEL, vectors([f"more {index}" for index in range(8)]))
    assert sorted(store.cached_texts(MODEL, [f"more {index}" for index in range(8)])) == [
        f"more {index}" for index in range(3, 8)
    ]


def test_prototypes_are_none_the_wiser(store: Store) -> None:
    revision = store.vector_revision
    store.keep_texts(MODEL, vectors(["dog"]))
    assert store.vector_revision == revision
    assert store.health().ok


def test_text_that_is_no_unicode_is_passed_over(store: Store) -> None:
    store.keep_texts(MODEL, vectors(["\udcff", "dog"]))
    assert list(store.cached_texts(MODEL, ["\udcff", "dog"])) == ["dog"]


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 2), np.float32), np.zeros(3), np.zeros(0, np.float32), np.array([np.nan], np.float32)]
)
def test_bad_vectors_are_refused(store: Store, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'dog' must be finite float32"):
        store.keep_texts(MODEL, {"dog": bad})


@pytest.mark.parametrize("blob", [b"", b"123", np.array([np.inf], "<f4").tobytes(), np.ones(3, "<f4").tobytes(), "3"])
def test_a_damaged_value_counts_as_not_kept(store: Store, blob: bytes | str) -> None:
    given = vectors(["dog", "cat"])
    store.keep_texts(MODEL, given)
    with closing(sqlite3.connect(store.path / "ovseg.db")) as connection:
        connection.execute("UPDATE text_embedding SET vector = ? WHERE text = 'dog'", (blob,))
        connection.commit()
    assert list(store.cached_texts(MODEL, ["dog", "cat"])) == ["cat"]
    store.keep_texts(MODEL, {"dog": given["dog"]})
    assert_same(store.cached_texts(MODEL, ["dog", "cat"]), given)


class TestWritingNeverHoldsUp:
    def refused(self, store: Store, caplog: pytest.LogCaptureFixture, why: str) -> None:
        caplog.clear()
        started = time.monotonic()
        with caplog.at_level(logging.INFO, logger="ovseg_cli"):
            store.keep_texts(MODEL, vectors(["dog"]))
        assert time.monotonic() - started < 2
        (record,) = caplog.records
        assert record.levelno == logging.INFO
        assert record.name.startswith("ovseg_cli")
        assert "embeddings of 1 texts were not kept" in record.getMessage()
        assert why in record.getMessage()
        assert store.cached_texts(MODEL, ["dog"]) == {}

    def test_read_only(
        self, store_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("ovseg_cli.store.store.is_writable", lambda *paths: False)
        self.refused(Store.open(store_path), caplog, "opened read-only")

    def test_another_ovseg_is_writing(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        with processes.start("hold", store.path) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            self.refused(store, caplog, "Another ovseg process")
            holder.communicate("\n", timeout=30)
        store.keep_texts(MODEL, vectors(["dog"]))
        assert list(store.cached_texts(MODEL, ["dog"])) == ["dog"]

    def test_a_foreign_program_holds_the_database(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        with closing(sqlite3.connect(store.path / "ovseg.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            self.refused(store, caplog, "Another program holds the database")

    def test_the_store_is_gone(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        shutil.rmtree(store.path)
        with caplog.at_level(logging.INFO, logger="ovseg_cli"):
            store.keep_texts(MODEL, vectors(["dog"]))
        assert "were not kept" in caplog.text
