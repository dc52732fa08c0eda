"""Training a head on a labelled folder: from the folder to the file and the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ovseg_cli.atomic import write_image, write_json
from ovseg_cli.errors import LabelError, UsageError
from ovseg_cli.heads.plans import Plan, Preset, choose_preset, dedos_row, dedos_sizes, make_plan, make_spec
from ovseg_cli.heads.published import CATSEG_TEMPLATE
from ovseg_cli.heads.record import HeadRecord, clip_digest, read_record
from ovseg_cli.heads.sizes import ClipSizes, DedosSizes, HeadKind, HeadSpec, Tuned
from ovseg_cli.names import ClassList, listed_names
from ovseg_cli.profiles import Profile
from ovseg_cli.profiles.specs import DenseDefaults

if TYPE_CHECKING:
    from ovseg_cli.heads.data import TrainingData
    from ovseg_cli.heads.training import Moment
    from ovseg_cli.models import Models
    from ovseg_cli.runs.head_report import HeadReport
    from ovseg_cli.store import Store

SUFFIX = ".safetensors"


class TrainingListener(Protocol):
    """Is told how far a training is."""

    def read(self, done: int, total: int) -> None:
        """So many labels are read."""

    def begin(self, data: TrainingData, spec: HeadSpec, plan: Plan) -> None:
        """The training begins, or goes on."""

    def cache(self, done: int, total: int) -> None:
        """The diffusion model has seen so many pictures."""

    def step(self, moment: Moment) -> None:
        """So far it is."""

    def score(self, done: int, total: int) -> None:
        """So many pictures of the report are segmented."""


class _Nobody:
    """A listener that keeps it to itself."""

    def read(self, done: int, total: int) -> None: ...
    def begin(self, data: TrainingData, spec: HeadSpec, plan: Plan) -> None: ...
    def cache(self, done: int, total: int) -> None: ...
    def step(self, moment: Moment) -> None: ...
    def score(self, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRequest:
    """What is to be trained, on what.

    Attributes:
        name: What the head is called.
        kind: Which head.
        images: Folder of pictures.
        labels: Folder of their labels.
        output: The head's file.
        label_map: What the labels' ids mean; None for a ``labelmap.txt``.
        classes: Names to train; none for all of the label map.
        novel: Names to keep from training.
        ignore: The values of pixels without a label; None for 255.
        test_images: Pictures of the report; None for some of `images`, which are then kept from training.
        test_labels: Their labels.
        preset: Sizes and schedule.
        tuned: Whose projections in CLIP are trained; None for the preset's.
        row: A row of DEDOS's table 3; None for V.
        dedos: Fields of `DedosSizes` in the place of the row's.
        plan: Fields of `Plan` in the place of the preset's.
    """

    name: str
    kind: HeadKind
    images: Path
    labels: Path
    output: Path
    label_map: Path | None = None
    classes: tuple[str, ...] = ()
    novel: tuple[str, ...] = ()
    ignore: tuple[int, ...] | None = None
    test_images: Path | None = None
    test_labels: Path | None = None
    preset: Preset = "auto"
    tuned: Tuned | None = None
    row: str | None = None
    dedos: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plan: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedHead:
    """What a training left.

    Attributes:
        path: The head's file.
        record: What it says of itself.
        folder: Where curves, report and checkpoint lie.
        notes: Sentences for people.
        parameters: How many numbers were trained.
        again: Whether it had been trained before, so that nothing was done.
    """

    path: Path
    record: HeadRecord
    folder: Path
    notes: tuple[str, ...]
    parameters: int
    again: bool = False


def work_folder(output: Path) -> Path:
    """Where curves, report and checkpoint of a head's file lie."""
    return output.with_suffix(".training")


def check_request(request: HeadRequest) -> None:
    """Refuse what cannot be before anything is read.

    Raises:
        UsageError: It contradicts itself.
    """
    if request.output.suffix != SUFFIX:
        raise UsageError(f"A head is written as {SUFFIX}, got {str(request.output)!r}.")
    if request.kind != "dedos" and (request.row is not None or request.dedos):
        raise UsageError("--row and --queries belong to --head dedos.")
    if (request.test_images is None) != (request.test_labels is None):
        raise UsageError("--test-images and --test-labels belong together: pictures, and what is right there.")
    if not request.name or not request.name.isprintable():
        raise UsageError(f"A head's name is a line of text, got {request.name!r}.")


