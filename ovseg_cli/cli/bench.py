"""bench: how fast a profile works on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.complete import complete_method
from ovseg_cli.cli.options import split_names
from ovseg_cli.cli.output import Align, fields, table
from ovseg_cli.cli.outputs import check_outputs
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.profiles import Profile
    from ovseg_cli.runs.speed_bench import BenchSettings
    from ovseg_cli.runs.speed_report import Report, Table

HOW = "How it is measured"


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(
        app,
        "bench",
        examples=(
            "ovseg bench",
            "ovseg --profile sd15 bench --random-weights -o here.json",
            "ovseg bench --what methods --methods gem,proxyclip",
            "ovseg bench --compare here.json there.json",
        ),
    )(bench)


def bench(
    common: Common,
    *,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Networks of the true sizes without a download; answers mean nothing."),
    ] = False,
    what: Annotated[
        str, typer.Option("--what", metavar="PARTS", help="add-class, segment, methods, with commas between.")
    ] = "add-class,segment,methods",
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            metavar="NAMES",
            autocompletion=complete_method,
            help="Methods that read words, with commas between. (default: each kind of work once)",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write all of it, as .json or .md.", show_default=False),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="A.json B.json",
            help="Measure nothing; show two such files side by side.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=1,
            max=512,
            metavar="N",
            rich_help_panel=HOW,
            help="Support images of the class. (default: the profile's; on a CPU 2)",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=1,
            max=1000,
            metavar="N",
            rich_help_panel=HOW,
            help="Steps of the sampler. (default: the profile's; on a CPU 4)",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        int, typer.Option("--classes", min=1, max=10000, metavar="N", rich_help_panel=HOW, help="Classes looked for.")
    ] = 20,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="WxH",
            rich_help_panel=HOW,
            help="Size of the pictures. (default: 500x375, for small models 256x192)",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            min=1,
            max=1024,
            metavar="N",
            rich_help_panel=HOW,
            help="Pictures that go together, beside one alone. (default: 8 on a GPU, none on a CPU)",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats",
            min=1,
            max=100,
            metavar="N",
            rich_help_panel=HOW,
            help="How often each run is timed, after one for warming up. (default: 3, on a CPU 2)",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure how fast a profile works on this machine, stage by stage.

    Classes are made, folders segmented and pictures labelled by several methods, as the other commands do it, in a
    folder that is removed afterwards. Each run is timed alone and with several pictures together, with its stages,
    memory, and how much of the device's speed in matrix products it reaches. For accuracy see ovseg benchmark.
    """
    from ovseg_cli.runs.speed_report import check_report

    if output is not None:
        check_report(output)
        check_outputs({"--output": output}, compare or ())
    if compare is not None:
        if output is not None:
            raise UsageError("--compare only shows; leave out --output, or take --json.")
        _compare(common, *compare)
        return
    from ovseg_cli.runs.speed_bench import BenchSettings, check_settings, run_bench

    settings = BenchSettings(
        what=split_names([what]),
        methods=None if methods is None else split_names([methods]),
        count=count,
        steps=steps,
        classes=classes,
        size=None if size is None else _size(size),
        batch=batch,
        repeats=repeats,
    )
    profile = _profile(common)
    check_settings(settings, profile)
    weights, load = _models(common, profile, settings, random=random_weights)
    with common.out.progress() as bars:
        bar = bars.start("loading")

        def tell(done: int, total: int, coming: str) -> None:
            bars.update(bar, done=done, total=total or None, text=coming)
            common.out.log(coming)

        report = run_bench(profile, load, settings, weights=weights, progress=tell)
    if output is not None:
        from ovseg_cli.runs.speed_report import write_report

        write_report(report, output)
    common.out.result(
        report.record(),
        human=lambda: _show(common, report),
        quiet=[f"{section.name}\t{section.median:.6g}" for section in report.sections],
    )


def _size(text: str) -> tuple[int, int]:
    """(width, height) of what was typed."""
    found = re.fullmatch(r"([0-9]{1,5})[xX×]([0-9]{1,5})", text.strip())
    size = (0, 0) if found is None else (int(found[1]), int(found[2]))
    if not all(16 <= side <= 16384 for side in size):
        raise UsageError(f"--size is width x height, each from 16 to 16384, such as 500x375; got {text!r}.")
    return size


def _profile(common: Common) -> Profile:
    """The one that is named, else the store's, else the bundled one."""
    from ovseg_cli.profiles import get_profile

    if common.options.profile is not None:
        return get_profile(common.options.profile)
    store = common.find_store()
    if store is None:
        return get_profile("mini")
    with store:
        return common.profile_of(store)


def _models(
    common: Common, profile: Profile, settings: BenchSettings, *, random: bool
) -> tuple[str, Callable[[], Models]]:
    """What the weights are, and what makes the networks ready.

    Raises:
        WeightsError: Some are not here; or with random ones, the size of a network is not known.
    """
    if profile.bundled:
        if random:
            common.out.note(f"the weights of {profile.name} come with ovseg, so they are taken")
        return "bundled", lambda: common.load_models(profile)
    from ovseg_cli.models import choose_device
    from ovseg_cli.runs.speed_bench import check_weights

    if not random:
        check_weights(profile, settings, choose_device(common.device))
        return "published", lambda: common.load_models(profile)

    def make() -> Models:
        from ovseg_cli.random_models import RandomModels

        return RandomModels(profile, choose_device(common.device), precision=common.precision)

    return "random", make


def _show(common: Common, report: Report) -> None:
    from ovseg_cli.runs.speed_report import NOTES, about, tables

    out = common.out
    out.show(fields(about(report)))
    for found in tables(report):
        out.line()
        _show_table(common, found)
    out.line()
    for note in NOTES:
        out.line((note, "dim"))


def _show_table(common: Common, found: Table) -> None:
    title, columns, rows = found
    common.out.line((title, "bold"))
    first, *others = columns
    heads: list[tuple[str, Align]] = [(first, "left"), *((column, "right") for column in others)]
    common.out.show(table(*heads, rows=rows))


def _compare(common: Common, first: Path, second: Path) -> None:
    from ovseg_cli.runs.speed_report import Report, about, compared, differences

    reports = [Report.read(path) for path in (first, second)]
    found, other = compared(*reports), differences(*reports)
    for difference in other:
        common.out.warning(f"not the same work; {difference}")

    def human() -> None:
        for name, path, report in zip("AB", (first, second), reports, strict=True):
            common.out.line((f"{name}  {path}", "bold"))
            common.out.show(fields(about(report)[1:4]))
        common.out.line()
        _show_table(common, found)

    _, columns, rows = found
    data = {"a": str(first), "b": str(second), "different": other, "columns": columns, "rows": rows}
    common.out.result(data, human=human, quiet=["\t".join(row) for row in rows])
