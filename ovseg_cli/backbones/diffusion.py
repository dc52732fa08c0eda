"""One walk through a diffusers UNet: support images, attribution maps, dense query features and self-attention.

Everything is read through forward hooks on the projection layers of the attention blocks, so it does not
matter which attention processor computes the attention itself (the fused kernels never return
probabilities, and replacing processors breaks on every upgrade).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.backbones.pixels import squash
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.errors import UsageError, WeightsError
from ovseg_cli.names import shown_name

AttentionSink = Callable[[Tensor, Tensor, int, float], None]
"""Takes one attention block's queries (B, N, heads * d), keys (B, T, heads * d), number of heads and scale."""


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """What one attention layer computes its probabilities from; `attention_probabilities` makes them.

    Attributes:
        queries: (B, N, heads * d), as the projection layer gives them.
        keys: (B, T, heads * d).
        heads: Number of heads.
        scale: Factor on the dot products.
    """

    queries: Tensor
    keys: Tensor
    heads: int
    scale: float


@dataclass(frozen=True, slots=True)
class Generated:
    """A batch of support images.

    Attributes:
        images: uint8 (B, H, W, 3), RGB, on the CPU.
        attribution: float32 (B, g, g): mean attention probability of the class phrase, on the CPU. Not
            normalised: its contrast tells whether the object appeared at all.
    """

    images: Tensor
    attribution: Tensor


