"""A link inside a store leads to somebody else's files, and a file of another name is somebody else's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ovseg_cli.errors import StoreError
from ovseg_cli.store import Store
from tests.store.helpers import CLIP, FakeProfile, assert_whole, make_class

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege there")

NAMES = (
    "notes.json",
    "draft.tmp",
    "my.faiss",
    f"{'c' * 16}.faiss",
    f"{'a' * 16}.json",
    f"{'a' * 16}.faiss.77.tmp",
    "000.png",
    "ovseg.db",
)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder outside the store with files of every name that a sweep could take for its own."""
    folder = tmp_path / "foreign"
    generation = folder / "cat" / ("0" * 32)
    for place in (folder, generation, folder / ("1" * 32)):
        place.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (place / name).write_bytes(name.encode())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_everything(store: Store) -> None:
    store.nearest(np.ones((1, 24), np.float32), CLIP, k=1)
    store.add_class(make_class("dog", 1))
    store.add_class(make_class("dog", 2), replace=True)
    store.remove_classes(["dog"])
    store.nearest(np.ones((1, 24), np.float32), CLIP, k=1)


@pytest.mark.parametrize("name", ["index", "support"])
def test_a_folder_that_is_a_link_is_refused(store: Store, foreign: Path, name: str) -> None:
    if (store.path / name).exists():
        (store.path / name).rename(store.path / "moved")
    (store.path / name).symlink_to(foreign, target_is_directory=True)
    before = contents(foreign)
    for change in (
        lambda: store.add_class(make_class("dog", 1)),
        lambda: store.add_classes([make_class("dog", 1)]),
        lambda: store.remove_classes(["cat"]),
    ):
        with pytest.raises(StoreError, match=f"{name} is a link.*--store"):
            change()
    # What is only read goes on, and the index is not saved.
    store.nearest(np.ones((1, 24), np.float32), CLIP, k=1)
    assert store.health().orphans == ()
    assert contents(foreign) == before
    assert store.class_names() == ["cat"]


def test_links_below_support_are_left_alone(store: Store, foreign: Path) -> None:
    (store.path / "support" / "horse").symlink_to(foreign, target_is_directory=True)
    (store.path / "support" / "cow").symlink_to(foreign / "cat", target_is_directory=True)
    (store.path / "support" / "cat" / ("2" * 32)).symlink_to(foreign, target_is_directory=True)
    before = contents(foreign)
    change_everything(store)
    assert store.health().orphans == ()
    with pytest.raises(StoreError, match="cow is a link"):
        store.add_class(make_class("cow", 3))
    assert contents(foreign) == before
    assert_whole(store, make_class("cat", 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [f"{'c' * 16}.faiss", f"{'c' * 16}.json", f"{'a' * 16}-{'b' * 16}.rows", f"{'5d' * 8}.json.9.tmp"]
)
def test_links_in_the_index_do_no_harm(store: Store, foreign: Path, name: str) -> None:
    (store.path / "index" / name).unlink(missing_ok=True)
    (store.path / "index" / name).symlink_to(foreign / "notes.json")
    before = contents(foreign)
    change_everything(store)
    assert contents(foreign) == before


@pytest.mark.parametrize("name", ["write.owner", "write.lock", "write.pending"])
def test_links_at_the_lock_are_refused(store: Store, foreign: Path, name: str) -> None:
    (store.path / name).unlink(missing_ok=True)
    (store.path / name).symlink_to(foreign / "notes.json")
    before = contents(foreign)
    with pytest.raises(StoreError, match=f"{name} is a link"):
        store.remove_classes(["cat"])
    assert contents(foreign) == before
    assert store.class_names() == ["cat"]


def test_another_name_of_the_owners_note_keeps_its_content(store: Store, foreign: Path) -> None:
    (store.path / "write.owner").hardlink_to(foreign / "notes.json")
    before = contents(foreign)
    store.add_class(make_class("dog", 1))
    assert contents(foreign) == before


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_links_at_the_database_are_refused(store: Store, foreign: Path, suffix: str) -> None:
    file = store.path / f"ovseg.db{suffix}"
    target = foreign / "notes.json"
    if not suffix:
        target = foreign / "ovseg.db"
        file.replace(target)
    file.symlink_to(target)
    before = contents(foreign)
    for use in (lambda: Store.open(store.path), store.class_names, lambda: store.remove_classes(["cat"])):
        with pytest.raises(StoreError, match=f"ovseg.db{suffix} is a link"):
            use()
    assert contents(foreign) == before


def test_a_dangling_link_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "ovseg.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StoreError, match="is a link"):
        Store.open(tmp_path / "store", profile=FakeProfile())
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_store_behind_a_link_works(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.path, target_is_directory=True)
    with Store.open(tmp_path / "link") as linked:
        change_everything(linked)
        assert_whole(linked, make_class("cat", 0))


def test_files_of_other_names_stay(store: Store) -> None:
    """Only exact names of ours are swept, in the index and beside the pictures of a class that goes."""
    index = store.path / "index"
    generation = store.supports("cat")[0].image_path.parent
    names = ("notes.json", "draft.tmp", "my.faiss", f"{'A' * 16}.json", f"{'a' * 16}.json.tmp")
    mine = [index / name for name in names]
    mine += [generation / name for name in ("notes.txt", "00.png", "000.png.bak")]
    for path in mine:
        path.write_text("mine")
    swept = [index / f"{'a' * 16}{suffix}" for suffix in (".faiss", ".json", ".faiss.123.tmp", ".json.123.tmp")]
    for path in swept:
        path.write_text("left over")
    change_everything(store)
    store.remove_classes(["cat"])
    assert all(path.read_text() == "mine" for path in mine)
    assert not any(path.exists() for path in swept)
    assert not (generation / "000.png").exists()
    assert store.health().orphans == ()


def test_a_linked_folder_is_found_by_looking_over(store: Store) -> None:
    (store.path / "support").rename(store.path.parent / "elsewhere")
    (store.path / "support").symlink_to(store.path.parent / "elsewhere")
    found = store.health()
    assert not found.ok
    assert any("support is a link" in problem for problem in found.problems)
