from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli import faiss_import
from ovseg_cli.errors import ProfileMismatchError
from ovseg_cli.faiss_import import import_faiss
from ovseg_cli.store import Store, sweep, vector_index
from ovseg_cli.store.classes import VectorBlock
from ovseg_cli.store.lock import write_lock
from ovseg_cli.store.vector_index import Catalogue, Stamp, VectorIndex, catalogue_path, inspect_index, prepare
from tests.store.helpers import CLIP, SD, FakeProfile, make_class

QUERIES = np.random.default_rng(11).normal(size=(6, 24)).astype(np.float32) * 30


@pytest.fixture
def full(store: Store, caplog: pytest.LogCaptureFixture) -> Store:
    """A store with four classes and their index."""
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


class Classes:
    """Classes by row id, each with random vectors, and what reads them in blocks."""

    def __init__(self, dim: int, seed: int) -> None:
        self.dim = dim
        self._rng = np.random.default_rng(seed)
        self.generations: dict[str, int] = {}
        self.vectors: dict[int, np.ndarray] = {}
        self.ids: dict[int, np.ndarray] = {}
        self._count = 0

    def add(self, rows: int, scale: float = 0.0) -> str:
        number = len(self.vectors) + 1
        generation = f"{number:032x}"
        vectors = self._rng.standard_normal((rows, self.dim)) + scale * self._rng.standard_normal(self.dim)
        self.vectors[number] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        self.ids[number] = np.arange(self._count, self._count + rows) * 3 + 7
        self._count += rows
        self.generations[generation] = number
        return generation

    def read(self, numbers: Sequence[int]) -> Iterator[VectorBlock]:
        for number in numbers:
            rows = len(self.ids[number])
            yield VectorBlock(
                ids=self.ids[number],
                category=np.full(rows, number, np.int64),
                foreground=np.arange(rows) % 2 == 0,
                kind=["part"] * rows,
                halves=self.vectors[number],
            )

    def exact(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Scores of the best k of the object, of all classes that are there."""
        blocks = self.read(sorted(self.generations.values()))
        return vector_index.scan(queries, k, blocks, foreground=True)[0]


STAMP = Stamp(extractor="a" * 64, revision=1, token="")


def brought(store: Path, classes: Classes, before: Catalogue | None, *, lists: bool = False) -> Catalogue:
    """The index after a change, by what it lacks and what it holds in vain."""
    held = set() if before is None else vector_index.held_classes(store, before)
    there = classes.generations
    came = {each: number for each, number in there.items() if each not in held}
    update = prepare(
        store, STAMP, classes.dim, before, came=came, went=held - there.keys(), read=classes.read, lists=lists
    )
    update.put_in_place(store)
    state = inspect_index(store, STAMP, thorough=True)
    assert state.status == "fresh", state
    assert state.catalogue == update.catalogue
    for path in vector_index.leftovers(store, {STAMP.extractor}, building=False):
        path.unlink()
    return update.catalogue


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 5), max_size=14))
def test_any_history_of_changes(dim: int, k: int, seed: int, changes: list[int]) -> None:
    """0 removes a class, another number adds one with so many vectors; in the end all that is there is found."""
    classes, rng, catalogue = Classes(dim, seed), np.random.default_rng(seed), None
    queries = rng.standard_normal((3, dim)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for change in [2, *changes]:
            if change:
                classes.add(change)
            elif classes.generations:
                del classes.generations[rng.choice(sorted(classes.generations))]
            catalogue = brought(Path(folder), classes, catalogue)
        assert catalogue is not None
        scores, ids = VectorIndex.open(Path(folder), catalogue).search(queries, k, foreground=True)
    np.testing.assert_allclose(scores, classes.exact(queries, k), atol=2e-2)
    alive = np.concatenate([np.array([-1]), *(classes.ids[number] for number in classes.generations.values())])
    assert np.isin(ids, alive).all()


@pytest.mark.slow
def test_segments_become_few(tmp_path: Path) -> None:
    """And none is written again and again: each vector as often as the logarithm of their number."""
    classes, catalogue, written = Classes(4, 0), None, 0
    for _ in range(200):
        classes.add(3)
        before = () if catalogue is None else catalogue.segments
        catalogue = brought(tmp_path, classes, catalogue)
        written += sum(segment.rows for segment in catalogue.segments if segment not in before)
        assert len(catalogue.segments) <= 16
    assert catalogue is not None
    assert catalogue.rows == 600
    assert written < 5 * 600
    kept = sorted(classes.generations)[-20:]
    for generation in [each for each in classes.generations if each not in kept]:
        del classes.generations[generation]
        catalogue = brought(tmp_path, classes, catalogue)
    assert catalogue.rows <= 2.1 * 60, "those that went are not kept for ever"
    assert len(catalogue.gone) <= 20


def test_many_vectors_get_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which find nearly all that is to be found; how many was measured when they were made."""
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 2_000)
    monkeypatch.setattr(vector_index, "SEGMENT_ROWS", 4_000)
    monkeypatch.setattr(vector_index, "_HASHED_WHEN_READ", 0)  # so that all files are mapped
    classes = Classes(32, 5)
    for _ in range(100):
        classes.add(50, scale=1.5)
    catalogue = brought(tmp_path, classes, None, lists=True)
    assert [(segment.kind, segment.rows) for segment in catalogue.segments] == [("lists", 2_500)] * 2
    assert all(segment.recall >= 0.99 and segment.probes < 128 for segment in catalogue.segments)
    queries = np.stack([classes.vectors[number][0] for number in range(1, 60)]).astype(np.float32)
    found, _ = VectorIndex.open(tmp_path, catalogue).search(queries, 10 + vector_index.SPARE, foreground=True)
    assert ((found >= classes.exact(queries, 10)[:, -1:] - 0.01).sum(axis=1) >= 10).mean() > 0.95
    # What comes later is compared exactly, and is found beside them.
    classes.add(40)
    catalogue = brought(tmp_path, classes, catalogue)
    assert [segment.kind for segment in catalogue.segments] == ["lists", "lists", "exact"]
    queries = classes.vectors[101][:1].astype(np.float32)
    scores, ids = VectorIndex.open(tmp_path, catalogue).search(queries, 1, foreground=True)
    assert ids[0, 0] == classes.ids[101][0]
    assert scores[0, 0] == pytest.approx(1, abs=1e-2)


