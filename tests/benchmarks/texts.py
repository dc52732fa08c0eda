"""Joint prompts at the size of CLIP ViT-B/16's text transformer: `encode_texts` against reading all 77 places."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from ovseg_cli.backbones.clip import ClipBackbone

WORDS = ("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car")
TEXTS = [
    " and ".join(f"a {word}" for word in subset)
    for size in range(1, len(WORDS) + 1)
    for subset in itertools.combinations(WORDS, size)
]


def random_clip(device: str) -> ClipBackbone:
    """The same weights in every process."""
    import torch

    from ovseg_cli.random_models import clip

    torch.manual_seed(0)
    return clip("ViT-B-16-quickgelu", device, torch.float32)


def every_place(device: str) -> Job:
    import torch
    from torch.nn import functional as F

    backbone = random_clip(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        parts = [
            backbone.model.encode_text(backbone.tokenizer(TEXTS[start : start + 64]).to(device))
            for start in range(0, len(TEXTS), 64)
        ]
        return F.normalize(torch.cat(parts), dim=-1).cpu().numpy()

    return job


def shipped(device: str) -> Job:
    backbone = random_clip(device)

    def job() -> np.ndarray:
        return backbone.encode_texts(TEXTS)[0].cpu().numpy()

    return job


def equal_vectors(baseline: np.ndarray, answer: np.ndarray) -> str:
    difference = float(np.linalg.norm(baseline - answer, axis=1).max())
    if not difference <= 1e-5:
        raise DisagreementError(f"unit vectors differ by {difference:.1e}")
    return f"differs by {difference:.0e}"


BENCHMARK = Benchmark(
    name="texts",
    question=f"the {len(TEXTS)} joint prompts of {len(WORDS)} classes, text transformer of CLIP ViT-B/16",
    cases=(
        Case(name="every-place", what="encode_text, 77 places", prepare=every_place),
        Case(name="shipped", what="encode_texts", prepare=shipped, baseline="every-place", agree=equal_vectors),
    ),
)
