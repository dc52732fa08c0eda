"""SAM and SAM 2 of transformers: every object of a picture as a mask, without saying what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ovseg_cli.backbones.kinds import cannot_be_loaded
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.errors import WeightsError
from ovseg_cli.names import listed

MAX_SIDE = 1024
"""What the published models look at. Masks of a larger picture are made at this size: at the picture's own, a batch of
points alone would take gigabytes."""

_POINTS_PER_BATCH = 16
"""Three masks each, in single precision: 200 MB at `MAX_SIDE`."""


class SamBackbone:
    """A model that transformers lists for mask generation.

    Args:
        model: `SamModel`, `Sam2Model` or a relative.
        image_processor: The model's own.
        device: Where it runs.
    """

    def __init__(self, model: Any, image_processor: Any, device: str) -> None:
        from transformers import MaskGenerationPipeline

        model.eval().requires_grad_(False)
        self._pipeline = MaskGenerationPipeline(
            model=model, image_processor=image_processor, device=torch.device(device)
        )

    @classmethod
    def load(cls, folder: Path, *, device: str) -> SamBackbone:
        """Load a folder in transformers' layout; the configuration's ``model_type`` tells SAM from SAM 2."""
        from transformers import AutoImageProcessor, AutoModelForMaskGeneration

        try:
            with quiet_libraries():
                model, report = AutoModelForMaskGeneration.from_pretrained(
                    folder,
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
                image_processor = AutoImageProcessor.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # transformers raises whatever its parts raise
            raise cannot_be_loaded("SAM", folder, error) from error
        if report["missing_keys"]:  # transformers fills these with random numbers
            lost = listed(sorted(report["missing_keys"]), most=3)
            raise WeightsError(f"The SAM in {folder} cannot be loaded: its weights lack {lost}.")
        return cls(model, image_processor, device)

    def masks(
        self,
        image: npt.NDArray[np.uint8],
        *,
        points: int = 32,
        min_quality: float = 0.88,
        min_stability: float = 0.95,
    ) -> npt.NDArray[np.bool_]:
        """Automatic masks of one picture (Kirillov et al., ICCV 2023, appendix B; one crop, no small-region clean-up).

        Every point of a grid proposes three masks; those that the model itself rates low, or that change when the
        cut-off moves, are dropped, and then near duplicates.

        Args:
            image: uint8 (H, W, 3), RGB.
            points: Points along each side of the grid.
            min_quality: Least IoU with the truth that the model predicts for a mask.
            min_stability: Least IoU of the masks at the two cut-offs.

        Returns:
            bool (R, H, W), the best rated first; they may overlap, and R may be 0.
        """
        height, width = image.shape[:2]
        scale = min(1.0, MAX_SIDE / max(height, width))
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        picture = Image.fromarray(image)
        if scale < 1:
            picture = picture.resize(small[::-1], Image.Resampling.BICUBIC)
        found = self._pipeline(
            picture,
            points_per_batch=_POINTS_PER_BATCH,
            points_per_crop=points,
            pred_iou_thresh=min_quality,
            stability_score_thresh=min_stability,
        )["masks"]
        if not len(found):
            return np.zeros((0, height, width), bool)
        masks = np.stack([np.asarray(mask, dtype=bool) for mask in found])
        rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), small, strict=True))
        return masks[:, rows][:, :, columns] if scale < 1 else masks
