"""Runs, what became of their inputs, and evaluations: rows that `eval` finds its last run by."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from ovseg_cli.store.classes import printable
from ovseg_cli.store.records import RunInfo, RunItem, RunRecord, RunStatus
from ovseg_cli.store.tables import Evaluation, Run, RunItemRow
from ovseg_cli.urls import place


def note(session: Session, record: RunRecord, items: Sequence[RunItem]) -> None:
    """Note a run, and what became of some of its inputs; what is known of it already is left as it is."""
    number = session.scalar(select(Run.number).where(Run.id == record.id))
    if number is None:
        number = _begin(session, record)
    # The run's last row is among the table's last ones, so this reads few of them.
    last = select(RunItemRow.source).where(RunItemRow.run_number == number).order_by(RunItemRow.id.desc()).limit(1)
    if items and session.scalar(last) != printable(items[-1].source):
        _add(session, number, items)


def _begin(session: Session, record: RunRecord) -> int:
    row = Run(
        id=record.id,
        command=record.command,
        argv=list(record.argv),
        method=record.method,
        classes=list(record.classes),
        background=record.background,
        output=printable(str(record.output)),
        inputs=list(record.inputs),
        started_at=record.started_at,
        status="running",
        settings=record.settings,
    )
    session.add(row)
    session.flush()
    return row.number


def _add(session: Session, number: int, items: Sequence[RunItem]) -> None:
    rows = [
        {
            "run_number": number,
            "source": printable(item.source),
            "output": None if item.output is None else printable(item.output),
            "status": item.status,
            "method": item.method,
            "error": None if item.error is None else printable(item.error),
            "width": None if item.width is None else int(item.width),
            "height": None if item.height is None else int(item.height),
        }
        for item in items
    ]
    session.execute(insert(RunItemRow), rows)


def finish(session: Session, run_id: str, status: RunStatus) -> None:
    """Note how a run ended.

    Raises:
        ValueError: If there is no such run.
    """
    row = _run(session, run_id)
    row.status = status
    row.finished_at = datetime.now(UTC)


def add_evaluation(session: Session, run_id: str | None, report: dict[str, Any]) -> int:
    """Keep a report; give its number.

    Raises:
        ValueError: If there is no such run.
    """
    row = Evaluation(
        run_number=None if run_id is None else _run(session, run_id).number,
        created_at=datetime.now(UTC),
        report=report,
    )
    session.add(row)
    session.flush()
    return row.id


def infos(session: Session, *, last: int | None = None) -> list[RunInfo]:
    """Describe runs, the latest first; only the `last` ones when given."""
    rows = session.scalars(select(Run).order_by(Run.number.desc()).limit(last)).all()
    counts: dict[int, dict[str, int]] = {row.number: {"done": 0, "skipped": 0, "failed": 0} for row in rows}
    groups = session.execute(
        select(RunItemRow.run_number, RunItemRow.status, func.count())
        .where(RunItemRow.run_number >= min(counts, default=0))
        .group_by(RunItemRow.run_number, RunItemRow.status)
    )
    for number, status, count in groups:
        counts[number][status] = count
    return [
        RunInfo(
            id=row.id,
            command=row.command,
            argv=tuple(row.argv),
            method=row.method,
            classes=tuple(row.classes),
            background=row.background,
            output=place(row.output),
            inputs=tuple(row.inputs),
            started_at=row.started_at,
            settings=row.settings,
            status=cast("RunStatus", row.status),
            finished_at=row.finished_at,
            counts=counts[row.number],
        )
        for row in rows
    ]


def _run(session: Session, run_id: str) -> Run:
    row = session.scalars(select(Run).where(Run.id == run_id)).one_or_none()
    if row is None:
        raise ValueError(f"no run {run_id!r} has begun in this store")
    return row
