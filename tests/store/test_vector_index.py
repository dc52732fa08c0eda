from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli.errors import ProfileMismatchError
from ovseg_cli.store import Store, vector_index
from ovseg_cli.store.lock import write_lock
from ovseg_cli.store.vector_index import Stamp, VectorIndex, index_path, sidecar_path
from tests.store.helpers import CLIP, SD, FakeProfile, make_class

QUERIES = np.random.default_rng(11).normal(size=(6, 24)).astype(np.float32) * 30


@pytest.fixture
def full(store: Store, caplog: pytest.LogCaptureFixture) -> Store:
    """A store with four classes and a saved index."""
    for seed, name in enumerate(("dog", "bird", "sky"), start=1):
        store.add_class(make_class(name, seed))
    store.nearest(QUERIES, CLIP, k=1)
    store.close()
    caplog.clear()
    caplog.set_level(logging.INFO, "ovseg_cli")
    return store


def brute_force(store: Store, queries: np.ndarray, k: int, role: str) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarities by a plain matrix product in double precision."""
    block = store.prototypes(None, CLIP)
    mine = block.role_is_fg == (role == "fg")
    vectors, ids = block.vectors[mine].astype(np.float64), block.ids[mine]
    exact = queries.astype(np.float64)
    scores = (exact / np.linalg.norm(exact, axis=1, keepdims=True)) @ vectors.T
    order = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), ids[order]


@pytest.mark.parametrize("role", ["fg", "bg"])
@pytest.mark.parametrize("k", [1, 5])
def test_nearest_equals_brute_force(full: Store, role: str, k: int) -> None:
    scores, ids = full.nearest(QUERIES, CLIP, k=k, role=role)  # type: ignore[arg-type]
    expected_scores, expected_ids = brute_force(full, QUERIES, k, role)
    assert (scores.dtype, ids.dtype, scores.shape) == (np.float32, np.int64, (6, k))
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


def test_a_prototype_is_its_own_nearest(full: Store) -> None:
    block = full.prototypes(["bird"], CLIP)
    foreground = block.role_is_fg
    scores, ids = full.nearest(block.vectors[foreground] * 12.5, CLIP, k=1)
    np.testing.assert_array_equal(ids[:, 0], block.ids[foreground])
    np.testing.assert_allclose(scores, 1.0, atol=1e-6)
    assert set(full.class_of(ids[:, 0])) == {"bird"}


def test_more_than_there_is(full: Store) -> None:
    scores, ids = full.nearest(QUERIES, CLIP, k=50)
    there = 4 * 4
    assert (ids[:, :there] > 0).all()
    assert (ids[:, there:] == -1).all()
    assert np.isneginf(scores[:, there:]).all()


def test_zero_query_scores_zero(full: Store) -> None:
    scores, _ = full.nearest(np.zeros((1, 24), np.float32), CLIP, k=2)
    assert (scores == 0).all()


def test_no_queries(full: Store) -> None:
    scores, ids = full.nearest(np.zeros((0, 24), np.float32), CLIP, k=2)
    assert scores.shape == ids.shape == (0, 2)


def test_other_extractor_and_bad_shapes(full: Store, tmp_path: Path) -> None:
    with pytest.raises(ProfileMismatchError, match="--if-exists replace"):
        full.nearest(QUERIES, "f" * 64, k=1)
    with pytest.raises(ValueError, match=r"\(Q, 40\).*got \(6, 24\)"):
        full.nearest(QUERIES, SD, k=1)
    with pytest.raises(ValueError, match=r"\(Q, D\); got \(24,\)"):
        full.nearest(QUERIES[0], CLIP, k=1)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        full.nearest(QUERIES, CLIP, k=0)
    empty = Store.open(tmp_path / "empty", profile=FakeProfile())
    scores, ids = empty.nearest(QUERIES, CLIP, k=2)
    assert np.isneginf(scores).all()
    assert (ids == -1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_search_among_some_ids(count: int, dim: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, dim)).astype(np.float32)
    ids = rng.choice(10**12, count, replace=False).astype(np.int64)
    among = ids[rng.random(count) < 0.5]
    queries = rng.normal(size=(3, dim)).astype(np.float32)
    index = VectorIndex.build(vectors, ids, Stamp(extractor="a" * 64, revision=1, token=""))
    scores, found = index.search(queries, k, among)
    mine = np.isin(ids, among)
    expected = -np.sort(-(queries @ vectors[mine].T), axis=1)[:, :k]
    np.testing.assert_allclose(scores[:, : expected.shape[1]], expected, atol=1e-5)
    assert np.isin(found[:, : expected.shape[1]], among).all()
    assert (found[:, expected.shape[1] :] == -1).all()


class TestCache:
    def test_is_used(self, full: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        def refuse(*args: object) -> None:
            pytest.fail("the index was built again")

        monkeypatch.setattr(VectorIndex, "build", refuse)
        expected = brute_force(full, QUERIES, 3, "fg")[1]
        np.testing.assert_array_equal(Store.open(full.path).nearest(QUERIES, CLIP, k=3)[1], expected)
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], expected)
        assert caplog.messages == []

    def test_sidecar_says_what_it_is(self, full: Store) -> None:
        note = json.loads(sidecar_path(full.path, CLIP).read_text())
        assert note["extractor"] == CLIP
        assert note["revision"] == full.vector_revision
        assert note["ntotal"] == len(full.prototypes(None, CLIP).ids)
        assert note["dim"] == 24

    def test_every_change_of_the_classes_outdates_it(self, full: Store, caplog: pytest.LogCaptureFixture) -> None:
        changes: list[Callable[[], object]] = [
            lambda: full.add_class(make_class("bus", 9)),
            lambda: full.add_class(make_class("cat", 10), replace=True),
            lambda: full.remove_classes(["dog"]),
        ]
        for change in changes:
            change()
            expected_scores, expected_ids = brute_force(full, QUERIES, 4, "fg")
            for store in (full, Store.open(full.path)):
                scores, ids = store.nearest(QUERIES, CLIP, k=4)
                np.testing.assert_array_equal(ids, expected_ids)
                np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
        assert [record.levelname for record in caplog.records] == ["INFO"] * 3
        assert all("outdated" in message for message in caplog.messages)

    @pytest.mark.parametrize("field", ["revision", "token", "extractor", "format"])
    def test_sidecar_of_another_state(self, full: Store, field: str, caplog: pytest.LogCaptureFixture) -> None:
        sidecar = sidecar_path(full.path, CLIP)
        note = json.loads(sidecar.read_text())
        right = dict(note)
        note[field] = 999 if field in ("revision", "format") else "0" * 64
        sidecar.write_text(json.dumps(note))
        # The index itself is made wrong too: were it used, the answer would show it.
        wrong = VectorIndex.build(
            np.eye(24, dtype=np.float32), np.arange(24), Stamp(extractor=CLIP, revision=0, token="")
        )
        import faiss

        index_path(full.path, CLIP).write_bytes(faiss.serialize_index(wrong._index).tobytes())
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
        assert "outdated" in caplog.text
        assert json.loads(sidecar.read_text()) == right

    def test_restored_backup_with_the_same_count_of_changes(self, full: Store, tmp_path: Path) -> None:
        """The revision alone would take the index of the other history for fresh."""
        copy = Store.open(Path(shutil.copytree(full.path, tmp_path / "copy")))
        full.add_class(make_class("bus", 20))
        copy.add_class(make_class("bus", 21))
        assert copy.vector_revision == full.vector_revision
        full.nearest(QUERIES, CLIP, k=1)
        for path in (index_path, sidecar_path):
            shutil.copy(path(full.path, CLIP), path(copy.path, CLIP))
        np.testing.assert_allclose(
            copy.nearest(QUERIES, CLIP, k=5)[0], brute_force(copy, QUERIES, 5, "fg")[0], atol=1e-5
        )

    @pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "noise", "sidecar", "other kind"])
    def test_damage_is_mended_and_told(self, full: Store, damage: str, caplog: pytest.LogCaptureFixture) -> None:
        path, sidecar = index_path(full.path, CLIP), sidecar_path(full.path, CLIP)
        good, note = path.read_bytes(), sidecar.read_bytes()
        if damage == "flipped":
            path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
        elif damage == "cut":
            path.write_bytes(good[: len(good) // 2])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "noise":
            path.write_bytes(np.random.default_rng(0).bytes(len(good)))
        elif damage == "sidecar":
            sidecar.write_bytes(note[:40])
        else:
            self.put_another_kind(full, path, sidecar)
        assert [item.status for item in full.health().indexes if item.digest == CLIP] == [
            "fresh" if damage == "other kind" else "damaged"
        ]
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "was damaged" in record.getMessage()
        assert "rebuilt from the database" in record.getMessage()
        assert (path.read_bytes(), sidecar.read_bytes()) == (good, note)
        caplog.clear()
        Store.open(full.path).nearest(QUERIES, CLIP, k=3)
        assert caplog.records == []

    def put_another_kind(self, full: Store, path: Path, sidecar: Path) -> None:
        """A sound file with a right checksum, that is an index by Euclidean distance."""
        import hashlib

        import faiss

        data = faiss.serialize_index(faiss.IndexFlatL2(24)).tobytes()
        path.write_bytes(data)
        note = json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
        sidecar.write_text(json.dumps(note))

    @pytest.mark.parametrize("lost", ["index", "sidecar", "folder"])
    def test_missing_is_made_again(self, full: Store, lost: str, caplog: pytest.LogCaptureFixture) -> None:
        if lost == "folder":
            shutil.rmtree(full.path / "index")
        else:
            (index_path if lost == "index" else sidecar_path)(full.path, CLIP).unlink()
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "missing" in caplog.text
        assert index_path(full.path, CLIP).is_file()

    def test_is_not_waited_for(self, full: Store, caplog: pytest.LogCaptureFixture) -> None:
        shutil.rmtree(full.path / "index")
        with write_lock(full.path, 0.0):
            found = full.nearest(QUERIES, CLIP, k=3)[1]
        np.testing.assert_array_equal(found, brute_force(full, QUERIES, 3, "fg")[1])
        assert "was not saved" in caplog.text
        assert not index_path(full.path, CLIP).exists()

    def test_full_disk_does_not_stop_a_search(
        self, full: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        import errno

        def refuse(path: Path, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        shutil.rmtree(full.path / "index")
        monkeypatch.setattr(vector_index, "replace_file", refuse)
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
        assert "was not saved" in caplog.text
        assert "No space left" in caplog.text

    def test_index_of_a_forgotten_extractor_is_swept(self, full: Store) -> None:
        (full.path / "index" / "notes.txt").write_text("mine")
        (full.path / "index" / f"{CLIP[:16]}.faiss.77.tmp").write_text("half")
        full.remove_classes(full.class_names())
        assert [path.name for path in (full.path / "index").iterdir()] == ["notes.txt"]


def test_faiss_runs_single_threaded_on_macos(full: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two OpenMP runtimes in one process crash there."""
    import sys

    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        monkeypatch.setattr(sys, "platform", "darwin")
        full.nearest(QUERIES, CLIP, k=1)
        assert faiss.omp_get_max_threads() == 1
    finally:
        faiss.omp_set_num_threads(before)
