"""The page of a run: its pictures with their labels over them, drawn as those who look wish.

Everything is in the one file. A picture has a small JPEG and a small label map, a PNG with a palette, in a block of
text that the browser does not decode until the picture comes near the window. A script then writes colours and
transparency into the palette. So a class is switched on and off without touching a pixel, and without reading any file,
which browsers forbid to pages that are opened from a disk.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

from ovseg_cli.files.labels import Colour
from ovseg_cli.pages.frame import Section, document
from ovseg_cli.pages.parts import cell, fact_list, share, swatch, table

EIGHT: Final[tuple[Colour, ...]] = (
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (0, 158, 115),
    (0, 0, 0),
)
"""Okabe and Ito's colours (2008), which people tell apart who do not see all colours."""

FAILED_LISTED: Final = 1000
"""Failed pictures that are listed."""

_NONE: Final = "-"
_HERE: Final = Path(__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTotal:
    """A class over all pictures.

    Attributes:
        name: The class.
        colour: In which it is drawn; None for the background, which is left bare.
        pictures: In how many it is.
        share: Of the pixels of all pictures, 0..1.
    """

    name: str
    colour: Colour | None
    pictures: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPicture:
    """A picture of the gallery.

    Attributes:
        name: By which it is listed.
        address: Below the addresses where pictures lie, as part of a URL.
        size: (width, height); None where it is not known.
        margin: How far its labels are from others; None where it is not known.
        files: URLs of its label map, overlay and explanation; None for what it does not have.
        classes: Each class in it by its place among the page's, with its share, and its score where it has one.
        remark: What is to be known of it.
    """

    name: str
    address: str
    size: tuple[int, int] | None
    margin: float | None
    files: tuple[str | None, str | None, str | None]
    classes: Sequence[tuple[int, float, float | None]]
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SmallCopy:
    """What is seen of a picture in the gallery.

    Attributes:
        jpeg: The picture; None where it cannot be shown.
        labels: Its label map (see `ovseg_cli.pages.thumbnails.small_labels`); likewise.
        classes: The places of the classes in that label map.
        missing: Why something cannot be shown.
    """

    jpeg: bytes | None
    labels: bytes | None
    classes: tuple[int, ...] = ()
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunPage:
    """All that the page of a run says.

    Attributes:
        title: What ran.
        summary: Lines below the title.
        notes: What the reader should know.
        classes: Their totals, in their order; the first is the background.
        pictures: Those of the gallery.
        copies: What is seen of each of them, in their order, made when it is its turn.
        bases: URLs where pictures may lie; what is there under the first counts.
        margins: What is to be said of margins.
        has_margins: Whether any picture has one.
        failed: Each failed picture, and why.
        facts: What the run was made with.
        settings: All settings, as JSON.
    """

    title: str
    summary: Sequence[str]
    notes: Sequence[str]
    classes: Sequence[ClassTotal]
    pictures: Sequence[RunPicture]
    copies: Iterable[SmallCopy]
    bases: Sequence[str]
    margins: str
    has_margins: bool
    failed: Sequence[tuple[str, str]]
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""


def as_html(page: RunPage) -> Iterator[str]:
    """The page, piece by piece: no more than one picture's is in memory at once."""
    sections = [
        Section("totals", "Classes", _totals(page)),
        Section("pictures", "Pictures", _gallery(page)),
        *([Section("failed", "Failed pictures", _failed(page.failed))] if page.failed else []),
        Section("made", "How this was made", _made(page)),
    ]
    yield from document(
        title=page.title,
        summary=page.summary,
        sections=sections,
        style=_HERE.with_name("run.css").read_text(encoding="utf-8"),
        script=_HERE.with_name("run.js").read_text(encoding="utf-8"),
        images="'self' data: blob: file:",
        data=_data(page),
    )


def _totals(page: RunPage) -> Iterator[str]:
    yield '<div class="stay">'
    found = [(place, one) for place, one in enumerate(page.classes) if one.pictures]
    found.sort(key=lambda pair: (pair[0] == 0, -pair[1].share))
    if not found:
        yield "<p>No class was found.</p>"
    else:
        yield (
            '<p><button type="button" id="tick-all">Tick all</button> '
            '<button type="button" id="tick-none">Tick none</button> '
            '<span id="only" role="status"></span></p>'
        )
        columns = ["class", "pictures", "pixels", "alone"]
        yield from table("Classes of the run", columns, (_total_cells(place, one) for place, one in found))
    absent = [one.name for one in page.classes[1:] if not one.pictures]
    if absent:
        yield f"<details><summary>{len(absent)} of {len(page.classes) - 1} classes are in no picture</summary>"
        yield f"<p>{escape(', '.join(absent))}</p></details>"
    yield "</div>"


def _total_cells(place: int, one: ClassTotal) -> list[str]:
    name = escape(one.name)
    if one.colour is None:
        return [f'<th scope="row">{name}</th>', cell(f"{one.pictures:,}", one.pictures), share(one.share), "<td></td>"]
    mark = swatch(one.colour).replace("<span ", f'<span data-class="{place}" ', 1)
    return [
        f'<th scope="row"><label><input type="checkbox" checked data-class="{place}">{mark}{name}</label></th>',
        cell(f"{one.pictures:,}", one.pictures),
        share(one.share),
        f'<td><button type="button" data-only="{place}" aria-pressed="false" aria-label="Draw only {name}">only'
        "</button></td>",
    ]


def _gallery(page: RunPage) -> Iterator[str]:
    if not page.pictures:
        yield "<p>No picture has a label map.</p>"
    names = "".join(
        f'<option value="{place}">with {escape(one.name)}</option>'
        for place, one in enumerate(page.classes)
        if one.pictures
    )
    remarks = '<option value="remark">with a remark</option>' if any(one.remark for one in page.pictures) else ""
    yield (
        '<noscript><p class="warnings">This page draws its pictures with a script, and scripts are switched off here. '
        "The tables can be read without.</p></noscript>"
    )
    yield (
        '<div class="controls" id="controls" hidden role="search" aria-label="Which pictures, and how">'
        '<label>Name<input type="search" id="search" autocomplete="off" spellcheck="false"></label>'
        '<label>Show<select id="filter"><option value="all">all pictures</option>'
        f'{names}<option value="none">with no class</option>{remarks}</select></label>'
        '<label>Order<select id="sort"><option value="name">by name</option>'
        '<option value="share">largest share first</option>'
        f'<option value="margin"{"" if page.has_margins else " disabled"}>least certain first</option></select></label>'
        '<label>Opacity<input type="range" id="opacity" min="0" max="100" value="55"></label>'
        '<label>Colours<select id="colours"><option value="own">as in overlays</option>'
        '<option value="eight">eight, easy to tell apart</option></select></label>'
        '<label class="tick"><input type="checkbox" id="outlines" checked>Outlines</label></div>'
    )
    yield f'<p class="small">{escape(page.margins)}</p>' if page.margins else ""
    yield (
        '<p class="small">Largest share: of the class that is shown, or of all ticked ones. Arrow keys go from picture '
        "to picture, Enter opens the large view, where a class that is chosen is drawn alone.</p>"
    )
    yield '<p id="count" role="status"></p>'
    yield '<ul class="gallery" id="gallery" aria-label="Pictures"></ul>'
    yield '<p><button type="button" id="more" hidden></button></p>'
    yield (
        '<dialog id="view" aria-labelledby="view-name"><div class="bar-of-view"><h2 id="view-name"></h2>'
        '<span id="view-place" class="small"></span>'
        '<label class="small">Opacity<input type="range" id="view-opacity" min="0" max="100"></label>'
        '<button type="button" id="previous" aria-label="Previous picture">&#8592;</button>'
        '<button type="button" id="next" autofocus aria-label="Next picture">&#8594;</button>'
        '<button type="button" id="close">Close</button></div>'
        '<div class="stage" id="stage" role="img"><img id="view-picture" alt="">'
        '<img id="view-labels" class="labels" alt=""></div>'
        '<p class="small">Under the pointer: <span id="under"></span></p>'
        '<p class="small" id="view-note" role="status"></p>'
        '<ul id="view-classes" aria-label="Classes of this picture"></ul>'
        '<ul id="view-files" aria-label="Files of this picture"></ul></dialog>'
    )


def _failed(failed: Sequence[tuple[str, str]]) -> Iterator[str]:
    rows = (
        [f'<th scope="row">{escape(name)}</th>', f"<td>{escape(reason)}</td>"]
        for name, reason in failed[:FAILED_LISTED]
    )
    yield from table("Failed pictures", ["picture", "why"], rows)
    if len(failed) > FAILED_LISTED:
        yield f"<p>And {len(failed) - FAILED_LISTED:,} more, which predictions.jsonl lists.</p>"


def _made(page: RunPage) -> Iterator[str]:
    if page.notes:
        yield '<h3>What to know of this run</h3><ul class="warnings">'
        yield from (f"<li>{escape(note)}</li>" for note in page.notes)
        yield "</ul>"
    yield from fact_list(page.facts)
    if page.settings:
        yield f"<details><summary>All settings</summary><pre>{escape(page.settings)}</pre></details>"


def _data(page: RunPage) -> Iterator[str]:
    """What the script reads: a block for each picture, then the index of all."""
    remarks = []
    for place, copy in enumerate(page.copies):
        own = ",".join(map(str, copy.classes)) or _NONE
        yield f'<script type="text/plain" id="p{place}">{_base64(copy.jpeg)} {_base64(copy.labels)} {own}</script>'
        remarks.append(copy.missing)
    index = {
        "classes": [{"name": one.name, "colour": one.colour, "share": round(one.share, 6)} for one in page.classes],
        "pictures": [
            _record(one, " ".join(filter(None, (missing, one.remark))))
            for one, missing in zip(page.pictures, remarks, strict=True)
        ],
        "bases": page.bases,
        "eight": EIGHT,
    }
    # `<` would be the beginning of markup, whatever stands in a name.
    text = json.dumps(index, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    yield f'<script type="application/json" id="index">{text}</script>'


def _record(one: RunPicture, remark: str) -> list[Any]:
    """A picture as the script reads it."""
    width, height = one.size or (None, None)
    margin = None if one.margin is None else round(one.margin, 4)
    classes = [
        [place, round(part, 5), None if score is None else round(score, 4)] for place, part, score in one.classes
    ]
    return [one.name, one.address, width, height, margin, one.files, classes, remark]


def _base64(content: bytes | None) -> str:
    return _NONE if content is None else base64.b64encode(content).decode()
