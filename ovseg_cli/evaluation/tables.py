"""A report as a table for other programs: CSV for spreadsheets, Markdown for documents."""

from __future__ import annotations

import csv
import io

from ovseg_cli.evaluation.figures import BACKGROUNDS, Figure
from ovseg_cli.evaluation.report import Report

_COLUMNS = (
    "kind",
    "name",
    "iou",
    "precision",
    "recall",
    "truth_pixels",
    "predicted_pixels",
    "truth_share",
    "predicted_share",
    "pixel_accuracy",
    "frequency_weighted_iou",
    "dice",
    "boundary_iou",
    "value",
    "low",
    "high",
    "level",
    "background",
    "convention",
)


def as_csv(report: Report) -> str:
    """One row per class (`kind` is class), then one over all of them (overall): their means, and what has no class.

    Then one row per figure (figure) with its convention; its name is its key. Cells are empty where a figure is not
    defined.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    table.writeheader()
    for score in report.classes:
        table.writerow(
            {
                "kind": "class",
                "name": score.name,
                "iou": score.iou,
                "precision": score.precision,
                "recall": score.recall,
                "truth_pixels": score.gt_pixels,
                "predicted_pixels": score.predicted_pixels,
                "truth_share": score.gt_share,
                "predicted_share": score.predicted_share,
                "dice": score.dice,
                "boundary_iou": score.boundary_iou,
            }
        )
    table.writerow(
        {
            "kind": "overall",
            "name": "mean",
            "iou": report.miou,
            "recall": report.mean_accuracy,
            "truth_pixels": report.pixels,
            "pixel_accuracy": report.pixel_accuracy,
            "frequency_weighted_iou": report.frequency_weighted_iou,
        }
    )
    for figure in report.figures:
        row = {"kind": "figure", "name": figure.key, "value": figure.value, "background": figure.background}
        if figure.interval is not None:
            row |= {"low": figure.interval.low, "high": figure.interval.high, "level": figure.interval.level}
        table.writerow(row | {"convention": figure.convention})
    for bound in report.oracles:
        for figure in bound.figures:
            row = {"kind": f"oracle {bound.oracle}", "name": figure.key, "value": figure.value}
            if figure.interval is not None:
                row |= {"low": figure.interval.low, "high": figure.interval.high, "level": figure.interval.level}
            table.writerow(row | {"background": figure.background, "convention": bound.convention})
    for presence in report.presence:
        for key in ("precision", "recall", "f1", "average_precision"):
            table.writerow({"kind": f"presence {key}", "name": presence.name, "value": getattr(presence, key)})
    return text.getvalue()


def as_markdown(report: Report) -> str:
    """The table that a terminal shows, with the figures over all classes, how they are computed, and all warnings."""
    lines = ["| class | IoU | truth | predicted |", "|---|---:|---:|---:|"]
    lines += [f"| {cell(name)} | {' | '.join(figures)} |" for name, *figures in report.rows()]
    overall = [
        f"**mIoU {_figure(report.miou)}**",
        f"pixel accuracy {_figure(report.pixel_accuracy)}",
        f"pictures {report.images}",
    ]
    lines += ["", ", ".join(overall), "", f"{report.convention}.", ""]
    lines += ["| figure | background | value | interval | how |", "|---|---|---:|---|---|"]
    for figure in report.figures:
        cells = (figure.title, figure.background, _figure(figure.value), shown_interval(figure), figure.convention)
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    if report.oracles:
        lines += ["", "| upper bound (an oracle) | mIoU | interval | how |", "|---|---:|---|---|"]
    for bound in report.oracles:
        miou = bound.figures[0]
        lines.append(
            f"| {' | '.join(map(cell, (bound.title, _figure(miou.value), shown_interval(miou), bound.convention)))} |"
        )
    lines += ["", *(f"- background {name}: {meaning}" for name, meaning in meanings(report))]
    if report.warnings:
        lines += ["", *(f"- {cell(warning)}" for warning in report.warnings)]
    return "\n".join(lines) + "\n"


def meanings(report: Report) -> list[tuple[str, str]]:
    """What the report's figures say about the background, and what each of it means; none where nothing is to tell."""
    named = list(dict.fromkeys(figure.background for figure in report.figures))
    return [(name, BACKGROUNDS[name]) for name in named] if len(named) > 1 else []


def shown_interval(figure: Figure) -> str:
    """Where a figure's interval begins and ends, or nothing."""
    return "" if figure.interval is None else f"{figure.interval.low:.3f} to {figure.interval.high:.3f}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def cell(text: str) -> str:
    """Text that stays in its cell, and is read as it is."""
    for mark in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
