"""The text side of dense CLIP methods: from class names to query words, and from their cosines to a score per class.

The head is the one that SCLIP published (Wang et al., "SCLIP: Rethinking Self-Attention for Dense Vision-Language
Inference", ECCV 2024; its code, which ClearCLIP, NACLIP and ProxyCLIP share): cosines with all query words, scaled; a
softmax over all of them; each class has the score of its best synonym. A pixel becomes background in two ways, each of
which works without the other:

- by words: those for the background are one more class, with the score of the best of them;
- by a threshold: where the best score of all, the background's included, is below it (`ovseg_cli.labeling.decide`).

With neither, every pixel gets a class. With one class and no word for the background there is nothing to compete with:
the softmax of a single word is 1 everywhere, and no threshold is above it. `Vocabulary.notes` says so.

Cosines may be averaged over crops and enlarged before, as published; scores may not, as the softmax is not linear.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ovseg_cli.errors import UsageError
from ovseg_cli.names import ClassList, class_key, did_you_mean, listed_names, shown_name
from ovseg_cli.profiles.prompts import fill_prompts
from ovseg_cli.profiles.specs import Weights, digest_of

# No torch at module level: what a run is going to do is told without it.
if TYPE_CHECKING:
    from torch import Tensor

    from ovseg_cli.backbones.clip import ClipBackbone
    from ovseg_cli.methods.prefilter import TextCache

MAX_CELLS = 1_000_000
"""Probabilities made at once (words x rows x columns): 4 MB in float32, whatever the number of words."""

TEXTS_AT_ONCE = 640
"""Texts (words x templates) that are embedded before they are kept, so that an interrupted run has not read them for
nothing: some ten seconds of work with a ViT-B/16 on two cores."""

log = logging.getLogger("ovseg_cli")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The query words of a list of classes.

    Attributes:
        classes: Class names in label order; class i of them has number i + 1.
        words: All different: for each class its name and then its synonyms, and the background's words at the end.
        owner: The number of the class that each word stands for; 0 for the background.
        left_out: Synonyms and background words that are not used, because a class has the word already.
        notes: Sentences for people about what they may not expect.
    """

    classes: tuple[str, ...]
    words: tuple[str, ...]
    owner: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def channels(self) -> int:
        """How many scores a pixel has: one per class and the background's."""
        return len(self.classes) + 1

    def record(self) -> dict[str, Any]:
        """Everything that changes the scores, as JSON-able values."""
        return {"classes": list(self.classes), "words": list(self.words), "owner": list(self.owner)}


def make_vocabulary(
    classes: Sequence[str],
    *,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    background: Sequence[str] = (),
) -> Vocabulary:
    """Gather the query words of classes. No word comes twice (upper and lower case make no difference).

    A class name goes before every synonym, synonyms of earlier classes before those of later ones, and all of them
    before the background's words: whatever comes again is left out. (In SCLIP's and ProxyCLIP's files of COCO-Object
    "bed" is a class and the background's as well, which halves its probability there.)

    Args:
        classes: Class names.
        synonyms: More words for some of the classes, by the class name in any case.
        background: Words for what is none of the classes.

    Raises:
        UsageError: No class, a class twice, synonyms of what is not a class, or a word that is no text.
    """
    names = ClassList(map(_clean, classes))
    if not names:
        raise UsageError("There is no class to look for. Name some.")
    of_class: list[list[str]] = [[] for _ in names]
    for name, others in (synonyms or {}).items():
        place = names.find(name)
        if place is None:
            raise UsageError(
                f"{shown_name(name)} has synonyms but is not among the classes: {names.listed()}."
                f"{did_you_mean(name, names)}"
            )
        of_class[place] += map(_clean, others)

    words: list[str] = []
    owner: list[int] = []
    left_out: list[str] = []
    notes: list[str] = []
    # By the key of a word, the number of the class that has it.
    taken = {class_key(name): number for number, name in enumerate(names, start=1)}
    for number, name in enumerate(names, start=1):
        fresh = [name]
        for word in of_class[number - 1]:
            first = taken.get(class_key(word))
            if first is None:
                taken[class_key(word)] = number
                fresh.append(word)
            else:
                left_out.append(word)
                whose = "is there already" if first == number else f"belongs to {shown_name(names[first - 1])}"
                notes.append(f"The synonym {shown_name(word)} of {shown_name(name)} is left out: it {whose}.")
        words += fresh
        owner += [number] * len(fresh)
    for word in map(_clean, background):
        if class_key(word) in taken:
            left_out.append(word)
            continue
        taken[class_key(word)] = 0
        words.append(word)
        owner.append(0)
    if len(names) == 1 and 0 not in owner:
        notes.append(
            f"Nothing competes with {shown_name(names[0])}, so all of a picture becomes it: add words or classes."
        )
    return Vocabulary(names.names, tuple(words), tuple(owner), tuple(left_out), tuple(notes))


