"""What `ovseg bench` has measured: as data, as tables, and beside what another machine has. No torch here."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovseg_cli.atomic import write_json, write_text
from ovseg_cli.errors import UsageError

PLAIN, ATTRIBUTED = "drawing alone", "drawing with attribution"
"""Sections that differ by the attribution maps alone."""

FORMAT = 1
"""Raised when files of older versions can be read no more."""

NOTES = (
    "Seconds are the median of the repeats, after a run that is not timed; ± half of what lies between the least and "
    "the most.",
    "A stage has only its own time, without the stages inside it; the device has finished at both its ends. What no "
    "stage accounts for is the last row of a run.",
    "of peak: floating-point operations (matrix products, convolutions and attention, as torch counts them) by the "
    "seconds, as a share of what a large matrix product reaches here. A dash: torch counts none. Element-wise work, "
    "sorting, refinement along edges, k-means and files are not in it.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """One stage of a section.

    Attributes:
        name: As the code calls it (`ovseg_cli.stages.stage`).
        seconds: Of each repeat.
        calls: How often a run enters it.
        operations: Floating-point operations of a run, as far as torch counts them.
    """

    name: str
    seconds: tuple[float, ...]
    calls: int
    operations: int

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One kind of run.

    Attributes:
        name: Unique in a report, such as "segment, 8 together".
        pictures: How many pictures a run has.
        seconds: Of each repeat, with nobody looking.
        observed: Of each repeat in which stages were timed. On a CPU these are the same repeats; on a GPU waiting at
            the ends of stages takes its own time.
        stages: What it consists of, in their order.
        operations: Floating-point operations of a run, as far as torch counts them.
        device_bytes: The most that tensors took on the device, networks included; None on a CPU.
    """

    name: str
    pictures: int
    seconds: tuple[float, ...]
    observed: tuple[float, ...]
    stages: tuple[StageTime, ...]
    operations: int
    device_bytes: int | None = None

    @property
    def median(self) -> float:
        """Seconds of a run."""
        return statistics.median(self.seconds)

    @property
    def per_second(self) -> float:
        """Pictures per second."""
        return self.pictures / self.median

    @property
    def unexplained(self) -> tuple[float, ...]:
        """Of each repeat, the seconds that no stage accounts for."""
        return tuple(
            whole - sum(stage.seconds[place] for stage in self.stages) for place, whole in enumerate(self.observed)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was measured.

    Attributes:
        profile: Which models.
        weights: "random", "published" or "bundled".
        precision: What the networks compute in.
        device: Where, as torch names it.
        machine: What it is.
        versions: Of the libraries.
        settings: How it was measured.
        peak: Floating-point operations per second of a large matrix product in the networks' precision.
        loading: Seconds until all networks were there.
        process_bytes: The largest size of the process; None where the system does not say.
        sections: What was measured.
    """

    profile: str
    weights: str
    precision: str
    device: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    peak: float
    loading: float
    process_bytes: int | None
    sections: tuple[Section, ...]

    @property
    def attribution(self) -> float | None:
        """What attribution maps add to drawing, as a share of it; None where that was not measured."""
        seconds = {section.name: section.median for section in self.sections}
        if not (PLAIN in seconds and ATTRIBUTED in seconds):
            return None
        return seconds[ATTRIBUTED] / seconds[PLAIN] - 1

    def record(self) -> dict[str, Any]:
        """As JSON-able data, with what follows from the figures for readers without this code."""
        data = asdict(self) | {"attribution": self.attribution}
        for made, section in zip(data["sections"], self.sections, strict=True):
            made |= {
                "median": section.median,
                "per_second": section.per_second,
                "unexplained": section.unexplained,
                "share_of_peak": _share(section.operations, section.median, self.peak),
            }
            for stage_data, stage in zip(made["stages"], section.stages, strict=True):
                stage_data |= {
                    "median": stage.median,
                    "share_of_peak": _share(stage.operations, stage.median, self.peak),
                }
        return dict(json.loads(json.dumps({"ovseg_bench": FORMAT, **data})))

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what ``ovseg bench -o FILE.json`` or ``--json`` wrote.

        Raises:
            UsageError: It is no such file.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path} does not exist. Write it with ovseg bench -o {path}.") from None
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{path} cannot be read as JSON ({error}). Write it with ovseg bench -o FILE.json."
            ) from error
        try:
            if data["ovseg_bench"] != FORMAT:
                raise ValueError(data["ovseg_bench"])
            sections = tuple(
                Section(
                    **{name: each[name] for name in ("name", "pictures", "operations", "device_bytes")},
                    seconds=_figures(each["seconds"]),
                    observed=_figures(each["observed"]),
                    stages=tuple(
                        StageTime(
                            **{name: stage[name] for name in ("name", "calls", "operations")},
                            seconds=_figures(stage["seconds"]),
                        )
                        for stage in each["stages"]
                    ),
                )
                for each in data["sections"]
            )
            names = [name for name in cls.__dataclass_fields__ if name != "sections"]
            return cls(**{name: data[name] for name in names}, sections=sections)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{path} was not written by this ovseg bench. Measure again with ovseg bench -o FILE.json."
            ) from error


def _figures(values: Any) -> tuple[float, ...]:
    """Positive numbers, one at least, or ValueError."""
    figures = tuple(float(value) for value in values)
    if not figures or min(figures) < 0:
        raise ValueError(f"no seconds: {values}")
    return figures


def _share(operations: int, seconds: float, peak: float) -> float | None:
    """Of the peak; None where nothing was counted."""
    return operations / seconds / peak if operations and seconds > 0 and peak > 0 else None


# --------------------------------------------------------------------------- tables

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, columns, rows; the first column is text, the others are figures."""


def about(report: Report) -> list[tuple[str, str]]:
    """What was measured, and on what: names and values."""
    machine, settings = report.machine, report.settings
    processor = f"{machine['cpu']}, {machine['threads']} threads of {machine['cores']}"
    lines = [
        ("profile", f"{report.profile}, {report.weights} weights, {report.precision}"),
        ("device", report.device if machine["gpu"] is None else f"{report.device}: {machine['gpu']}"),
        ("processor", processor),
        ("memory", f"{_size(machine['memory'])}; this process took {_size(report.process_bytes)} at most"),
        ("system", f"{machine['platform']}, Python {machine['python']}, load {machine['load']}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("settings", ", ".join(f"{name} {_plain(value)}" for name, value in settings.items())),
        ("matrix peak", f"{report.peak / 1e12:.3g} TFLOP/s"),
        ("loading", f"{report.loading:.3g} s until all networks were there"),
    ]
    if report.attribution is not None:
        lines.append(("attribution", f"maps add {report.attribution:.1%} to drawing"))
    return lines


def tables(report: Report) -> list[Table]:
    """All figures."""
    runs: list[tuple[str, ...]] = []
    stages: list[tuple[str, ...]] = []
    for section in report.sections:
        runs.append(
            (
                section.name,
                str(section.pictures),
                _seconds(section.seconds),
                f"{section.per_second:.3g}",
                _percent(_share(section.operations, section.median, report.peak)),
                _size(section.device_bytes),
            )
        )
        whole = statistics.median(section.observed)
        stages.append((section.name, "", _seconds(section.observed), "", ""))
        stages += [
            (
                f"  {stage.name}",
                str(stage.calls),
                _seconds(stage.seconds),
                _percent(stage.median / whole),
                _percent(_share(stage.operations, stage.median, report.peak)),
            )
            for stage in section.stages
        ]
        left = section.unexplained
        stages.append(("  (no stage)", "", _seconds(left), _percent(statistics.median(left) / whole), ""))
    return [
        ("Runs", ("run", "pictures", "seconds", "pictures/s", "of peak", "on the device"), runs),
        ("Stages", ("run and stage", "calls", "seconds", "of the run", "of peak"), stages),
    ]


def compared(first: Report, second: Report) -> Table:
    """Two reports side by side: the runs and stages that both have."""
    rows: list[tuple[str, ...]] = []
    others = {section.name: section for section in second.sections}
    for section in first.sections:
        other = others.get(section.name)
        if other is None:
            continue
        rows.append(_beside(section.name, section.median, other.median))
        theirs = {stage.name: stage for stage in other.stages}
        rows += [
            _beside(f"  {stage.name}", stage.median, theirs[stage.name].median)
            for stage in section.stages
            if stage.name in theirs
        ]
    return ("Seconds", ("run and stage", "A", "B", "B/A"), rows)


def differences(first: Report, second: Report) -> list[str]:
    """What besides the machine is not the same, so that figures are not of the same work."""
    pairs = {
        "profile": (first.profile, second.profile),
        "weights": (first.weights, second.weights),
        "precision": (first.precision, second.precision),
    }
    for name in dict.fromkeys((*first.settings, *second.settings)):
        pairs[name] = (_plain(first.settings.get(name)), _plain(second.settings.get(name)))
    found = [f"{name}: {a} and {b}" for name, (a, b) in pairs.items() if a != b]
    missing = {s.name for s in first.sections} ^ {s.name for s in second.sections}
    return found + ([f"only one has: {'; '.join(sorted(missing))}"] if missing else [])


def write_report(report: Report, path: Path) -> None:
    """Write it as .json, or for people as .md."""
    if path.suffix.lower() == ".json":
        write_json(path, report.record())
    else:
        write_text(path, markdown(report))


def check_report(path: Path) -> None:
    """Refuse a name that `write_report` has no form for.

    Raises:
        UsageError: It ends in neither .json nor .md.
    """
    if path.suffix.lower() not in (".json", ".md"):
        raise UsageError(f"The measurements are written as .json or .md, and {str(path)!r} is neither.")


def markdown(report: Report) -> str:
    """A page."""
    lines = [f"# ovseg bench: {report.profile}", ""]
    lines += [f"- {name}: {value}" for name, value in about(report)]
    for title, columns, rows in tables(report):
        lines += ["", f"## {title}", "", _line(columns), "|---|" + "---:|" * (len(columns) - 1), *map(_line, rows)]
    return "\n".join([*lines, "", *(f"{note}\n" for note in NOTES)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _beside(name: str, first: float, second: float) -> tuple[str, ...]:
    return name, f"{first:.3g}", f"{second:.3g}", f"{second / first:.2f}" if first > 0 else "–"


def _seconds(values: Sequence[float]) -> str:
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ±{round((max(values) - min(values)) / 2, 9):.1g}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _size(nbytes: int | None) -> str:
    return "–" if nbytes is None else f"{nbytes / 1e9:.1f} GB"


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
