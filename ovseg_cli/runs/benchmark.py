"""Many methods on the same labelled pictures: planned, run with shared walks, resumed, scored, and put into one table.

A benchmark's folder holds one output folder for each method, as `ovseg segment` leaves it, and `benchmark.json`: what
was asked for, and the speeds that were measured. The table is made of these and of the ground truth alone, so that it
is the same however often it is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg_cli.atomic import make_folder, write_json, write_text
from ovseg_cli.errors import (
    MethodError,
    NoInputError,
    OutputError,
    ProfileMismatchError,
    UnknownClassError,
    UsageError,
    WeightsError,
)
from ovseg_cli.evaluation.comparison import groups
from ovseg_cli.evaluation.draws import DRAWS, SEED
from ovseg_cli.evaluation.league import FORMS, Row, Table
from ovseg_cli.files.discovery import InputImage, picture_id
from ovseg_cli.files.layout import MASK_FOLDER
from ovseg_cli.methods.catalogue import METHODS
from ovseg_cli.methods.results import CODE, published_results
from ovseg_cli.names import listed, unknown_choice
from ovseg_cli.precision import Precision
from ovseg_cli.profiles import Profile, Weights, profile_of, require_weights
from ovseg_cli.runs.folder import FolderPlan, plan_folder
from ovseg_cli.runs.journal import read_journal
from ovseg_cli.runs.ledger import only_writer
from ovseg_cli.runs.manifest import read_manifest
from ovseg_cli.runs.speed import Speed
from ovseg_cli.runs.together import TogetherRun
from ovseg_cli.segmentation.options import SegmentOptions

if TYPE_CHECKING:
    from ovseg_cli.evaluation.datasets import OpenDataset
    from ovseg_cli.evaluation.report import Report
    from ovseg_cli.evaluation.truth import GroundTruth
    from ovseg_cli.files.image_classes import ImageClasses
    from ovseg_cli.models import Models
    from ovseg_cli.runs.segment import Step
    from ovseg_cli.segmentation.segmenter import Segmenter
    from ovseg_cli.store import Store

RECORD_NAME = "benchmark.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What methods are to be compared on.

    Attributes:
        title: Its name, for people.
        inputs: The inputs as typed, for the record.
        images: The labelled pictures.
        truth: The ground truth of these.
        classes: What is looked for, and scored.
        background: Whether the background counts.
        opened: The data set that these are of; None for pictures of the user's own.
        synonyms: More words for some classes.
        background_words: Words for what is none of them; empty for the methods' own.
        subset: (pictures, of how many, seed) where only some are taken.
        notes: What the reader of figures should know.
    """

    title: str
    inputs: tuple[str, ...]
    images: tuple[InputImage, ...]
    truth: GroundTruth
    classes: tuple[str, ...]
    background: bool
    opened: OpenDataset | None = None
    synonyms: tuple[tuple[str, tuple[str, ...]], ...] = ()
    background_words: tuple[str, ...] = ()
    subset: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def dataset(self) -> str | None:
        """Whose published figures and settings fit; None for pictures of the user's own."""
        return None if self.opened is None else self.opened.dataset.name

    @property
    def published_of(self) -> str:
        """The data set whose published figures stand beside the measured ones."""
        return self.dataset or ("voc21" if self.background else "voc20")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkPlan:
    """Which methods will run, and how.

    Attributes:
        contest: On what.
        output: The benchmark's folder.
        profile: The models.
        entries: By method, its folder run.
        left_out: By method that nobody named and that cannot run, why.
        image_classes: Which classes each picture shows, where the methods are told.
    """

    contest: Contest
    output: Path
    profile: Profile
    entries: Mapping[str, FolderPlan]
    left_out: Mapping[str, str]
    image_classes: ImageClasses | None = None


