"""One walk through an open_clip vision transformer.

Every training-free CLIP method reads the same few things: the tokens that enter and leave a block, and the
queries, keys and values of its attention. `ClipBackbone.trace` walks the network once and returns them;
the methods are then pure functions (`ovseg_cli.methods`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.backbones.kinds import cannot_be_loaded
from ovseg_cli.backbones.lean import import_open_clip, load_tokenizer
from ovseg_cli.backbones.pixels import squash
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.devices import portion, small_steps
from ovseg_cli.errors import WeightsError
from ovseg_cli.profiles.prompts import fill_prompts
from ovseg_cli.profiles.specs import PositionMode

TEXTS_AT_ONCE = 64
"""Texts that go through a text transformer together."""

CELLS_PER_CORE = 2**19
"""Of attention matrices, held at once on a CPU: what stays in a core's cache."""


@dataclass(frozen=True)
class BlockTrace:
    """What one transformer block saw and computed; the class token is token 0.

    `outputs` is computed when it is first read: most methods never ask for that of the last block, whose attention
    they replace, and it is more than half of the block's work.

    Attributes:
        inputs: Tokens that enter the block, (B, N, D).
        normed: ``ln_1(inputs)``, (B, N, D).
        queries: (B, heads, N, d) with heads * d = D.
        keys: (B, heads, N, d).
        values: (B, heads, N, d).
        project: The block's own output projection: heads (B, heads, N, d) to tokens (B, N, D).
        values_of: The values of other tokens: (B, N, D) through the block's ``ln_1`` and value projection to
            (B, heads, N, d). ``values_of(inputs)`` is `values`.
        feed_forward: The block's second half, residual included: tokens (B, N, D) after attention to tokens (B, N, D).
            ``feed_forward(inputs + project(mixed))`` is `outputs`, with `mixed` the values mixed by attention.
    """

    inputs: Tensor
    normed: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    project: Callable[[Tensor], Tensor]
    values_of: Callable[[Tensor], Tensor]
    feed_forward: Callable[[Tensor], Tensor]

    @cached_property
    @torch.inference_mode()
    def outputs(self) -> Tensor:
        """Tokens that leave the block, (B, N, D)."""
        mixed = F.scaled_dot_product_attention(self.queries, self.keys, self.values)
        return self.feed_forward(self.inputs + self.project(mixed))

    @torch.inference_mode()
    def outputs_adding(self, total: Tensor) -> Tensor:
        """The same as `outputs`, and the attention on the way to it is added to `total`.

        Args:
            total: float32 (B, heads, N, N).
        """
        images, heads, count, width = self.values.shape
        mixed = self.values.new_empty(images, count, heads, width).transpose(1, 2)
        for some in some_heads(self.queries):
            attention = attention_matrices(self.queries[some], self.keys[some])
            total[some] += attention
            mixed[some] = attention.to(self.values.dtype) @ self.values[some]
        return self.feed_forward(self.inputs + self.project(mixed))


@dataclass(frozen=True, slots=True)
class ClipTrace:
    """One walk.

    Attributes:
        grid: (rows, columns) of patches.
        blocks: The traced blocks by index (0 = first).
        attention: float32 (B, heads, N, N): for every head, the attention of all blocks before the last one that was
            asked for, summed over the blocks; None where it was not asked for.
    """

    grid: tuple[int, int]
    blocks: dict[int, BlockTrace]
    attention: Tensor | None = None


def attention_matrices(queries: Tensor, keys: Tensor) -> Tensor:
    """Whole attention matrices: softmax(q k' / sqrt(d)).

    Args:
        queries: (..., N, d).
        keys: (..., N, d).

    Returns:
        float32 (..., N, N), rows of sum 1.
    """
    # In float32, where nothing overflows: what is rounded here is exponentiated.
    products = (queries.float() * queries.shape[-1] ** -0.5) @ keys.float().transpose(-1, -2)
    return torch.softmax(products, dim=-1)


