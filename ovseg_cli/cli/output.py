"""The one place that writes to the terminal: stdout carries data, stderr everything else.

Whatever is written for people shows control and direction characters instead of sending them (`visible`): texts where
they are put together, so that they are measured as they are shown, and all else on its way out of a `SafeConsole`.
JSON escapes them. The bare values of `-q` are for other programs, byte for byte, unless a terminal shows them.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from ovseg_cli.cli.surroundings import silence
from ovseg_cli.cli.visible import escaped, visible
from ovseg_cli.errors import UsageError
from ovseg_cli.urls import Place, Url

Mode = Literal["human", "json", "quiet"]
Align = Literal["left", "right"]

_LINE_EVERY = 60.0  # seconds between lines about progress in a log, at most
_DATA_EVERY = 10.0  # and between those for programs

_LONG_TABLE = 300
"""Rows beyond which a table is not laid out, but only padded."""


class SafeConsole(Console):
    """A console that sends no control or direction characters but its own."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        # Every print, bar and traceback ends here, with the console's own control codes told apart.
        return super()._render_buffer(
            segment if segment.control else Segment(visible(segment.text, lines=True), segment.style)
            for segment in buffer
        )


class DataConsole(SafeConsole):
    """A console for stdout that leaves a closed pipe (`| head`) to the caller instead of exiting with 1."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise what rich caught: `silence_stdout` and exit code 0 are decided in one place."""
        raise BrokenPipeError


