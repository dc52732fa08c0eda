"""One walk through an open_clip vision transformer.

Every training-free CLIP method reads the same few things: the tokens that enter and leave a block, and the
queries, keys and values of its attention. `ClipBackbone.trace` walks the network once and returns them;
the methods are then pure functions (`ovseg_cli.methods`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.backbones.pixels import squash
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.errors import WeightsError
from ovseg_cli.profiles.prompts import fill_prompt


@dataclass(frozen=True, slots=True)
class BlockTrace:
    """What one transformer block saw and computed; the class token is token 0.

    Attributes:
        inputs: Tokens that enter the block, (B, N, D).
        normed: ``ln_1(inputs)``, (B, N, D).
        queries: (B, heads, N, d) with heads * d = D.
        keys: (B, heads, N, d).
        values: (B, heads, N, d).
        outputs: Tokens that leave the block, (B, N, D).
        project: The block's own output projection: heads (B, heads, N, d) to tokens (B, N, D).
    """

    inputs: Tensor
    normed: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    outputs: Tensor
    project: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class ClipTrace:
    """One walk.

    Attributes:
        grid: (rows, columns) of patches.
        blocks: The traced blocks by index (0 = first).
    """

    grid: tuple[int, int]
    blocks: dict[int, BlockTrace]


def resize_position_embedding(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings for another patch grid: bicubic with antialiasing, the class token's unchanged.

    Args:
        embedding: (1 + n * n, D), class token first.
        grid: (rows, columns) wanted.

    Returns:
        (1 + rows * columns, D).
    """
    side = round((embedding.shape[0] - 1) ** 0.5)
    if grid == (side, side):
        return embedding
    patches = embedding[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(patches.float(), grid, mode="bicubic", antialias=True, align_corners=False)
    flat = resized.to(embedding.dtype).permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)
    return torch.cat([embedding[:1], flat])


class ClipBackbone:
    """An open_clip model with a plain vision transformer, and its text side.

    Args:
        model: `open_clip.CLIP` with a `VisionTransformer`.
        tokenizer: open_clip tokenizer of the model.
        device: Where the model runs.

    Raises:
        WeightsError: The vision tower is not a plain vision transformer.
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[..., Tensor], device: str) -> None:
        visual = model.visual
        if not hasattr(visual, "transformer") or not hasattr(visual, "conv1") or visual.attn_pool is not None:
            raise WeightsError(
                f"The CLIP model's vision tower is a {type(visual).__name__}; a plain open_clip ViT is needed."
            )
        self.model = model.to(device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.device = device
        self._text_cache: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: torch.dtype = torch.float32) -> ClipBackbone:
        """Load a folder in open_clip's hub layout (``open_clip_config.json``, safetensors, tokenizer)."""
        import open_clip

        try:
            with quiet_libraries():
                # Without this, a folder that lacks its weights would be a model of random numbers.
                model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
                tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        except Exception as error:  # open_clip raises whatever its parts raise
            raise WeightsError(f"The CLIP model in {folder} cannot be loaded: {error}") from error
        return cls(model.to(dtype), tokenizer, device)

    @property
    def depth(self) -> int:
        """How many transformer blocks the vision tower has."""
        return len(self.model.visual.transformer.resblocks)

    @property
    def dtype(self) -> torch.dtype:
        """Of the vision tower's weights."""
        return self.model.visual.conv1.weight.dtype

    def block_index(self, index: int) -> int:
        """A block index counted from the front, from one that may be negative.

        Raises:
            ValueError: There is no such block.
        """
        if not -self.depth <= index < self.depth:
            raise ValueError(f"the vision transformer has {self.depth} blocks, got index {index}")
        return index % self.depth

    @torch.inference_mode()
    def trace(
        self,
        images: Tensor,
        *,
        blocks: Sequence[int],
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> ClipTrace:
        """Walk the vision tower once, up to the last block asked for.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            blocks: Indices of the blocks to trace, negative from the end.
            input_size: Side of the square in pixels; a multiple of the patch size.
            mean: Input normalisation, per channel.
            std: Input normalisation, per channel.

        Returns:
            The traced blocks.
        """
        wanted = {self.block_index(index) for index in blocks}
        visual = self.model.visual
        patches = visual.conv1(squash(images, input_size, mean, std).to(self.dtype))
        grid = (patches.shape[2], patches.shape[3])
        tokens = patches.flatten(2).transpose(1, 2)
        class_token = visual.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        tokens = torch.cat([class_token, tokens], dim=1)
        tokens = visual.ln_pre(tokens + resize_position_embedding(visual.positional_embedding, grid).to(tokens.dtype))
        traced = {}
        for index, block in enumerate(visual.transformer.resblocks[: max(wanted) + 1]):
            step = _walk_block(block, tokens)
            tokens = step.outputs
            if index in wanted:
                traced[index] = step
        return ClipTrace(grid=grid, blocks=traced)

    @torch.inference_mode()
    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens into the space shared with text: ``ln_post``, projection, unit norm.

        Args:
            tokens: (B, N, D).

        Returns:
            float32 (B, N, E), each of norm 1.
        """
        visual = self.model.visual
        projected = visual.ln_post(tokens)
        if visual.proj is not None:
            projected = projected @ visual.proj
        return F.normalize(projected.float(), dim=-1)

    @torch.inference_mode()
    def embed_text(self, names: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """Class names into the space shared with images.

        Each name is put into every prompt; the unit embeddings are averaged and made unit again
        (CLIP's prompt ensembling). Results are cached per name.

        Args:
            names: C class names.
            prompts: Templates with ``{name}`` and optionally ``{article}``.

        Returns:
            float32 (C, E), each of norm 1.
        """
        key = tuple(prompts)
        fresh = [name for name in dict.fromkeys(names) if (name, key) not in self._text_cache]
        for start in range(0, len(fresh), 64):
            chunk = fresh[start : start + 64]
            texts = [fill_prompt(prompt, name) for name in chunk for prompt in prompts]
            embeddings = F.normalize(self.model.encode_text(self.tokenizer(texts).to(self.device)).float(), dim=-1)
            means = F.normalize(embeddings.view(len(chunk), len(prompts), -1).mean(1), dim=-1)
            self._text_cache.update({(name, key): mean for name, mean in zip(chunk, means, strict=True)})
        return torch.stack([self._text_cache[name, key] for name in names])


def _walk_block(block: Any, tokens: Tensor) -> BlockTrace:
    """One residual attention block, written out so that its parts can be read (equal to ``block(tokens)``)."""
    attention = block.attn
    normed = block.ln_1(tokens)
    projected = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    batch, count, width = tokens.shape

    def split(x: Tensor) -> Tensor:
        return x.view(batch, count, attention.num_heads, width // attention.num_heads).transpose(1, 2)

    def project(heads: Tensor) -> Tensor:
        return block.ls_1(attention.out_proj(heads.transpose(1, 2).reshape(heads.shape[0], -1, width)))

    queries, keys, values = (split(x) for x in projected.chunk(3, dim=-1))
    outputs = tokens + project(F.scaled_dot_product_attention(queries, keys, values))
    outputs = outputs + block.ls_2(block.mlp(block.ln_2(outputs)))
    return BlockTrace(tokens, normed, queries, keys, values, outputs, project)
