"""The diffusion model's own attention to class names (AggSD, DiffSegmenter)."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from ovseg_cli.backbones.phrases import PhrasedPrompt
from ovseg_cli.backbones.unet import PromptAttention
from ovseg_cli.devices import constant
from ovseg_cli.errors import ImageError, UsageError
from ovseg_cli.labeling.decide import Head, extremes
from ovseg_cli.methods import agg, diffsegmenter
from ovseg_cli.methods.diffusion_defaults import DiffusionDefaults
from ovseg_cli.names import ClassList, listed_names
from ovseg_cli.scorers.scorer import Crops, Picture
from ovseg_cli.scorers.words import WordMaps, WordScorer, narrow
from ovseg_cli.text.embedding import Reading, TextCache
from ovseg_cli.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    pass


class PhraseScorer(WordScorer):
    """The diffusion model looks for class names; the arguments are those of `WordScorer`.

    Each class that is asked for is found somewhere, so these want the classes of the picture: the class pre-filter's,
    unless the user knows better. Words and templates play no part: a name stands in a prompt of the method's own.

    Attributes:
        title: The method's name, for messages.

    Raises:
        UsageError: A class name is longer than the diffusion model can read.
    """

    title: ClassVar[str]
    on_own_grid = True
    sees = "pictures"

    def _read(self, templates: Sequence[str], texts: TextCache | None, reading: Reading | None) -> None:
        """Find out whether the names can be read; neither templates nor kept texts are wanted."""
        models, generator = self._models, self._models.profile.generator
        self.threshold = None
        self._side = generator.phrase_side
        self._padded = generator.idle_attention == "padding"
        if cut := [name for name in self.vocabulary.classes if not models.generator.prompts.reads(self.prompt(name))]:
            raise UsageError(
                f"{self.title} wants class names whole, and these are longer than the diffusion model's "
                f"text encoder can read: {listed_names(cut)}. Shorten them, or take a --method that reads "
                "the beginning, such as gem."
            )

    @staticmethod
    def _count(vocabulary: Vocabulary) -> int:
        return vocabulary.channels

    @abstractmethod
    def prompt(self, name: str) -> PhrasedPrompt:
        """The prompt for one class alone."""

    @abstractmethod
    def maps(self, image: Tensor) -> Tensor:
        """Class maps of one crop (1, 3, h, w), float32 (channels, g, g), the background's first.

        Raises:
            UsageError: The classes do not fit into one prompt.
        """

    def only(self, classes: Sequence[int]) -> Self:
        """The same for some of the classes."""
        narrowed = copy.copy(self)
        narrowed.vocabulary, _ = narrow(self.vocabulary, classes)
        narrowed.channels = narrowed.vocabulary.channels
        return narrowed

    def pixels(self, size: tuple[int, int]) -> int:
        """Those of the square that every crop is squashed to."""
        return self._side**2

    def features(self, crops: Crops) -> list[Tensor]:
        """The crops themselves: what the network sees in them depends on the classes."""
        return [crops.images]

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """Class maps of crops, float32 (B, channels, g, g).

        Raises:
            ImageError: The classes of this picture do not fit into one prompt.
        """
        (images,) = features
        try:
            return torch.stack([self.maps(image[None]) for image in images])
        except UsageError as error:  # this picture has too many classes for one prompt, and the next one may not
            raise ImageError(f"{self.title}: {error} --image-classes says which for each picture.") from error

    def _attend(
        self, image: Tensor, prompts: Sequence[PhrasedPrompt], settings: DiffusionDefaults
    ) -> Iterator[PromptAttention]:
        return self._models.generator.prompt_attention(
            image,
            prompts,
            settings.noising(self._models.profile.generator, self._side),
            padded=settings.padded or self._padded,
            emphasis=settings.emphasis,
            finest_self_attention=settings.finest_self_attention,
        )


class AggSd(PhraseScorer):
    """AggSD; see `ovseg_cli.methods.agg`."""

    title = "AggSD"

    def prompt(self, name: str) -> PhrasedPrompt:
        """That of all classes, with one."""
        return agg.list_classes([name])

    def maps(self, image: Tensor) -> Tensor:
        """Cross-attention of all classes in one prompt, spread by self-attention."""
        names = self.vocabulary.classes
        # In the order of the names, as in the code, where it is that of VOC's list; not in that of the question.
        order = ClassList(names).by_alphabet()
        (seen,) = self._attend(image, [agg.list_classes([names[place] for place in order])], agg.AGGSD_DIFFUSION)
        cross = {side: maps[0] for side, maps in seen.cross.items()}
        if self._padded:
            cross = agg.leave_rest(cross, seen.tokens)
        maps = agg.aggsd_maps(cross, seen.layers, seen.self_attention[0], background=self._background)
        places = (0, *(order.index(place) + 1 for place in range(len(names))))
        return maps[constant(places, maps.device, torch.int64)]

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """The maps, each of which is scaled over the whole picture."""
        scores = agg.aggsd_scores(fused, background=self._background)
        return WordMaps(scores, lambda values, _size: Head(len(values), lambda rows: rows), "bicubic")


class DiffSegmenter(PhraseScorer):
    """DiffSegmenter; see `ovseg_cli.methods.diffsegmenter`."""

    title = "DiffSegmenter"

    def prompt(self, name: str) -> PhrasedPrompt:
        """One class, one prompt."""
        return diffsegmenter.name_class(name)

    def maps(self, image: Tensor) -> Tensor:
        """Cross-attention of each class in a prompt of its own, completed by self-attention; none of the background."""
        prompts = [self.prompt(name) for name in self.vocabulary.classes]
        found = [
            diffsegmenter.class_map({side: m[0, 1] for side, m in seen.cross.items()}, seen.self_attention[0])
            for seen in self._attend(image, prompts, diffsegmenter.DIFFUSION)
        ]
        return torch.stack([torch.zeros_like(found[0]), *found])

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """The maps of the classes, each of which is scaled over the whole picture, beside a constant background."""
        rest = diffsegmenter.BACKGROUND if self._background else 0.0

        def head(values: Tensor, size: tuple[int, int]) -> Head:
            ends = extremes(values, size)
            return Head(len(values) + 1, lambda rows: diffsegmenter.diffsegmenter_scores(rows, ends, background=rest))

        return WordMaps(fused[1:], head)
