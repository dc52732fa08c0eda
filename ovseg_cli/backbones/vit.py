"""One walk through a transformers vision transformer (DINO): keys of one block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ovseg_cli.backbones.pixels import squash
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.errors import WeightsError


class VitBackbone:
    """A `transformers.ViTModel`.

    Args:
        model: The model.
        device: Where it runs.
    """

    def __init__(self, model: nn.Module, device: str) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device = device

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: torch.dtype = torch.float32) -> VitBackbone:
        """Load a folder in transformers' layout."""
        from transformers import ViTModel

        try:
            with quiet_libraries():
                model, report = ViTModel.from_pretrained(
                    folder, add_pooling_layer=False, local_files_only=True, dtype=dtype, output_loading_info=True
                )
        except Exception as error:  # transformers raises whatever its parts raise
            raise WeightsError(f"The vision transformer in {folder} cannot be loaded: {error}") from error
        if report["missing_keys"]:  # transformers fills these with random numbers
            lost = ", ".join(sorted(report["missing_keys"])[:3])
            raise WeightsError(f"The vision transformer in {folder} cannot be loaded: its weights lack {lost}.")
        return cls(model, device)

    @torch.inference_mode()
    def keys(
        self, images: Tensor, *, block: int, input_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> Tensor:
        """Self-attention keys of one block, as a map.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            block: Index of the block, negative from the end.
            input_size: Side of the square in pixels; a multiple of the patch size.
            mean: Input normalisation, per channel.
            std: Input normalisation, per channel.

        Returns:
            float32 (B, D, g, g) with g = input_size / patch size, heads concatenated.
        """
        layers = [m for m in self.model.modules() if type(m).__name__ == "ViTLayer"]
        projection = _key_projection(layers[block])
        seen: list[Tensor] = []
        handle = projection.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            pixels = squash(images, input_size, mean, std).to(self.model.dtype)
            self.model(pixel_values=pixels, interpolate_pos_encoding=True)
        finally:
            handle.remove()
        keys = seen[0][:, 1:].float()  # the class token is token 0
        side = input_size // self.model.config.patch_size
        return keys.transpose(1, 2).reshape(len(images), -1, side, side)


def _key_projection(layer: nn.Module) -> nn.Module:
    """The linear layer that makes the keys of one block (its name moved between transformers versions)."""
    for name, module in layer.named_modules():
        if name.rpartition(".")[2] in ("key", "k_proj"):
            return module
    raise WeightsError(f"No key projection found inside {type(layer).__name__}; is this a ViT of transformers 5?")
