"""One walk through a diffusers UNet: support images with their attribution maps, and dense query features.

Everything is read through forward hooks on the projection layers of the attention blocks, so it does not
matter which attention processor computes the attention itself (the fused kernels never return
probabilities, and replacing processors breaks on every upgrade).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.backbones.pixels import squash
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.errors import UsageError, WeightsError


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
    start, end = _phrase_span(prompt, phrase)
    # Not truncated here, so that a phrase that will be cut off is told from one that the tokenizer normalises.
    encoding = tokenizer(prompt, return_offsets_mapping=True, verbose=False)
    # Start and end tokens have empty spans, so they never overlap the phrase.
    positions = [i for i, (a, b) in enumerate(encoding["offset_mapping"]) if a < b and a < end and b > start]
    if not positions or positions[-1] > tokenizer.model_max_length - 2:  # the end token takes the last place
        raise UsageError(
            f"The prompt is longer than the text encoder's {tokenizer.model_max_length} tokens, which cuts off "
            f"the class name {phrase!r}. Give a shorter name, or a shorter --prompt."
        )
    return positions


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
    # Scaled before the product: unscaled products overflow float16 in some checkpoints.
    return torch.softmax(((q * scale) @ k.transpose(-1, -2)).float(), dim=-1)


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
        self.device = device
        self._empty_prompt: Tensor | None = None

    @classmethod
    def load(
        cls, folder: Path, *, device: str, dtype: torch.dtype = torch.float32, variant: str | None = None
    ) -> DiffusionBackbone:
        """Load a folder in diffusers' layout."""
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

    @contextmanager
    def tap_cross_attention(self, sink: Callable[[Tensor, Tensor, int, float], None]) -> Iterator[None]:
        """Give `sink` the queries, keys, heads and scale of every cross-attention layer, at every forward pass.

        `RunningAttribution.add` is such a sink; it serves any forward pass of the UNet, not only generation.
        """
        handles: list[Any] = []
        try:
            for name, module in self.unet.named_modules():
                if name.rpartition(".")[2] == "attn2":
                    handles += _tap_attention(module, sink)
            yield
        finally:
            for handle in handles:
                handle.remove()

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
        vae = self.pipeline.vae
        generator = torch.Generator().manual_seed(noise_seed)
        distribution = vae.encode(squash(images, input_size, mean, std).to(vae.dtype)).latent_dist
        shape = (1, *distribution.mean.shape[1:])
        sample_noise, noise = (torch.randn(shape, generator=generator).to(distribution.mean) for _ in range(2))
        latents = (distribution.mean + distribution.std * sample_noise) * vae.config.scaling_factor
        # The forward process of DDPM, equation 4. Not the scheduler's add_noise: a multistep scheduler
        # knows only the timesteps of its last sampling run.
        alpha = self.pipeline.scheduler.alphas_cumprod[timestep].to(latents)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        return self._walk_queries(noisy, torch.full((len(images),), timestep, device=latents.device), layers)

    def _walk_queries(self, noisy: Tensor, times: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        missing = set(layers)

        def keep(layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                side = math.isqrt(output.shape[1])
                found[layer] = output.float().transpose(1, 2).reshape(output.shape[0], -1, side, side)
                missing.discard(layer)
                if not missing:
                    raise _StopWalkError

            return hook

        projections = {layer: self._cross_attention(layer).to_q for layer in layers}
        text = self._encode_empty_prompt().expand(len(noisy), -1, -1)
        # Nothing that can fail stands between the hooks and their removal: one left behind would end a later walk.
        handles = [projection.register_forward_hook(keep(layer)) for layer, projection in projections.items()]
        try:
            self.unet(noisy.to(self.unet.dtype), times, text)
        except _StopWalkError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return {layer: found[layer] for layer in layers}

    def _cross_attention(self, layer: str) -> Any:
        try:
            return self.unet.get_submodule(layer).transformer_blocks[0].attn2
        except AttributeError as error:
            raise WeightsError(f"The UNet has no cross-attention block {layer!r}; correct the profile.") from error

    def _encode_empty_prompt(self) -> Tensor:
        if self._empty_prompt is None:
            self._empty_prompt = self.pipeline.encode_prompt("", self.device, 1, False)[0]
        return self._empty_prompt


def _tap_attention(module: Any, sink: Callable[[Tensor, Tensor, int, float], None]) -> list[Any]:
    """Hooks on one attention block that pair its queries with its keys."""
    held: dict[str, Tensor] = {}

    def on_queries(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        held["queries"] = output

    def on_keys(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        sink(held.pop("queries"), output, module.heads, module.scale)

    return [module.to_q.register_forward_hook(on_queries), module.to_k.register_forward_hook(on_keys)]