def some_heads(like: Tensor) -> Iterator[tuple[slice, slice]]:
    """Which heads to go through together, so that their attention matrices stay where they are fast.

    Args:
        like: Queries of a block, (B, heads, N, d).

    Yields:
        (images, heads): the first two indices of such a tensor; several images only with all their heads.
    """
    images, heads, count, _ = like.shape
    cells = count**2
    step = max(1, portion(like.device, torch.get_num_threads() * max(cells, CELLS_PER_CORE // cells * cells)) // cells)
    together = 1 if small_steps(like.device) else max(1, step // heads)
    for image in range(0, images, together):
        for head in range(0, heads, step):
            yield slice(image, image + together), slice(head, head + step)


def resize_position_embedding(embedding: Tensor, grid: tuple[int, int], mode: PositionMode = "bicubic") -> Tensor:
    """Position embeddings for another patch grid; the class token's is unchanged.

    Args:
        embedding: (1 + n * n, D), class token first.
        grid: (rows, columns) wanted.
        mode: By which rule, see `PositionMode`. At the size that the model was made for, all leave them as they are.

    Returns:
        (1 + rows * columns, D).
    """
    side = round((embedding.shape[0] - 1) ** 0.5)
    if grid == (side, side):
        return embedding
    patches = embedding[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    if mode == "bicubic-tenth":
        # torch rounds the sides down to whole cells, and keeps the factors as they are.
        factors = [(length + 0.1) / side for length in grid]
        resized = F.interpolate(patches, scale_factor=factors, mode="bicubic", recompute_scale_factor=False)
    else:
        kind, smooth = ("bilinear", False) if mode == "bilinear" else ("bicubic", mode == "bicubic")
        resized = F.interpolate(patches, grid, mode=kind, antialias=smooth)
    flat = resized.to(embedding.dtype).permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)
    return torch.cat([embedding[:1], flat])


class ClipBackbone:
    """An open_clip model with a plain vision transformer, and its text side.

    Args:
        model: `open_clip.CLIP` with a `VisionTransformer`.
        tokenizer: open_clip tokenizer of the model; or the model's folder, of which it is read when it is first needed:
            embeddings of words are kept, and some tokenizers take a second to load.
        device: Where the model runs.

    Raises:
        WeightsError: The vision tower is not a plain vision transformer.
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[..., Tensor] | Path, device: str) -> None:
        visual = model.visual
        if not hasattr(visual, "transformer") or not hasattr(visual, "conv1") or visual.attn_pool is not None:
            raise WeightsError(
                f"The CLIP model's vision tower is a {type(visual).__name__}; a plain open_clip ViT is needed."
            )
        self.model = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self.device = device
        self._causal_text = _CausalText.find(self.model)
        self._text_cache: dict[tuple[str, tuple[str, ...]], list[Tensor]] = {}

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: torch.dtype = torch.float32) -> ClipBackbone:
        """Load a folder in open_clip's hub layout (``open_clip_config.json``, safetensors, tokenizer).

        Args:
            folder: The folder.
            device: Where the model runs.
            dtype: Of the vision tower. Texts, which are few, are kept and compared with pictures of any device, so
                that their tower stays as it was loaded, float32.

        Raises:
            WeightsError: It cannot be loaded, or is no plain vision transformer.
        """
        try:
            open_clip = import_open_clip(folder)
            with quiet_libraries():
                # Without this, a folder that lacks its weights would be a model of random numbers.
                model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
        except Exception as error:  # open_clip raises whatever its parts raise
            raise cannot_be_loaded("CLIP model", folder, error) from error
        model.visual.to(dtype)
        return cls(model, folder, device)

    @property
    def tokenizer(self) -> Callable[..., Tensor]:
        """Cuts texts into tokens, int64 (T, `longest_text`).

        Raises:
            WeightsError: It cannot be loaded.
        """
        if isinstance(self._tokenizer, Path):
            folder = self._tokenizer
            try:
                self._tokenizer = load_tokenizer(folder)
            except Exception as error:  # as above
                raise cannot_be_loaded("CLIP model's tokenizer", folder, error) from error
        return self._tokenizer

    @property
    def depth(self) -> int:
        """How many transformer blocks the vision tower has."""
        return len(self.model.visual.transformer.resblocks)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.visual.conv1.kernel_size[0])

    @property
    def quick_gelu(self) -> bool:
        """Whether the vision tower's activation is OpenAI's approximation, x sigmoid(1.702 x), instead of GELU."""
        open_clip = import_open_clip()
        activations = (open_clip.transformer.QuickGELU, torch.nn.GELU)
        found = next(m for m in self.model.visual.transformer.modules() if isinstance(m, activations))
        return isinstance(found, open_clip.transformer.QuickGELU)

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
        input_size: int | tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        positions: PositionMode = "bicubic",
        attention: bool = False,
    ) -> ClipTrace:
        """Walk the vision tower once, up to the last block asked for.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to `input_size`.
            blocks: Indices of the blocks to trace, negative from the end.
            input_size: Side of a square, or (height, width), in pixels; multiples of the patch size.
            mean: Input normalisation, per channel.
            std: Input normalisation, per channel.
            positions: How position embeddings are resized.
            attention: Whether the attention of the blocks is summed on the way, see `ClipTrace`.

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
        embedding = resize_position_embedding(visual.positional_embedding, grid, positions)
        tokens = visual.ln_pre(tokens + embedding.to(tokens.dtype))
        traced, total = {}, None
        for index, block in enumerate(visual.transformer.resblocks[: max(wanted) + 1]):
            step = _enter_block(block, tokens)
            if index in wanted:
                traced[index] = step
            if attention and total is None:
                shape = (*step.queries.shape[:3], step.queries.shape[2])
                total = torch.zeros(shape, dtype=torch.float32, device=tokens.device)
            if index < max(wanted):
                tokens = step.outputs if total is None else step.outputs_adding(total)
        return ClipTrace(grid=grid, blocks=traced, attention=total)

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
    def encode_texts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts into the space shared with images.

        Equal to the model's own ``encode_text``. Where the text tower is causal, what stands behind a text's end token
        cannot change its embedding, so only as many tokens are computed as the longest text of a batch has.

        Args:
            texts: T texts.

        Returns:
            float32 (T, E), each of norm 1, on the model's device; and bool (T,) on the CPU, true for a text that is
            longer than the model can read and was embedded by its beginning.
        """
        tokens = self.tokenizer(list(texts))
        tower = self._causal_text
        lengths = torch.full((len(tokens),), tokens.shape[1]) if tower is None else tower.ends(tokens) + 1
        order = lengths.argsort(stable=True)  # texts of about one length go together
        vectors: list[Tensor] = []
        for places in order.split(TEXTS_AT_ONCE):
            batch = tokens[places].to(self.device)
            encoded = self.model.encode_text(batch) if tower is None else tower.encode(batch)
            vectors.append(F.normalize(encoded.float(), dim=-1))
        return torch.cat(vectors)[order.argsort().to(self.device)], self._cut(texts, tokens)

    def cuts(self, texts: Sequence[str]) -> Tensor:
        """Which of T texts are longer than the model can read: bool (T,) on the CPU."""
        return self._cut(texts, self.tokenizer(list(texts)))

    def _cut(self, texts: Sequence[str], tokens: Tensor) -> Tensor:
        # With room for one more token, a text that fits stays the same; another one goes on where its end was.
        longer = self.tokenizer(list(texts), context_length=tokens.shape[1] + 1)
        return (longer[:, :-1] != tokens).any(dim=1)

    @property
    def longest_text(self) -> int:
        """How many tokens of a text the model reads, start and end token included."""
        known = getattr(self.model, "context_length", None)
        return int(self.tokenizer([""]).shape[1]) if known is None else int(known)

    def embed_text(self, names: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """Class names into the space shared with images: the vectors of `embed_names`."""
        return self.embed_names(names, prompts)[0]

    def embed_names(self, names: Sequence[str], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Class names into the space shared with images.

        Each name is put into every prompt; the unit embeddings are averaged and made unit again
        (CLIP's prompt ensembling). Results are cached per name.

        Args:
            names: C class names.
            prompts: Templates with ``{name}`` and optionally ``{article}``.

        Returns:
            float32 (C, E), each of norm 1, on the model's device; and bool (C,) on the CPU, true for a name with which
            one of the texts is longer than the model can read (see `encode_texts`).
        """
        key = tuple(prompts)
        fresh = [name for name in dict.fromkeys(names) if (name, key) not in self._text_cache]
        for start in range(0, len(fresh), TEXTS_AT_ONCE):
            chunk = fresh[start : start + TEXTS_AT_ONCE]
            embeddings, cut = self.encode_texts([text for name in chunk for text in fill_prompts(prompts, name)])
            means = F.normalize(embeddings.view(len(chunk), len(prompts), -1).mean(1), dim=-1)
            some_cut = cut.view(len(chunk), len(prompts)).any(dim=1)
            self._text_cache.update({(n, key): found for n, *found in zip(chunk, means, some_cut, strict=True)})
        vectors, shortened = zip(*(self._text_cache[name, key] for name in names), strict=True)
        return torch.stack(vectors), torch.stack(shortened)


class _CausalText:
    """open_clip's text transformer, walked no further than the last end token of a batch.

    Args:
        tower: The module that holds the transformer.
        end: The end token's id; None where it is the highest id of a text.
    """

    def __init__(self, tower: Any, end: int | None) -> None:
        self._tower = tower
        self._end = end

    @classmethod
    def find(cls, model: Any) -> _CausalText | None:
        """The text transformer of a model; None for one that looks at what stands behind a text's end token."""
        open_clip = import_open_clip()
        if isinstance(model, open_clip.CLIP):
            tower, pool, end = model, model.text_pool_type, model.text_eos_id
        elif isinstance(getattr(model, "text", None), open_clip.transformer.TextTransformer):
            tower, pool, end = model.text, model.text.pool_type, model.text.eos_id
            if tower.cls_emb is not None:
                return None
        else:
            return None
        mask = tower.attn_mask
        if (
            pool not in ("argmax", "eos")
            or mask is None
            or not mask[torch.ones_like(mask).triu(1) > 0].isneginf().all()
        ):
            return None
        return cls(tower, end if pool == "eos" else None)

    def ends(self, tokens: Tensor) -> Tensor:
        """Place of each text's end token, int64 (T,), for tokens (T, N)."""
        return (tokens if self._end is None else (tokens == self._end).int()).argmax(dim=1)

    def encode(self, tokens: Tensor) -> Tensor:
        """What ``encode_text`` gives for tokens (T, N): (T, E), of any norm."""
        tower, ends = self._tower, self.ends(tokens)
        length = int(ends.max()) + 1
        dtype = tower.transformer.get_cast_dtype()
        x = tower.token_embedding(tokens[:, :length]).to(dtype) + tower.positional_embedding[:length].to(dtype)
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = tower.ln_final(x[torch.arange(len(x), device=x.device), ends])
        if tower.text_projection is None:
            return x
        return tower.text_projection(x) if isinstance(tower.text_projection, nn.Linear) else x @ tower.text_projection


def _enter_block(block: Any, tokens: Tensor) -> BlockTrace:
    """One residual attention block, written out so that its parts can be read (equal to ``block(tokens)``)."""
    attention = block.attn
    normed = block.ln_1(tokens)
    width = tokens.shape[2]

    def split(x: Tensor) -> Tensor:
        return x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)

    def project(heads: Tensor) -> Tensor:
        return block.ls_1(attention.out_proj(heads.transpose(1, 2).reshape(heads.shape[0], -1, width)))

    def values_of(other: Tensor) -> Tensor:
        weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        return split(F.linear(block.ln_1(other), weight, bias))

    def feed_forward(attended: Tensor) -> Tensor:
        return attended + block.ls_2(block.mlp(block.ln_2(attended)))

    projected = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    # Attention reads a head's rows over and over: next to each other they are read faster than the copy takes.
    parts = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
    queries, keys, values = parts.unbind()
    return BlockTrace(tokens, normed, queries, keys, values, project, values_of, feed_forward)