def contest_of_dataset(opened: OpenDataset) -> Contest:
    """The pictures of a data set's split."""
    from pathlib import PurePosixPath

    images = tuple(InputImage(path=path, key=PurePosixPath(key)) for key, path in opened.images)
    if not images:
        raise NoInputError(f"{opened.root} holds labels of {opened.dataset.name} and none of their pictures. Add them.")
    return Contest(
        title=f"{opened.dataset.title}, {opened.split}",
        inputs=(str(opened.root),),
        images=images,
        truth=_only(opened.truth, images),
        classes=opened.classes,
        background=opened.background,
        opened=opened,
        synonyms=tuple(opened.synonyms.items()),
        background_words=opened.background_words if opened.background else (),
        notes=opened.notes,
    )


def contest_of_folders(
    pictures: str,
    images: Sequence[InputImage],
    truth: GroundTruth,
    classes: Sequence[str],
    *,
    background: bool,
    opened: OpenDataset | None = None,
) -> Contest:
    """Pictures and labels in folders; pictures without labels are left out.

    Args:
        pictures: The pictures as typed.
        images: What was found of them.
        truth: The labels.
        classes: What is looked for.
        background: Whether the background counts.
        opened: The data set that the labels are of.

    Raises:
        LabelError: No picture has the name of a label, or the labels hold none of the classes.
    """
    truth.check_classes(classes)
    pairs = truth.pair({str(image.key): image.path for image in images})
    paired = {path for _, _, path in pairs.matched}
    labelled = tuple(image for image in images if image.path in paired)
    notes = []
    if pairs.extra:
        notes.append(f"{len(pairs.extra)} pictures have no label and are left out: {listed(pairs.extra)}")
    if pairs.missing:
        notes.append(f"{len(pairs.missing)} labels have no picture: {listed(pairs.missing)}")
    return Contest(
        title=f"Pictures of {pictures}",
        inputs=(pictures,),
        images=labelled,
        truth=_only(truth, labelled),
        classes=tuple(classes),
        background=background,
        opened=opened,
        notes=tuple(notes),
    )


def some_of(contest: Contest, number: int, seed: int) -> Contest:
    """The contest on some of its pictures, drawn by chance: larger numbers of one seed hold the smaller ones.

    Raises:
        UsageError: There are not so many.
    """
    total = len(contest.images)
    if number > total:
        raise UsageError(f"--subset {number} is more than the {total} labelled pictures. Leave it out to take all.")
    # By digests, not by a generator: the same pictures with every version of every library.
    drawn = [
        hashlib.sha256(f"{seed}\n{image.key}".encode("utf-8", "surrogatepass")).digest() for image in contest.images
    ]
    chosen = set(sorted(range(total), key=drawn.__getitem__)[:number])
    images = tuple(image for place, image in enumerate(contest.images) if place in chosen)
    return replace(contest, images=images, truth=_only(contest.truth, images), subset=(number, total, seed))


def _only(truth: GroundTruth, images: Sequence[InputImage]) -> GroundTruth:
    """The ground truth of some pictures."""
    kept = {key for key, _, _ in truth.pair({str(image.key): image.path for image in images}).matched}
    return replace(truth, files={key: path for key, path in truth.files.items() if key in kept})


