"""CLIP's towers with other query and value projections, in a form that can be trained.

`ovseg_cli.backbones.clip` walks CLIP without gradients. Here the same towers are walked with them: what is trained is
the *difference* to the query and value projections of each block (`Difference`), everything else of CLIP stays as it
is. The difference is zero at first, and the only part of CLIP that a head's file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone, resize_position_embedding
from ovseg_cli.profiles.specs import PositionMode

Refine = Callable[[int, Tensor], Tensor]
"""What is made of the tokens (B, 1 + N, D) that leave a block, by its index, before they enter the next one."""


class Difference(nn.Module):
    """Differences to the query and value projections of a tower's blocks: zero at first.

    Args:
        depth: How many blocks the tower has.
        width: Channels of its tokens.
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.q = nn.ParameterList(torch.zeros(width, width) for _ in range(depth))
        self.v = nn.ParameterList(torch.zeros(width, width) for _ in range(depth))

    def projection(self, packed: Tensor, block: int) -> Tensor:
        """A block's packed projection (3 D, D) with the differences added."""
        query, key, value = packed.chunk(3)
        changed = [(each + more).to(packed.dtype) for each, more in ((query, self.q[block]), (value, self.v[block]))]
        return torch.cat([changed[0], key, changed[1]])


@dataclass(frozen=True, slots=True)
class Seen:
    """What a walk through the vision tower gives.

    Attributes:
        grid: (rows, columns) of patches.
        hooks: By block: its patches, (B, h, w, D).
        patches: The last block's patches in the space of texts, of any norm, (B, h, w, E).
    """

    grid: tuple[int, int]
    hooks: dict[int, Tensor]
    patches: Tensor


def see(
    clip: ClipBackbone,
    pixels: Tensor,
    difference: Difference | None,
    *,
    hooks: Collection[int],
    positions: PositionMode = "bicubic-sharp",
    refine: Refine | None = None,
) -> Seen:
    """Walk through the vision tower as CAT-Seg does, with gradients where they are on.

    In the last block every patch keeps its own value: there is no attention. As in the published code that was trained
    (``third_party/model_vpt.py``), the residual of *every* token is that of the class token; the neighbouring
    ``model.py``, which is not used, adds each token's own.

    Args:
        clip: The model.
        pixels: float (B, 3, H, W), normalised, whole patches.
        difference: What is added to its projections; None for CLIP as it is.
        hooks: Blocks whose patches are wanted.
        positions: How position embeddings are resized.
        refine: What is made of tokens between blocks; None for nothing.
    """
    visual = clip.model.visual
    tokens = visual.conv1(pixels.to(visual.conv1.weight.dtype))
    grid = (int(tokens.shape[2]), int(tokens.shape[3]))
    tokens = tokens.flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
    embedding = resize_position_embedding(visual.positional_embedding, grid, positions)
    tokens = visual.ln_pre(torch.cat([class_token, tokens], dim=1) + embedding.to(tokens.dtype))
    kept: dict[int, Tensor] = {}
    last = clip.depth - 1
    for index, block in enumerate(visual.transformer.resblocks):
        tokens = _block(block, tokens, difference, index, dense=index == last)
        if index in hooks:
            kept[index] = tokens[:, 1:].float().unflatten(1, grid)
        if refine is not None and index < last:
            tokens = refine(index, tokens.float()).to(tokens.dtype)
    embedded = visual.ln_post(tokens[:, 1:])
    if visual.proj is not None:
        embedded = embedded @ visual.proj
    return Seen(grid, kept, embedded.float().unflatten(1, grid))


def _block(block: Any, tokens: Tensor, difference: Difference | None, index: int, *, dense: bool) -> Tensor:
    """One residual attention block, the last one of a dense walk without attention."""
    attention = block.attn
    weight, bias, width = attention.in_proj_weight, attention.in_proj_bias, tokens.shape[2]
    if difference is not None:
        weight = difference.projection(weight, index)
    normed = block.ln_1(tokens)
    if dense:
        values = F.linear(normed, weight[2 * width :], bias[2 * width :])
        tokens = tokens[:, :1] + block.ls_1(attention.out_proj(values))
    else:
        parts = F.linear(normed, weight, bias).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind()).transpose(1, 2).flatten(2)
        tokens = tokens + block.ls_1(attention.out_proj(mixed))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


class _TextCall(nn.Module):
    """A CLIP whose call is the encoding of texts, so that `functional_call` can exchange its parameters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def text_projections(clip: ClipBackbone) -> list[str]:
    """The names of the packed projections of the text tower's blocks, first to last, as `_TextCall` has them."""
    return [
        f"model.{name}"
        for name, _ in clip.model.named_parameters()
        if name.endswith("attn.in_proj_weight") and not name.startswith("visual.")
    ]


def text_sizes(clip: ClipBackbone) -> tuple[int, int]:
    """(depth, width) of the text tower."""
    names = text_projections(clip)
    return len(names), clip.model.get_parameter(names[0].removeprefix("model.")).shape[1]


def read(clip: ClipBackbone, tokens: Tensor, difference: Difference) -> Tensor:
    """Texts by a text tower with other projections, with gradients where they are on.

    Args:
        clip: The model.
        tokens: int64 (T, N), as the model's tokenizer gives them.
        difference: What is added to its projections.

    Returns:
        (T, E), of any norm.
    """
    call = _TextCall(clip.model)
    projections = {
        name: difference.projection(clip.model.get_parameter(name.removeprefix("model.")), block)
        for block, name in enumerate(text_projections(clip))
    }
    return functional_call(call, projections, (tokens,))
