"""Several methods on the same pictures as one table: for documents, papers, spreadsheets and programs.

The same table gives the same bytes: nothing here asks for the time, or for anything else that changes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ovseg_cli.evaluation.comparison import GROUPS_BY
from ovseg_cli.evaluation.tables import cell
from ovseg_cli.methods.results import Published

_ABSENT = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method.

    Attributes:
        method: Its name.
        title: As its authors write it.
        source: The paper.
        kind: What it has learned from: see `ovseg_cli.methods.catalogue.Method.kind`.
        miou: 0..1; None where it has no figure that can be compared.
        interval: Its bounds.
        group: A letter that it shares with methods that cannot be told apart from it.
        miou_present: Over the classes of the truth alone.
        pixel_accuracy: 0..1.
        pictures: How many were scored.
        failed: How many it could not do with.
        remark: Why there is no figure, and the like.
        published: What has been published of it, the nearest first.
        seconds: A picture, alone.
        memory: Bytes, alone.
        code: The published code and its licence.
        weights: Of each network: its part, model, revision, licence, and whether commercial use is free to all.
        settings: What it was run with.
        digest: Of everything that decides its label maps.
    """

    method: str
    title: str
    source: str
    kind: str
    miou: float | None
    interval: tuple[float, float] | None = None
    group: str = ""
    miou_present: float | None = None
    pixel_accuracy: float | None = None
    pictures: int
    failed: int = 0
    remark: str = ""
    published: tuple[Published, ...] = ()
    seconds: float | None = None
    memory: int | None = None
    code: str = ""
    weights: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All of them.

    Attributes:
        title: What was scored.
        facts: What holds for all rows, in pairs of name and value.
        convention: How mIoU is computed.
        rows: The methods.
        left_out: By method that is not in the table, why.
        notes: What the reader should know.
        published_of: The data set that published figures are of.
    """

    title: str
    facts: Mapping[str, Any]
    convention: str
    rows: tuple[Row, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published_of: str = ""

    def sorted(self) -> list[Row]:
        """The rows, the best first."""
        return sorted(self.rows, key=lambda row: (row.miou is None, -(row.miou or 0.0), row.method))


def as_markdown(table: Table) -> str:
    """For people: the table, then where its figures come from."""
    sources = _Sources()
    heads = _heads(table)
    lines = [
        f"# {cell(table.title)}",
        "",
        f"| {' | '.join(heads)} |",
        "|" + "|".join("---:" if head in _NUMBERS else "---" for head in heads) + "|",
    ]
    for row in table.sorted():
        cells = [f"`{row.method}` {cell(row.title)}" if row.title.lower() != row.method else f"`{row.method}`"]
        lines.append(f"| {' | '.join([*cells, *map(cell, _cells(row, sources))])} |")
    lines += ["", f"mIoU in percent: {cell(table.convention)}."]
    lines += ["", *(f"{note}" for note in map(cell, _legend(table)))]
    lines += _listed("Published", [f"[{number}] {cell(text)}" for text, number in sources.numbers.items()])
    lines += _listed("Left out", [f"`{method}`: {cell(why)}" for method, why in table.left_out.items()])
    lines += _listed("Remarks", [f"`{row.method}`: {cell(row.remark)}" for row in table.sorted() if row.remark])
    lines += _listed("Weights", [cell(text) for text in _weights(table)])
    lines += _listed("Settings", [f"`{row.method}`: {cell(_settings(row))}" for row in table.sorted()])
    lines += _listed("Made with", [f"{cell(name)}: {cell(_text(value))}" for name, value in table.facts.items()])
    lines += _listed("Notes", [cell(note) for note in table.notes])
    return "\n".join(lines) + "\n"


def as_latex(table: Table) -> str:
    """For papers: a table by the rules of booktabs, with its notes below it."""
    sources = _Sources()
    heads = _heads(table)
    columns = "".join("r" if head in _NUMBERS else "l" for head in heads)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_tex(table.title)}. mIoU in percent: {_tex(table.convention)}.}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(map(_tex, heads)) + " \\\\",
        "\\midrule",
    ]
    lines += [" & ".join(map(_tex, (row.title, *_cells(row, sources)))) + " \\\\" for row in table.sorted()]
    lines += ["\\bottomrule", "\\end{tabular}", "", "\\footnotesize"]
    lines += [f"{_tex(line)}\\par" for line in _legend(table)]
    lines += [f"[{number}] {_tex(text)}\\par" for text, number in sources.numbers.items()]
    lines += ["\\end{table}"]
    return "\n".join(lines) + "\n"


def as_csv(table: Table) -> str:
    """For spreadsheets: one row for each method, empty cells where a figure is not defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        (
            *("method", "title", "source", "kind", "miou", "miou_low", "miou_high", "group", "miou_present"),
            *("pixel_accuracy", "pictures", "failed", "published_on", "published_miou", "published_backbone"),
            *("published_protocol", "published_source", "seconds_per_picture", "memory_bytes", "code", "weights"),
            *("weights_licences", "commercial_use", "settings", "digest", "remark"),
        )
    )
    for row in table.sorted():
        best = row.published[0] if row.published else None
        low, high = row.interval or (None, None)
        writer.writerow(
            (
                *(row.method, row.title, row.source, row.kind, row.miou, low, high, row.group, row.miou_present),
                *(row.pixel_accuracy, row.pictures, row.failed),
                *((best.dataset, best.miou, best.backbone, best.protocol, best.source) if best else (None,) * 5),
                *(row.seconds, row.memory, row.code),
                "; ".join(f"{one['model']} at {one['revision']}" for one in row.weights),
                "; ".join(dict.fromkeys(str(one["licence"]) for one in row.weights)),
                "" if not row.weights else "yes" if all(one["commercial"] for one in row.weights) else "no",
                *(_settings(row), row.digest, row.remark),
            )
        )
    return text.getvalue()