def methods_named(text: str) -> tuple[str, ...] | None:
    """The methods of `--methods`: names with commas between, None for ``all``.

    Raises:
        UsageError: There is no such method, or one is given twice, or none is.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return None
    for name in names:
        if name not in METHODS:
            raise unknown_choice("method", name, ("all", *METHODS), heading="Methods")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--methods takes names with commas between, each once, or all; got {text!r}.")
    return tuple(names)


def classes_to_add(store: Store, contest: Contest, methods: Sequence[str] | None) -> tuple[str, ...]:
    """Classes without prototypes that one of the methods needs."""
    wanted = tuple(METHODS) if methods is None else methods
    if not any(METHODS[method].matches_prototypes for method in wanted):
        return ()
    return tuple(name for name in contest.classes if not store.has_class(name))


def plan_benchmark(
    store: Store,
    contest: Contest,
    methods: Sequence[str] | None,
    output: Path,
    *,
    options: SegmentOptions,
    image_classes: ImageClasses | None = None,
    overwrite: bool = False,
    precision: Precision = "auto",
    planning: bool = False,
) -> BenchmarkPlan:
    """Decide which methods run and what is left to do for each. No model is loaded and nothing is written.

    Args:
        store: An open store; its profile says which models are used.
        contest: On what.
        methods: By name; None for all that can run.
        output: The benchmark's folder.
        options: What was asked for beside classes and method, for all methods.
        image_classes: Which classes each picture shows.
        overwrite: Whether everything is made again.
        precision: What the networks are to compute in.
        planning: Whether the plan is only looked at.

    Raises:
        UsageError: A method that is named cannot run so; or no method can.
        UnknownClassError: A class has no prototypes, and a method that is named needs them.
        OutputError: A folder's own files cannot be read.
    """
    profile = profile_of(store)
    entries: dict[str, FolderPlan] = {}
    left_out: dict[str, str] = {}
    for method in tuple(METHODS) if methods is None else methods:
        try:
            for weights in weights_of(profile, method):
                require_weights(weights)
            entries[method] = plan_folder(
                store,
                contest.inputs,
                output / method,
                images=contest.images,
                classes=() if METHODS[method].finds_regions else contest.classes,
                method=method,
                options=_options(profile, contest, method, options),
                overwrite=overwrite,
                image_classes=image_classes,
                precision=precision,
                planning=planning,
            )
        except (UnknownClassError, ProfileMismatchError, MethodError, WeightsError) as error:
            if methods is not None:
                raise
            left_out[method] = str(error)
        except UsageError as error:
            if methods is not None or _is_of_folder(output / method):
                raise
            left_out[method] = str(error)
    if not entries:
        raise UsageError(f"None of the methods can run: {next(iter(left_out.values()))}")
    return BenchmarkPlan(
        contest=contest,
        output=output,
        profile=profile,
        entries=entries,
        left_out=left_out,
        image_classes=image_classes,
    )


def _is_of_folder(output: Path) -> bool:
    """Whether what is refused may be the folder, which holds another run: that must not pass for a method's fault."""
    return (output / MASK_FOLDER).is_dir()


def _options(profile: Profile, contest: Contest, method: str, asked: SegmentOptions) -> SegmentOptions:
    """What was asked for, with what the data set brings along, as far as the method has it."""
    info = METHODS[method]
    options = replace(asked, background=contest.background)
    if info.reads not in ("words", "both"):
        return options
    rows = info.rows(large=profile.clip.large)
    if options.settings is None and profile.clip.dense is None and contest.dataset in rows:
        options = replace(options, settings=contest.dataset)
    if not options.synonyms:
        options = replace(options, synonyms=contest.synonyms)
    if options.background_words is None and contest.background_words:
        options = replace(options, background_words=contest.background_words)
    return options


def weights_of(profile: Profile, method: str) -> tuple[Weights, ...]:
    """The weights that a method uses of a profile."""
    info = METHODS[method]
    found: list[Weights] = []
    if "clip" in info.networks or info.prefilter:
        found.append(profile.clip.weights)
    if "generator" in info.networks or info.matches_prototypes:
        found.append(profile.generator.weights)
    if "proxy" in info.networks and profile.proxy_extractor is not None:
        found.append(profile.proxy_extractor.weights)
    if info.matches_prototypes:
        found += [extractor.weights for extractor in profile.extractors]
    return tuple(dict.fromkeys(found))


