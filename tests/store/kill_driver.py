"""Kill a store's writer at many instants and look at what is left; run by test_kill.py as its own process.

Forks a child for each instant, so that a hundred deaths take seconds. A trace function counts the lines
that the store's own code runs, and the child kills itself (SIGKILL: no clean-up of any kind) at the
n-th one. Between two lines lies at most one step that other processes can see, so this covers every
order of events that a kill can leave, but for deaths inside SQLite, which random-time kills sample.

    kill_driver.py TEMPLATE SCRATCH ACTION lines|interrupt|half-files|random STEP

STEP is 1 to take every instant that matters, 2 for every other one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import ovseg_cli.store as package
from ovseg_cli.faiss_import import import_faiss
from ovseg_cli.store import ClassRecord, Store, disk, support, sweep
from tests.store.helpers import CLIP, FakeProfile, assert_whole, make_class

EFFECTS = {"disk.py", "support.py", "database.py", "lock.py", "schema.py", "sweep.py", "copying.py"}
HERE = str(Path(package.__file__).parent)
OLD = make_class("cat", 0)
NEW = make_class("cat", 1)
DOG = make_class("dog", 2)
BOTH = make_class("both", 4, supports=3)


def replace_name(record: ClassRecord, name: str) -> ClassRecord:
    return dataclasses.replace(record, name=name)


Action = Callable[[Path], None]
State = dict[str, ClassRecord] | None
"""Classes that a store may hold after a kill; None: there is no store yet."""


def add(path: Path) -> None:
    Store.open(path).add_class(DOG)


def replace(path: Path) -> None:
    Store.open(path).add_class(NEW, replace=True)


def several(path: Path) -> None:
    Store.open(path).add_classes([NEW, DOG], replace=True)


def remove(path: Path) -> None:
    Store.open(path).remove_classes(["cat"])


def rename(path: Path) -> None:
    Store.open(path).rename_class("cat", "lion")


def swap(path: Path) -> None:
    """Two classes become one, as merge-class has it."""
    store = Store.open(path)
    store.swap_classes(BOTH, {name: store.get_class(name).generation for name in ("cat", "dog")})


def backup(path: Path) -> None:
    Store.open(path).backup(path.parent / "backup")


def vacuum(path: Path) -> None:
    Store.open(path).vacuum()


def reindex(path: Path) -> None:
    Store.open(path).reindex()


def repair(path: Path) -> None:
    sweep.mark(path)
    Store.open(path).repair()


def create(path: Path) -> None:
    Store.open(path / "new", profile=FakeProfile())


ACTIONS: dict[str, tuple[Action, list[State]]] = {
    "add": (add, [{"cat": OLD}, {"cat": OLD, "dog": DOG}]),
    "replace": (replace, [{"cat": OLD}, {"cat": NEW}]),
    "several": (several, [{"cat": OLD}, {"cat": NEW, "dog": DOG}]),
    "remove": (remove, [{"cat": OLD}, {}]),
    "rename": (rename, [{"cat": OLD}, {"lion": replace_name(OLD, "lion")}]),
    "swap": (swap, [{"cat": OLD, "dog": DOG}, {"both": BOTH}]),
    "backup": (backup, [{"cat": OLD}, {"cat": OLD}]),
    "vacuum": (vacuum, [{"cat": OLD}, {"cat": OLD}]),
    "reindex": (reindex, [{"cat": OLD}, {"cat": OLD}]),
    "repair": (repair, [{"cat": OLD}, {"cat": OLD}]),
    "create": (create, [None, {}]),
}


def trace_store(on_line: Callable[[str, int], None]) -> None:
    """Call `on_line(file, line)` before each line of the store's modules."""

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            on_line(frame.f_code.co_filename, frame.f_lineno)
        return local

    def entered(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(HERE) else None

    sys.settrace(entered)


def in_child(work: Callable[[], None]) -> bool:
    """Run something in a forked child; give whether it was killed rather than done."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status) != 0:
        raise RuntimeError("the child failed instead of being killed")
    return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def instants(action: Action, path: Path) -> list[int]:
    """Give which lines to die at: the first and the last run of lines that the action comes by.

    By default only lines of modules that touch the disk count, from the moment that the lock is asked
    for: between the others nothing changes that a kill could leave. OVSEG_TEST_EVERY_LINE=1 takes all.
    """
    seen: list[tuple[str, int]] = []
    trace_store(lambda file, line: seen.append((Path(file).name, line)))
    action(path)
    sys.settrace(None)
    first = {place: index for index, place in reversed(list(enumerate(seen)))}
    last = {place: index for index, place in enumerate(seen)}
    chosen = {*first.values(), *last.values()}
    if not os.environ.get("OVSEG_TEST_EVERY_LINE"):
        locked = next((index for index, (file, _) in enumerate(seen) if file == "lock.py"), 0)
        chosen = {index for index in chosen if index >= locked and seen[index][0] in EFFECTS}
    return sorted(chosen)


def kill_at_line(action: Action, path: Path, instant: int) -> bool:
    def work() -> None:
        left = instant

        def count(file: str, line: int) -> None:
            nonlocal left
            if left == 0:
                die()
            left -= 1

        trace_store(count)
        action(path)

    return in_child(work)


def interrupt_at_line(action: Action, path: Path, instant: int) -> bool:
    """Press Ctrl-C instead; the process lives on, and has let go of the lock."""

    def work() -> None:
        left = instant

        def count(file: str, line: int) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                sys.settrace(None)
                raise KeyboardInterrupt

        trace_store(count)
        try:
            action(path)
        except KeyboardInterrupt:
            pass
        else:
            raise RuntimeError("Ctrl-C was swallowed")
        if action is not create:
            Store.open(path, lock_timeout=0.0).remove_classes([])
            assert not list(path.parent.glob("backup.*")), "what was begun is taken away"

    return not in_child(work)


def kill_in_half_file(action: Action, path: Path, instant: int) -> bool:
    def work() -> None:
        written = 0

        def write_half(target: Path, data: bytes) -> None:
            nonlocal written
            if written == instant:
                target.write_bytes(data[: len(data) // 2])
                die()
            written += 1
            whole(target, data)

        whole = disk.write_new
        support.write_new = write_half  # type: ignore[attr-defined]
        action(path)

    return in_child(work)


def kill_some_time(path: Path, seconds: float) -> int:
    """Let a child replace, add and remove for a while; give how it stood."""

    def work() -> None:
        store = Store.open(path)
        while True:
            store.add_class(NEW, replace=True)
            store.add_class(DOG)
            store.add_class(OLD, replace=True)
            store.remove_classes(["dog"])

    child = os.fork()
    if child == 0:
        work()
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return status


def look(path: Path, allowed: list[State], *, write: bool) -> int:
    """Check what a kill has left; give which of the allowed states it is."""
    if allowed[0] is None:
        path = path / "new"
        if not (path / "ovseg.db").exists() or (path / "ovseg.db").stat().st_size == 0:
            Store.open(path, profile=FakeProfile())
            return 0
    with Store.open(path, profile=FakeProfile()) as store:
        seeds = {info.name: info.seed for info in store.classes()}
        states = [{name: record.seed for name, record in (state or {}).items()} for state in allowed]
        if seeds not in states:
            raise AssertionError(f"the store holds {seeds}")
        found = states.index(seeds) if allowed[0] is not None else 1
        for record in (allowed[found] or {}).values():
            assert_whole(store, record)
            # Whatever state the index was left in, it is not trusted where it does not fit.
            block = store.prototypes([record.name], CLIP)
            scores, ids = store.nearest(block.vectors[block.role_is_fg], CLIP, k=1)
            assert ids[:, 0].tolist() == block.ids[block.role_is_fg].tolist()
            assert abs(scores - 1).max() < 1e-5
        health = store.health()
        assert health.ok, health
        copy = path.parent / "backup"
        if copy.exists():  # under its name it is whole
            with Store.open(copy, profile=FakeProfile()) as copied:
                assert copied.class_names() == store.class_names()
                assert copied.health().ok
        if write:
            # The next writer is not held up, and takes away what the dead one left.
            store.add_class(make_class("next", 3))
            assert store.health().orphans == (), store.health().orphans
            assert len(list((path / "support").glob("*/*"))) == len(seeds) + 1
        return found


def main(template: Path, scratch: Path, action_name: str, mode: str, step: int) -> None:
    import_faiss()  # once, here, and not in every child
    action, allowed = ACTIONS.get(action_name, (add, []))
    path = scratch / "store"
    counts = [0] * 4
    killed = orphans = 0
    random_states: list[State] = [{"cat": OLD}, {"cat": NEW}, {"cat": NEW, "dog": DOG}, {"cat": OLD, "dog": DOG}]

    def fresh() -> Path:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(template, path)
        if action is swap:
            Store.open(path).add_class(DOG)
        return path

    if mode == "random":
        generator = random.Random(5)
        for attempt in range(30):
            kill_some_time(fresh(), generator.uniform(0.002, 0.4))
            killed += 1
            counts[look(path, random_states, write=attempt % 4 == 0)] += 1
    else:
        kill = {"lines": kill_at_line, "interrupt": interrupt_at_line, "half-files": kill_in_half_file}[mode]
        points = list(range(6)) if mode == "half-files" else instants(action, fresh())[::step]
        for number, instant in enumerate(points):
            killed += kill(action, fresh(), instant)
            orphans += len(list((path / "support").glob("*/*"))) > 1
            counts[look(path, allowed, write=number % 6 == 0 and action_name != "create")] += 1
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({"killed": killed, "states": counts, "orphans": orphans}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
