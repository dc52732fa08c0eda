"""One walk through a transformers vision transformer (DINO, DINOv2 or MAE): keys of one block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovseg_cli.backbones.clip import resize_position_embedding
from ovseg_cli.backbones.kinds import cannot_be_loaded, kind_of
from ovseg_cli.backbones.pixels import squash
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.errors import WeightsError
from ovseg_cli.names import listed
from ovseg_cli.profiles.specs import PositionMode

ARCHITECTURES = MappingProxyType(
    {
        "vit": "ViTModel",
        "dinov2": "Dinov2Model",
        "dinov2_with_registers": "Dinov2WithRegistersModel",
        "vit_mae": "ViTMAEModel",
    }
)
"""The class in transformers by the ``model_type`` of a folder's config.json."""


class VitBackbone:
    """A vision transformer of transformers, as features need it.

    Args:
        model: One of `ARCHITECTURES`. A masked autoencoder is made to mask nothing.
        device: Where it runs.

    Raises:
        WeightsError: Its key projections are not where they are expected.
    """

    def __init__(self, model: nn.Module, device: str) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device = device
        self._type: str = model.config.model_type
        # One for each block, in their order; the name moved between versions of transformers.
        self._keys = [m for name, m in model.named_modules() if name.rpartition(".")[2] in ("key", "k_proj")]
        if len(self._keys) != model.config.num_hidden_layers:
            raise WeightsError(
                f"{type(model).__name__} has {model.config.num_hidden_layers} blocks and {len(self._keys)} key "
                "projections. This version of transformers builds it in another way: install ovseg with its "
                "constraints.txt."
            )
        if self._type == "vit_mae":
            model.config.mask_ratio = 0.0

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: torch.dtype = torch.float32) -> VitBackbone:
        """Load a folder in transformers' layout.

        Raises:
            WeightsError: No such model, another kind of model, or weights that are damaged or incomplete.
        """
        import transformers

        kind = kind_of(folder, "config.json", "model_type", known=ARCHITECTURES, what="vision transformer")
        try:
            with quiet_libraries():
                model, report = getattr(transformers, ARCHITECTURES[kind]).from_pretrained(
                    folder,
                    local_files_only=True,
                    dtype=dtype,
                    weights_only=True,  # of a pickle, tensors and nothing that could run
                    output_loading_info=True,
                    **({"add_pooling_layer": False} if kind == "vit" else {}),
                )
        except Exception as error:  # transformers raises whatever its parts raise
            raise cannot_be_loaded("vision transformer", folder, error) from error
        # Weights that are too many are no fault: a masked autoencoder is published with its decoder.
        if report["missing_keys"]:  # transformers fills these with random numbers
            lost = listed(sorted(report["missing_keys"]), most=3)
            raise WeightsError(f"The vision transformer in {folder} cannot be loaded: its weights lack {lost}.")
        return cls(model, device)

    @property
    def depth(self) -> int:
        """How many transformer blocks there are."""
        return len(self._keys)

    @torch.inference_mode()
    def keys(
        self,
        images: Tensor,
        *,
        block: int,
        input_size: int | tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        positions: PositionMode | None = None,
    ) -> Tensor:
        """Self-attention keys of one block, as a map (OVDiff, supplement C.2).

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to `input_size`.
            block: Index of the block, negative from the end.
            input_size: Side of a square, or (height, width), in pixels; multiples of the patch size.
            mean: Input normalisation, per channel.
            std: Input normalisation, per channel.
            positions: See `tokens`.

        Returns:
            float32 (B, D, rows, columns), heads concatenated; patches in reading order, without the class token and the
            registers.

        Raises:
            ValueError: There is no such block.
        """
        if not -self.depth <= block < self.depth:
            raise ValueError(f"the vision transformer has {self.depth} blocks, got index {block}")
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        rows, columns = grid = (height // self.patch, width // self.patch)
        seen: list[Tensor] = []
        handles = [self._keys[block].register_forward_hook(lambda _module, _inputs, output: seen.append(output))]
        try:
            handles += self._place_by(positions, grid)
            pixels = squash(images, (height, width), mean, std).to(self.model.dtype)
            self.model(pixel_values=pixels, **self._settings(len(images), rows * columns))
        finally:
            for handle in handles:
                handle.remove()
        patches = seen[0][:, self._others :].float()
        return patches.transpose(1, 2).reshape(len(images), -1, rows, columns)

    @torch.inference_mode()
    def tokens(
        self,
        images: Tensor,
        *,
        input_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        positions: PositionMode | None = None,
    ) -> Tensor:
        """Patch tokens after the last block and the final norm, as a map.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to `input_size`.
            input_size: (height, width) in pixels, multiples of the patch size.
            mean: Input normalisation, per channel.
            std: Input normalisation, per channel.
            positions: How DINO's position embeddings are resized to the grid; None for transformers' way. The other
                models have a way of their own.

        Returns:
            float32 (B, D, rows, columns), without the class token and the registers.
        """
        rows, columns = grid = (input_size[0] // self.patch, input_size[1] // self.patch)
        pixels = squash(images, input_size, mean, std).to(self.model.dtype)
        handles = self._place_by(positions, grid)
        try:
            output = self.model(pixel_values=pixels, **self._settings(len(images), rows * columns))
        finally:
            for handle in handles:
                handle.remove()
        patches = output.last_hidden_state[:, self._others :].float()
        return patches.transpose(1, 2).unflatten(2, grid)

    def _place_by(self, positions: PositionMode | None, grid: tuple[int, int]) -> list[RemovableHandle]:
        """A hook that puts position embeddings, resized by another rule, in the place of transformers' own."""
        if positions is None or self._type != "vit":
            return []
        own = self.model.embeddings.position_embeddings[0]
        wanted = resize_position_embedding(own, grid, positions)

        def replaced(module: Any, _inputs: Any, output: Tensor) -> Tensor:
            rows, columns = (length * self.patch for length in grid)
            return output + (wanted - module.interpolate_pos_encoding(output, rows, columns))

        return [self.model.embeddings.register_forward_hook(replaced)]

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.config.patch_size)

    @property
    def _others(self) -> int:
        """Tokens before the patches: the class token and registers."""
        return 1 + getattr(self.model.config, "num_register_tokens", 0)

    def _settings(self, count: int, patches: int) -> dict[str, object]:
        """What the model's forward pass is called with beside the pixels."""
        if self._type.startswith("dinov2"):
            return {}  # fits its position embeddings to any size by itself
        if self._type == "vit":
            return {"interpolate_pos_encoding": True}
        # A masked autoencoder puts the patches in the order of this noise, which is random when it is not given.
        order = torch.arange(patches, device=self.device).expand(count, -1)
        return {"interpolate_pos_encoding": True, "noise": order}