def train_head(
    request: HeadRequest,
    models: Models,
    *,
    resume: bool = True,
    listener: TrainingListener | None = None,
) -> TrainedHead:
    """Train a head and write its file.

    An interrupted training goes on where it stopped when the same request is made again. At Ctrl-C the checkpoint is
    written, and the head as it is so far.

    Args:
        request: What is to be trained.
        models: The models below it.
        resume: Whether a checkpoint is taken up, and a head that is there already kept.
        listener: Is told how far it is.

    Raises:
        UsageError: See `check_request`, `ovseg_cli.heads.data.read_data`, and a checkpoint of another training.
        LabelError: See `ovseg_cli.heads.data.read_data`.
        KeyboardInterrupt: The user stopped it; what is there is kept.
    """
    import torch

    from ovseg_cli.heads.artefact import build_head
    from ovseg_cli.heads.data import Pictures, read_data
    from ovseg_cli.heads.losses import StepLoss
    from ovseg_cli.heads.towers import text_sizes
    from ovseg_cli.heads.training import Training

    check_request(request)
    listener = listener or _Nobody()
    profile = models.profile
    data = read_data(
        request.images,
        request.labels,
        label_map=request.label_map,
        classes=request.classes,
        novel=request.novel,
        ignore=request.ignore,
        hold_out=request.test_images is None,
        progress=listener.read,
    )
    if request.test_images is not None:
        _check_test(request, data)
    clip = models.clip
    preset = choose_preset(request.preset, profile)
    spec = head_spec(request, preset, models)
    plan = make_plan(preset, spec.clip, **request.plan)
    if request.plan.get("crop") is None and preset != "published":
        plan = dataclasses.replace(plan, crop=spec.clip.input_size)
    templates = (CATSEG_TEMPLATE,) if profile.clip.prompts is None else profile.clip.prompts
    identity = {
        "head": spec.record(),
        "plan": plan.record(),
        "names": list(data.names),
        "novel": list(data.novel),
        "data": data.digest,
        "clip": clip_digest(profile.clip.weights),
        "templates": list(templates),
    }
    folder = work_folder(request.output)
    if resume and (done := _finished(request.output, identity)) is not None:
        return TrainedHead(
            path=request.output,
            record=done,
            folder=folder,
            notes=("it is trained already; --no-resume trains it anew",),
            parameters=int(done.training["parameters"]),
            again=True,
        )
    torch.manual_seed(plan.seed)
    head = build_head(spec, text_sizes(clip) if spec.tuned == "both" else None).to(models.device)
    parameters = sum(p.numel() for p in head.parameters())
    training = Training(head, plan, folder, identity, resume=resume)
    listener.begin(data, spec, plan)
    pictures = Pictures(data)
    taps = None
    if spec.kind == "dedos":
        from ovseg_cli.heads.taps import TapCache

        taps = TapCache.of_training(spec, models, pictures, folder, progress=listener.cache)
    loss = StepLoss(head, clip, profile, pictures, plan, templates, taps)

    def record(*, finished: bool) -> HeadRecord:
        return _record(request, profile, spec, plan, data, training, templates, identity, parameters, finished)

    try:
        training.run(loss, listener.step)
    except KeyboardInterrupt:
        _keep(request.output, training, record(finished=False))
        raise
    _keep(request.output, training, record(finished=True))
    _draw(folder, request.name)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    (folder / "pace.txt").unlink(missing_ok=True)
    if taps is not None:
        taps.remove()
    return TrainedHead(
        path=request.output, record=record(finished=True), folder=folder, notes=data.notes, parameters=parameters
    )


def _test_data(request: HeadRequest) -> TrainingData:
    """The pictures that were named for the report."""
    from ovseg_cli.evaluation.coco import is_coco_file
    from ovseg_cli.evaluation.pairing import find_labelmap, label_folder
    from ovseg_cli.heads.data import read_data

    images, labels = cast(Path, request.test_images), cast(Path, request.test_labels)
    own = is_coco_file(labels) or find_labelmap(label_folder(labels))
    return read_data(
        images, labels, label_map=None if own else request.label_map, ignore=request.ignore, hold_out=False
    )


def _check_test(request: HeadRequest, data: TrainingData) -> None:
    """Find out before the training whether there will be something to report.

    Raises:
        LabelError: The labels of the report show none of the names that are trained; or they cannot be read.
    """
    shown = ClassList(_test_data(request).names)
    if not any(name in shown for name in data.names):
        raise LabelError(
            f"The labels in {request.test_labels} show none of the names to train ({listed_names(data.names)}); they "
            f"show {listed_names(shown.names, most=10)}. Name other pictures with --test-images and --test-labels."
        )


