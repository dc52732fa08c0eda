from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from ovseg_cli import stages
from ovseg_cli.stages import Observer, observed, stage


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to go on."""
    now = [0.0]
    monkeypatch.setattr(stages.time, "perf_counter", lambda: now[0])

    def pass_(seconds):
        now[0] += seconds

    return pass_


def test_a_stage_inside_another_counts_for_itself_alone(clock):
    with observed(Observer()) as observer:
        with stage("outer"):
            clock(1)
            with stage("inner"):
                clock(4)
                with stage("innermost"):
                    clock(10)
            with stage("inner"):
                clock(3)
            clock(2)
        clock(100)  # no stage's
    assert observer.seconds == {"innermost": 10, "inner": 7, "outer": 3}
    assert observer.calls == {"innermost": 1, "inner": 2, "outer": 1}


def test_operations_are_counted_likewise():
    done = [0]
    with observed(Observer(counted=lambda: done[0])) as observer, stage("outer"):
        done[0] += 5
        with stage("inner"):
            done[0] += 7
    assert observer.operations == {"inner": 7, "outer": 5}


def test_a_block_that_fails_counts_and_leaves_nothing_open(clock):
    with observed(Observer()) as observer:
        with suppress(ZeroDivisionError), stage("outer"), stage("inner"):
            clock(2)
            raise ZeroDivisionError
        with stage("next"):
            clock(1)
    assert observer.seconds == {"inner": 2, "outer": 0, "next": 1}


def test_the_device_is_waited_for_at_both_ends():
    waits = []
    with observed(Observer(lambda: waits.append(1))), stage("one"):
        assert len(waits) == 1
    assert len(waits) == 2


def test_nothing_is_made_when_nobody_looks():
    assert stage("one") is stage("another")
    with observed(Observer()) as observer:
        with stage("seen"):
            pass
        threads = [threading.Thread(target=lambda: stage("of another thread").__enter__())]
        for thread in threads:
            thread.start()
            thread.join()
    with stage("too late"):
        pass
    assert list(observer.calls) == ["seen"]
    with suppress(KeyboardInterrupt), observed(Observer()):
        raise KeyboardInterrupt
    assert stage("one") is stage("another")