@dataclass(slots=True)
class Output:
    """Where results and remarks go.

    Attributes:
        mode: `human` prints tables and sentences, `json` one JSON document, `quiet` bare values (one per
            line) for scripts. Progress bars and hints exist in `human` only; warnings and errors always.
        verbosity: how many `-v` were given; 1 shows the log, 2 shows debugging too.
    """

    mode: Mode = "human"
    verbosity: int = 0
    stdout: Console = field(init=False)
    stderr: Console = field(init=False)
    _live: Progress | None = field(init=False, default=None)
    _answered: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.stdout = DataConsole(highlight=False, markup=False, emoji=False)
        self.stderr = SafeConsole(stderr=True, highlight=False, markup=False, emoji=False)

    # ------------------------------------------------------------------ data, on stdout

    def result(self, data: Any, *, human: Callable[[], None], quiet: Iterable[object] = ()) -> None:
        """Print a command's result in the mode that was asked for.

        Args:
            data: what `--json` prints; dates, paths and tuples are fine, NaN is not.
            human: prints the same for a person, with `line` and `table`.
            quiet: the bare values that `-q` prints, one per line.
        """
        self._answered = True
        if self.mode == "json":
            self.stdout.file.write(dump_json(data, self.stdout.encoding) + "\n")
        elif self.mode == "quiet":
            for value in quiet:
                self._bare(str(value))
        else:
            human()

    def _bare(self, value: str) -> None:
        """Write a value as it is, whatever bytes a file name is made of; on a terminal, as it can be shown."""
        file = self.stdout.file
        if file.isatty():
            value = visible(value)
        elif not value.isascii() and hasattr(file, "buffer") and hasattr(file, "encoding"):
            with suppress(UnicodeEncodeError):
                line = f"{value}\n".encode(file.encoding, "surrogateescape")
                file.flush()
                file.buffer.write(line)
                return
        file.write(f"{value}\n")

    def line(self, *parts: str | Text | tuple[str, str], copyable: bool = False) -> None:
        """Print one sentence for a person.

        Args:
            *parts: the text, in parts that may carry a style (`("cat", "bold")`).
            copyable: leave the wrapping to the terminal, so that a path can be copied in one piece.
        """
        with self._bars_aside():
            _print(self.stdout, Text.assemble(*map(_part, parts)), copyable=copyable)

    def show(self, renderable: RenderableType) -> None:
        """Print a table or any other rich renderable for a person."""
        with self._bars_aside():
            self.stdout.print(renderable)

    def show_rows(self, *columns: tuple[str, Align], rows: Sequence[Sequence[str]]) -> None:
        """Print a table for a person; a long one at once, as laying out thousands of rows takes ten seconds."""
        if len(rows) <= _LONG_TABLE:
            self.show(table(*columns, rows=rows))
            return
        with self._bars_aside():
            # Every cell is shown as it can be, so the console would find nothing to change.
            self.stdout.file.write(plain_table(*columns, rows=rows) + "\n")

    @contextmanager
    def _bars_aside(self) -> Iterator[None]:
        """Take the progress bars off the terminal while something is printed to stdout, which they know nothing of."""
        if self._live is None:
            yield
            return
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    # ------------------------------------------------------------------ remarks, on stderr

    def hint(self, text: str, *, copyable: bool = False) -> None:
        """Say what to do next; left out in the modes made for scripts.

        Args:
            text: one sentence, or a command.
            copyable: leave the wrapping to the terminal, so that a command can be copied in one piece.
        """
        if self.mode == "human":
            _print(self.stderr, Text(visible(text), style="dim"), copyable=copyable)

    def log(self, text: str) -> None:
        """Say how far the work is, on a line of its own; nothing where progress bars do, or in a mode for scripts."""
        if self.mode == "human" and not self.stderr.is_terminal:
            _print(self.stderr, Text(visible(text)))

    def tell(self, data: Any) -> None:
        """Say how far the work is to a program that reads along: one line of JSON on stderr, with `--json` only."""
        if self.mode == "json":
            _print(self.stderr, Text(escaped(json.dumps(data))), copyable=True)

    def note(self, text: str) -> None:
        """Say something about the result that no reader of it should miss."""
        self._remark("note", "cyan", text)

    def warning(self, text: str) -> None:
        """Say that something was not as it should be, and that the work goes on."""
        self._remark("warning", "yellow", text)

    def error(self, text: str) -> None:
        """Say why the command stops; one line."""
        self._remark("error", "red", text)

    def failure(self, text: str, code: int) -> None:
        """Say why the command stops, and with which exit code.

        With `--json`, stdout has it too, unless it has the result already: one document is all that a reader expects.

        Args:
            text: what is wrong, and behind the first sentence what to do about it.
            code: the exit code.
        """
        self.error(text)
        if self.mode == "json" and not self._answered:
            self.result(failure_data(text, code), human=lambda: None)

    def _remark(self, label: str, style: str, text: str) -> None:
        # Line breaks and tabs of messages become spaces: what they join reads on.
        one_line = visible(" ".join(re.split(r"[ \t\r\n]+", str(text).strip())))
        _print(self.stderr, Text.assemble((f"{label}: ", f"bold {style}"), one_line))

    # ------------------------------------------------------------------ a person at the keyboard

    @property
    def interactive(self) -> bool:
        """Whether a question would reach a person."""
        return self.mode == "human" and sys.stdin.isatty() and self.stderr.is_terminal

    def confirm(self, question: str, *, instead: str) -> bool:
        """Ask yes or no.

        Args:
            question: the question, without a question mark's answer hint.
            instead: the flag that answers it in scripts.

        Raises:
            UsageError: when there is no person to ask.
        """
        if not self.interactive:
            raise UsageError(f"This needs a confirmation and nobody can be asked here: add {instead}.")
        return typer.confirm(visible(question), err=True)

    @contextmanager
    def progress(self) -> Iterator[ProgressBars]:
        """Live progress on stderr, for as long as the block runs; no bars where no terminal shows them (see `log`)."""
        if self.mode != "human" or not self.stderr.is_terminal:
            yield ProgressBars(None)
            return
        bars = Progress(
            TextColumn("{task.description}", table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=2)),
            DoneOfAll(),
            SecondsLeft(table_column=Column(min_width=11)),
            console=self.stderr,
            expand=True,
            transient=True,
        )
        with bars:
            self._live = bars
            try:
                yield ProgressBars(bars)
            finally:
                self._live = None


def short_path(path: Place) -> str:
    """A path as one would type it here."""
    if isinstance(path, Url):
        return str(path)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


