"""400 classes in the 80 ImageNet templates at the size of CLIP ViT-B/16's text tower, with and without a store."""

from __future__ import annotations

import itertools
import tempfile

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job
from tests.benchmarks.texts import random_clip

KINDS = ("red", "old", "tiny", "wooden", "wet", "round", "broken", "striped", "golden", "paper")
KINDS += ("empty", "folding", "rusty", "woollen", "painted", "toy", "open", "heavy", "plastic", "tall")
THINGS = ("cat", "dog", "airplane", "sofa", "potted plant", "bottle", "train", "bicycle", "horse", "boat")
THINGS += ("chair", "table", "lamp", "door", "traffic light", "teapot", "guitar", "basket", "umbrella", "castle")
CLASSES = [f"{kind} {thing}" for kind, thing in itertools.product(KINDS, THINGS)]


def fresh(device: str) -> Job:
    from ovseg_cli.backbones.clip import ClipBackbone
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.profiles.prompts import prompt_templates
    from ovseg_cli.text.embedding import embed_words

    loaded = random_clip(device)
    weights, templates = get_profile("sd15").clip.weights, prompt_templates("imagenet")

    def job() -> np.ndarray:
        unread = ClipBackbone(loaded.model, loaded.tokenizer, device)  # one that has read nothing yet
        return embed_words(unread, CLASSES, templates, weights=weights).cpu().numpy()

    return job


def kept(device: str) -> Job:
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.profiles.prompts import prompt_templates
    from ovseg_cli.store import Store
    from ovseg_cli.text.embedding import embed_words

    backbone = random_clip(device)
    profile, templates = get_profile("sd15"), prompt_templates("imagenet")
    folder = tempfile.TemporaryDirectory(prefix="ovseg-bench-")

    def job() -> np.ndarray:
        with Store.open(folder.name, profile=profile.name) as store:
            return embed_words(backbone, CLASSES, templates, weights=profile.clip.weights, cache=store).cpu().numpy()

    job()
    return job


def equal_vectors(baseline: np.ndarray, answer: np.ndarray) -> str:
    # Which texts go through the tower together may change the last bits.
    difference = float(np.linalg.norm(baseline - answer, axis=1).max())
    if not difference <= 1e-5:
        raise DisagreementError(f"unit vectors differ by {difference:.1e}")
    return f"differs by {difference:.0e}"


BENCHMARK = Benchmark(
    name="words",
    question=f"{len(CLASSES)} classes in 80 templates each, text transformer of CLIP ViT-B/16",
    cases=(
        Case(name="fresh", what="embed_words, first run", prepare=fresh, heavy=True),
        Case(name="kept", what="embed_words, from a store", prepare=kept, baseline="fresh", agree=equal_vectors),
    ),
)
