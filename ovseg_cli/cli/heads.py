"""train-head and heads: training on labelled pictures of the user's own, and names for what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from ovseg_cli.cli.common import Common, command, group
from ovseg_cli.cli.options import ClassesOpt, IgnoreOpt, LabelMapOpt, split_names
from ovseg_cli.cli.output import Part, amount, duration, fields, table
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.cli.output import ProgressBars
    from ovseg_cli.heads.data import TrainingData
    from ovseg_cli.heads.plans import Plan
    from ovseg_cli.heads.record import HeadRecord
    from ovseg_cli.heads.sizes import HeadSpec
    from ovseg_cli.heads.training import Moment
    from ovseg_cli.runs.head_report import HeadReport, MethodScore
    from ovseg_cli.runs.heads import TrainedHead

REPORT = "Report"
TRAINING = "How it is trained"
DEDOS = "DEDOS"
_SAID_SECONDS = 60.0


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    command(
        app,
        "train-head",
        examples=(
            "ovseg train-head animals --images photos/ --labels labels/ --minutes 25",
            "ovseg train-head animals --images photos/ --labels labels/ --novel held-out.txt -o animals.safetensors",
            "ovseg segment more/ --method head:animals.safetensors -c cat,dog,zebra",
        ),
    )(train_head)
    own = group(
        app,
        "heads",
        examples=("ovseg heads", "ovseg heads add animals.safetensors", "ovseg heads show animals"),
        function=heads,
    )
    command(own, "show", examples=("ovseg heads show animals", "ovseg heads show animals.safetensors --json"))(show)
    command(own, "add", examples=("ovseg heads add animals.safetensors", "ovseg heads add a.safetensors --name b"))(add)
    command(own, "remove", examples=("ovseg heads remove animals",))(remove)
    command(
        own,
        "convert",
        examples=("ovseg heads convert model_final.pth -o catseg-b.safetensors --profile sd15",),
    )(convert)


def train_head(
    common: Common,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the head is called.")],
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="Pictures to learn from.")],
    labels: Annotated[Path, typer.Option("--labels", metavar="DIR", help="Their labels, as ovseg eval reads them.")],
    head: Annotated[
        Literal["catseg", "dedos"], typer.Option("--head", help="CAT-Seg's cost aggregation, or DEDOS.")
    ] = "catseg",
    classes: ClassesOpt = None,
    label_map: LabelMapOpt = None,
    novel: Annotated[
        Path | None,
        typer.Option(
            "--novel", metavar="FILE", help="Names that are kept from training, one per line.", show_default=False
        ),
    ] = None,
    ignore: IgnoreOpt = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The head's file. (default: NAME.safetensors)", show_default=False
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="X",
            help="How long it is trained: the learning rate falls to zero by then. (default: 25 with small models)",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", metavar="N", help="How many steps, in the place of minutes or at most.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of weights and crops.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Whether a training that was stopped goes on.")
    ] = True,
    preset: Annotated[
        Literal["auto", "fast", "dense", "published"],
        typer.Option(
            "--preset",
            rich_help_panel=TRAINING,
            help="Sizes and schedule: fast and dense for small models, published for the papers'. auto: the models'.",
        ),
    ] = "auto",
    tune: Annotated[
        Literal["none", "visual", "both"] | None,
        typer.Option(
            "--tune",
            rich_help_panel=TRAINING,
            help="Whose queries and values in CLIP are trained along. (default: visual; both with published sizes)",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", rich_help_panel=TRAINING, help="Crops in a step.", show_default=False),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", metavar="X", rich_help_panel=TRAINING, help="Largest learning rate.", show_default=False),
    ] = None,
    crop_names: Annotated[
        int | None,
        typer.Option(
            "--names",
            metavar="N",
            rich_help_panel=TRAINING,
            help="Names that compete in a crop. (default: 12 with small models, else all)",
            show_default=False,
        ),
    ] = None,
    row: Annotated[
        Literal["I", "II", "III", "IV", "V", "V-free"] | None,
        typer.Option(
            "--row",
            rich_help_panel=DEDOS,
            help="A row of the paper's table 3, or V with plain queries and no diffusion. (default: V)",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[
        Literal["raw", "mean", "image"] | None,
        typer.Option(
            "--queries",
            rich_help_panel=DEDOS,
            help="What stands for diffusion when pictures are segmented: nothing, the mean over training, or the "
            "picture itself, for which the diffusion model is loaded. (default: raw)",
            show_default=False,
        ),
    ] = None,
    test_images: Annotated[
        Path | None,
        typer.Option(
            "--test-images",
            metavar="DIR",
            rich_help_panel=REPORT,
            help="Pictures of the report. (default: a tenth of --images, which is then kept from training)",
            show_default=False,
        ),
    ] = None,
    test_labels: Annotated[
        Path | None,
        typer.Option("--test-labels", metavar="DIR", rich_help_panel=REPORT, help="Their labels.", show_default=False),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--beside",
            metavar="METHODS",
            rich_help_panel=REPORT,
            help="Methods without training in the report. (default: those that need CLIP alone)",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", rich_help_panel=REPORT, help="Whether the head is scored.")
    ] = True,
) -> None:
    """Train a head on labelled pictures of your own; CLIP stays as it is but for what --tune says.

    The head is one file, which ovseg segment --method head:FILE takes for any names. Beside it, in NAME.training, lie
    the curves and a report on names that were trained and names that were not. Ctrl-C keeps what is there; the same
    command goes on.
    """
    from ovseg_cli.files.class_file import read_class_file
    from ovseg_cli.methods.catalogue import check_method
    from ovseg_cli.runs.heads import HeadRequest, check_request, report_head
    from ovseg_cli.runs.heads import train_head as train

    beside = split_names(methods)
    for method in beside:
        check_method(method)
    plan = {"minutes": minutes, "steps": steps, "seed": seed, "batch": batch, "lr": lr, "names": crop_names}
    request = HeadRequest(
        name=name,
        kind=head,
        images=images,
        labels=labels,
        output=output or Path(f"{name}.safetensors"),
        label_map=label_map,
        classes=split_names(classes),
        novel=() if novel is None else read_class_file(novel).classes,
        ignore=None if ignore is None else tuple(ignore),
        test_images=test_images,
        test_labels=test_labels,
        preset=preset,
        tuned=tune,
        row=row,
        dedos={} if queries is None else {"at_inference": queries},
        plan={key: value for key, value in plan.items() if value is not None},
    )
    check_request(request)
    with common.open_store() as store:
        models = common.load_models(common.profile_of(store), precision="float32")
        with common.out.progress() as bars:
            trained = train(request, models, resume=resume, listener=_Bars(common, bars))
            part = Part(common.out, bars, "scoring", "pictures")
            found = report_head(trained, request, store, models, methods=beside, progress=part) if report else None
    for note in trained.notes:
        common.out.note(note)
    if report and found is None:
        common.out.note("too few pictures to keep some for a report: name others with --test-images and --test-labels")
    common.out.result(
        _trained_data(trained, found), human=lambda: _show_trained(common, trained, found), quiet=[trained.path]
    )


class _Bars:
    """Shows a training as bars on a terminal, and as lines in a log."""

    def __init__(self, common: Common, bars: ProgressBars) -> None:
        self._out, self._bars = common.out, bars
        self._labels = Part(common.out, bars, "reading the labels", "labels")
        self._cache = Part(common.out, bars, "asking the diffusion model", "pictures")
        self._said = 0.0

    def read(self, done: int, total: int) -> None:
        """Move the bar of labels."""
        self._labels(done, total)

    def begin(self, data: TrainingData, spec: HeadSpec, plan: Plan) -> None:
        """Say what is learnt, and start the bar."""
        self._out.log(
            f"{amount(len(data.samples), 'picture')}, {amount(len(data.names), 'name')} to learn, "
            f"{len(data.novel)} held out; crops of {plan.crop} pixels for a CLIP of {spec.clip.width} channels"
        )
        self._bar = self._bars.start("training", total=1000)

    def cache(self, done: int, total: int) -> None:
        """Move the bar of the diffusion model."""
        self._cache(done, total)

    def step(self, moment: Moment) -> None:
        """Move the bar; in a log, a line a minute."""
        loss = moment.figures.get("loss")
        text = f"step {moment.step}" + ("" if loss is None else f", loss {loss:.4f}")
        self._bars.update(self._bar, done=1000 * moment.share, text=text)
        if moment.seconds - self._said >= _SAID_SECONDS or moment.share >= 1:
            self._said = moment.seconds
            left = "" if not moment.left else f", {duration(moment.left)} left"
            self._out.log(f"{text}{left}")

    def score(self, done: int, total: int) -> None:
        """The report has a bar of its own."""


def _trained_data(trained: TrainedHead, report: HeadReport | None) -> dict[str, Any]:
    record = trained.record
    return {
        "head": str(trained.path),
        "name": record.name,
        "kind": record.spec.kind,
        "parameters": trained.parameters,
        "steps": record.training["steps"],
        "seconds": record.training["seconds"],
        "again": trained.again,
        "folder": str(trained.folder),
        "report": None if report is None else report.to_dict(),
    }


def _show_trained(common: Common, trained: TrainedHead, report: HeadReport | None) -> None:
    out, record = common.out, trained.record
    if report is not None:
        out.show(_table(report))
        out.line()
        for remark in report.remarks:
            out.line(remark)
        out.line(
            f"{amount(report.images, 'picture')}, {amount(len(report.base), 'base name')}, {len(report.novel)} novel; "
            "mean IoU over the names that the pictures show.",
        )
    out.line(
        f"{trained.parameters:,} numbers trained in {record.training['steps']} steps, "
        f"{duration(record.training['seconds'])}"
    )
    out.line("head    ", str(trained.path), copyable=True)
    out.line("curves  ", str(trained.folder / "curves.png"), copyable=True)


def _table(report: HeadReport) -> Table:
    """A line for each method."""
    figures = ("base", "novel", "harmonic", "all", "s/picture")
    rows = [_row(score) for score in report.rows]
    return table(("method", "left"), *((figure, "right") for figure in figures), rows=rows)


def _row(score: MethodScore) -> tuple[str, ...]:
    figures = (score.base, score.novel, score.harmonic, score.all)
    shown = ["–" if value is None else f"{value:.3f}" for value in figures]
    return (
        Path(score.method).stem if score.method.startswith("head:") else score.method,
        *shown,
        f"{score.seconds:.2f}",
    )


def heads(common: Common) -> None:
    """List the heads that have a name: --method head:NAME."""
    from ovseg_cli.heads.record import read_record
    from ovseg_cli.heads.registered import registered

    found, rows, data = registered(), [], []
    for name, path in found.items():
        try:
            record = read_record(path)
            told = f"{record.spec.kind}, {len(record.base)} names, {record.training['steps']} steps"
            data.append({"name": name, "path": str(path), "problem": None, **_record_data(record)})
        except UsageError as error:
            told = str(error)
            data.append({"name": name, "path": str(path), "problem": told})
        rows.append((name, told, str(path)))

    def human() -> None:
        if not rows:
            common.out.line("No head has a name. ovseg heads add FILE gives it one; ovseg train-head makes heads.")
            return
        common.out.show(table(("name", "left"), ("head", "left"), ("file", "left"), rows=rows))

    common.out.result(data, human=human, quiet=list(found))


def show(
    common: Common, head: Annotated[str, typer.Argument(metavar="HEAD", help="A head's file, or its name.")]
) -> None:
    """Show what a head says of itself: what it was trained on, how long, and for which CLIP."""
    from ovseg_cli.heads.record import file_digest, read_record
    from ovseg_cli.heads.registered import head_path

    path = head_path(head)
    record = read_record(path)
    data = {"path": str(path), "digest": file_digest(path), **_record_data(record)}

    def human() -> None:
        training, spec = record.training, record.spec
        common.out.show(
            fields(
                [
                    ("file", str(path)),
                    ("head", {"catseg": "CAT-Seg", "dedos": "DEDOS"}[spec.kind]),
                    ("for", f"{record.clip['name']} ({record.profile}), seen at {spec.clip.input_size} pixels"),
                    ("tuned in CLIP", spec.tuned),
                    ("base", ", ".join(record.base)),
                    ("novel", ", ".join(record.novel) or "none"),
                    ("trained", f"{training['steps']} steps, {duration(training['seconds'])}, seed {training['seed']}"),
                    ("finished", "yes" if training["finished"] else "no: it was stopped, and is as it was then"),
                    ("licences", "; ".join(training["licences"])),
                ]
            )
        )

    common.out.result(data, human=human, quiet=[path])


def _record_data(record: HeadRecord) -> dict[str, Any]:
    return {
        "kind": record.spec.kind,
        "base": list(record.base),
        "novel": list(record.novel),
        "clip": dict(record.clip),
        "profile": record.profile,
        "data": dict(record.data),
        "training": {key: value for key, value in record.training.items() if key != "identity"},
        "spec": record.spec.record(),
    }


def add(
    common: Common,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A head's file.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name. (default: its own)", show_default=False)
    ] = None,
) -> None:
    """Give a head a name, so that --method head:NAME finds it from everywhere. The file stays where it is."""
    from ovseg_cli.heads.record import read_record
    from ovseg_cli.heads.registered import register as give_name

    chosen = name or read_record(file).name
    give_name(chosen, file)
    common.out.result(
        {"name": chosen, "path": str(file.absolute())},
        human=lambda: common.out.line(f"--method head:{chosen} is {file.absolute()} from now on."),
        quiet=[chosen],
    )


def remove(common: Common, name: Annotated[str, typer.Argument(metavar="NAME", help="A name of ovseg heads.")]) -> None:
    """Take a name away. The head's file stays where it is."""
    from ovseg_cli.heads.registered import unregister

    unregister(name)
    common.out.result(
        {"name": name}, human=lambda: common.out.line(f"No head is called {name} any more."), quiet=[name]
    )


def convert(
    common: Common,
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint of CAT-Seg's published code (.pth).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The head's file.")],
) -> None:
    """Make a head of a published checkpoint of CAT-Seg, for the CLIP that it was trained from.

    The checkpoint is read as tensors only. The profile (--profile, or the store's) names the CLIP.
    """
    from ovseg_cli.runs.heads import convert_catseg

    with common.store_for_planning() as store:
        models = common.load_models(common.profile_of(store), precision="float32")
    record = convert_catseg(checkpoint, output, models)
    common.out.result(
        {"head": str(output), **_record_data(record)},
        human=lambda: common.out.line("head    ", str(output), copyable=True),
        quiet=[output],
    )
