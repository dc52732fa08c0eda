"""What the command line does, as functions: on arrays and PIL images, and on files and folders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ovseg_cli.errors import ClassExistsError, MethodError, UsageError
from ovseg_cli.evaluation.arrays import evaluate_arrays as evaluate
from ovseg_cli.evaluation.draws import DRAWS, SEED
from ovseg_cli.names import check_names
from ovseg_cli.precision import Precision
from ovseg_cli.profiles import Profile, profile_of
from ovseg_cli.runs.classes import IfExists
from ovseg_cli.store import ClassInfo, Store
from ovseg_cli.store.records import ClassKind, PrototypeKind
from ovseg_cli.urls import Place, Url, place

if TYPE_CHECKING:
    from ovseg_cli.evaluation.oracles import Match, OracleName
    from ovseg_cli.evaluation.report import Report
    from ovseg_cli.explanations import Explanation
    from ovseg_cli.exports.run import Exported
    from ovseg_cli.models import Models
    from ovseg_cli.profiles.prompts import TemplateSet
    from ovseg_cli.prototypes.build import Progress
    from ovseg_cli.prototypes.masks import MaskMethod
    from ovseg_cli.runs.engines.options import EngineOptions
    from ovseg_cli.runs.folder import Listener
    from ovseg_cli.runs.heads import TrainedHead, TrainingListener
    from ovseg_cli.runs.ledger import RunSummary
    from ovseg_cli.segmentation.options import SegmentOptions
    from ovseg_cli.segmentation.segmenter import Segmentation

log = logging.getLogger("ovseg_cli")

__all__ = [
    "add_class",
    "compare",
    "evaluate",
    "evaluate_folder",
    "explain",
    "export_run",
    "relabel_run",
    "report_folder",
    "segment",
    "segment_folder",
    "train_head",
]


def add_class(
    store: Store,
    name: str,
    *,
    count: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    prompt: str | None = None,
    kind: ClassKind | None = None,
    mask_method: MaskMethod | None = None,
    parts: int | None = None,
    extractors: Sequence[str] | None = None,
    from_images: str | Path | None = None,
    masks: str | Path | None = None,
    if_exists: IfExists = "error",
    device: str = "auto",
    precision: Precision = "auto",
    progress: Callable[[Progress], None] | None = None,
) -> ClassInfo:
    """Make a class's support set and prototypes, and store them in one transaction.

    Example:
        >>> add_class(store, "chocolate glazed donut", count=16).support_count
        16
        >>> add_class(store, "my mug", from_images="mugs/", masks="masks/")

    Args:
        store: An open store; its profile says which models are used.
        name: The class name, as it would stand in "A good picture of a …".
        count: Support images to generate (default: the profile's, as for the next three).
        steps: Sampler steps.
        seed: Seed of the first image.
        prompt: Template with ``{}`` where the name goes.
        kind: "thing" or "stuff" (default: by the name).
        mask_method: "otsu", "fixed", "self-attention" or "sam" (default: the profile's).
        parts: Part prototypes per role and extractor, at most (default: the method's).
        extractors: Names of the feature extractors that get prototypes (default: the method's).
        from_images: A folder of pictures of your own, which take the place of generated ones.
        masks: A folder of their masks (default: found by the generator's attention).
        if_exists: What to do about a class of this name: "error", "skip", "replace", or "extend" by more images.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" (float16 on CUDA, else float32), "float32" or "float16".
        progress: Told about every step.

    Returns:
        What the store now knows of the class.

    Raises:
        ClassNameError: The name cannot be stored.
        ClassExistsError: It is there already and `if_exists` is "error".
        UsageError: A setting is out of range, or masks are given without pictures.
        GenerationError: There is no usable support set; nothing was stored.
        WeightsError: The profile's weights are not here and cannot be fetched.
    """
    from ovseg_cli.prototypes.build import SupportSettings
    from ovseg_cli.runs.classes import add_classes, plan_classes
    from ovseg_cli.runs.own_pictures import load_pictures

    if if_exists not in get_args(IfExists):
        raise UsageError(f"if_exists must be one of {', '.join(map(repr, get_args(IfExists)))}, got {if_exists!r}.")
    if masks is not None and from_images is None:
        raise UsageError("masks belong to from_images: name the folder of their pictures too.")
    settings = SupportSettings(
        count=count,
        steps=steps,
        seed=seed,
        prompt=prompt,
        kind=kind,
        mask_method=mask_method,
        parts=parts,
        extractors=None if extractors is None else tuple(extractors),
    )
    try:
        plan = plan_classes(store, [name], if_exists)
    except ClassExistsError:  # its message speaks of the command line
        raise ClassExistsError(
            f'The store already has {name!r}. Pass if_exists="skip", "replace" or "extend".'
        ) from None
    if plan.skip:
        return store.get_class(name)
    pictures = None
    if from_images is not None:
        pictures = load_pictures(plan.build[0], Path(from_images), None if masks is None else Path(masks))
    models = _models(profile_of(store), device, precision)
    tell = None if progress is None else lambda _name, step: progress(step)
    (added,) = add_classes(store, models, plan, settings, pictures=pictures, progress=tell)
    return added.info


def segment(
    store: Store,
    image: Any,
    classes: Sequence[str] | None = None,
    *,
    method: str = "auto",
    background: bool = True,
    threshold: float | None = None,
    prefilter: bool | None = None,
    extractors: Sequence[str] | None = None,
    prototypes: Sequence[PrototypeKind] | None = None,
    stuff_filter: bool | None = None,
    exact: bool | None = None,
    refine: Literal["none", "pamr"] | None = None,
    settings: str | None = None,
    short_side: int | None = None,
    windows: Sequence[tuple[int, int]] | None = None,
    templates: TemplateSet | None = None,
    logit_scale: float | None = None,
    words: str | None = None,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    background_words: Sequence[str] | None = None,
    image_classes: Sequence[str] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> Segmentation:
    """Segment one image. For many images with the same classes make one `Segmenter` instead.

    Example:
        >>> result = segment(store, image, ["cat", "dog"])
        >>> result.mask("cat").mean()  # share of the picture
        >>> segment(store, image, ["ship", "car"], method="gem", synonyms={"ship": ["boat", "yacht"]})

    Args:
        store: An open store.
        image: PIL image of any mode (turned upright by its EXIF data), or uint8 array (H, W, 3) in RGB.
        classes: Class names in any case (default: every class in the store).
        method: "auto", or one of those that `ovseg methods` lists.
        background: Whether pixels may belong to none of the classes.
        threshold: A class whose score is below this gives way to the background.
        prefilter: Whether CLIP first rules out classes that the picture does not show (default: the method's).
        extractors: With prototypes: names of the feature extractors whose scores are averaged (default: the
            profile's ensemble).
        prototypes: With prototypes: which of "mean", "instance" and "part" are matched (default: all).
        stuff_filter: With prototypes: whether background prototypes of things that look like stuff are left out
            (default: they are).
        exact: With prototypes of very many classes: whether all of them are compared with the picture, instead of those
            that the store's search index finds (default: not).
        refine: "pamr" lets the scores follow the picture's edges (default: the method's own way).
        settings: With words: the data set whose published settings the method is run with (default: PASCAL VOC's).
        short_side: The picture is resized so that its short side is this many pixels (default: the method's).
        windows: (size, stride) of each sliding-window pass in pixels of the resized picture, and (0, 0) for the whole
            picture (default: the method's).
        templates: With words: "single", "short", "car", "imagenet" or "imagenet-scene", the prompt templates that they
            are put into (default: the method's).
        logit_scale: With words: factor on cosines before the softmax (default: the method's).
        words: With hybrid: the method that reads words, such as a trained head (default: the profile's best).
        synonyms: With words: more words for some of the classes.
        background_words: With words: what is none of the classes (default: the method's).
        image_classes: Which of the classes may be in this picture (default: the pre-filter's answer, or all). AggSD and
            DiffSegmenter, which find every class somewhere, want to know it.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" (float16 on CUDA, else float32), "float32" or "float16".

    Returns:
        The label map at the image's own size.

    Raises:
        UnknownClassError: "prototype" was asked for, and a class has no prototypes.
        UsageError: No class was named and the store is empty, a class was named twice, or something was asked for that
            the method does not have.
        ImageError: The method cannot do with this picture (AggSD: with so many classes in it).
        ProfileMismatchError: A class has no prototypes by one of the extractors.
        ClassNameError: A name that no class can have.
        ValueError: An array that is not an RGB picture of 8 bits per channel.
    """
    from ovseg_cli.segmentation.options import SegmentOptions
    from ovseg_cli.segmentation.segmenter import Segmenter

    check_names("image_classes", image_classes)
    # A text is a sequence too, and would be read letter by letter.
    check_names("extractors", extractors)
    check_names("prototypes", prototypes)
    check_names("background_words", background_words)
    for name, more in (synonyms or {}).items():
        check_names(f"the synonyms of {name!r}", more)
    names = _names(store, classes, method)
    segmenter = Segmenter(
        _models(profile_of(store), device, precision),
        store,
        names,
        method=method,
        options=SegmentOptions(
            background=background,
            threshold=threshold,
            prefilter=prefilter,
            extractors=None if extractors is None else tuple(extractors),
            prototypes=None if prototypes is None else tuple(prototypes),
            stuff_filter=stuff_filter,
            exact=exact,
            refine=refine,
            settings=settings,
            short_side=short_side,
            windows=None if windows is None else tuple((size, stride) for size, stride in windows),
            templates=templates,
            logit_scale=logit_scale,
            words=words,
            synonyms=tuple((name, tuple(more)) for name, more in (synonyms or {}).items()),
            background_words=None if background_words is None else tuple(background_words),
        ),
    )
    return segmenter.segment(_picture(image), image_classes)


def compare(
    store: Store,
    image: Any,
    classes: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    *,
    options: SegmentOptions | None = None,
    image_classes: Sequence[str] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> dict[str, Segmentation]:
    """Segment one image by several methods, which share their walks through the networks where they can.

    Example:
        >>> compare(store, image, ["cat", "dog"], ["gem", "sclip"])["gem"].mask("cat")

    Args:
        store: An open store; it may be empty for methods that read words.
        image: As `segment` takes it.
        classes: Likewise.
        methods: Of those that `ovseg methods` lists. Default: all that read words, but for methods of other packages
            that cannot be run, each with a warning.
        options: What else decides the label maps; each of the methods must have what is asked for.
        image_classes: As `segment` takes them.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" (float16 on CUDA, else float32), "float32" or "float16".

    Returns:
        By method, what `segment` gives.

    Raises:
        ImageError: One of the methods cannot do with this picture.
        MethodError: A method that is named comes from another package and cannot be run.
        UsageError: A method is named twice; or as `segment`.
        UnknownClassError: As `segment`.
        ProfileMismatchError: As `segment`.
        ClassNameError: As `segment`.
        ValueError: As `segment`.
    """
    from ovseg_cli.methods.catalogue import word_methods
    from ovseg_cli.segmentation.segmenter import Segmenter, segment_together

    check_names("methods", methods)
    check_names("image_classes", image_classes)
    wanted = word_methods() if methods is None else tuple(methods)
    if not wanted or len(set(wanted)) < len(wanted):
        raise UsageError(f"methods must name at least one method, and none twice; got {list(wanted)!r}.")
    names = _names(store, classes)
    models = _models(profile_of(store), device, precision)
    segmenters: dict[str, Segmenter] = {}
    for name in wanted:
        try:
            segmenters[name] = Segmenter(models, store, names, method=name, options=options)
        except MethodError as error:
            if methods is not None:
                raise
            log.warning("%s", error)
    found = segment_together(list(segmenters.values()), _picture(image), image_classes)
    return dict(zip(segmenters, found, strict=True))


def train_head(
    store: Store,
    name: str,
    images: str | Path,
    labels: str | Path,
    output: str | Path | None = None,
    *,
    head: Literal["catseg", "dedos"] = "catseg",
    classes: Sequence[str] = (),
    novel: Sequence[str] = (),
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = True,
    device: str = "auto",
    listener: TrainingListener | None = None,
) -> TrainedHead:
    """Train a head on a labelled folder: what ``ovseg train-head`` does, but for the report.

    Example:
        >>> head = train_head(store, "animals", "photos", "labels", minutes=25)
        >>> segment(store, image, ["cat", "zebra"], method=f"head:{head.path}")

    Args:
        store: An open store, whose profile says which models the head is for.
        name: What the head is called.
        images: Folder of pictures.
        labels: Folder of their labels, of every kind that `evaluate_folder` reads.
        output: The head's file (default: the name with the suffix ``.safetensors``).
        head: CAT-Seg's cost aggregation, or DEDOS.
        classes: Names to train (default: all of the label map).
        novel: Names that are kept from training.
        minutes: How long; the learning rate falls to zero by then.
        steps: How many steps, in the place of minutes or at most.
        seed: Of weights and crops.
        resume: Whether a training that was stopped goes on.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        listener: Is told how far it is.

    Raises:
        LabelError: The labels cannot be read, or do not show what they are to.
        UsageError: The request contradicts itself, or the checkpoint is of another training.
        NoInputError: There is no picture.
    """
    from ovseg_cli.runs.heads import HeadRequest
    from ovseg_cli.runs.heads import train_head as train

    plan = {"minutes": minutes, "steps": steps, "seed": seed}
    request = HeadRequest(
        name=name,
        kind=head,
        images=Path(images),
        labels=Path(labels),
        output=Path(output) if output is not None else Path(f"{name}.safetensors"),
        classes=tuple(classes),
        novel=tuple(novel),
        plan={key: value for key, value in plan.items() if value is not None},
    )
    return train(request, _models(profile_of(store), device, "float32"), resume=resume, listener=listener)


def segment_folder(
    store: Store,
    inputs: str | Place | Sequence[str | Place],
    output: str | Place = "ovseg-out",
    classes: Sequence[str] | None = None,
    *,
    method: str = "auto",
    options: SegmentOptions | None = None,
    overlay: bool = False,
    explain: bool = False,
    formats: Sequence[str] = (),
    image_classes: str | Path | None = None,
    overwrite: bool = False,
    limit: int | None = None,
    retry_failed: bool = False,
    batch: int | None = None,
    fail_fast: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    engine: EngineOptions | None = None,
    listener: Listener | None = None,
) -> RunSummary:
    """Segment files and folders into label maps on the disk: all that ``ovseg segment`` does.

    What is done is skipped the next time. Example:
        >>> segment_folder(store, "photos", "result", ["cat", "dog"], overlay=True).images_with
        {'cat': 12, 'dog': 3}

    Args:
        store: An open store, which also remembers the run.
        inputs: Files, folders, patterns, or ``.txt`` lists, on this computer or at URLs; one or several.
        output: The output folder, or its URL.
        classes: Class names in any case (default: those of `image_classes`, or every class in the store).
        method: "auto", or one of those that `ovseg methods` lists.
        options: What else decides the label maps.
        overlay: Whether the labels are also drawn on the images.
        explain: Whether it is also shown why each class is where it is.
        formats: What else is written, as ``--format`` takes it: "coco", "probabilities" ...
        image_classes: A file that says which classes each image shows.
        overwrite: Whether everything is made again, also for other classes than the folder has.
        limit: Only the first so many images.
        retry_failed: Only images that have failed before.
        batch: Images of one size that go through the networks together (default: 8 on a GPU, 1 on a CPU).
        fail_fast: Whether to stop at the first image that cannot be read.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" (float16 on CUDA, else float32), "float32" or "float16".
        engine: Who does the work: several processes, GPUs or a cluster (default: this process).
        listener: Is told how far the run is.

    Returns:
        What was done, and in `notes` what one may not expect. Images that cannot be read are in `failed`.

    Raises:
        NoInputError: There is no image.
        UsageError: The folder holds label maps of another kind, or as `segment`.
        UnknownClassError: As `segment`.
        ProfileMismatchError: As `segment`.
        OutputError: The output folder cannot be written.
        EngineError: There can be no workers, or all have died.
    """
    from ovseg_cli.exports.registry import wanted_formats
    from ovseg_cli.exports.run import export_run as export
    from ovseg_cli.files.image_classes import read_image_classes
    from ovseg_cli.runs.folder import plan_folder, run_plan

    check_names("formats", formats)
    wanted = wanted_formats(formats)
    check_names("classes", classes)
    if classes is not None and not classes:
        raise UsageError("classes names no class. Name some, or leave it out for all classes of the store.")
    several = [inputs] if isinstance(inputs, str | Path | Url) else inputs
    planned = plan_folder(
        store,
        [str(each) for each in several],
        place(output),
        classes=() if classes is None else tuple(classes),
        method=method,
        options=options,
        overlay=overlay,
        explain=explain,
        probabilities=wanted.scores,
        overwrite=overwrite,
        limit=limit,
        retry_failed=retry_failed,
        image_classes=None if image_classes is None else read_image_classes(Path(image_classes)),
        precision=precision,
    )
    summary = run_plan(
        planned,
        store,
        lambda: _models(planned.recipe.profile, device, precision),
        listener=listener,
        fail_fast=fail_fast,
        batch=batch,
        engine=engine,
        device=device,
    )
    for name in wanted.exports if summary.done or summary.skipped else ():
        summary.failed += export(summary.output, name, overwrite=True).failed
    return summary


def export_run(
    run: str | Place,
    to: str,
    output: str | Place | None = None,
    *,
    images: str | Place | None = None,
    parts: bool = False,
    copy: bool = False,
    empty: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write the label maps of a folder as files that other tools read: what ``ovseg export RUN --to FORMAT`` does.

    Example:
        >>> export_run("ovseg-out", "coco").output
        PosixPath('/home/me/ovseg-out/export/coco.json')

    Args:
        run: An output folder of `segment_folder`, or a folder of label maps with a ``labelmap.txt``.
        to: "coco", "yolo", "masks", "cvat", "label-studio", "geotiff" or "probability-png".
        output: The file or folder to write (default: in the folder ``export`` of the run).
        images: Where the pictures are (default: where the run found them).
        parts: With "coco", "cvat" and "label-studio": whether each connected part of a class is an object.
        copy: With "yolo": whether pictures are copied rather than linked to.
        empty: With "masks": whether classes that a picture does not show have a mask there too.
        overwrite: Whether an export of other label maps may be replaced.

    Raises:
        UsageError: There is no such format, something would be written over, or something is missing.
        LabelError: The folder holds no label maps, or nothing says what they mean.
        OutputError: It cannot be written.
    """
    from ovseg_cli.exports.base import Options
    from ovseg_cli.exports.run import export_run as export

    return export(
        place(run),
        to,
        None if output is None else place(output),
        images=None if images is None else place(images),
        options=Options(parts=parts, copy=copy, empty=empty),
        overwrite=overwrite,
    )


def relabel_run(
    run: str | Place,
    output: str | Place,
    *,
    threshold: float | None = None,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
) -> RunSummary:
    """Make the label maps of a run again from the scores that it has kept: what ``ovseg relabel RUN`` does.

    Args:
        run: An output folder of ``segment_folder(..., formats=["probabilities"])``.
        output: Where the new label maps go.
        threshold: A class whose score is below this gives way to the background (default: no such rule).
        classes: Those that may win (default: all).
        overwrite: Whether label maps that were made in another way may be replaced.

    Raises:
        UsageError: The run has kept no scores or knows no background, or the output holds something else.
        UnknownClassError: The run did not look for one of the classes.
        OutputError: A folder cannot be read or written.
    """
    from ovseg_cli.runs.relabel import relabel_folder

    check_names("classes", classes)
    return relabel_folder(
        place(run), place(output), threshold=threshold, classes=tuple(classes or ()), overwrite=overwrite
    )


def evaluate_folder(
    gt: str | Place,
    pred: str | Place,
    classes: Sequence[str] | None = None,
    *,
    label_map: str | Path | None = None,
    ignore: int | Sequence[int] | None = None,
    background: bool | None = None,
    boundary: bool = False,
    match: Match | None = None,
    oracles: Sequence[OracleName] = (),
    draws: int = DRAWS,
    seed: int = SEED,
) -> Report:
    """Score label maps on the disk against ground truth: what ``ovseg eval --gt GT --pred PRED`` does.

    Args:
        gt: Folder of ground truth, or a COCO file.
        pred: An output folder of `segment_folder`, or another folder of label maps.
        classes: The classes that count (default: all that were looked for).
        label_map: What the ids of the labels mean, where no ``labelmap.txt`` says so.
        ignore: Label or labels of pixels that do not count; -1 for none (default: 255).
        background: Whether the background counts as a class of its own (default: as in the run).
        boundary: Whether the boundary IoU is computed too.
        match: "image" or "dataset" takes ids for regions without names, which the truth names in each picture, or once
            for all (default: "image" for runs of methods without names).
        oracles: Which of "names", "regions" and "presence" are computed as upper bounds.
        draws: Bootstrap draws of pictures for the intervals of mean IoUs; 0 for none.
        seed: Of the draws.

    Raises:
        LabelError: Labels that cannot be read or paired.
        UsageError: The label maps were not made for one of the classes, or there is no such match or oracle.
    """
    from ovseg_cli.runs.evaluate import score_folder

    check_names("classes", classes)
    check_names("oracles", oracles)
    return score_folder(
        place(pred),
        place(gt),
        classes=tuple(classes or ()),
        label_map=None if label_map is None else Path(label_map),
        ignore=ignore,
        background=background,
        boundary=boundary,
        match=match,
        oracles=oracles,
        draws=draws,
        seed=seed,
    )


def report_folder(run: str | Place, output: str | Place | None = None) -> Place:
    """Write one page to look through a run, as ``ovseg report`` does.

    Example:
        >>> report_folder(segment_folder(store, "photos", "result").output)
        PosixPath('/home/me/result/report.html')

    Args:
        run: The output folder of a run.
        output: The page (default: ``report.html`` in that folder).

    Returns:
        The page.

    Raises:
        UsageError: The folder holds no run, or the page has another suffix than ``.html``.
        OutputError: The run's own files cannot be read, or the page cannot be written.
    """
    from ovseg_cli.runs.report import write_report

    return write_report(place(run), None if output is None else place(output)).path


def explain(
    store: Store,
    image: Any,
    points: Sequence[tuple[int, int]] | None = None,
    classes: Sequence[str] | None = None,
    *,
    method: str = "auto",
    options: SegmentOptions | None = None,
    image_classes: Sequence[str] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> tuple[Segmentation, list[Explanation]]:
    """Segment one image, and say why pixels of it have their classes.

    Example:
        >>> result, (why,) = explain(store, image, [(120, 80)], ["cat", "dog"])
        >>> why.label, why.score, why.matches[0].source.support
        ('cat', 0.71, 3)

    Args:
        store: An open store.
        image: As `segment` takes it.
        points: (x, y) of each pixel (default: one in each class that was found).
        classes: As `segment` takes them.
        method: A method whose scores can be taken apart, or "auto" where that comes to one.
        options: What else decides the label map.
        image_classes: As `segment` takes them.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" (float16 on CUDA, else float32), "float32" or "float16".

    Returns:
        What `segment` gives, and one explanation per point.

    Raises:
        UsageError: The method's scores cannot be taken apart, or a point is outside the image; or as `segment`.
        UnknownClassError: As `segment`.
        ProfileMismatchError: As `segment`.
    """
    from ovseg_cli.explanations import Explainer
    from ovseg_cli.segmentation.segmenter import Segmenter

    check_names("image_classes", image_classes)
    names = _names(store, classes)
    models = _models(profile_of(store), device, precision)
    segmenter = Segmenter(models, store, names, method=method, options=options)
    return Explainer(segmenter, store).explain(_picture(image), points, image_classes)


def _names(store: Store, classes: Sequence[str] | None, method: str = "auto") -> Sequence[str]:
    """Class names as the store spells them; for None all of its classes, or regions where the method names none."""
    from ovseg_cli.methods.catalogue import METHODS
    from ovseg_cli.methods.region_names import REGION_NAMES
    from ovseg_cli.runs.classes import stored_names

    check_names("classes", classes)
    if classes is None and method in METHODS and METHODS[method].finds_regions:
        return REGION_NAMES
    return store.class_names() if classes is None else stored_names(store, classes)


def _picture(image: Any) -> Any:
    """A picture as a `Segmenter` takes it."""
    from PIL import Image

    from ovseg_cli.files.images import to_rgb

    return to_rgb(image) if isinstance(image, Image.Image) else image


@lru_cache(maxsize=1)
def _models(profile: Profile, device: str, precision: Precision) -> Models:
    """The models of the last profile, device and precision used, so that a loop of calls loads them once."""
    from ovseg_cli.models import load_models

    return load_models(profile, device=device, precision=precision)
