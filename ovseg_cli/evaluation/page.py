"""An evaluation as one page of HTML that needs nothing else: no network, no other file, and no script to be read.

Whatever a file, a class or an option is called, it is text here. A content policy in the page keeps the browser from
loading anything, should that ever fail.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

PICTURES_LISTED: Final = 1000
"""Pictures whose figures stand on the page; those of more are the worst."""

CONFUSIONS_LISTED: Final = 15

_ABSENT: Final = "–"
_WORDS: Final = frozenset({"class", "picture", "what went wrong most", "true", "found as", "score"})
"""Columns that do not hold numbers."""

_NUMBER: Final = ' class="number"'


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
    sections = [
        ("figures", "Figures", _figures(page)),
        ("classes", "Classes", _classes(page.classes)),
        ("confusion", "What is taken for what", _confusion(page)),
        ("scores", "Are the scores right?", _reliability(page)),
        ("worst", "The worst pictures", _worst(page)),
        ("pictures", "All pictures", _pictures(page.pictures)),
        ("made", "How this was made", _facts(page.facts)),
    ]
    links = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections)
    body = [
        '<a class="skip" href="#figures">Skip to the figures</a>',
        f"<header><h1>{escape(page.title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in page.summary),
        f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav></header>',
        "<main>",
    ]
    for name, heading, content in sections:
        body.append(f'<section id="{name}" aria-labelledby="{name}-heading">')
        body.append(f'<h2 id="{name}-heading">{escape(heading)}</h2>')
        body += content
        body.append("</section>")
    body.append("</main>")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_digest(_SCRIPT)}'"
    head = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(page.title)}</title>",
        f"<style>{_STYLE}</style></head>",
        "<body>",
    ]
    return "\n".join([*head, *body, f"<script>{_SCRIPT}</script>", "</body>", "</html>", ""])


def _figures(page: Page) -> Iterator[str]:
    yield '<dl class="cards">'
    for headline in page.headlines:
        interval = _interval(headline.interval)
        yield (
            f"<div><dt>{escape(headline.name)}</dt><dd><strong>{_figure(headline.value)}</strong>"
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
    yield from _table("Figures of each class", columns, (_class_cells(row, with_interval) for row in classes))


def _class_cells(row: ClassRow, with_interval: bool) -> list[str]:
    bounds = [_cell(_interval(row.interval) or _ABSENT, None if row.interval is None else row.interval[0])]
    return [
        f'<th scope="row">{escape(row.name)}</th>',
        _number(row.iou, bar=True),
        *(bounds if with_interval else []),
        _number(row.precision),
        _number(row.recall),
        _share(row.gt_share),
        _share(row.predicted_share),
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
                    _cell(f"{wrong[true, found]:,}", float(wrong[true, found])),
                    _share(float(shares[true, found])),
                ]
            )
    if rows:
        yield "<h3>The most frequent mistakes</h3>"
        yield from _table("The most frequent mistakes", ["true", "found as", "pixels", "of the true class"], rows)
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
    yield f"<p>Expected calibration error: <strong>{_figure(found.error)}</strong> (0 is best).</p>"
    yield '<div class="scroll">' + _diagram(found) + "</div>"
    rows = [
        [
            f'<th scope="row">{one.low:.1f} to {one.high:.1f}</th>',
            _number(one.score),
            _number(one.right),
            _cell(f"{one.regions:,}", one.regions),
            _cell(f"{one.pixels:,}", one.pixels),
        ]
        for one in found.bins
    ]
    yield from _table("Scores and how often they are right", ["score", "mean", "right", "regions", "pixels"], rows)


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
    keys = "".join(f"<li>{_swatch(colour)}{escape(text)}</li>" for colour, text in kinds)
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
        f'<p class="small">mIoU {_figure(row.miou)}, accuracy {_figure(row.accuracy)}'
        f"{'. ' + escape(row.remark) if row.remark else ''}</p>"
    )
    yield '<div class="four">'
    parts = (("picture", shown.image), ("truth", shown.truth), ("found", shown.found), ("difference", shown.difference))
    for title, image in parts:
        inside = (
            f'<p class="missing">{escape(shown.missing)}</p>'
            if image is None
            else f'<img src="{_jpeg(image)}" width="{image.width}" height="{image.height}" loading="lazy" '
            f'alt="{title} of {escape(row.key)}">'
        )
        yield f"<figure>{inside}<figcaption>{title}</figcaption></figure>"
    yield "</div>"
    items = "".join(
        f"<li>{_swatch(one.colour)}{escape(one.name)} "
        f'<span class="small">truth {_percent(one.truth)}, found {_percent(one.found)}, '
        f"IoU {_figure(one.iou)}</span></li>"
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
            _number(row.miou, bar=True),
            _number(row.accuracy),
            _cell(f"{row.pixels:,}", row.pixels),
            f"<td>{escape(row.remark)}</td>",
        ]
        for row in listed
    )
    yield from _table(
        "Figures of each picture", ["picture", "mIoU", "accuracy", "pixels", "what went wrong most"], rows
    )


def _facts(facts: Mapping[str, str]) -> Iterator[str]:
    yield '<dl class="facts">'
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"


# ---------------------------------------------------------------------------------------------------- small parts


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table that can be sorted where scripts run, and scrolled by its own bar where it is too wide."""
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(title)}"><table class="sortable">'
    yield f'<caption class="unseen">{escape(title)}</caption><thead><tr>'
    yield "".join(f'<th scope="col"{"" if column in _WORDS else _NUMBER}>{escape(column)}</th>' for column in columns)
    yield "</tr></thead><tbody>"
    for cells in rows:
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _cell(text: str, value: float | None) -> str:
    """A number in a cell; what is not defined is sorted below all."""
    return f'<td class="number" data-value="{"" if value is None else repr(float(value))}">{escape(text)}</td>'


