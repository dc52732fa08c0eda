from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from ovseg_cli.errors import StoreLockedError
from ovseg_cli.store import Store, lock
from ovseg_cli.store.lock import write_lock
from tests.store import processes
from tests.store.helpers import assert_whole, make_class


@pytest.mark.slow
def test_a_second_writer_waits_then_tells(store_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with processes.start("hold", store_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        store = Store.open(store_path, lock_timeout=0.3)
        begin = time.monotonic()
        with pytest.raises(StoreLockedError, match=rf"process \(pid {holder.pid}\) .*more than 0.3 s"):
            store.add_class(make_class("dog", 1))
        assert 0.3 <= time.monotonic() - begin < 5
        assert store.class_names() == ["cat"]  # reading waits for nobody
        assert caplog.records == []
        with pytest.raises(StoreLockedError):
            store.remove_classes(["cat"])
        holder.communicate("\n")
    store.add_class(make_class("dog", 1))


def test_waiting_is_told_once_and_ends_with_the_other_writer(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    release = threading.Event()

    def hold() -> None:
        with write_lock(store.path, 0.0):
            held.set()
            release.wait(10)

    held = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    threading.Timer(0.4, release.set).start()
    store.add_class(make_class("dog", 1))
    holder.join()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"waiting for another ovseg process (pid {os.getpid()}) that is writing to {store.path}"
    )
    assert_whole(store, make_class("dog", 1))


@pytest.mark.slow
def test_a_dead_holder_holds_nobody_up(store_path: Path) -> None:
    with processes.start("hold", store_path) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        holder.communicate()
    assert json.loads((store_path / "write.owner").read_text())["pid"] == holder.pid
    Store.open(store_path, lock_timeout=0.0).add_class(make_class("dog", 1))
    assert not (store_path / "write.owner").exists()


@pytest.mark.parametrize(
    ("owner", "says"),
    [
        ("", ""),
        ("[]", ""),
        ('{"pid": "x", "host": "y"}', ""),
        ('{"pid": 12, "host": "elsewhere"}', " (pid 12 on elsewhere)"),
    ],
)
def test_owner_notes_of_all_sorts(tmp_path: Path, owner: str, says: str) -> None:
    (tmp_path / "write.owner").write_text(owner)
    assert lock._describe_owner(tmp_path) == says


@pytest.mark.slow
def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    """Three processes create one store and fill it; one class is wanted by all of them."""
    path = tmp_path / "store"
    names = [[f"{letter}{number}" for number in range(4)] + ["shared"] for letter in "abc"]
    writers = [processes.start("add", path, *mine) for mine in names]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    said = []
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        output, errors = writer.communicate(timeout=60)
        # On a busy machine one may wait so long that it says so.
        unexpected = [line for line in errors.splitlines() if "waiting for another ovseg process" not in line]
        assert (writer.returncode, unexpected) == (0, [])
        said.append(output)
    assert "".join(said).count("exists shared") == 2
    with Store.open(path) as store:
        assert sorted(store.class_names()) == sorted({name for mine in names for name in mine})
        for name in store.class_names():
            assert_whole(store, make_class(name, len(name)))
        assert store.vector_revision == 13
        health = store.health()
        assert health.ok
        assert health.orphans == ()
