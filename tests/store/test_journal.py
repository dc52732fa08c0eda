from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from ovseg_cli.errors import StoreError
from ovseg_cli.store import RunItem, RunRecord, Store


def make_run(output: str = "/tmp/ovseg out/ü", **changes: object) -> RunRecord:
    given: dict[str, object] = {
        "id": uuid.uuid4().hex,
        "argv": ("ovseg", "segment", "photos/"),
        "method": "prototype",
        "classes": ("cat", "猫"),
        "background": True,
        "output": Path(output),
        "inputs": ("photos/",),
        "settings": {"window": 512},
    }
    return RunRecord(**(given | changes))  # type: ignore[arg-type]


def test_no_run(store: Store) -> None:
    assert store.last_run() is None
    assert store.runs() == []


def test_a_run_from_begin_to_end(store: Store) -> None:
    started = datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone(timedelta(hours=2)))
    record = make_run(started_at=started)
    store.note_run(record)
    info = store.last_run()
    assert info is not None
    assert info.status == "running"
    assert info.finished_at is None
    assert info.started_at == started
    assert info.counts == {"done": 0, "skipped": 0, "failed": 0}
    for field in record.__slots__:
        assert getattr(info, field) == getattr(record, field)

    store.note_run(
        record,
        [
            RunItem(source="a.jpg", output="a.png", status="done", method="prototype", width=4, height=3),
            RunItem(source="b.jpg", output="b.png", status="done", method="gem"),
            RunItem(source="c\udcff.jpg", output=None, status="failed", error="truncated"),
        ],
    )
    store.note_run(record, [RunItem(source="d.jpg", output="d.png", status="skipped")])
    store.note_run(record, [])
    store.finish_run(record.id, "interrupted")
    info = Store.open(store.path).last_run()
    assert info is not None
    assert info.status == "interrupted"
    assert info.counts == {"done": 2, "skipped": 1, "failed": 1}
    assert info.finished_at is not None
    assert abs(info.finished_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_last_run_is_the_one_that_began_last_whatever_the_clock_says(store: Store) -> None:
    first = make_run(started_at=datetime(2030, 1, 1, tzinfo=UTC))
    second = make_run(started_at=datetime(2020, 1, 1, tzinfo=UTC))
    third = make_run()
    for record in (first, second, third):
        store.note_run(record)
        store.note_run(record, [RunItem(source="a", output="b", status="done")])
    assert [info.id for info in store.runs()] == [third.id, second.id, first.id]
    assert [info.counts["done"] for info in store.runs()] == [1, 1, 1]
    last = store.last_run()
    assert last is not None
    assert last.id == third.id


def test_what_was_told_may_be_told_again(store: Store) -> None:
    """A caller that was interrupted does not know whether the store heard it."""
    record, items = make_run(), [RunItem(source=name, output=name, status="done") for name in "abcd"]
    for told in ([], [], items[:2], items[:2], items[2:], items[2:], []):
        store.note_run(record, told)
    assert [(info.id, info.counts["done"]) for info in store.runs()] == [(record.id, 4)]


def test_runs_that_do_not_fit(store: Store) -> None:
    record = make_run()
    store.note_run(record)
    for call in (
        lambda: store.finish_run("nope", "finished"),
        lambda: store.record_evaluation("nope", {}),
    ):
        with pytest.raises(ValueError, match="no run 'nope'"):
            call()
    with pytest.raises(StoreError, match="cannot be used just now"):
        store.finish_run(record.id, "lost")  # type: ignore[arg-type]


def test_evaluations_are_numbered(store: Store) -> None:
    record = make_run()
    store.note_run(record)
    assert store.record_evaluation(record.id, {"miou": 0.5, "classes": [{"name": "猫", "iou": None}]}) == 1
    assert store.record_evaluation(None, {}) == 2


def test_runs_change_no_vectors(store: Store) -> None:
    revision = store.vector_revision
    store.note_run(make_run())
    assert store.vector_revision == revision