@dataclass(slots=True)
class Milestones:
    """Progress for a log file: a plain line at each tenth of the way and each minute, where bars have no terminal.

    With ``--json``, each ten seconds, a line of JSON on stderr.

    Attributes:
        out: where the lines go.
        total: how much there is to do.
        noun: of what, in the plural.
    """

    out: Output
    total: int
    noun: str
    _tenths: int = field(init=False, default=0)
    _started: float = field(init=False, default_factory=time.monotonic)
    _said: float = field(init=False, default_factory=time.monotonic)

    def reach(self, done: int, *, rate: float | None = None, left: float | None = None, failed: int = 0) -> None:
        """Say how far the work is, if it is time; the end speaks for itself.

        Args:
            done: how much is done.
            rate: how much is done in a second, where that is known.
            left: the seconds that the rest will take, likewise.
            failed: how much of it has failed.
        """
        now = time.monotonic()
        tenths = 10 * done // max(self.total, 1)
        as_data = self.out.mode == "json"
        due = now - self._said >= (_DATA_EVERY if as_data else _LINE_EVERY) or (tenths > self._tenths and not as_data)
        if not due or done >= self.total:
            return
        self._tenths, self._said = tenths, now
        if as_data:
            figures: dict[str, float | None] = {"done": done, "total": self.total, "failed": failed}
            figures |= {"seconds": now - self._started, "per_second": rate, "seconds_left": left}
            self.out.tell({"progress": {name: _short(value) for name, value in figures.items()}})
            return
        parts = [
            f"{done} of {self.total} {self.noun} ({percent(done / self.total)}) after {duration(now - self._started)}"
        ]
        if rate is not None:
            parts.append(per_second(rate))
        if left is not None:
            parts.append(f"{duration(left)} left")
        if failed:
            parts.append(f"{failed} failed")
        self.out.log(", ".join(parts))


@dataclass(slots=True)
class Part:
    """A part of the work whose extent is known when it begins: a bar while it lasts, or milestones for a log file.

    Attributes:
        out: where milestones go.
        bars: where the bar goes.
        text: what the bar says.
        noun: what is counted, in the plural.
    """

    out: Output
    bars: ProgressBars
    text: str
    noun: str
    _bar: TaskID | None = field(init=False, default=None)
    _milestones: Milestones | None = field(init=False, default=None)

    def __call__(self, done: int, total: int) -> None:
        """Say how far it is; the first call begins it."""
        if self._milestones is None:
            self._milestones = Milestones(self.out, total, self.noun)
            self._bar = self.bars.start(self.text, total=total)
        self._milestones.reach(done)
        self.bars.update(self._bar, done=done)
        if done >= total:
            self.bars.remove(self._bar)


class DoneOfAll(ProgressColumn):
    """How many of how many; blank while the number is not known."""

    def render(self, task: Task) -> Text:
        """The counts of `task`, the first one as wide as the second so that nothing jumps."""
        if task.total is None:
            return Text("")
        total = str(int(task.total))
        return Text(f"{int(task.completed):>{len(total)}}/{total}")


class SecondsLeft(ProgressColumn):
    """The time left, as a person says it: `12 s left`, `3 min 05 s left`."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """The remaining time of `task`, or blank while nothing can be said yet."""
        left = task.fields.get("left", task.time_remaining)
        if task.finished or left is None:
            return Text("")
        return Text(f"{duration(left)} left", style="dim")


@dataclass(slots=True)
class ProgressBars:
    """Progress bars, or their absence: every method does nothing when nobody watches."""

    _bars: Progress | None

    def start(self, description: str, total: int | None = None) -> TaskID | None:
        """Add a bar; `total=None` pulses until `update` brings one."""
        return None if self._bars is None else self._bars.add_task(description, total=total)

    def update(
        self,
        task: TaskID | None,
        *,
        done: float | None = None,
        total: int | None = None,
        text: str | None = None,
        left: float | None = None,
    ) -> None:
        """Move a bar, and change what it says; `left` are seconds, where somebody knows better than the bar."""
        if self._bars is not None and task is not None:
            known: dict[str, Any] = {} if left is None else {"left": left}
            self._bars.update(task, completed=done, total=total, description=text, **known)

    def remove(self, task: TaskID | None) -> None:
        """Take a bar away."""
        if self._bars is not None and task is not None:
            self._bars.remove_task(task)


class ConsoleLogHandler(logging.Handler):
    """Brings the package's log to stderr through the console that draws the progress bars."""

    def __init__(self, out: Output) -> None:
        super().__init__()
        self.out = out

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record: warnings as warnings, the rest dimmed."""
        message = record.getMessage()
        if record.levelno >= logging.ERROR:
            self.out.error(message)
        elif record.levelno >= logging.WARNING:
            self.out.warning(message)
        else:
            _print(self.out.stderr, Text(visible(message, lines=True), style="dim"))


def _print(console: Console, text: Text, *, copyable: bool = False) -> None:
    """Print a sentence: broken between words on a terminal, on one line into a pipe."""
    console.print(text, soft_wrap=copyable or not console.is_terminal)


def set_up_logging(out: Output) -> None:
    """Send the package's log to `out`, once, at the level that `-v` asks for."""
    logger = logging.getLogger("ovseg_cli")
    for handler in [h for h in logger.handlers if isinstance(h, ConsoleLogHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(ConsoleLogHandler(out))
    logger.propagate = False
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(out.verbosity, logging.DEBUG))


def silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush into a closed pipe cannot fail."""
    with suppress(OSError, ValueError):  # replaced by an object without a file, as test runners do
        silence(sys.stdout.fileno())


def table(*columns: tuple[str, Align], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A plain table; cells are shown as they are, so `[red]` in a class name stays `[red]`."""
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title, align in columns:
        # Long names fold, so that nothing of them is lost; figures never break.
        overflow: Literal["fold", "ellipsis"] = "fold" if align == "left" else "ellipsis"
        grid.add_column(Text(title), justify=align, overflow=overflow, no_wrap=align == "right")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row))
    return grid