def head_spec(request: HeadRequest, preset: Preset, models: Models) -> HeadSpec:
    """What a head is built from: every size comes from the networks at hand."""
    visual = models.clip.model.visual
    profile = models.profile
    patch = models.clip.patch
    side = 24 * patch if preset == "published" else profile.clip.input_size * (2 if preset == "dense" else 1)
    proj = visual.proj
    width = int(visual.conv1.weight.shape[0])
    sizes = ClipSizes(
        width=width,
        embed=width if proj is None else int(proj.shape[1]),
        depth=models.clip.depth,
        patch=patch,
        input_size=side,
    )
    dedos = None
    if request.kind == "dedos":
        from ovseg_cli.heads.taps import default_taps, tap_channels

        dedos = dedos_row(dedos_sizes(preset), request.row or "V")
        dedos = dataclasses.replace(dedos, **request.dedos)
        if dedos.injection and not dedos.taps:
            unet = models.generator.unet
            taps = default_taps(unet)
            dedos = dataclasses.replace(dedos, taps=taps, tap_channels=tap_channels(unet, taps))
        _check_dedos(dedos)
    return make_spec(request.kind, sizes, preset, tuned=request.tuned, dedos=dedos)


def _check_dedos(dedos: DedosSizes) -> None:
    """Refuse sizes that cannot be.

    Raises:
        UsageError: They are such.
    """
    if dedos.width % 32:
        raise UsageError(
            f"A query's width, {dedos.channels[0]} x {dedos.channels[1]}, must be a multiple of 32: the decoders "
            "normalise channels in groups of 32."
        )
    if not dedos.timesteps or list(dedos.timesteps) != sorted(dedos.timesteps, reverse=True):
        raise UsageError(f"Timesteps go down, as denoising does; got {dedos.timesteps}.")


def _finished(path: Path, identity: Mapping[str, Any]) -> HeadRecord | None:
    """The record of a head that this very training has made; None where there is none."""
    if not path.is_file():
        return None
    found = read_record(path)
    alike = found.training.get("identity") == clean(identity)
    return found if alike and found.training["finished"] else None


def clean(value: Any) -> Any:
    """A value as JSON gives it back."""
    import json

    return json.loads(json.dumps(value))


def _record(
    request: HeadRequest,
    profile: Profile,
    spec: HeadSpec,
    plan: Plan,
    data: TrainingData,
    training: Any,
    templates: Sequence[str],
    identity: Mapping[str, Any],
    parameters: int,
    finished: bool,
) -> HeadRecord:
    """What the head's file says of itself."""
    weights = profile.clip.weights
    return HeadRecord(
        name=request.name,
        spec=spec,
        base=data.names,
        novel=data.novel,
        clip={"digest": clip_digest(weights), "name": weights.model_id, "licence": weights.licence},
        profile=profile.name,
        data={
            "digest": data.digest,
            "pictures": len(data.samples),
            "held_out": [sample.key for sample in data.held_out],
            "background": data.nothing > 0,
        },
        training={
            "seed": plan.seed,
            "steps": training.step,
            "seconds": round(training.seconds, 1),
            "finished": finished,
            "parameters": parameters,
            "plan": plan.record(),
            "identity": clean(identity),
            "licences": sorted(
                {weights.licence, profile.generator.weights.licence} if spec.dedos else {weights.licence}
            ),
        },
        templates=tuple(templates),
        geometry=clean(dataclasses.asdict(head_geometry(profile, spec, background=data.nothing > 0))),
        version=version("ovseg"),
    )