def as_json(table: Table) -> str:
    """For programs: all of it."""
    data = asdict(table)
    data["rows"] = [asdict(row) for row in table.sorted()]
    return json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


FORMS = {"table.md": as_markdown, "table.tex": as_latex, "table.csv": as_csv, "table.json": as_json}
"""The files that a table is written to."""

_NUMBERS = frozenset({"mIoU", "s/picture", "memory"})


def _heads(table: Table) -> list[str]:
    published = f"published on {table.published_of}" if table.published_of else "published"
    return ["method", "kind", "mIoU", "95 % in", "group", published, "s/picture", "memory", "code", "weights"]


def _cells(row: Row, sources: _Sources) -> list[str]:
    """All but the first cell."""
    interval = _ABSENT if row.interval is None else f"{_percent(row.interval[0])} to {_percent(row.interval[1])}"
    commercial = all(one["commercial"] for one in row.weights)
    return [
        row.kind,
        _percent(row.miou),
        interval,
        row.group or _ABSENT,
        ", ".join(f"{one.miou:g} [{sources.number(one)}]" for one in row.published) or _ABSENT,
        _ABSENT if row.seconds is None else f"{row.seconds:.3g}",
        _ABSENT if row.memory is None else f"{row.memory / 1e9:.2f} GB",
        row.code or _ABSENT,
        _ABSENT if not row.weights else "commercial use free" if commercial else "no commercial use",
    ]


class _Sources:
    """Numbers the sources of published figures, in the order in which they are met."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, published: Published) -> int:
        text = f"{published.backbone}; {published.protocol}. Read in: {published.source}"
        return self.numbers.setdefault(text, len(self.numbers) + 1)


def _legend(table: Table) -> list[str]:
    told = []
    if any(row.interval is not None for row in table.rows):
        told.append(
            "95 % in: bootstrap over pictures. group: methods that share a letter cannot be told apart by these "
            f"pictures. {GROUPS_BY}"
        )
    if any(row.seconds is not None for row in table.rows):
        told.append(
            "s/picture and memory: the method alone in a process of its own, measured when the benchmark was run; "
            "memory with networks and libraries."
        )
    told.append(
        "kind: what a method has learned segments from. Rows of several kinds do not compete. "
        "code: the published code's licence; ovseg's own is Apache-2.0."
    )
    return told


def _weights(table: Table) -> list[str]:
    """Every set of weights once, with its licence and who uses it."""
    used: dict[str, list[str]] = {}
    for row in table.sorted():
        for one in row.weights:
            text = f"{one['part']}, {one['model']} at {one['revision']}: {one['licence']}"
            used.setdefault(text + ("" if one["commercial"] else " (no commercial use)"), []).append(row.method)
    return [f"{text}; used by {', '.join(methods)}" for text, methods in used.items()]


def _settings(row: Row) -> str:
    """What a method was run with, short; everything is in the JSON, and decides the digest."""
    parts = []
    for part in ("inference", "dense"):
        values = row.settings.get(part)
        if not isinstance(values, Mapping):
            continue
        windows = [f"{size}/{stride}" for size, stride in values.get("windows", ())]
        windows += ["whole"] if values.get("whole_image") else []
        told = [f"short side {values.get('short_side')}", f"windows {' '.join(windows)}"]
        if part == "dense":
            told = [f"words by {values['method']}"] if row.settings.get("hybrid") else []
            told += [f"short side {values.get('short_side')}", f"windows {' '.join(windows)}"]
            told += [f"templates {row.settings.get('templates') or values.get('templates')}"]
            told += [f"logit scale {values.get('logit_scale'):g}"]
        parts += told
    parts += [f"refine {row.settings.get('refine')}"]
    if row.settings.get("threshold") is not None:
        parts += [f"threshold {row.settings['threshold']}"]
    if row.settings.get("prefilter"):
        parts += ["pre-filter"]
    return ", ".join([*parts, f"digest {row.digest[:12]}"])


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return "yes" if value is True else "no" if value is False else "none" if value is None else str(value)


def _listed(heading: str, items: Sequence[str]) -> list[str]:
    return ["", f"## {heading}", "", *(f"- {item}" for item in items)] if items else []


def _percent(value: float | None) -> str:
    return _ABSENT if value is None else f"{100 * value:.1f}"


_TEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "–": "--",
    "±": "$\\pm$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
}


def _tex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_TEX.get(letter, letter) for letter in " ".join(text.split()))
