"""Explanations in words, and as data."""

from __future__ import annotations

from typing import Any

from ovseg_cli.explanations.records import Explanation, Match, Source, Standing, Word
from ovseg_cli.figures import figure_beside
from ovseg_cli.files.labels import BACKGROUND
from ovseg_cli.methods.catalogue import METHODS
from ovseg_cli.names import listed_names


def describe(explanation: Explanation) -> list[str]:
    """An explanation in words: first what decided, then each extractor's prototypes, then what else matters."""
    e = explanation
    told = [f"{m.extractor}: {_of_match(m)}." for m in e.matches_of(e.label)]
    return [headline(e), *told, *remarks(e), *([words_told(e)] if e.words else [])]


def headline(explanation: Explanation) -> str:
    """The label and its score, and the next ones."""
    e = explanation
    parts = [f"{e.label} {e.score:.3f}"]
    if e.runner_up is not None:
        relation = "though" if e.rule == "threshold" else "next"
        parts.append(f"{relation} {e.runner_up.label} {e.runner_up.score:.3f}")
    behind = e.score_of(BACKGROUND)
    if behind is not None and BACKGROUND not in (e.label, e.runner_up and e.runner_up.label):
        parts.append(f"background {behind:.3f}")
    return ", ".join(parts)


def remarks(explanation: Explanation) -> list[str]:
    """Everything beyond the best score that made the label what it is."""
    e, found = explanation, []
    next_one = e.runner_up
    if e.rule == "threshold" and e.threshold is not None and next_one is not None:
        score, threshold = figure_beside(next_one.score, e.threshold)
        found.append(
            f"{next_one.label} has the best score, {score}, but that is below the threshold {threshold}, so that the "
            "pixel is background."
        )
    if e.rule == "nothing" and e.named and next_one is None:
        found.append("No class was named for this picture.")
    elif e.rule == "nothing":
        found.append("No class has a score above 0, so that the pixel is background.")
    if not e.background:
        found.append("The background took no part.")
    if next_one is None:
        found.append("Nothing else took part.")
    if e.ruled_out:
        why = "Not among the classes named" if e.named else "The pre-filter ruled out"
        found.append(f"{why} for this picture: {listed_names(e.ruled_out)}.")
    if e.stuff_filter is not None:
        found.append(
            f"Background prototypes of stuff, and those that look like it (cosine above {e.stuff_filter:g}), "
            "took no part."
        )
    if e.refined:
        before = {label: _mean_score(e, label) for label in (e.label, *([next_one.label] if next_one else []))}
        told = [f"{label} had {score:.3f}" for label, score in before.items() if score is not None]
        such = f": before that, {' and '.join(told)}" if told else ""
        found.append(f"The scores were then refined along the picture's edges{such}.")
    if e.words:
        found.append(f"{METHODS[e.method].title} compares words and uses no prototypes.")
    return found


def words_told(explanation: Explanation) -> str:
    """The most probable words of GEM."""
    listed = ", ".join(f"{word_name(word)} {word.score:.3f}" for word in explanation.words)
    return f"The most probable words here: {listed}."


def word_name(word: Word) -> str:
    """What to call a word: "road (background)"."""
    return f"{word.label} (background)" if word.background else word.label


def _mean_score(explanation: Explanation, label: str) -> float | None:
    scores = [match.score for match in explanation.matches_of(label)]
    return sum(scores) / len(scores) if scores else None


def _of_match(match: Match) -> str:
    return f"{prototype_name(match.source)}, cosine {match.cosine:.3f}{_from_image(match.source)}"


def prototype_name(source: Source) -> str:
    """What to call a prototype: "part prototype 12 of 32 of cat"."""
    whose = source.class_name if source.role == "fg" else f"what surrounds {source.class_name}"
    which = "" if source.kind == "mean" else f" {source.number} of {source.of}"
    return f"{source.kind} prototype{which} of {whose}"


def _from_image(source: Source) -> str:
    relation = {"own": "from", "most pixels": "mostly from", "most alike": "most like", None: ""}[source.found_by]
    return "" if source.support is None else f", {relation} {image_name(source)}"


def image_name(source: Source) -> str:
    """What to call a support image: "support image 3 (seed 45)"."""
    return f"support image {source.support} ({'your picture' if source.seed is None else f'seed {source.seed}'})"


def as_data(explanation: Explanation) -> dict[str, Any]:
    """An explanation as JSON-able values, without its pictures."""
    e = explanation
    return {
        "x": e.x,
        "y": e.y,
        "label": e.label,
        "score": _rounded(e.score),
        "runner_up": None if e.runner_up is None else _standing(e.runner_up),
        "rule": e.rule,
        "scores": [_standing(standing) for standing in e.standings],
        "ruled_out": list(e.ruled_out),
        "ruled_out_by": None if not e.ruled_out else "image-classes" if e.named else "prefilter",
        "refined": e.refined,
        "matches": [
            {
                "label": match.label,
                "extractor": match.extractor,
                "score": _rounded(match.score),
                "cosine": _rounded(match.cosine),
                "share": _rounded(match.share),
                "prototype": {
                    name: getattr(match.source, name)
                    for name in ("id", "class_name", "role", "kind", "number", "of", "pixels", "support")
                }
                | {"found_by": match.source.found_by, "seed": match.source.seed},
            }
            for match in e.matches
        ],
        "words": [_standing(word) | {"background": word.background} for word in e.words],
        "text": describe(e),
    }


def _standing(standing: Standing) -> dict[str, Any]:
    return {"label": standing.label, "score": _rounded(standing.score)}


def _rounded(value: float) -> float:
    return round(value, 6)
