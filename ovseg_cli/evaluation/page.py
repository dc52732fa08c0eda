"""An evaluation as one page of HTML that needs nothing else: no network, no other file, and no script to be read.

Whatever a file, a class or an option is called, it is text here. A content policy in the page keeps the browser from
loading anything, should that ever fail.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.drawing.difference import CONFUSED, INVENTED, MISSED
from ovseg_cli.drawing.matrix import NOTE, matrix_svg, row_shares
from ovseg_cli.evaluation.reliability import Reliability
from ovseg_cli.files.labels import Colour
from ovseg_cli.pages.frame import Section, document
from ovseg_cli.pages.parts import ABSENT, cell, fact_list, figure, jpeg_uri, number, percent, share, swatch, table

PICTURES_LISTED: Final = 1000
"""Pictures whose figures stand on the page; those of more are the worst."""

CONFUSIONS_LISTED: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One figure over all pictures.

    Attributes:
        name: What it is.
        value: 0..1; None where it is not defined.
        interval: Its bounds; None where none were computed.
        convention: How it is computed.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    convention: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """The figures of a class, 0..1; None where they are not defined."""

    name: str
    iou: float | None
    interval: tuple[float, float] | None = None
    precision: float | None
    recall: float | None
    gt_share: float
    predicted_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRow:
    """The figures of one picture, 0..1; None where they are not defined.

    Attributes:
        key: Its name.
        miou: Mean IoU over the classes of its truth.
        accuracy: Share of its pixels that are right.
        pixels: How many count.
        remark: What went wrong most, in words.
    """

    key: str
    miou: float | None
    accuracy: float | None
    pixels: int
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownClass:
    """A class of a picture that is shown.

    Attributes:
        name: The class.
        colour: In which it is drawn; None for what is left bare.
        truth: Share of the picture's pixels, 0..1.
        found: Likewise.
        iou: In this picture.
    """

    name: str
    colour: Colour | None
    truth: float
    found: float
    iou: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownPicture:
    """A picture that is shown with its labels, each drawing None where it could not be made.

    Attributes:
        row: Its figures.
        image: The picture.
        truth: It with its true labels.
        found: It with the predicted ones.
        difference: Where these differ.
        classes: What is in them.
        missing: Why there is no picture, when there is none.
    """

    row: PictureRow
    image: Image.Image | None
    truth: Image.Image
    found: Image.Image
    difference: Image.Image
    classes: Sequence[ShownClass]
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Page:
    """All that a page says.

    Attributes:
        title: What was scored.
        summary: Lines below the title: what, where, how many.
        headlines: The first is the largest.
        classes: In their order.
        names: Those of the matrix, whose rows may be more than the classes that are scored.
        counts: `(C, C)` int64, ground truth in rows.
        reliability: Scores against truth; None where no scores are kept.
        reliability_note: Why there is none, or what the scores are.
        pictures: All, the worst first.
        shown: The worst of them.
        warnings: What the reader should know.
        facts: What it was made with, in pairs of name and value.
    """

    title: str
    summary: Sequence[str]
    headlines: Sequence[Headline]
    classes: Sequence[ClassRow]
    names: Sequence[str]
    counts: npt.NDArray[np.int64]
    reliability: Reliability | None
    reliability_note: str
    pictures: Sequence[PictureRow]
    shown: Sequence[ShownPicture]
    warnings: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def as_html(page: Page) -> str:
    """The page as text."""
    return "\n".join(
        document(
            title=page.title,
            summary=page.summary,
            sections=[
                Section("figures", "Figures", _figures(page)),
                Section("classes", "Classes", _classes(page.classes)),
                Section("confusion", "What is taken for what", _confusion(page)),
                Section("scores", "Are the scores right?", _reliability(page)),
                Section("worst", "The worst pictures", _worst(page)),
                Section("pictures", "All pictures", _pictures(page.pictures)),
                Section("made", "How this was made", fact_list(page.facts)),
            ],
        )
    )


def _figures(page: Page) -> Iterator[str]:
    yield '<dl class="cards">'
    for headline in page.headlines:
        interval = _interval(headline.interval)
        yield (
            f"<div><dt>{escape(headline.name)}</dt><dd><strong>{figure(headline.value)}</strong>"
            + (f' <span class="interval">95 % in {interval}</span>' if interval else "")
            + f'<p class="small">{escape(headline.convention)}</p></dd></div>'
        )
    yield "</dl>"
    if page.warnings:
        yield '<h3>What to know of these figures</h3><ul class="warnings">'
        yield from (f"<li>{escape(warning)}</li>" for warning in page.warnings)
        yield "</ul>"


def _classes(classes: Sequence[ClassRow]) -> Iterator[str]:
    with_interval = any(row.interval is not None for row in classes)
    columns = ["class", "IoU", *(["95 % in"] if with_interval else []), "precision", "recall", "truth", "found"]
    yield from table("Figures of each class", columns, (_class_cells(row, with_interval) for row in classes))


def _class_cells(row: ClassRow, with_interval: bool) -> list[str]:
    bounds = [cell(_interval(row.interval) or ABSENT, None if row.interval is None else row.interval[0])]
    return [
        f'<th scope="row">{escape(row.name)}</th>',
        number(row.iou, bar=True),
        *(bounds if with_interval else []),
        number(row.precision),
        number(row.recall),
        share(row.gt_share),
        share(row.predicted_share),
    ]


def _confusion(page: Page) -> Iterator[str]:
    heading = f"Confusion matrix of {len(page.names)} classes; the largest of its entries are in the table below"
    yield f'<p class="small">{escape(NOTE)}</p>'
    yield '<div class="scroll" role="region" tabindex="0" aria-label="Confusion matrix">'
    yield matrix_svg(page.names, page.counts, title=heading)
    yield "</div>"
    data = base64.b64encode(confusion_csv(page.names, page.counts).encode()).decode()
    yield (
        f'<p><a download="confusion.csv" href="data:text/csv;charset=utf-8;base64,{data}">The matrix in pixels, as CSV'
        "</a></p>"
    )
    shares, wrong = row_shares(page.counts), page.counts.copy()
    np.fill_diagonal(wrong, 0)
    largest = [place for place in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS_LISTED]]
    rows = []
    for place in largest:
        true, found = divmod(int(place), len(page.names))
        if wrong[true, found]:
            rows.append(
                [
                    f'<th scope="row">{escape(page.names[true])}</th>',
                    f"<td>{escape(page.names[found])}</td>",
                    cell(f"{wrong[true, found]:,}", float(wrong[true, found])),
                    share(float(shares[true, found])),
                ]
            )
    if rows:
        yield "<h3>The most frequent mistakes</h3>"
        yield from table("The most frequent mistakes", ["true", "found as", "pixels", "of the true class"], rows)
    else:
        yield "<p>There is no mistake.</p>"


def confusion_csv(names: Sequence[str], counts: npt.NDArray[np.int64]) -> str:
    """A confusion matrix as CSV: one row for each true class, with the pixels that were found to be each class."""
    import csv

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["true \\ found", *names])
    for name, row in zip(names, counts.tolist(), strict=True):
        table.writerow([name, *row])
    return text.getvalue()


def _reliability(page: Page) -> Iterator[str]:
    yield f"<p>{escape(page.reliability_note)}</p>"
    found = page.reliability
    if found is None:
        return
    yield f"<p>Expected calibration error: <strong>{figure(found.error)}</strong> (0 is best).</p>"
    yield '<div class="scroll">' + _diagram(found) + "</div>"
    rows = [
        [
            f'<th scope="row">{one.low:.1f} to {one.high:.1f}</th>',
            number(one.score),
            number(one.right),
            cell(f"{one.regions:,}", one.regions),
            cell(f"{one.pixels:,}", one.pixels),
        ]
        for one in found.bins
    ]
    yield from table("Scores and how often they are right", ["score", "mean", "right", "regions", "pixels"], rows)


def _diagram(found: Reliability) -> str:
    """Bars of the right share over the score, and the line where both are equal."""
    side, left, top = 240, 40, 10
    bars = []
    for one in found.bins:
        x, width = left + one.low * side, (one.high - one.low) * side
        bars.append(
            f'<rect x="{x + 1:.1f}" y="{top + (1 - one.right) * side:.1f}" width="{width - 2:.1f}" '
            f'height="{one.right * side:.1f}" style="fill:var(--heat)"/>'
            f'<circle cx="{left + one.score * side:.1f}" cy="{top + (1 - one.right) * side:.1f}" r="3.5" '
            'style="fill:var(--paper);stroke:var(--ink)"/>'
        )
    ticks = "".join(
        f'<text x="{left + at * side:.0f}" y="{top + side + 16}" text-anchor="middle">{at:g}</text>'
        f'<text x="{left - 6}" y="{top + (1 - at) * side + 4:.0f}" text-anchor="end">{at:g}</text>'
        for at in (0, 0.5, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 300" width="300" height="300" role="img" '
        'aria-label="Share of right pixels by score; its figures are in the table below" font-size="12" '
        'font-family="system-ui, sans-serif"><g style="fill:var(--ink)">'
        f'{ticks}<text x="{left + side / 2}" y="{top + side + 34}" text-anchor="middle">score</text>'
        f'<text transform="translate(12 {top + side / 2 - 30}) rotate(-90)" text-anchor="middle">right</text></g>'
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" style="fill:none;stroke:var(--rule)"/>'
        f"{''.join(bars)}"
        f'<path d="M{left} {top + side}L{left + side} {top}" style="stroke:var(--ink)" stroke-dasharray="4 3"/></svg>'
    )


def _worst(page: Page) -> Iterator[str]:
    if not page.shown:
        yield "<p>No picture is shown.</p>"
        return
    number = len(page.shown)
    yield (
        f"<p>The {number} of {len(page.pictures)} pictures with the lowest mean IoU over the classes of their truth, "
        "the worst first; small copies. The figures of the others are in the table below.</p>"
    )
    kinds = ((CONFUSED, "another class was found"), (MISSED, "nothing was found"), (INVENTED, "nothing is there"))
    keys = "".join(f"<li>{swatch(colour)}{escape(text)}</li>" for colour, text in kinds)
    yield (
        f'<ul class="legend" aria-label="Colours of the differences">{keys}'
        '<li><span class="swatch hatched" aria-hidden="true"></span>does not count</li></ul>'
    )
    for place, shown in enumerate(page.shown):
        yield from _shown(shown, place)


def _shown(shown: ShownPicture, place: int) -> Iterator[str]:
    row = shown.row
    yield (
        f'<article aria-labelledby="worst-{place}"><h3 id="worst-{place}">{escape(row.key)}</h3>'
        f'<p class="small">mIoU {figure(row.miou)}, accuracy {figure(row.accuracy)}'
        f"{'. ' + escape(row.remark) if row.remark else ''}</p>"
    )
    yield '<div class="four">'
    parts = (("picture", shown.image), ("truth", shown.truth), ("found", shown.found), ("difference", shown.difference))
    for title, image in parts:
        inside = (
            f'<p class="missing">{escape(shown.missing)}</p>'
            if image is None
            else f'<img src="{jpeg_uri(image)}" width="{image.width}" height="{image.height}" loading="lazy" '
            f'alt="{title} of {escape(row.key)}">'
        )
        yield f"<figure>{inside}<figcaption>{title}</figcaption></figure>"
    yield "</div>"
    items = "".join(
        f"<li>{swatch(one.colour)}{escape(one.name)} "
        f'<span class="small">truth {percent(one.truth)}, found {percent(one.found)}, '
        f"IoU {figure(one.iou)}</span></li>"
        for one in shown.classes
    )
    yield f'<ul class="legend" aria-label="Classes of {escape(row.key)}">{items}</ul></article>'


def _pictures(pictures: Sequence[PictureRow]) -> Iterator[str]:
    listed = pictures[:PICTURES_LISTED]
    if len(listed) < len(pictures):
        yield (
            f"<p>The worst {len(listed):,} of {len(pictures):,} pictures. The figures of all come with --per-picture "
            "FILE.csv or FILE.jsonl.</p>"
        )
    yield '<p class="small">mIoU: over the classes of the picture\'s truth.</p>'
    rows = (
        [
            f'<th scope="row">{escape(row.key)}</th>',
            number(row.miou, bar=True),
            number(row.accuracy),
            cell(f"{row.pixels:,}", row.pixels),
            f"<td>{escape(row.remark)}</td>",
        ]
        for row in listed
    )
    yield from table("Figures of each picture", ["picture", "mIoU", "accuracy", "pixels", "what went wrong most"], rows)


def _interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
