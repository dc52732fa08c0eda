"""Other processes that work on a store: tests start them, and each does the one thing that it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start this module as a process with pipes for its input and output."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store.processes", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object) -> str:
    """Start this module as a process and wait for what it says."""
    with start(*arguments) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def hold(path: str) -> None:
    """Hold the write lock until told to let go."""
    from ovseg_cli.store.lock import write_lock

    with write_lock(Path(path), 0.0):
        print("held", flush=True)
        sys.stdin.readline()


def add(path: str, *names: str) -> None:
    """Add classes, the store too if it must be; say which were already there."""
    from ovseg_cli.errors import ClassExistsError
    from ovseg_cli.store import Store
    from tests.store.helpers import FakeProfile, make_class

    print("ready", flush=True)
    sys.stdin.readline()
    for name in names:
        try:
            Store.open(path, profile=FakeProfile()).add_class(make_class(name, len(name)))
        except ClassExistsError:
            print("exists", name, flush=True)


def add_with_small_files(path: str, most: str, side: str, note: str) -> None:
    """Try to add a class where no file may have more than so many bytes, like on a disk that is full."""
    import resource
    import signal
    from dataclasses import replace

    from ovseg_cli.errors import OvsegError
    from ovseg_cli.store import Store
    from tests.store.helpers import make_class, make_support

    store = Store.open(path)
    record = replace(
        make_class("dog", 1, extractors=(), supports=0),
        supports=(make_support(0, 0, (int(side), int(side))),),
        settings={"note": "x" * int(note)},
    )
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), resource.RLIM_INFINITY))
    try:
        store.add_class(record)
    except OvsegError as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("done")


def read_without_rights(path: str, warm_up: str, user: str) -> None:
    """Use a store as a user who may only read it; `warm_up` is a copy that may be written."""
    import numpy as np

    from ovseg_cli.errors import StoreReadOnlyError
    from ovseg_cli.store import Store
    from tests.store.helpers import CLIP, FakeProfile, assert_whole, make_class

    if os.geteuid() == 0:
        # Everything that is imported late is imported now: root's Python may be out of a user's reach.
        with Store.open(warm_up) as store:
            assert_whole(store, make_class("cat", 0))
            store.nearest(np.ones((1, 24), np.float32), CLIP, k=1)
        os.setgroups([])
        os.setuid(int(user))
    store = Store.open(path)
    print(store.read_only, store.class_names())
    assert_whole(store, make_class("cat", 0))
    print(store.nearest(np.ones((1, 24), np.float32), CLIP, k=1)[1].shape)
    try:
        store.add_class(make_class("dog", 1))
    except StoreReadOnlyError as error:
        print(error)
    try:
        Store.open(Path(path) / "below", profile=FakeProfile())
    except StoreReadOnlyError as error:
        print(error)


def churn(path: str, name: str) -> None:
    """Replace, add and remove classes, and have indexes made, until killed."""
    import numpy as np

    from ovseg_cli.store import Store
    from tests.store.helpers import CLIP, make_class

    store = Store.open(path)
    for seed in range(10**6):
        store.add_class(make_class("cat", seed), replace=True)
        store.add_class(make_class(name, seed))
        store.nearest(np.ones((1, 24), np.float32), CLIP, k=1)
        store.remove_classes([name])
        if seed == 0:
            print("going", flush=True)


def tend(path: str, beside: str, rounds: str, work: str, *more: str) -> None:
    """Do one kind of work on a store again and again, and say how often it was done."""
    import numpy as np

    from ovseg_cli.store import Store
    from tests.store.helpers import CLIP, make_class

    store = Store.open(path, lock_timeout=400)
    for number in range(int(rounds)):
        if work == "churn":
            store.add_class(make_class(more[0], number), replace=True)
        elif work == "rename":
            if number == 0:
                store.add_class(make_class("named", 6))
            store.rename_class("named" if number == 0 else "renamed", "again")
            store.rename_class("again", "renamed")
        elif work == "swap":
            parts = [store.add_class(make_class(name, number), replace=True) for name in ("one", "two")]
            if number:
                parts.append(store.get_class("merged"))
            store.swap_classes(make_class("merged", number), {info.name: info.generation for info in parts})
        elif work == "backup":
            store.backup(Path(beside) / f"backup-{number}")
        elif work == "care":
            store.repair()
            store.vacuum()
            store.reindex()
        elif work == "check":
            health = store.health()
            assert health.ok, health
        else:
            block = store.prototypes(["stays"], CLIP)
            found = store.nearest(block.vectors[block.role_is_fg], CLIP, k=1)
            np.testing.assert_allclose(found[0], 1, atol=1e-5)
    print(int(rounds), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