def run_benchmark(
    plan: BenchmarkPlan,
    store: Store,
    load_models: Callable[[], Models],
    *,
    argv: tuple[str, ...] = (),
    configured: Mapping[str, Any] | None = None,
    progress: Callable[[str, Step], None] | None = None,
    batch: int | None = None,
) -> TogetherRun:
    """Segment what is left to be segmented, by all methods together.

    Args:
        plan: From `plan_benchmark`.
        store: Where embeddings of words are kept.
        load_models: Loads the models of the plan's profile; called only when there is a picture to segment.
        argv: The command line, for the record.
        configured: Options that come from a file, for the record.
        progress: Told the method and how far it is, after each picture.
        batch: How many pictures may go through the models together; None for the device's default.

    Raises:
        UsageError: `batch` is below 1.
        OutputError: A folder cannot be written, or another process is writing to it.
        DiskFullError: There is no space left. What is done stays done.
    """
    from ovseg_cli.runs.together import run_together

    def ready(methods: Sequence[str]) -> dict[str, Segmenter]:
        from ovseg_cli.segmentation.segmenter import Segmenter

        models = load_models()
        return {method: Segmenter.by_recipe(models, plan.entries[method].recipe, texts=store) for method in methods}

    make_folder(plan.output)
    with only_writer(plan.output):
        return run_together(
            {method: entry.plan for method, entry in plan.entries.items()},
            ready,
            store,
            plan.profile,
            argv=argv,
            configured=configured,
            progress=progress,
            batch=batch,
        )


# ------------------------------------------------------------------------------------------------ the record of a run


def read_record(output: Path) -> dict[str, Any]:
    """What `benchmark.json` holds; empty where there is none.

    Raises:
        OutputError: It is damaged, or of a newer version.
    """
    path = output / RECORD_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] > FORMAT:
            raise OutputError(f"{path} was written by a newer ovseg. Update ovseg.")
        return dict(data)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(f"{path} is damaged ({error}). Remove it, or choose another folder with -o.") from error


def write_record(plan: BenchmarkPlan, speeds: Mapping[str, Any]) -> None:
    """Note what is compared, and the speeds."""
    contest = plan.contest
    make_folder(plan.output)
    write_json(
        plan.output / RECORD_NAME,
        {
            "format": FORMAT,
            "title": contest.title,
            "dataset": contest.dataset,
            "inputs": list(contest.inputs),
            "classes": list(contest.classes),
            "background": contest.background,
            "subset": None if contest.subset is None else list(contest.subset),
            "methods": list(plan.entries),
            "speeds": dict(speeds),
        },
    )


def speeds_to_measure(plan: BenchmarkPlan, record: Mapping[str, Any], timed: int) -> Iterator[str]:
    """The methods that have not been timed with these settings yet."""
    known = record.get("speeds", {})
    for method, planned in plan.entries.items():
        found = known.get(method, {})
        if timed and (found.get("digest") != planned.recipe.digest or found.get("pictures") != _timed(plan, timed)):
            yield method


def speed_record(plan: BenchmarkPlan, method: str, speed: Speed, timed: int) -> dict[str, Any]:
    """A measured speed as it is noted."""
    return {"digest": plan.entries[method].recipe.digest, "pictures": _timed(plan, timed), **speed.record()}


def _timed(plan: BenchmarkPlan, timed: int) -> list[str]:
    return [str(image.key) for image in plan.contest.images[:timed]]