def _number(value: float | None, *, bar: bool = False) -> str:
    if value is None or not bar:
        return _cell(_figure(value), value)
    return (
        f'<td class="number bar" style="--share:{100 * min(1.0, max(0.0, value)):.1f}%" data-value="{float(value)!r}">'
        f"{_figure(value)}</td>"
    )


def _share(value: float) -> str:
    return _cell(_percent(value), value)


def _percent(value: float) -> str:
    return "< 0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def _figure(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.3f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _swatch(colour: Colour | None) -> str:
    if colour is None:
        return '<span class="swatch bare" aria-hidden="true"></span>'
    red, green, blue = colour
    return f'<span class="swatch" style="background:rgb({red} {green} {blue})" aria-hidden="true"></span>'


def _jpeg(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


_STYLE: Final = """
:root{--paper:#fafaf8;--ink:#202124;--faint:#5b6066;--rule:#d6d6d0;--card:#fff;--heat:#0b4f9c;--on-heat:#fff;
--bar:#cfe0f5;--link:#0b57a4;--warn:#fff4d6}
@media (prefers-color-scheme:dark){:root{--paper:#17181a;--ink:#e9e9e6;--faint:#a9adb3;--rule:#3c3f43;--card:#212326;
--heat:#8fc1ff;--on-heat:#10151c;--bar:#23405f;--link:#8fc1ff;--warn:#3d3419}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
header,main{max-width:72rem;margin:0 auto;padding:0 1rem}
h1{font-size:1.6rem;line-height:1.25;margin:1.5rem 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.5rem 0 .75rem;border-bottom:1px solid var(--rule)}
h3{font-size:1rem;margin:1.5rem 0 .25rem;overflow-wrap:anywhere}
p{margin:.25rem 0 .75rem;overflow-wrap:anywhere}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.small,.interval,figcaption{color:var(--faint);font-size:.875rem}.interval{display:block}
.skip{position:absolute;left:-999px}.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.5rem}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;padding:0;list-style:none}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.75rem;margin:0}
.cards>div{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.75rem 1rem}
.cards dt{font-weight:600}.cards dd{margin:0}.cards strong{font-size:1.6rem;font-variant-numeric:tabular-nums}
.cards>div:first-child strong{font-size:2.2rem}.cards p{margin:.25rem 0 0}
.warnings li{background:var(--warn);padding:.25rem .5rem;margin:.25rem 0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;background:var(--card)}
th,td{padding:.3rem .75rem;border-bottom:1px solid var(--rule);text-align:left;font-weight:400}
thead th{font-weight:600;vertical-align:bottom;white-space:nowrap}
tbody th{min-width:7rem;max-width:22rem;overflow-wrap:anywhere}
td.number,th.number{text-align:right;white-space:nowrap}
td.bar{min-width:7rem;background:linear-gradient(var(--bar),var(--bar)) left/var(--share) 100% no-repeat}
thead button{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:0;cursor:pointer}
thead button::after{content:" \\2195";color:var(--faint)}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
article{border-top:1px solid var(--rule);margin-top:1rem}
.four{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.5rem;align-items:start}
figure{margin:0}figure img{width:100%;height:auto;display:block;background:var(--rule)}
.missing{padding:1rem;border:1px dashed var(--rule)}
.legend{list-style:none;padding:0;margin:.5rem 0;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem}
.legend li{overflow-wrap:anywhere}
.swatch{display:inline-block;width:.9em;height:.9em;margin-right:.4em;vertical-align:-.08em;border:1px solid var(--ink)}
.bare{background:none}
.hatched{background:repeating-linear-gradient(135deg,#808080 0 2px,transparent 2px 5px)}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem}.facts dd{margin:0;overflow-wrap:anywhere}
@media (max-width:36rem){.facts{grid-template-columns:1fr}.facts dt{font-weight:600}th,td{padding:.3rem .5rem}}
@media print{.scroll{overflow:visible}article{break-inside:avoid}}
"""

_SCRIPT: Final = """
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  table.querySelectorAll('thead th').forEach((head, place) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') === 'descending';
      for (const other of head.parentNode.children) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const value = row => {
        const cell = row.cells[place], number = cell.dataset.value;
        return number === undefined ? cell.textContent : number === '' ? -Infinity : Number(number);
      };
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        return typeof x === 'number' ? x - y || 0 : x.localeCompare(y);
      });
      body.append(...(up ? rows : rows.reverse()));
    });
  });
}
"""