def head_geometry(profile: Profile, spec: HeadSpec, *, background: bool) -> DenseDefaults:
    """How pictures are cut up for a head, and what stands for the background.

    Args:
        profile: Its own settings are taken where it has some.
        spec: The head.
        background: Whether the labels showed one: then a pixel where no name is probable is background. Otherwise the
            profile's words for the background compete.
    """
    side = spec.clip.input_size
    own = profile.clip.dense
    words = () if background else profile.clip.background_words
    threshold = 0.5 if background else None
    if own is not None:
        # A window that is enlarged shows objects larger than crops do in training, and costs as much as any other.
        # As published, windows overlap by a third.
        sizes = [size for size, _ in own.windows if size >= side] or [size for size, _ in own.windows[:1]]
        windows = tuple((size, 2 * size // 3) for size in sizes)
        return DenseDefaults(
            short_side=own.short_side,
            windows=windows,
            whole_image=own.whole_image,
            squash=side,
            background_words=words,
            threshold=threshold,
        )
    # As published, but for the picture's shape: windows of 384 pixels with a third of overlap, and the whole.
    return DenseDefaults(
        short_side=640,
        windows=((384, 256),),
        whole_image=True,
        squash=side,
        background_words=words,
        threshold=threshold,
        positions="bicubic-sharp",
    )


def _keep(path: Path, training: Any, record: HeadRecord) -> None:
    """Write the head as it is."""
    from ovseg_cli.heads.artefact import save_head

    save_head(path, training.weights(), record)


def _draw(folder: Path, name: str) -> None:
    """The curves as a picture."""
    from ovseg_cli.drawing.curves import curves_sheet, read_curves

    write_image(folder / "curves.png", curves_sheet(read_curves(folder / "curves.csv"), title=name))


def report_head(
    trained: TrainedHead,
    request: HeadRequest,
    store: Store,
    models: Models,
    *,
    methods: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> HeadReport | None:
    """Score a head on base and novel names, with methods without training beside it, and write the report.

    Args:
        trained: The head.
        request: What it was trained by: which pictures are for the report.
        store: As for every segmentation.
        models: The models.
        methods: Names of methods; none for those that need CLIP alone.
        progress: Told how many pictures of how many are done.

    Returns:
        The report; None where there is no picture for it.
    """
    from ovseg_cli.heads.data import read_data
    from ovseg_cli.runs.head_report import score_head

    record = trained.record
    if request.test_images is not None and request.test_labels is not None:
        data = _test_data(request)
        samples, truth = data.samples, data.truth
    else:
        data = read_data(
            request.images,
            request.labels,
            label_map=request.label_map,
            classes=request.classes,
            novel=request.novel,
            ignore=request.ignore,
        )
        samples, truth = data.held_out, data.truth
    if not samples:
        return None
    found = score_head(
        trained.path,
        record,
        samples,
        truth,
        store,
        models,
        methods=methods,
        progress=progress,
    )
    write_json(trained.folder / "report.json", found.to_dict())
    return found


def convert_catseg(checkpoint: Path, output: Path, models: Models) -> HeadRecord:
    """Make a head's file of a checkpoint of CAT-Seg's published code.

    Args:
        checkpoint: A file that torch has saved; it is read as tensors only.
        output: The head's file.
        models: Whose CLIP it was trained from.

    Raises:
        UsageError: It cannot be read, or the output is no name for a head.
        WeightsError: It is no such checkpoint, or was trained from another CLIP.
    """
    import pickle

    import torch

    from ovseg_cli.heads.artefact import save_head
    from ovseg_cli.heads.published import catseg_from
    from ovseg_cli.heads.record import file_digest
    from ovseg_cli.heads.tiles import PUBLISHED_TILES

    if output.suffix != SUFFIX:
        raise UsageError(f"A head is written as {SUFFIX}, got {str(output)!r}.")
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"There is no file {checkpoint}.") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"The checkpoint {checkpoint} is not read: it is damaged, or holds more than tensors, which could be code. "
            "Take it from where CAT-Seg publishes its weights."
        ) from error
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else {}
    tensors = state.items() if isinstance(state, dict) else ()
    state = {name: value for name, value in tensors if isinstance(value, torch.Tensor)}
    head = catseg_from(state, models.clip.model.state_dict())
    weights = models.profile.clip.weights
    record = HeadRecord(
        name=output.stem,
        spec=head.spec,
        base=(),
        novel=(),
        clip={"digest": clip_digest(weights), "name": weights.model_id, "licence": weights.licence},
        profile=models.profile.name,
        data={"digest": file_digest(checkpoint), "pictures": 0, "held_out": [], "background": False},
        training={
            "seed": None,
            "steps": 80_000,
            "seconds": 0.0,
            "finished": True,
            "parameters": sum(p.numel() for p in head.parameters()),
            "plan": {},
            "licences": ["MIT (CAT-Seg)", weights.licence],
        },
        templates=(CATSEG_TEMPLATE,),
        # The tiles are the head's own: it is given the whole picture as a square, as published.
        geometry={"short_side": PUBLISHED_TILES.side, "whole_image": True, "squash": PUBLISHED_TILES.side}
        | {"resample": "bilinear-float"},
        tiles=(PUBLISHED_TILES.side, PUBLISHED_TILES.window, PUBLISHED_TILES.stride),
        version=version("ovseg"),
    )
    save_head(output, head.state_dict(), record)
    return record