# ------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How right the methods were.

    Attributes:
        reports: By method.
        failed: By method, on how many pictures it failed that others could do.
        unread: The pictures that none could read.
        groups: Letters of methods that cannot be told apart; of those that failed on no picture.
    """

    reports: dict[str, Report]
    failed: dict[str, int]
    unread: tuple[str, ...]
    groups: dict[str, str] = field(default_factory=dict)


def score_all(
    plan: BenchmarkPlan,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    progress: Callable[[str, int, int], None] | None = None,
) -> Scores:
    """Score every method on the pictures that any of them has labelled.

    Args:
        plan: What was run.
        draws: Of the bootstrap; 0 for none.
        seed: Likewise.
        progress: Told the method, and how many pictures of how many are scored.

    Raises:
        NoInputError: There is no picture that could be read.
        LabelError: As `ovseg_cli.evaluation.folder.evaluate_truth`.
    """
    from ovseg_cli.runs.evaluate import default_match, evaluate, in_dataset, predictions_in

    contest = plan.contest
    done = {method: _done(plan.output / method, contest.images) for method in plan.entries}
    any_done = set[str]().union(*done.values())
    readable = [image for image in contest.images if str(image.key) in any_done]
    unread = tuple(str(image.key) for image in contest.images if str(image.key) not in any_done)
    if not readable:
        raise NoInputError(f"None of the pictures could be segmented, such as {listed(list(unread), most=2)}.")
    reports: dict[str, Report] = {}
    failed: dict[str, int] = {}
    for method in plan.entries:
        failed[method] = len(any_done - done[method])
        own = [image for image in readable if str(image.key) in done[method]]
        if not own:
            continue

        def tell(count: int, total: int, method: str = method) -> None:
            if progress is not None:
                progress(method, count, total)

        found = predictions_in(plan.output / method)
        match = default_match(found)
        if match is not None:  # regions have no names, so none of them was asked for
            found = replace(found, requested=contest.classes, background=contest.background)
        elif contest.opened is not None:
            found = in_dataset(found, contest.opened)
        how: dict[str, Any] = {"match": match, "draws": draws, "seed": seed, "progress": tell}
        reports[method] = evaluate(found, _only(contest.truth, own), **how)
    return Scores(
        reports=reports,
        failed=failed,
        unread=unread,
        groups=_groups({method: report for method, report in reports.items() if not failed[method]}, draws, seed),
    )


def _done(output: Path, images: Sequence[InputImage]) -> set[str]:
    """The keys of pictures of which a folder holds a label map."""
    entries = read_journal(output)
    keys = set()
    for image in images:
        entry = entries.get(picture_id(image.path))
        if entry is not None and entry.status == "done":
            keys.add(str(image.key))
    return keys


def make_table(
    plan: BenchmarkPlan,
    scores: Scores,
    *,
    kinds: Mapping[str, str] | None = None,
    broken: Mapping[str, str] | None = None,
) -> Table:
    """The table of what was run.

    Args:
        plan: What was run; its folders say the rest.
        scores: From `score_all`.
        kinds: Of methods that are of another kind than the catalogue says.
        broken: By method that could not go on, why.
    """
    contest, record = plan.contest, read_record(plan.output)
    reports, failed, unread = scores.reports, scores.failed, scores.unread
    rows = []
    facts: dict[str, Any] = {}
    left_out = dict(plan.left_out) | dict(broken or {})
    for method, planned in plan.entries.items():
        report = reports.get(method)
        if method in (broken or {}):
            continue
        if report is None:
            left_out[method] = "it could do with none of the pictures"
            continue
        info, code = METHODS[method], CODE.get(method)
        manifest = read_manifest(plan.output / method)
        if manifest is not None:
            facts |= {"device": manifest.device, "precision": manifest.precision, "ovseg": manifest.ovseg}
            facts["libraries"] = dict(manifest.libraries)
        speed = _speed(record, method, planned.recipe.digest)
        whole = not failed[method]
        rows.append(
            Row(
                method=method,
                title=info.title,
                source=info.source,
                kind=(kinds or {}).get(method, info.kind),
                miou=report.miou if whole else None,
                interval=_interval(report) if whole else None,
                group=scores.groups.get(method, ""),
                miou_present=report.miou_present if whole else None,
                pixel_accuracy=report.pixel_accuracy if whole else None,
                pictures=report.images,
                failed=failed[method],
                remark=_remark(report, failed[method], _first_failure(plan.output / method)),
                published=published_results(method, contest.published_of, plan.profile),
                seconds=None if speed is None or speed.mean is None else round(speed.mean, 4),
                memory=None if speed is None else speed.memory,
                code="" if code is None else f"{code.repository}: {code.licence}",
                weights=tuple(_weights_record(weights) for weights in weights_of(plan.profile, method)),
                settings=planned.recipe.settings,
                digest=planned.recipe.digest,
            )
        )
        facts["threads"] = speed.threads if speed is not None else facts.get("threads")
    first = next(iter(reports.values()))
    subset = "" if contest.subset is None else "{} of {} pictures, seed {}".format(*contest.subset)
    notes = [*contest.notes]
    if contest.dataset is None:
        notes.append(
            f"The published figures are of {contest.published_of}, other pictures than these: they say what the "
            "methods are known for, and are not to be compared with the measured ones."
        )
    if plan.image_classes is not None:
        notes.append(
            f"The methods were told by {plan.image_classes.path} which classes each picture shows: where that is "
            "from the ground truth, all of these rows are oracles."
        )
    if plan.profile.domain is not None:
        notes.append(f"The models of {plan.profile.name} know drawn pictograms alone; nothing follows for photographs.")
    if unread:
        notes.append(f"{len(unread)} pictures could not be read and are left out: {listed(unread)}")
    return Table(
        title=contest.title,
        facts={
            "data": contest.title,
            "pictures": f"{first.images}" + (f" ({subset})" if subset else ""),
            "classes": f"{len(contest.classes)}: {', '.join(contest.classes)}",
            "background counts": contest.background,
            "profile": plan.profile.name,
            "profile digest": plan.profile.digest[:12],
            **facts,
        },
        convention=first.convention,
        rows=tuple(rows),
        left_out=left_out,
        notes=tuple(notes),
        published_of=contest.published_of,
    )


def write_table(table: Table, output: Path) -> list[Path]:
    """Write it in every form; the files, the one for people first."""
    written = []
    for name, render in FORMS.items():
        write_text(output / name, render(table))
        written.append(output / name)
    return written


def _groups(reports: Mapping[str, Report], draws: int, seed: int) -> dict[str, str]:
    """Letters of methods that cannot be told apart; none where there is nothing to compare.

    Methods whose regions are named by the truth have none: they take part in no contest.
    """
    runs = {method: r.pictures for method, r in reports.items() if r.pictures is not None and not r.match}
    if draws < 1 or len(runs) < 2 or min(map(len, runs.values())) < 2:
        return {}
    return groups(runs, draws=draws, seed=seed)


def _interval(report: Report) -> tuple[float, float] | None:
    found = report.figure("miou").interval
    return None if found is None else (found.low, found.high)


def _remark(report: Report, failed: int, why: str) -> str:
    if failed:
        return f"fails on {failed} of {report.images + failed} pictures, so it has no figure to compare" + (
            f" ({why})" if why else ""
        )
    return ""


def _first_failure(output: Path) -> str:
    return next((entry.error or "" for entry in read_journal(output).values() if entry.status == "failed"), "")


def _speed(record: Mapping[str, Any], method: str, digest: str) -> Speed | None:
    """The speed that is noted for a method with these settings."""
    found = record.get("speeds", {}).get(method)
    if not isinstance(found, dict) or found.get("digest") != digest:
        return None
    return Speed.of({name: value for name, value in found.items() if name not in ("digest", "pictures")})


def _weights_record(weights: Weights) -> dict[str, Any]:
    return {
        "part": weights.part,
        "model": weights.model_id,
        "revision": weights.revision,
        "licence": weights.licence,
        "commercial": weights.commercial,
    }


def kinds_of(store: Store, contest: Contest, methods: Sequence[str]) -> dict[str, str]:
    """Methods whose prototypes have masks behind them that somebody or a supervised model drew."""
    supervised = False
    for name in contest.classes:
        if store.has_class(name):
            method = store.get_class(name).settings.get("mask_method")
            supervised |= method in ("sam", "given")
    return {method: "mask-supervised" for method in methods if supervised and METHODS[method].matches_prototypes}