def plain_table(*columns: tuple[str, Align], rows: Sequence[Sequence[str]]) -> str:
    """The same as text, however wide it becomes.

    >>> print(plain_table(("class", "left"), ("images", "right"), rows=[("cat", "8"), ("雨", "32")]))
    class  images
    cat         8
    雨         32
    """
    padded = []
    for (title, align), *cells in zip(columns, *rows, strict=True):
        shown = [title, *_all_visible(cells)]
        ascii_only = all(map(str.isascii, shown))
        widths = list(map(len if ascii_only else cell_len, shown))
        most = max(widths)
        if ascii_only:
            padded.append([cell.ljust(most) if align == "left" else cell.rjust(most) for cell in shown])
            continue
        rooms = [" " * (most - width) for width in widths]
        pairs = zip(shown, rooms, strict=True)
        padded.append([cell + room if align == "left" else room + cell for cell, room in pairs])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def _all_visible(cells: Sequence[str]) -> Sequence[str]:
    """Texts as they can be shown: asked of all of them at once, as hardly any has to be changed."""
    together = "".join(cells)
    return cells if visible(together) == together else [visible(cell) for cell in cells]


def fields(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values in two columns, without a heading."""
    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(visible(name)), Text(visible(value)))
    return grid


def _part(part: str | Text | tuple[str, str]) -> str | Text | tuple[str, str]:
    """A part of a line with its control characters made visible; one that is styled already is left to the console."""
    if isinstance(part, tuple):
        return visible(part[0]), part[1]
    return part if isinstance(part, Text) else visible(part)


def failure_data(text: str, code: int) -> dict[str, Any]:
    """Why a command failed, as `--json` prints it: the whole message, and what it says to do about it."""
    _, _, hint = text.partition(". ")
    return {"error": text, "hint": hint or None, "exit_code": code}


def dump_json(data: Any, encoding: str = "utf-8") -> str:
    """`data` as indented JSON; escapes letters only where the stream could not carry them, and what acts on one."""
    ascii_only = encoding.lower().replace("-", "") not in {"utf8", "utf16", "utf32"}
    return escaped(json.dumps(data, indent=2, ensure_ascii=ascii_only, allow_nan=False, default=str))


def duration(seconds: float) -> str:
    """A time span as a person says it.

    >>> duration(0.04), duration(2.34), duration(59.7), duration(185), duration(7500)
    ('0.0 s', '2.3 s', '1 min 00 s', '3 min 05 s', '2 h 05 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def per_second(rate: float) -> str:
    """A speed as a person says it.

    >>> per_second(0.052), per_second(2.345), per_second(120.4)
    ('0.05 a second', '2.3 a second', '120 a second')
    """
    return f"{rate:.{2 if rate < 1 else 1 if rate < 10 else 0}f} a second"


def _short(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else round(value, 3)


def file_size(nbytes: int) -> str:
    """A size as a person says it.

    >>> file_size(512), file_size(20_480), file_size(27_200_000), file_size(4_270_000_000)
    ('512 B', '20 kB', '27.2 MB', '4.3 GB')
    """
    if nbytes < 1000:
        return f"{nbytes} B"
    if nbytes < 1_000_000:
        return f"{nbytes / 1e3:.0f} kB"
    if nbytes < 1_000_000_000:
        return f"{nbytes / 1e6:.1f} MB"
    return f"{nbytes / 1e9:.1f} GB"


def percent(share: float | None) -> str:
    """A share in [0, 1] in per cent, or a dash where there is none.

    >>> percent(0.1234), percent(None)
    ('12.3 %', '–')
    """
    return "–" if share is None else f"{100 * share:.1f} %"


def amount(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun in the right form.

    >>> amount(1, "image"), amount(0, "image"), amount(3, "class", "classes")
    ('1 image', '0 images', '3 classes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
