"""From scores to labels: strips of rows against enlarging everything and then taking the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = 21
SCORES, IMAGE = (448, 597), (3000, 4000)


def synthetic_scores(device: str) -> Tensor:
    """Smooth scores of 21 classes and the background, as they come from a short side of 448 pixels."""
    import torch
    from torch.nn import functional as F

    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, CLASSES + 1, 14, 18, generator=random)
    return F.interpolate(coarse, SCORES, mode="bicubic", align_corners=False)[0].to(device)


def strips(device: str) -> Job:
    import torch

    from ovseg_cli.labeling.decide import decide

    scores = synthetic_scores(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        return decide(scores, IMAGE, background=True)().ids

    return job


def whole(device: str) -> Job:
    import torch
    from torch.nn import functional as F

    scores = synthetic_scores(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        """Labels, and the shares and mean scores that `decide` gives too."""
        enlarged = F.interpolate(scores[None], IMAGE, mode="bilinear", align_corners=False)[0]
        best, labels = enlarged.max(dim=0)
        flat = labels.flatten()
        torch.bincount(flat, minlength=CLASSES + 1).cpu()
        np.bincount(flat.cpu().numpy(), weights=best.flatten().cpu().double().numpy(), minlength=CLASSES + 1)
        return labels.cpu().numpy().astype(np.uint16)

    return job


def equal_labels(baseline: np.ndarray, answer: np.ndarray) -> str:
    """Where two classes are equal to float32's last digit, the order of the additions decides; nowhere else."""
    differing = np.count_nonzero(baseline != answer)
    if differing > 1e-5 * answer.size:
        raise DisagreementError(f"{differing} of {answer.size} labels differ")
    return f"{differing} of {answer.size:,} labels differ" if differing else "equal labels"


BENCHMARK = Benchmark(
    name="decide",
    question=f"labels of {CLASSES} classes and the background at {IMAGE[0]} x {IMAGE[1]} pixels",
    cases=(
        Case(name="whole", what="enlarge all scores, then argmax", prepare=whole),
        Case(name="strips", what="enlarge a strip at a time", prepare=strips, baseline="whole", agree=equal_labels),
    ),
)
