"""The command line's three steps as functions on arrays and PIL images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from ovseg_cli.errors import ClassExistsError, UsageError
from ovseg_cli.evaluation.arrays import evaluate_arrays as evaluate
from ovseg_cli.profiles import Profile, get_profile
from ovseg_cli.store import ClassInfo, Store, normalise_class_name

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.prototypes.build import Progress
    from ovseg_cli.segmenter import Segmentation

__all__ = ["add_class", "evaluate", "segment"]


def add_class(
    store: Store,
    name: str,
    *,
    count: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    prompt: str | None = None,
    kind: Literal["thing", "stuff"] | None = None,
    if_exists: Literal["error", "skip", "replace"] = "error",
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
) -> ClassInfo:
    """Generate a class's support set, make its prototypes and store them in one transaction.

    Example:
        >>> add_class(store, "chocolate glazed donut", count=16).support_count
        16

    Args:
        store: An open store; its profile says which models are used.
        name: The class name, as it would stand in "A good picture of a …".
        count: Support images (default: the profile's, as for the next four).
        steps: Sampler steps.
        seed: Seed of the first image.
        prompt: Template with ``{}`` where the name goes.
        kind: "thing" or "stuff" (default: "thing").
        if_exists: What to do about a class of this name.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        progress: Told about every step.

    Returns:
        What the store now knows of the class.

    Raises:
        ClassNameError: The name cannot be stored.
        ClassExistsError: It is there already and `if_exists` is "error".
        GenerationError: The generator gave no usable support set; nothing was stored.
        WeightsError: The profile's weights are not here and cannot be fetched.
    """
    from ovseg_cli.prototypes.build import SupportSettings, build_class

    if if_exists not in ("error", "skip", "replace"):
        raise UsageError(f'if_exists must be "error", "skip" or "replace", got {if_exists!r}.')
    name = normalise_class_name(name)
    if store.has_class(name) and if_exists != "replace":
        if if_exists == "skip":
            return store.get_class(name)
        raise ClassExistsError(f'The store already has {name!r}. Pass if_exists="skip" or "replace".')
    settings = SupportSettings(count=count, steps=steps, seed=seed, prompt=prompt, kind=kind)
    record = build_class(_models(get_profile(store.profile_name), device), name, settings, progress)
    return store.add_class(record, replace=if_exists == "replace")


def segment(
    store: Store,
    image: Any,
    classes: Sequence[str] | None = None,
    *,
    method: str = "auto",
    background: bool = True,
    threshold: float | None = None,
    prefilter: bool | None = None,
    device: str = "auto",
) -> Segmentation:
    """Segment one image. For many images with the same classes make one `Segmenter` instead.

    Example:
        >>> result = segment(store, image, ["cat", "dog"])
        >>> result.mask("cat").mean()  # share of the picture

    Args:
        store: An open store.
        image: PIL image of any mode (turned upright by its EXIF data), or uint8 array (H, W, 3) in RGB.
        classes: Class names in any case (default: every class in the store).
        method: "auto", "prototype" or "gem".
        background: Whether pixels may belong to none of the classes.
        threshold: A class whose score is below this gives way to the background.
        prefilter: With prototypes: whether CLIP first rules out classes that the picture does not show (default: the
            profile's).
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Returns:
        The label map at the image's own size.

    Raises:
        UnknownClassError: "prototype" was asked for, and a class has no prototypes.
        UsageError: No class was named and the store is empty, a class was named twice, or the pre-filter was asked for
            and prototypes are not what segments.
        ClassNameError: A name that no class can have.
        ValueError: An array that is not an RGB picture of 8 bits per channel.
    """
    from PIL import Image

    from ovseg_cli.files.images import to_rgb
    from ovseg_cli.runs.classes import stored_names
    from ovseg_cli.segmenter import Segmenter

    if isinstance(classes, str):
        raise UsageError(f"classes must be a list of names, like [{classes!r}]; got the string {classes!r}.")
    names = store.class_names() if classes is None else stored_names(store, classes)
    segmenter = Segmenter(
        _models(get_profile(store.profile_name), device),
        store,
        names,
        method=method,
        background=background,
        threshold=threshold,
        prefilter=prefilter,
    )
    return segmenter.segment(to_rgb(image) if isinstance(image, Image.Image) else image)


@lru_cache(maxsize=1)
def _models(profile: Profile, device: str) -> Models:
    """The models of the last profile and device used, so that a loop of calls loads them once."""
    from ovseg_cli.models import load_models

    return load_models(profile, device=device)