def parse_synonyms(values: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Synonyms as they are typed: ``CLASS=WORD``, or several words with commas between them.

    Returns:
        The words of each class, in the order given; for `make_vocabulary`.

    Raises:
        UsageError: Without a class or a word.
    """
    found: dict[str, tuple[str, ...]] = {}
    for value in values:
        name, _, listed = value.partition("=")
        words = [word.strip() for word in listed.split(",")]
        if not name.strip() or not all(words):
            raise UsageError(f"A synonym is written CLASS=WORD, such as ship=boat; got {shown_name(value)}.")
        found[name.strip()] = (*found.get(name.strip(), ()), *words)
    return found


def merge_synonyms(*several: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Synonyms from several places, such as a class file and the command line, in that order."""
    merged: dict[str, tuple[str, ...]] = {}
    for synonyms in several:
        for name, words in synonyms.items():
            merged[name] = (*merged.get(name, ()), *words)
    return merged


def text_key(weights: Weights, templates: Sequence[str]) -> str:
    """Under what the embeddings of words are kept: what made them, and which texts they are the mean of."""
    made_by = {"model": weights.model_id, "revision": weights.revision, "variant": weights.variant}
    return digest_of({**made_by, "templates": list(templates)})


@dataclass(slots=True)
class Reading:
    """What happens while words are read.

    Attributes:
        progress: Told how many of how many words are read, first none of them; not called where all are kept already.
        cut: Words of which only the beginning was read.
        tokens: How many tokens of a text the model reads.
    """

    progress: Callable[[int, int], None] | None = None
    cut: list[str] = field(default_factory=list)
    tokens: int | None = None

    def record(self) -> dict[str, Any]:
        """Which words were cut and by what rule, as JSON-able values; empty where none was."""
        if not self.cut or self.tokens is None:
            return {}
        rule = f"the first {self.tokens - 1} tokens of each prompt, the start token among them, and then the end token"
        return {"words": list(self.cut), "tokens": self.tokens, "rule": rule}

    def tell(self, done: int, total: int) -> None:
        """Tell how far the reading is."""
        if self.progress is not None:
            self.progress(done, total)


def embed_words(
    backbone: ClipBackbone,
    words: Sequence[str],
    templates: Sequence[str],
    *,
    weights: Weights,
    cache: TextCache | None = None,
    reading: Reading | None = None,
) -> Tensor:
    """Words into the space shared with images, by `ClipBackbone.embed_names`.

    A text that is longer than the model can read counts by its beginning: the template's first words and as much of
    the word as fits before the end token, which takes the last place; what the template has behind the word is lost. A
    warning tells which words these are, and which of them are the same to the model.

    Args:
        backbone: The CLIP model.
        words: W words, in any script.
        templates: Prompt templates that a word's embedding is averaged over.
        weights: The model's, which say for what model embeddings are kept.
        cache: Where embeddings are looked up and kept; None for nowhere.
        reading: Is told how far it is, and which words could not be read in whole.

    Returns:
        float32 (W, E), each of norm 1, on the model's device.
    """
    import torch

    reading = Reading() if reading is None else reading
    key = text_key(weights, templates)
    kept = {} if cache is None else cache.cached_texts(key, words)
    vectors = {word: torch.tensor(vector, device=backbone.device) for word, vector in kept.items()}
    fresh = [word for word in dict.fromkeys(words) if word not in vectors]
    cut = _too_long(backbone, [word for word in dict.fromkeys(words) if word in kept], templates)
    if fresh:
        log.info("Reading %d words in %d templates each.", len(fresh), len(templates))
        reading.tell(0, len(fresh))
    at_once = max(1, TEXTS_AT_ONCE // len(templates))
    for start in range(0, len(fresh), at_once):
        chunk = fresh[start : start + at_once]
        encoded, shortened = backbone.embed_names(chunk, templates)
        vectors.update(zip(chunk, encoded, strict=True))
        cut += [word for word, is_cut in zip(chunk, shortened.tolist(), strict=True) if is_cut]
        if cache is not None:
            cache.keep_texts(key, {word: vectors[word].cpu().numpy() for word in chunk})
        reading.tell(start + len(chunk), len(fresh))
    if cut:
        reading.cut, reading.tokens = cut, backbone.longest_text
        log.warning(
            "CLIP reads at most %d tokens of a prompt. With these words prompts are longer, and only their beginning "
            "counts: %s.",
            reading.tokens,
            listed_names(cut),
        )
        for alike in _same_texts(backbone, cut, templates):
            log.warning("CLIP cannot tell these apart, as they begin alike: %s.", listed_names(alike))
    return torch.stack([vectors[word] for word in words])


def _too_long(backbone: ClipBackbone, words: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Those of the words with which a text is longer than the model can read."""
    # A token is one byte at least, so most words need not be cut into tokens with every template.
    room = backbone.longest_text - 2 - max(len(text.encode()) for text in fill_prompts(templates, ""))
    doubtful = [word for word in words if len(word.lower().encode()) > room]
    return [word for word in doubtful if backbone.cuts(fill_prompts(templates, word)).any()]


def _same_texts(backbone: ClipBackbone, words: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Those of the words that are the same to a model, as they differ only behind what it reads; in groups."""
    read: dict[bytes, list[str]] = {}
    for word in words:
        read.setdefault(backbone.tokenizer(fill_prompts(templates, word)).numpy().tobytes(), []).append(word)
    return [group for group in read.values() if len(group) > 1]


def word_scores(cosines: Tensor, owner: Sequence[int], *, logit_scale: float) -> Tensor:
    """Cosines with query words to a score per class and one for the background.

    ``p = softmax(logit_scale * cosines)`` over all words; the score of class c is the largest p of the words that it
    owns. Computed in float32 at least, in strips of rows, so that hundreds of words need no second copy of the cosines.

    Args:
        cosines: (W, h, w).
        owner: For each word the number 1..C of its class, or 0 for the background; every class owns a word.
        logit_scale: Factor on the cosines.

    Returns:
        float32 (C + 1, h, w) in [0, 1] (float64 for float64), channel 0 the background's; 0 there where no word is the
        background's.

    Raises:
        ValueError: There are not as many owners as words, or a class without a word.
    """
    import torch

    channels = max(owner, default=0) + 1
    if len(owner) != len(cosines) or {0, *owner} != {*range(channels)}:
        raise ValueError(f"each of {len(cosines)} words needs an owner and each class a word, got owners {owner!r}")
    words, height, width = cosines.shape
    dtype = torch.promote_types(cosines.dtype, torch.float32)
    scores = torch.zeros(channels, height, width, dtype=dtype, device=cosines.device)
    place = torch.tensor(owner, device=cosines.device).view(-1, 1, 1)
    rows = max(1, MAX_CELLS // (words * width))
    for start in range(0, height, rows):
        strip = cosines[:, start : start + rows].to(dtype)
        probabilities = (strip * logit_scale).softmax(dim=0)
        best = scores[:, start : start + rows]
        best.scatter_reduce_(0, place.expand_as(probabilities), probabilities, "amax")
    return scores


def _clean(word: str) -> str:
    """A word in Unicode NFC, without outer spaces and with inner runs of spaces made one."""
    clean = unicodedata.normalize("NFC", " ".join(word.split()))
    if not clean:
        raise UsageError(f"A word for a class must not be empty; got {word!r}.")
    if any(unicodedata.category(character) == "Cs" for character in clean):
        raise UsageError(f"{shown_name(word)} is no text: type it in UTF-8.")
    return clean
