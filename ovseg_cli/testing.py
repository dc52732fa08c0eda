"""What every segmentation method promises, as checks that packages with methods of their own run too.

>>> from ovseg_cli.testing import check_method
>>> check_method("my-method")
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from ovseg_cli.methods.catalogue import METHODS, Method, scorer_of, word_methods
from ovseg_cli.models import Models, load_models
from ovseg_cli.profiles import get_profile
from ovseg_cli.scorers.tokens import TokenScorer
from ovseg_cli.scorers.words import WordScorer
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmentation, Segmenter, segment_together
from ovseg_cli.store import Store

NAMES = ("cat", "apple", "soccer ball")
OPTIONS = SegmentOptions(prefilter=False, short_side=64, windows=((0, 0),))
"""The whole image at once, at a size that takes a fraction of a second."""

SAME = 0.99
"""Share of the pixels that have to agree where sums are in another order: between batches, and in float16."""

Images = Sequence[npt.NDArray[np.uint8]]


def check_method(name: str, *, models: Models | None = None, images: Images | None = None) -> None:
    """Check that a method that reads words does what every such method does.

    Label maps of any size, the same again, for one class and for several; scores of a part of the classes are as if
    the others had not been asked for; images in batches or beside other methods, float16 and a
    recipe that was pickled give the same answers.

    Args:
        name: A method of `ovseg_cli.methods.catalogue.word_methods`.
        models: Of any profile (default: the bundled ones, on the CPU).
        images: At least two of one size, each uint8 (H, W, 3) (default: noise).

    Raises:
        AssertionError: It does not.
    """
    models = models or load_models(get_profile("mini"), device="cpu")
    images = images or list(np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), dtype=np.uint8))
    check_record(name, METHODS[name])
    with tempfile.TemporaryDirectory() as folder, Store.open(folder, profile=models.profile.name) as store:
        ours = _segmenter(models, store, name)
        answers = [ours.segment(image) for image in images]
        for image, answer in zip(images, answers, strict=True):
            _check_answer(answer, image.shape[:2], NAMES)
        _expect(_agree(ours.segment(images[0]), answers[0]) == 1.0, "the same image gets the same labels again")
        _check_batch(ours, images, answers)
        _check_recipe(ours, models, images[0], answers[0])
        _check_one_class(models, store, name, images[0])
        _check_part(models, store, name, ours, images[0])
        _check_half(models, store, name, images[0], answers[0])
        _check_together(models, store, ours, images[0], answers[0])


def check_record(name: str, method: Method) -> None:
    """Check that a record says what people need, and that its scorer is one.

    Raises:
        AssertionError: It does not.
    """
    _expect(bool(method.title and method.source and method.gist), "a method has a title, a source and a gist")
    _expect(method.gist[0].isalnum() and not method.gist.endswith("."), "a gist is half a sentence")
    _expect(name == name.lower() and " " not in name, "a name is in lower case, without spaces")
    if method.reads_words:
        scorer = scorer_of(name)
        _expect(isinstance(scorer, type) and issubclass(scorer, WordScorer), "a scorer is a WordScorer")
        explained = isinstance(scorer, type) and issubclass(scorer, TokenScorer)
        _expect(explained or not method.explained, "what can be explained is a TokenScorer")


def _segmenter(models: Models, store: Store, method: str, names: Sequence[str] = NAMES) -> Segmenter:
    return Segmenter(models, store, names, method=method, options=OPTIONS)


def _check_answer(answer: Segmentation, size: tuple[int, ...], names: Sequence[str]) -> None:
    _expect(answer.ids.shape == size, "a label map has the size of its image")
    _expect(answer.ids.dtype == np.uint16 and answer.ids.max() <= len(names), "ids are those of the classes")
    _expect(abs(sum(answer.shares.values()) - 1) < 1e-6, "shares add up to 1")
    _expect(all(np.isfinite(score) for score in answer.mean_scores.values()), "scores are finite")


def _check_batch(ours: Segmenter, images: Images, answers: Sequence[Segmentation]) -> None:
    for together, alone in zip(ours.segment_batch(images), answers, strict=True):
        _expect(_agree(together, alone) >= SAME, "an image in a batch gets the labels that it gets alone")


def _check_recipe(ours: Segmenter, models: Models, image: npt.NDArray[np.uint8], answer: Segmentation) -> None:
    recipe = pickle.loads(pickle.dumps(ours.recipe))  # noqa: S301  # made a moment ago
    _expect(recipe.digest == ours.digest, "a recipe that was pickled has the same digest")
    again = Segmenter.by_recipe(models, recipe).segment(image)
    _expect(_agree(again, answer) == 1.0, "a recipe that was pickled gives the same labels")


def _check_one_class(models: Models, store: Store, method: str, image: npt.NDArray[np.uint8]) -> None:
    alone = _segmenter(models, store, method, NAMES[:1]).segment(image)
    _check_answer(alone, image.shape[:2], NAMES[:1])


def _check_part(models: Models, store: Store, method: str, ours: Segmenter, image: npt.NDArray[np.uint8]) -> None:
    part = ours.segment(image, [NAMES[0], NAMES[2]])
    few = _segmenter(models, store, method, (NAMES[0], NAMES[2])).segment(image)
    _expect(
        float((part.ids == np.array([0, 1, 3])[few.ids]).mean()) >= SAME,
        "classes that are not in an image are as if they had not been asked for",
    )


def _check_half(models: Models, store: Store, method: str, image: npt.NDArray[np.uint8], answer: Segmentation) -> None:
    if models.dtype == torch.float16:
        return
    half = load_models(models.profile, device=models.device, precision="float16")
    ours = Segmenter(half, store, NAMES, method=method, options=replace(OPTIONS))
    rounded = ours.segment(image)
    _check_answer(rounded, image.shape[:2], NAMES)
    _expect(_agree(rounded, answer) >= 0.9, "float16 gives nearly the same labels")


def _check_together(
    models: Models, store: Store, ours: Segmenter, image: npt.NDArray[np.uint8], answer: Segmentation
) -> None:
    """Beside a method that its scorer may have been made from, whose features it must not get."""
    scorer = cast(type, scorer_of(ours.method))
    others = (name for name in word_methods() if name != ours.method)
    family = [name for name in others if issubclass(scorer, cast(type, scorer_of(name)))]
    for other in family or ["gem"]:
        _, found = segment_together([_segmenter(models, store, other), ours], image)
        _expect(_agree(found, answer) >= SAME, f"beside {other}, an image gets the labels that it gets alone")


def _agree(one: Segmentation, other: Segmentation) -> float:
    return float((one.ids == other.ids).mean())


def _expect(true: bool, promise: str) -> None:
    if not true:
        raise AssertionError(f"not kept: {promise}")
