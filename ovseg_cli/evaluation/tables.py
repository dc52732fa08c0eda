"""A report as a table for other programs: CSV for spreadsheets, Markdown for documents."""

from __future__ import annotations

import csv
import io

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
)


def as_csv(report: Report) -> str:
    """One row per class (`kind` is class), then one over all of them (overall): their means, and what has no class.

    Cells are empty where a figure is not defined.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for score in report.classes:
        shares = (score.gt_pixels, score.predicted_pixels, score.gt_share, score.predicted_share)
        table.writerow(("class", score.name, score.iou, score.precision, score.recall, *shares, None, None))
    accuracy = (report.pixel_accuracy, report.frequency_weighted_iou)
    table.writerow(
        ("overall", "mean", report.miou, None, report.mean_accuracy, report.pixels, None, None, None, *accuracy)
    )
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
    lines += ["", ", ".join(overall), "", f"{report.convention}."]
    if report.warnings:
        lines += ["", *(f"- {cell(warning)}" for warning in report.warnings)]
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def cell(text: str) -> str:
    """Text that stays in its cell, and is read as it is."""
    for mark in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