@dataclass(frozen=True, slots=True)
class PhrasedPrompt:
    """A prompt and where its class phrases stand.

    Attributes:
        text: The whole prompt.
        spans: Start and end of each phrase in `text`, in characters.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PromptAttention:
    """Attention of given pictures in one pass of the UNet with one prompt.

    Attributes:
        cross: By the side s of a grid, float32 (B, 1 + P, s, s): mean attention probability over the heads and the
            layers of that grid. Channel 0 is the start token's, the others the phrases', each the mean of its tokens.
        layers: By the side of a grid, its number of cross-attention layers.
        self_attention: float32 (B, N, N), rows summing to 1, on the finest grid.
        tokens: How many tokens each of the P phrases has.
    """

    cross: dict[int, Tensor]
    layers: dict[int, int]
    self_attention: Tensor
    tokens: tuple[int, ...]


def phrase_token_positions(tokenizer: Any, prompt: str, phrase: str) -> list[int]:
    """Positions of a phrase's tokens in the tokenised prompt, found by character offsets.

    Offsets make it right for names of several words, for words that split into several tokens, and for
    tokenizers that lower-case.

    Args:
        tokenizer: A fast transformers tokenizer.
        prompt: The whole prompt.
        phrase: The class phrase; its last occurrence in the prompt counts, since templates may use the
            same word before it.

    Returns:
        Token positions, start token counted as 0.

    Raises:
        UsageError: The phrase is not in the prompt, or is cut off by the tokenizer's length limit.
    """
    return span_token_positions(
        tokenizer, prompt, [_phrase_span(prompt, phrase)], "Give a shorter name, or a shorter --prompt."
    )[0]


def span_token_positions(tokenizer: Any, prompt: str, spans: Sequence[tuple[int, int]], remedy: str) -> list[list[int]]:
    """Positions of the tokens of several stretches of a prompt, found by character offsets.

    Args:
        tokenizer: A fast transformers tokenizer.
        prompt: The whole prompt.
        spans: Start and end of each stretch, in characters.
        remedy: What to do when one is cut off, for the error message.

    Returns:
        Token positions of each stretch, start token counted as 0.

    Raises:
        UsageError: A stretch is cut off by the tokenizer's length limit.
    """
    # Not truncated here, so that a phrase that will be cut off is told from one that the tokenizer normalises.
    offsets = tokenizer(prompt, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    found = []
    for start, end in spans:
        # Start and end tokens have empty spans, so they never overlap the phrase.
        positions = [i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > start]
        if not positions or positions[-1] > tokenizer.model_max_length - 2:  # the end token takes the last place
            name = prompt[start:end]
            raise UsageError(
                f"The prompt is longer than the text encoder's {tokenizer.model_max_length} tokens, which cuts off "
                f"the class name {shown_name(name)}. {remedy}"
            )
        found.append(positions)
    return found


def _phrase_span(prompt: str, phrase: str) -> tuple[int, int]:
    """Start and end of the phrase's last occurrence in whole words, else of its last occurrence at all.

    Whole words first: the "cat" of "a cat in a scattered field" is not in "scattered". Scripts that do not
    part words need the second try.
    """
    literal = re.escape(phrase)
    for pattern in (rf"(?<!\w){literal}(?!\w)", literal):
        spans = [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)]
        if spans:
            return spans[-1]
    raise UsageError(f"The prompt {prompt!r} does not contain the class name {phrase!r}.")


def attention_probabilities(queries: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Softmaxed attention of every head.

    Args:
        queries: (B, N, heads * d), as the projection layer gives them.
        keys: (B, T, heads * d).
        heads: Number of heads.
        scale: Factor on the dot products, d ** -0.5.

    Returns:
        float32 (B, heads, N, T); each row sums to 1.
    """
    batch = queries.shape[0]
    q = queries.view(batch, -1, heads, queries.shape[-1] // heads).transpose(1, 2)
    k = keys.view(batch, -1, heads, keys.shape[-1] // heads).transpose(1, 2)
    # In float32: products overflow float16 in some checkpoints, and what is rounded here is exponentiated.
    return torch.softmax((q.float() * scale) @ k.float().transpose(-1, -2), dim=-1)


class RunningAttribution:
    """Running mean of the class phrase's cross-attention over layers, heads, tokens and steps (DAAM; OVDiff A_n).

    Per head and token the map is resized bicubically to the common grid and clamped at 0 before it is
    averaged; only the sum is kept.

    Args:
        batch: B, number of images (the conditional half of a guided batch).
        grid: g, side of the common grid (the latent's).
        positions: Token positions of the class phrase.
        min_grid: Layers on a coarser grid are left out.
    """

    def __init__(self, batch: int, grid: int, positions: Sequence[int], *, min_grid: int) -> None:
        self._batch = batch
        self._grid = grid
        self._positions = list(positions)
        self._min_grid = min_grid
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
        """Add one layer at one step; see `attention_probabilities` for shapes.

        The conditional half of a guided batch comes last, as diffusers stacks it.
        """
        side = math.isqrt(queries.shape[1])
        if side < self._min_grid:
            return
        probabilities = attention_probabilities(queries[-self._batch :], keys[-self._batch :], heads, scale)
        maps = probabilities[..., self._positions].permute(0, 1, 3, 2).reshape(self._batch, -1, side, side)
        if side != self._grid:
            maps = F.interpolate(maps, (self._grid, self._grid), mode="bicubic", align_corners=False)
        mean = maps.clamp(min=0).mean(dim=1)
        self._sum = mean if self._sum is None else self._sum + mean
        self._count += 1

    def mean(self) -> Tensor:
        """The attribution maps so far, float32 (B, g, g).

        Raises:
            RuntimeError: No layer was added (every cross-attention grid is coarser than `min_grid`).
        """
        if self._sum is None:
            raise RuntimeError(f"no cross-attention layer has a grid of at least {self._min_grid}")
        return self._sum / self._count


class RunningCrossAttention:
    """Mean of the cross-attention of groups of tokens over heads and tokens, and over the layers of each grid.

    Args:
        groups: Token positions of each group.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        self._groups = [list(group) for group in groups]
        self._sums: dict[int, Tensor] = {}
        self._layers: dict[int, int] = {}

    def add(self, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
        """Add one layer; see `attention_probabilities` for shapes. The tokens are those of a square grid."""
        side = math.isqrt(queries.shape[1])
        mean = attention_probabilities(queries, keys, heads, scale).mean(dim=1)
        maps = torch.stack([mean[..., group].mean(dim=-1) for group in self._groups], dim=1)
        maps = maps.unflatten(-1, (side, side))
        self._sums[side] = maps if side not in self._sums else self._sums[side].add_(maps)
        self._layers[side] = self._layers.get(side, 0) + 1

    def means(self) -> tuple[dict[int, Tensor], dict[int, int]]:
        """By the side s of a grid: the mean maps float32 (B, groups, s, s), and the number of layers."""
        return {side: maps / self._layers[side] for side, maps in self._sums.items()}, self._layers


def mean_self_attention(queries: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Self-attention averaged over the heads, one head at a time: all at once would take `heads` times the memory.

    See `attention_probabilities` for the arguments.

    Returns:
        float32 (B, N, N); each row sums to 1.
    """
    each = (queries.chunk(heads, dim=-1), keys.chunk(heads, dim=-1))
    total = queries.new_zeros((len(queries), queries.shape[1], keys.shape[1]), dtype=torch.float32)
    for q, k in zip(*each, strict=True):
        total += attention_probabilities(q, k, 1, scale)[:, 0]
    return total / heads


class RunningSelfAttention:
    """Mean of the self-attention of layers on several grids, as one matrix on the finest (DiffSeg, section 3.2.1).

    Heads are averaged. A coarser layer's rows are enlarged bilinearly, as pictures of the tokens attended to, and made
    to sum to 1 again; a token of the finest grid takes the row of the coarse cell that it lies in. The weight of
    a layer is proportional to the side of its grid. Only one sum per grid is kept.

    Args:
        finest: Only the layers on the finest grid count.
    """

    def __init__(self, *, finest: bool = False) -> None:
        self._only_finest = finest
        self._sums: dict[int, Tensor] = {}
        self._weight = 0

    def add(self, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
        """Add one layer; see `attention_probabilities` for shapes. The tokens are those of a square grid."""
        side = math.isqrt(queries.shape[1])
        if self._only_finest and side != max(self._sums, default=side):
            if side < max(self._sums):
                return
            self._sums, self._weight = {}, 0
        attention = mean_self_attention(queries, keys, heads, scale)
        # Layers on one grid have one weight, so their sum is all that has to be held.
        self._sums[side] = attention if side not in self._sums else self._sums[side].add_(attention)
        self._weight += side

    def mean(self) -> Tensor:
        """The fused matrix, float32 (B, N, N), rows summing to 1. Ends the adding: the sums are used up."""
        finest = max(self._sums)
        fused = self._sums.pop(finest).mul_(finest / self._weight)
        row_of = torch.arange(finest, device=fused.device)
        for side, attention in self._sums.items():
            batch, tokens, _ = attention.shape
            pictures = attention.reshape(batch, tokens, side, side)
            wide = F.interpolate(pictures, (finest, finest), mode="bilinear", align_corners=False).flatten(2)
            # The sum holds several layers' rows; each row of the mean has to sum to the layers' share of the weight.
            wide *= attention.sum(-1, keepdim=True) / wide.sum(-1, keepdim=True) * (side / self._weight)
            place = row_of * side // finest
            for y in range(finest):  # line by line: all rows at once would be one more whole matrix
                fused[:, y * finest : (y + 1) * finest] += wide[:, place[y] * side + place]
        return fused


class _StopWalkError(Exception):
    """Raised by a hook when everything asked for has been seen; never leaves this module."""


class DiffusionBackbone:
    """The components of a Stable Diffusion pipeline.

    Args:
        pipeline: `diffusers.StableDiffusionPipeline` without safety checker (its black images would become
            prototypes; what is generated never leaves the store).
        device: Where it runs.
    """

    def __init__(self, pipeline: Any, device: str) -> None:
        from diffusers import DPMSolverMultistepScheduler

        with quiet_libraries():  # of half precision on a CPU it says that it cannot be; it is only slow
            self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            pipeline.scheduler.config, algorithm_type="dpmsolver++"
        )
        if pipeline.vae.config.sample_size >= 256:
            # The autoencoder makes the largest peak at 512 pixels; one picture at a time costs little there.
            pipeline.vae.enable_slicing()
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.eval().requires_grad_(False)
        # Pictures become latents in float32, whatever the rest computes in: the encoders of some autoencoders overflow
        # float16, and one pass for each picture costs little.
        for part in (pipeline.vae.encoder, pipeline.vae.quant_conv):
            if part is not None:
                part.float()
        self.device = device
        self._empty_prompt: Tensor | None = None

    @classmethod
    def load(
        cls, folder: Path, *, device: str, dtype: torch.dtype = torch.float32, variant: str | None = None
    ) -> DiffusionBackbone:
        """Load a folder in diffusers' layout.

        Args:
            folder: The folder.
            device: Where the model runs.
            dtype: Of its networks, but for the autoencoder's encoder, which is float32.
            variant: Of the weights' files, as "fp16".

        Raises:
            WeightsError: It cannot be loaded.
        """
        from diffusers import StableDiffusionPipeline

        try:
            with quiet_libraries():
                pipeline = StableDiffusionPipeline.from_pretrained(
                    folder,
                    dtype=dtype,
                    variant=variant,
                    use_safetensors=True,
                    local_files_only=True,
                    safety_checker=None,
                    feature_extractor=None,
                    image_encoder=None,
                    requires_safety_checker=False,
                )
        except Exception as error:  # diffusers raises whatever its parts raise
            raise WeightsError(f"The diffusion model in {folder} cannot be loaded: {error}") from error
        return cls(pipeline, device)

    @property
    def unet(self) -> nn.Module:
        """The denoising network."""
        return self.pipeline.unet

    @property
    def latent_scale(self) -> int:
        """Image pixels per latent pixel."""
        return 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    # ------------------------------------------------------------------ generation

    @torch.inference_mode()
    def generate(
        self,
        prompt: str,
        phrase: str,
        seeds: Sequence[int],
        *,
        image_size: int,
        steps: int,
        guidance: float,
        negative_prompt: str,
        min_attention_grid: int,
        on_step: Callable[[int], None] | None = None,
    ) -> Generated:
        """Support images and the attribution maps of the class phrase (OVDiff, supplement C.5; DAAM).

        Args:
            prompt: The whole prompt.
            phrase: The class name inside it.
            seeds: One per image; an image depends on its own seed only, not on its batch.
            image_size: Side of the square images in pixels.
            steps: DPM-Solver++ steps.
            guidance: Classifier-free guidance scale.
            negative_prompt: Prompt of the unconditional half.
            min_attention_grid: Coarser cross-attention layers are left out of the attribution map.
            on_step: Called with the number of steps done.

        Returns:
            Images and maps on the latent grid.

        Raises:
            UsageError: The prompt cuts off the phrase.
        """
        positions = phrase_token_positions(self.pipeline.tokenizer, prompt, phrase)
        grid = image_size // self.latent_scale
        attribution = RunningAttribution(len(seeds), grid, positions, min_grid=min_attention_grid)

        def step_done(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(step + 1)
            return tensors

        with self.tap_cross_attention(attribution.add):
            output = self.pipeline(
                [prompt] * len(seeds),
                negative_prompt=[negative_prompt] * len(seeds),
                height=image_size,
                width=image_size,
                num_inference_steps=steps,
                guidance_scale=guidance,
                # Noise is drawn on the CPU, so a seed gives the same picture on every device.
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pt",
                callback_on_step_end=step_done,
            )
        images = (output.images.float().clamp(0, 1) * 255).round().to(torch.uint8)
        return Generated(images.permute(0, 2, 3, 1).cpu(), attribution.mean().cpu())

    @torch.inference_mode()
    def attribution(
        self,
        images: Tensor,
        prompt: str,
        phrase: str,
        *,
        timesteps: Sequence[int],
        noise_seed: int,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        min_attention_grid: int,
    ) -> Tensor:
        """Attribution maps of a class phrase in given pictures, averaged as `generate` averages them.

        Every picture is noised to each timestep, and one conditional pass of the UNet denoises it. The noise is the
        same for every picture, so a picture has the same map alone and in any batch.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            prompt: The whole prompt.
            phrase: The class name inside it.
            timesteps: Diffusion timesteps of the added noise.
            noise_seed: Seed of the noise.
            input_size: Side of the square in pixels.
            mean: Input normalisation of the VAE.
            std: Input normalisation of the VAE.
            min_attention_grid: Coarser cross-attention layers are left out of the attribution map.

        Returns:
            float32 (B, g, g) on the latent grid, on the CPU; not normalised.

        Raises:
            UsageError: The prompt cuts off the phrase.
        """
        positions = phrase_token_positions(self.pipeline.tokenizer, prompt, phrase)
        latents = self._encode(squash(images, input_size, mean, std))
        text = self._encode_prompt(prompt).expand(len(latents), -1, -1)
        generator = torch.Generator().manual_seed(noise_seed)
        running = RunningAttribution(len(latents), latents.shape[-1], positions, min_grid=min_attention_grid)
        with self.tap_cross_attention(running.add):
            for timestep in timesteps:
                self._denoise(self._add_noise(latents, timestep, generator), timestep, text)
        return running.mean().cpu()

    def tap_cross_attention(self, sink: AttentionSink) -> AbstractContextManager[None]:
        """Give `sink` the queries, keys, heads and scale of every cross-attention layer, at every forward pass.

        `RunningAttribution.add` is such a sink; it serves any forward pass of the UNet, not only generation.
        """
        return self._tap("attn2", sink)

    def _tap(self, kind: Literal["attn1", "attn2"], sink: AttentionSink) -> AbstractContextManager[None]:
        """Give `sink` what every self-attention (attn1) or cross-attention (attn2) layer sees at every forward pass."""
        blocks = (module for name, module in self.unet.named_modules() if name.rpartition(".")[2] == kind)
        return _tapped((block, sink) for block in blocks)

    # ------------------------------------------------------------------ features

    @torch.inference_mode()
    def queries(
        self,
        images: Tensor,
        *,
        layers: Sequence[str],
        timestep: int,
        noise_seed: int,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> dict[str, Tensor]:
        """Cross-attention queries (before the split into heads) at chosen layers, for an empty prompt (OVDiff).

        The noise, and the VAE's sample, come from `noise_seed` and are the same for every image, so
        an image has the same features alone and in any batch.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            layers: Module paths inside the UNet, as ``up_blocks.1.attentions.0``.
            timestep: Diffusion timestep of the added noise.
            noise_seed: Seed of the noise.
            input_size: Side of the square in pixels.
            mean: Input normalisation of the VAE.
            std: Input normalisation of the VAE.

        Returns:
            Per layer float32 (B, C, g, g), at the layer's own resolution, in the order of `layers`.
            The UNet stops after the last of them.
        """
        generator = torch.Generator().manual_seed(noise_seed)
        latents = self._encode(squash(images, input_size, mean, std), generator)
        noisy = self._add_noise(latents, timestep, generator)
        found: dict[str, Tensor] = {}

        def keep(layer: str, queries: Tensor, _keys: Tensor, _heads: int, _scale: float) -> None:
            side = math.isqrt(queries.shape[1])
            found[layer] = queries.float().transpose(1, 2).reshape(queries.shape[0], -1, side, side)

        self._walk_to({layer: self._attention(layer, "attn2") for layer in layers}, keep, noisy, timestep)
        return {layer: found[layer] for layer in layers}

    @torch.inference_mode()
    def self_attention(
        self,
        images: Tensor,
        *,
        layers: Sequence[str],
        timestep: int,
        noise_seed: int,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        padded: bool = True,
    ) -> Tensor:
        """Self-attention of given pictures, averaged over heads and fused over layers (`RunningSelfAttention`).

        The prompt is empty; latents are the VAE's mean, and the noise is the same for every picture.
        One matrix takes 4 N^2 bytes per picture, 67 MB at 64x64 tokens; four such are held at once at most.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            layers: Module paths inside the UNet, as ``up_blocks.3.attentions.1``.
            timestep: Diffusion timestep of the added noise.
            noise_seed: Seed of the noise.
            input_size: Side of the square in pixels.
            mean: Input normalisation of the VAE.
            std: Input normalisation of the VAE.
            padded: Whether the empty prompt is filled up to the text encoder's length, as in training.

        Returns:
            float32 (B, N, N), rows summing to 1: how much token i (row by row on the finest grid among `layers`)
            attends to token j. The UNet stops after the last of the layers.
        """
        latents = self._encode(squash(images, input_size, mean, std))
        noisy = self._add_noise(latents, timestep, torch.Generator().manual_seed(noise_seed))
        running = RunningSelfAttention()

        def add(_layer: str, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
            running.add(queries, keys, heads, scale)

        self._walk_to({layer: self._attention(layer, "attn1") for layer in layers}, add, noisy, timestep, padded=padded)
        return running.mean()

    @torch.inference_mode()
    def attention_layers(
        self,
        images: Tensor,
        *,
        layers: Sequence[str],
        timestep: int,
        noise_seed: int,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> dict[str, AttentionLayer]:
        """Queries and keys of self-attention layers of given pictures, from which no matrix has been made yet.

        Everything else is as in `self_attention`. A layer of 64x64 tokens and 320 channels takes 10 MB per picture.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            layers: Module paths inside the UNet, as ``up_blocks.3.attentions.1``.
            timestep: Diffusion timestep of the added noise.
            noise_seed: Seed of the noise.
            input_size: Side of the square in pixels.
            mean: Input normalisation of the VAE.
            std: Input normalisation of the VAE.

        Returns:
            Per layer its queries and keys, in the order of `layers`. The UNet stops after the last of them.
        """
        latents = self._encode(squash(images, input_size, mean, std))
        noisy = self._add_noise(latents, timestep, torch.Generator().manual_seed(noise_seed))
        found: dict[str, AttentionLayer] = {}

        def keep(layer: str, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
            found[layer] = AttentionLayer(queries, keys, heads, scale)

        self._walk_to({layer: self._attention(layer, "attn1") for layer in layers}, keep, noisy, timestep)
        return {layer: found[layer] for layer in layers}

    def reads(self, prompt: PhrasedPrompt) -> bool:
        """Whether the text encoder reads all phrases of a prompt; otherwise the prompt is too long."""
        try:
            span_token_positions(self.pipeline.tokenizer, prompt.text, prompt.spans, "")
        except UsageError:
            return False
        return True

    def prompt_attention(
        self,
        images: Tensor,
        prompts: Sequence[PhrasedPrompt],
        *,
        timestep: int,
        noise_seed: int,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        padded: bool = True,
        emphasis: float = 1.0,
        finest_self_attention: bool = False,
    ) -> Iterator[PromptAttention]:
        """Cross-attention of class phrases and self-attention of given pictures, one pass of the UNet for each prompt.

        Pictures are encoded and noised once; latents are the VAE's mean, and the noise is the same for every picture
        and prompt. A prompt's attention is made when it is asked for: one self-attention matrix takes 67 MB per picture
        at 64x64 tokens, and four such are held at once at most.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            prompts: The prompts with their phrases.
            timestep: Diffusion timestep of the added noise.
            noise_seed: Seed of the noise.
            input_size: Side of the square in pixels.
            mean: Input normalisation of the VAE.
            std: Input normalisation of the VAE.
            padded: Whether the prompt is filled up to the text encoder's length, as in training. The padding draws
                attention too; without it, the prompt's own tokens share all of it.
            emphasis: The phrases' token embeddings are moved away from those of an empty prompt by this factor.
            finest_self_attention: Only the self-attention layers of the finest grid are averaged, instead of all
                (`RunningSelfAttention`).

        Returns:
            An iterator over the prompts.

        Raises:
            UsageError: A prompt is so long that a phrase is cut off.
        """
        tokenizer, remedy = self.pipeline.tokenizer, "Give fewer class names at once, or shorter ones."
        positions = [span_token_positions(tokenizer, prompt.text, prompt.spans, remedy) for prompt in prompts]
        with torch.inference_mode():
            latents = self._encode(squash(images, input_size, mean, std))
            noisy = self._add_noise(latents, timestep, torch.Generator().manual_seed(noise_seed))

        def read(prompt: PhrasedPrompt, phrases: list[list[int]]) -> PromptAttention:
            text = self._encode_phrases(prompt.text, phrases, emphasis, padded=padded)
            cross = RunningCrossAttention([[0], *phrases])
            own = RunningSelfAttention(finest=finest_self_attention)
            with torch.inference_mode(), self.tap_cross_attention(cross.add), self._tap("attn1", own.add):
                self._denoise(noisy, timestep, text)
                return PromptAttention(*cross.means(), own.mean(), tuple(map(len, phrases)))

        return map(read, prompts, positions)

    # ------------------------------------------------------------------ one pass

    def _encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scaled latents of pictures: the VAE's mean, or with a generator its sample, the same draw for every picture.

        Args:
            pixels: float (B, 3, H, W), normalised for the VAE, on any device.
            generator: Where the sample's noise is drawn from.
        """
        vae = self.pipeline.vae
        distribution = vae.encode(pixels.to(self.device, torch.float32)).latent_dist
        latents = distribution.mean
        if generator is not None:
            latents = latents + distribution.std * _draw_noise(latents, generator)
        return latents * vae.config.scaling_factor

    def _add_noise(self, latents: Tensor, timestep: int, generator: torch.Generator) -> Tensor:
        """The forward process of DDPM, equation 4, with one draw of noise for all pictures.

        Not the scheduler's add_noise: a multistep scheduler knows only the timesteps of its last sampling run.
        """
        alpha = self.pipeline.scheduler.alphas_cumprod[timestep].to(latents)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * _draw_noise(latents, generator)

    def _denoise(self, noisy: Tensor, timestep: int, text: Tensor) -> None:
        """One forward pass of the UNet, for the hooks' sake."""
        times = torch.full((len(noisy),), timestep, device=noisy.device)
        self.unet(noisy.to(self.unet.dtype), times, text.expand(len(noisy), -1, -1))

    def _walk_to(
        self,
        blocks: Mapping[str, Any],
        sink: Callable[[str, Tensor, Tensor, int, float], None],
        noisy: Tensor,
        timestep: int,
        *,
        padded: bool = True,
    ) -> None:
        """Give `sink` the layer and what `AttentionSink` takes; with an empty prompt, up to the last of the blocks."""
        missing = set(blocks)

        def seen(layer: str, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
            sink(layer, queries, keys, heads, scale)
            missing.discard(layer)
            if not missing:
                raise _StopWalkError

        text = self._encode_empty_prompt() if padded else self._encode_phrases("", [], 1.0, padded=False)
        with _tapped((block, partial(seen, layer)) for layer, block in blocks.items()), suppress(_StopWalkError):
            self._denoise(noisy, timestep, text)

    def _attention(self, layer: str, kind: Literal["attn1", "attn2"]) -> Any:
        """The self-attention (attn1) or cross-attention (attn2) block of a layer."""
        try:
            return getattr(self.unet.get_submodule(layer).transformer_blocks[0], kind)
        except AttributeError as error:
            raise WeightsError(f"The UNet has no attention block {layer!r}; correct the profile.") from error

    def _encode_prompt(self, prompt: str) -> Tensor:
        return self.pipeline.encode_prompt(prompt, self.device, 1, False)[0]

    @torch.inference_mode()
    def _encode_phrases(self, prompt: str, phrases: list[list[int]], emphasis: float, *, padded: bool) -> Tensor:
        """Embedding of a prompt, the tokens of its phrases emphasised; see `prompt_attention`."""
        text = self._encode_prompt(prompt)
        if emphasis != 1:
            empty = self._encode_empty_prompt()
            places = sorted({position for phrase in phrases for position in phrase})
            text = text.clone()
            text[:, places] = empty[:, places] + emphasis * (text[:, places] - empty[:, places])
        # CLIP's text encoder is causal: what is cut off has had no influence on what stays.
        return text if padded else text[:, : len(self.pipeline.tokenizer(prompt, truncation=True).input_ids)]

    def _encode_empty_prompt(self) -> Tensor:
        if self._empty_prompt is None:
            self._empty_prompt = self._encode_prompt("")
        return self._empty_prompt


def _draw_noise(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise (1, C, h, w) like latents, drawn on the CPU: a seed means one noise on every device."""
    return torch.randn((1, *latents.shape[1:]), generator=generator).to(latents)


@contextmanager
def _tapped(blocks: Iterable[tuple[Any, AttentionSink]]) -> Iterator[None]:
    """Pair the queries of attention blocks with their keys and give them to the blocks' sinks, at every forward pass.

    Nothing that can fail stands between the hooks and their removal: one left behind would end a later walk.
    """
    handles: list[Any] = []
    try:
        for block, sink in blocks:
            handles += _tap_attention(block, sink)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tap_attention(module: Any, sink: AttentionSink) -> list[Any]:
    """Hooks on one attention block that pair its queries with its keys."""
    held: dict[str, Tensor] = {}

    def on_queries(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        held["queries"] = output

    def on_keys(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        sink(held.pop("queries"), output, module.heads, module.scale)

    return [module.to_q.register_forward_hook(on_queries), module.to_k.register_forward_hook(on_keys)]