def test_nothing_above_a_floor_is_missed_in_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few lists are looked at first; and lists that can hold nothing better are not read."""
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 2_000)
    monkeypatch.setattr(vector_index, "SEGMENT_ROWS", 4_000)
    monkeypatch.setattr(vector_index, "LOOKED_AT", 1)
    monkeypatch.setattr(vector_index, "MOST_LOOKED_AT", 1.0)
    classes = Classes(32, 7)
    for _ in range(100):
        classes.add(50, scale=3.0)
    index = VectorIndex.open(tmp_path, brought(tmp_path, classes, None, lists=True))
    read: list[int] = []
    vectors = vector_index._InvertedLists.vectors

    def counted(self: Any, number: int, rows: Any) -> np.ndarray:
        found = vectors(self, number, rows)
        read.append(len(found))
        return found

    monkeypatch.setattr(vector_index._InvertedLists, "vectors", counted)
    noise = np.random.default_rng(3).standard_normal((100, 32)) / np.sqrt(32)
    near = np.stack([classes.vectors[number][0] for number in range(1, 101)]) + 0.8 * noise
    queries = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    exact = classes.exact(queries, 4)

    scores, ids = index.search(queries, 4, foreground=True, floors=np.full(100, -1, np.float32))
    np.testing.assert_allclose(scores, exact, atol=0.01)
    assert all(len(set(row)) == 4 for row in ids.tolist())

    floors, everything = np.full(100, np.median(exact), np.float32), sum(read)
    read.clear()
    scores, _ = index.search(queries, 4, foreground=True, floors=floors)
    sure = exact > floors[:, None] + 0.01
    assert 0.05 < sure.mean() < 0.95
    np.testing.assert_allclose(scores[sure], exact[sure], atol=0.01)
    assert sum(read) < everything

    monkeypatch.setattr(vector_index, "MOST_LOOKED_AT", 0.0)
    scores, _ = index.search(queries, 4, foreground=True, floors=floors)
    assert (scores < exact - 0.01).any()  # there was something to miss


def files(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.path / "index").iterdir()}


def status(store: Store) -> str:
    (found,) = (item.status for item in store.health().indexes if item.digest == CLIP)
    return found


class TestCache:
    def test_is_used(self, full: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            pytest.fail("the index was made again, or not used")

        expected = brute_force(full, QUERIES, 3, "fg")[1]
        monkeypatch.setattr(vector_index, "prepare", refuse)
        monkeypatch.setattr(vector_index, "scan", refuse)
        np.testing.assert_array_equal(Store.open(full.path).nearest(QUERIES, CLIP, k=3)[1], expected)
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], expected)
        assert caplog.messages == []

    def test_every_change_of_the_classes_brings_it_up_to_date(
        self, full: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        changes: list[Callable[[], object]] = [
            lambda: full.add_class(make_class("bus", 9)),
            lambda: full.add_class(make_class("cat", 10), replace=True),
            lambda: full.add_classes([make_class("cat", 11), make_class("tram", 12)], replace=True),
            lambda: full.remove_classes(["dog"]),
            lambda: full.remove_classes(["bird", "sky"]),
        ]
        for change in changes:
            before = files(full)
            change()
            assert status(full) == "fresh"
            kept = before.keys() & files(full).keys()
            assert all(before[name] == files(full)[name] for name in kept if not name.endswith(".json"))
            expected_scores, expected_ids = brute_force(full, QUERIES, 4, "fg")
            for store in (full, Store.open(full.path)):
                scores, ids = store.nearest(QUERIES, CLIP, k=4)
                np.testing.assert_array_equal(ids, expected_ids)
                np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
        assert caplog.messages == []
        full.remove_classes(full.class_names())
        assert files(full) == {}

    def test_a_change_that_a_killed_writer_did_not_follow(self, full: Store, tmp_path: Path) -> None:
        """The next writer, and the next reader, see from the generations what is new."""
        shutil.copytree(full.path / "index", tmp_path / "before")
        full.add_class(make_class("cat", 7), replace=True)
        for use in (lambda: full.nearest(QUERIES, CLIP, k=1), lambda: full.add_class(make_class("bus", 9))):
            shutil.rmtree(full.path / "index")
            shutil.copytree(tmp_path / "before", full.path / "index")
            assert status(full) == "outdated"
            full.close()
            use()
            assert status(full) == "fresh"
            np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=9)[1], brute_force(full, QUERIES, 9, "fg")[1])

    def test_many_classes_at_once_wait_for_a_search(
        self, full: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(vector_index, "INLINE_ROWS", 20)
        full.add_classes(make_class(f"class {number}", 50 + number) for number in range(6))
        assert status(full) == "outdated"
        assert "ovseg store reindex" in caplog.text
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
        assert status(full) == "fresh"

    @pytest.mark.parametrize("field", ["revision", "token", "extractor", "format"])
    def test_catalogue_of_another_state(self, full: Store, field: str, caplog: pytest.LogCaptureFixture) -> None:
        path = catalogue_path(full.path, CLIP)
        note = json.loads(path.read_text())
        if field == "format":
            note["format"] = 1
        else:
            note["stamp"][field] = 999 if field == "revision" else "0" * 64
        # It is also made to lack a class: were it used, the answer would show it.
        note["segments"] = note["segments"][:1]
        del note["sha256"]
        path.write_text(json.dumps({**note, "sha256": vector_index._digest_of(note)}))
        full.close()
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
        assert "outdated" in caplog.text
        assert status(full) == "fresh"

    def test_restored_backup_with_the_same_count_of_changes(self, full: Store, tmp_path: Path) -> None:
        """The revision alone would take the index of the other history for fresh."""
        copy = Store.open(Path(shutil.copytree(full.path, tmp_path / "copy")))
        full.add_class(make_class("bus", 20))
        copy.add_class(make_class("bus", 21))
        assert copy.vector_revision == full.vector_revision
        shutil.rmtree(copy.path / "index")
        shutil.copytree(full.path / "index", copy.path / "index")
        np.testing.assert_allclose(
            copy.nearest(QUERIES, CLIP, k=5)[0], brute_force(copy, QUERIES, 5, "fg")[0], atol=1e-5
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("ending", ["faiss", "rows", "classes", "json"])
    @pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "noise"])
    def test_damage_is_mended_and_told(
        self, full: Store, ending: str, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = next(each for each in (full.path / "index").glob(f"{CLIP[:16]}*.{ending}"))
        good = path.read_bytes()
        if damage == "flipped":
            path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
        elif damage == "cut":
            path.write_bytes(good[: len(good) // 2])
        elif damage == "empty":
            path.write_bytes(b"")
        else:
            path.write_bytes(np.random.default_rng(0).bytes(len(good)))
        assert status(full) == "damaged"
        full.close()
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "was damaged" in record.getMessage()
        assert "rebuilt from the database" in record.getMessage()
        assert status(full) == "fresh"
        caplog.clear()
        Store.open(full.path).nearest(QUERIES, CLIP, k=3)
        assert caplog.records == []

    def test_vectors_that_are_not_those_of_the_database(
        self, full: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As turned bits of a file leave them that is too large to be read as a whole."""
        search = VectorIndex.search

        def wrong(self: VectorIndex, *args: object, **kwargs: object) -> tuple[np.ndarray, np.ndarray]:
            scores, ids = search(self, *args, **kwargs)  # type: ignore[arg-type]
            return (scores + 0.2 if wrongs.pop() else scores), ids

        wrongs = [False, True]
        monkeypatch.setattr(VectorIndex, "search", wrong)
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
        assert "not those of the database" in caplog.text
        assert wrongs == []

    @pytest.mark.parametrize("lost", ["segment", "catalogue", "folder"])
    def test_missing_is_made_again(self, full: Store, lost: str, caplog: pytest.LogCaptureFixture) -> None:
        if lost == "folder":
            shutil.rmtree(full.path / "index")
        else:
            pattern = f"{CLIP[:16]}*.{'faiss' if lost == 'segment' else 'json'}"
            next((full.path / "index").glob(pattern)).unlink()
        full.close()
        np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "missing" in caplog.text
        assert status(full) == "fresh"

    def test_is_not_waited_for(self, full: Store, caplog: pytest.LogCaptureFixture) -> None:
        shutil.rmtree(full.path / "index")
        full.close()
        with write_lock(full.path, 0.0):
            found = full.nearest(QUERIES, CLIP, k=3)[1]
        np.testing.assert_array_equal(found, brute_force(full, QUERIES, 3, "fg")[1])
        assert "was not saved" in caplog.text
        assert not catalogue_path(full.path, CLIP).exists()

    def test_full_disk_does_not_stop_a_search_or_a_change(
        self, full: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        import errno

        def refuse(path: Path, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        for attribute in ("replace_file", "write_new"):
            shutil.rmtree(full.path / "index", ignore_errors=True)
            full.close()
            caplog.clear()
            monkeypatch.setattr(vector_index, attribute, refuse)
            np.testing.assert_array_equal(full.nearest(QUERIES, CLIP, k=3)[1], brute_force(full, QUERIES, 3, "fg")[1])
            assert "was not saved" in caplog.text
            assert "No space left" in caplog.text
            full.add_class(make_class("bus", 33), replace=True)
            assert full.health().orphans == ()
            monkeypatch.undo()
        full.add_class(make_class("bus", 4), replace=True)
        assert status(full) == "fresh"

    def test_index_of_a_forgotten_extractor_is_swept(self, full: Store) -> None:
        (full.path / "index" / "notes.txt").write_text("mine")
        (full.path / "index" / f"{CLIP[:16]}.faiss.77.tmp").write_text("half")
        full.remove_classes(full.class_names())
        assert [path.name for path in (full.path / "index").iterdir()] == ["notes.txt"]

    def test_what_another_process_is_writing_is_no_leftover(self, full: Store) -> None:
        from filelock import FileLock

        half = full.path / "index" / f"{CLIP[:16]}-{'0' * 16}.faiss.77.tmp"
        half.write_text("half")
        with FileLock(full.path / sweep.BUILD_LOCK):
            full.remove_classes(["dog"])
            assert half.exists()
            assert full.health().orphans == ()
        assert full.health().orphans == (half,)
        full.remove_classes(["cat"])
        assert not half.exists()


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


class GpuOfFaiss:
    """Stands in for FAISS's functions for GPUs; counts what is asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, full: bool = False) -> None:
        self.searches = 0
        self.full = full
        faiss = import_faiss()
        for name, value in {
            "get_num_gpus": lambda: 1,
            "StandardGpuResources": object,
            "knn_gpu": self.knn_gpu,
            "index_cpu_to_all_gpus": lambda index: index,
        }.items():
            monkeypatch.setattr(faiss, name, value, raising=False)
        faiss_import._gpu_resources.cache_clear()

    def knn_gpu(self, _resources: object, queries: np.ndarray, vectors: np.ndarray, k: int, *, metric: int):
        self.searches += 1
        if self.full:
            raise RuntimeError("out of memory")
        assert metric == import_faiss().METRIC_INNER_PRODUCT
        scores = queries @ vectors.T
        order = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), order


@pytest.fixture
def forget_gpus() -> Iterator[None]:
    yield
    faiss_import._gpu_resources.cache_clear()


@pytest.mark.usefixtures("forget_gpus")
@pytest.mark.parametrize("memory", ["enough", "full"])
def test_many_queries_go_to_the_gpu(full: Store, monkeypatch: pytest.MonkeyPatch, memory: str) -> None:
    """And where its memory is full, the CPU does the same."""
    gpu = GpuOfFaiss(monkeypatch, full=memory == "full")
    queries = np.random.default_rng(5).normal(size=(vector_index.MANY_QUERIES, 24)).astype(np.float32)
    scores, ids = full.nearest(queries, CLIP, k=3)
    expected_scores, expected_ids = brute_force(full, queries, 3, "fg")
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    assert gpu.searches > 0
    before = gpu.searches
    full.nearest(queries[:1], CLIP, k=3)
    assert gpu.searches == before, "one query is faster where the vectors are"


@pytest.mark.usefixtures("forget_gpus")
def test_lists_are_compared_as_a_whole_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 2_000)
    gpu = GpuOfFaiss(monkeypatch)
    classes = Classes(16, 3)
    for _ in range(60):
        classes.add(50, scale=1.5)
    catalogue = brought(tmp_path, classes, None, lists=True)
    assert {segment.kind for segment in catalogue.segments} == {"lists"}
    queries = np.random.default_rng(4).normal(size=(20, 16)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scores, _ = VectorIndex.open(tmp_path, catalogue).search(queries, 5, foreground=True)
    np.testing.assert_allclose(scores, classes.exact(queries, 5), atol=0.02)  # 8 bits
    assert gpu.searches > 0


@pytest.mark.parametrize("count", [1, vector_index.MANY_QUERIES])
def test_many_queries_find_what_one_finds(full: Store, count: int) -> None:
    """Compared one by one by FAISS, or at once as a matrix product."""
    queries = np.repeat(QUERIES[:1], count, axis=0)
    _, ids = full.nearest(queries, CLIP, k=4, role="bg")
    np.testing.assert_array_equal(ids, np.repeat(brute_force(full, QUERIES[:1], 4, "bg")[1], count, axis=0))


@pytest.mark.parametrize("count", [1, vector_index.MANY_QUERIES])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_search_among_some_finds_no_others(
    full: Store, monkeypatch: pytest.MonkeyPatch, count: int, indexed: bool
) -> None:
    """Among some classes, without what surrounds one of them, and of some kinds; with the index and without."""
    if not indexed:
        monkeypatch.setattr(full._upkeep, "_index", lambda *_: None)
    generations = full.generations()
    queries = np.random.default_rng(2).normal(size=(count, 24)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    block = full.prototypes(["dog", "sky"], CLIP)
    for role in ("fg", "bg"):
        among = vector_index.Among(
            generations=frozenset((generations["dog"], generations["sky"])),
            without_background=frozenset((generations["sky"],)),
            kinds=("part", "instance"),
        )
        _, ids, owners = full.candidates(queries, CLIP, k=50, role=role, among=among)  # type: ignore[arg-type]
        rows = (block.role_is_fg == (role == "fg")) & np.isin(np.array(block.kind), ("part", "instance"))
        if role == "bg":
            rows &= block.class_index == 0
        assert set(ids[0][ids[0] >= 0].tolist()) == set(block.ids[rows].tolist())
        assert set(owners.values()) == ({"dog", "sky"} if role == "fg" else {"dog"})
