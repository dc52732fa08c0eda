"""One walk through a diffusers UNet: support images, attribution maps, dense query features and self-attention.

What the attention blocks see is read by hooks (`ovseg_cli.backbones.attention`); prompts and the tokens of class names
are `ovseg_cli.backbones.phrases`'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache, partial, wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ovseg_cli.backbones.attention import (
    AttentionLayer,
    AttentionSink,
    RunningAttribution,
    RunningCrossAttention,
    RunningSelfAttention,
    tapped,
)
from ovseg_cli.backbones.kinds import cannot_be_loaded, kind_of
from ovseg_cli.backbones.phrases import (
    PhrasedPrompt,
    PromptEmbedding,
    PromptEncoder,
    phrase_token_positions,
    span_token_positions,
)
from ovseg_cli.backbones.pixels import squash
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.devices import constant, portion, put, small_steps
from ovseg_cli.errors import WeightsError
from ovseg_cli.profiles.specs import VAE_MEAN, VAE_STD, Sampler
from ovseg_cli.stages import stage

AttentionKind = Literal["attn1", "attn2"]
"""Self-attention, cross-attention, as diffusers names them."""

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""The classes of diffusers that a folder's model_index.json may name: Stable Diffusion 1.x and 2.x, and XL."""

SAMPLERS: Mapping[Sampler, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
        "euler": ("EulerDiscreteScheduler", {}),
        "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
        "lcm": ("LCMScheduler", {}),
    }
)
"""The class in diffusers of each sampler, and what it is made with beside the folder's own settings."""


@dataclass(frozen=True, slots=True)
class Noising:
    """How given pictures become the noisy latents that the UNet sees.

    Attributes:
        timestep: Diffusion timestep of the added noise, 0..999.
        seed: Of the noise, which is drawn once and is the same for every picture, so that a picture has one answer
            alone and in any batch.
        size: Side of the square, in pixels, to which pictures are squashed.
        mean: Input normalisation of the autoencoder, for RGB in [0, 1].
        std: Likewise.
    """

    timestep: int
    seed: int
    size: int
    mean: tuple[float, float, float] = VAE_MEAN
    std: tuple[float, float, float] = VAE_STD


@dataclass(frozen=True, slots=True)
class Samples:
    """A batch of support images.

    Attributes:
        images: uint8 (B, H, W, 3), RGB, on the CPU.
        attribution: float32 (B, g, g): mean attention probability of the class phrase, on the CPU. Not
            normalised: its contrast tells whether the object appeared at all.
    """

    images: Tensor
    attribution: Tensor


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


@cache
def unrounded(kind: type[Any]) -> type[Any]:
    """A sampler of diffusers that keeps latents, and draws noise between steps, in float32, whatever the UNet is in.

    Samplers give latents, and draw, in the precision of what the network predicts: a half-precision run would have
    noise of its own. Only what the UNet is shown is rounded to `network_dtype`.
    """

    class Unrounded(kind):
        network_dtype = torch.float32

        @wraps(kind.scale_model_input)
        def scale_model_input(self, *args: Any, **settings: Any) -> Tensor:
            shown: Tensor = super().scale_model_input(*args, **settings)
            return shown.to(self.network_dtype)

        @wraps(kind.step)  # the pipeline looks whether it takes a generator
        def step(self, model_output: Tensor, *args: Any, **settings: Any) -> Any:
            return super().step(model_output.float(), *args, **settings)

    Unrounded.__name__ = Unrounded.__qualname__ = kind.__name__
    return Unrounded


class _StopWalkError(Exception):
    """Raised by a hook when everything asked for has been seen; never leaves this module."""


class DiffusionBackbone:
    """The components of a Stable Diffusion pipeline.

    Args:
        pipeline: `diffusers.StableDiffusionPipeline` without safety checker (its black images would become
            prototypes; what is generated never leaves the store), or `diffusers.StableDiffusionXLPipeline`.
        device: Where it runs.

    Attributes:
        pipeline: As above, with a sampler of the model's own noise schedule: DPM-Solver++, until another one draws.
        device: As above.
        prompts: What reads prompts.
    """

    def __init__(self, pipeline: Any, device: str) -> None:
        with quiet_libraries():  # of half precision on a CPU it says that it cannot be; it is only slow
            self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self._schedule = pipeline.scheduler.config
        self._use_sampler("dpmsolver++")
        if pipeline.vae.config.sample_size >= 256:
            # The autoencoder makes the largest peak at 512 pixels; one picture at a time costs little there.
            pipeline.vae.enable_slicing()
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
            if part is not None:
                part.eval().requires_grad_(False)
        # Pictures become latents in float32, whatever the rest computes in: the encoders of some autoencoders overflow
        # float16, and one pass for each picture costs little.
        # XL's decoder overflows too, unless its configuration says that it was mended. (Of the others it says nothing.)
        wide = hasattr(pipeline, "text_encoder_2") and pipeline.vae.config.force_upcast
        for part in (pipeline.vae,) if wide else (pipeline.vae.encoder, pipeline.vae.quant_conv):
            if part is not None:
                part.float()
        self.device = device
        self.prompts = PromptEncoder(self.pipeline, device)

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
            WeightsError: It cannot be loaded, or is none of `PIPELINES`.
        """
        import diffusers

        kind = kind_of(folder, "model_index.json", "_class_name", known=PIPELINES, what="diffusion model")
        settings: dict[str, Any] = {"feature_extractor": None, "image_encoder": None}
        if kind == "StableDiffusionPipeline":
            settings |= {"safety_checker": None, "requires_safety_checker": False}
        else:  # a mark in every support image would become part of prototypes
            settings["add_watermarker"] = False
        try:
            with quiet_libraries():
                pipeline = getattr(diffusers, kind).from_pretrained(
                    folder, dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True, **settings
                )
        except Exception as error:  # diffusers raises whatever its parts raise
            raise cannot_be_loaded("diffusion model", folder, error) from error
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

    def locate(self, prompt: str, phrase: str) -> list[int]:
        """Token positions of a class name in its prompt; see `phrase_token_positions`.

        Raises:
            UsageError: The prompt cuts off the phrase.
        """
        return phrase_token_positions(self.pipeline.tokenizer, prompt, phrase)

    @torch.inference_mode()
    def generate(
        self,
        prompt: str | Sequence[str],
        phrase: str | Sequence[str],
        seeds: Sequence[int],
        *,
        image_size: int,
        steps: int,
        guidance: float,
        negative_prompt: str,
        min_attention_grid: int,
        sampler: Sampler = "dpmsolver++",
        spacing: str | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Samples:
        """Support images and the attribution maps of the class phrase (OVDiff, supplement C.5; DAAM).

        Args:
            prompt: The whole prompt, of all images or one for each.
            phrase: The class name inside it, likewise.
            seeds: One per image; an image depends on its own prompt and seed only, not on its batch.
            image_size: Side of the square images in pixels.
            steps: Steps of the sampler.
            guidance: Classifier-free guidance scale; up to 1 there is no unconditional half.
            negative_prompt: Prompt of the unconditional half.
            min_attention_grid: Coarser cross-attention layers are left out of the attribution map.
            sampler: What draws.
            spacing: How its timesteps are spread (`GeneratorSpec.spacing`).
            on_step: Called with the number of steps done.

        Returns:
            Images and maps on the latent grid.

        Raises:
            UsageError: The prompt cuts off the phrase.
        """
        pairs = zip(_one_each(prompt, seeds), _one_each(phrase, seeds), strict=True)
        positions = [self.locate(*pair) for pair in pairs]
        attribution = RunningAttribution(positions, image_size // self.latent_scale, min_grid=min_attention_grid)
        with self._tap("attn2", attribution.add):
            images = self.draw(
                prompt,
                seeds,
                image_size=image_size,
                steps=steps,
                guidance=guidance,
                negative_prompt=negative_prompt,
                sampler=sampler,
                spacing=spacing,
                on_step=on_step,
            )
        return Samples(images, attribution.mean().cpu())

    @torch.inference_mode()
    def draw(
        self,
        prompt: str | Sequence[str],
        seeds: Sequence[int],
        *,
        image_size: int,
        steps: int,
        guidance: float,
        negative_prompt: str,
        sampler: Sampler = "dpmsolver++",
        spacing: str | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """The images of `generate`, whose arguments these are, without attribution maps.

        Returns:
            uint8 (B, H, W, 3), RGB, on the CPU.
        """

        def step_done(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(step + 1)
            return tensors

        self._use_sampler(sampler, spacing)
        # All noise is drawn on the CPU in float32, so that a seed means the same picture on every device and in every
        # precision: in half precision other numbers are drawn. A sampler that draws more goes on with the generators.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = (1, self.unet.config.in_channels, *2 * (image_size // self.latent_scale,))
        with stage("drawing"):
            output = self.pipeline(
                list(_one_each(prompt, seeds)),
                negative_prompt=[negative_prompt] * len(seeds),
                height=image_size,
                width=image_size,
                num_inference_steps=steps,
                guidance_scale=guidance,
                latents=torch.cat([torch.randn(shape, generator=generator) for generator in generators]),
                generator=generators,
                output_type="latent",
                callback_on_step_end=step_done,
            )
        with stage("decoding"):
            images = (self._decode(output.images) * 255).round().to(torch.uint8)
            return images.permute(0, 2, 3, 1).cpu()

    @torch.inference_mode()
    def attribution(
        self,
        images: Tensor,
        prompt: str,
        phrase: str,
        *,
        timesteps: Sequence[int],
        seed: int,
        size: int,
        min_attention_grid: int,
    ) -> Tensor:
        """Attribution maps of a class phrase in given pictures, averaged as `generate` averages them.

        Every picture is noised to each timestep, and one conditional pass of the UNet denoises it. The noise is the
        same for every picture, so a picture has the same map alone and in any batch.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            prompt: The whole prompt.
            phrase: The class name inside it.
            timesteps: Diffusion timesteps of the added noise, 0..999.
            seed: Of the noise, which is drawn anew for each timestep.
            size: Side of the square in pixels.
            min_attention_grid: Coarser cross-attention layers are left out of the attribution map.

        Returns:
            float32 (B, g, g) on the latent grid, on the CPU; not normalised.

        Raises:
            UsageError: The prompt cuts off the phrase.
        """
        positions = self.locate(prompt, phrase)
        latents = self._encode(squash(images, size, VAE_MEAN, VAE_STD))
        text = self.prompts.encode(prompt)
        draws = FixedNoise(seed)
        running = RunningAttribution(len(latents) * [positions], latents.shape[-1], min_grid=min_attention_grid)
        with self._tap("attn2", running.add):
            for timestep in timesteps:
                self._denoise(self._add_noise(latents, timestep, draws), timestep, text)
        return running.mean().cpu()

    # ------------------------------------------------------------------ features

    @torch.inference_mode()
    def queries(self, images: Tensor, noising: Noising, *, layers: Sequence[str]) -> dict[str, Tensor]:
        """Cross-attention queries (before the split into heads) at chosen layers, for an empty prompt (OVDiff).

        Latents are the VAE's sample, whose noise comes from the same seed and is the same for every picture too.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            noising: How they are noised.
            layers: Module paths inside the UNet, as ``up_blocks.1.attentions.0``.

        Returns:
            Per layer float32 (B, C, g, g), at the layer's own resolution, in the order of `layers`.
            The UNet stops after the last of them.
        """
        found: dict[str, Tensor] = {}

        def keep(layer: str, queries: Tensor, _keys: Tensor, _heads: int, _scale: float) -> None:
            side = math.isqrt(queries.shape[1])
            found[layer] = queries.float().transpose(1, 2).reshape(queries.shape[0], -1, side, side)

        self._walk(images, noising, layers, "attn2", keep, sampled=True)
        return {layer: found[layer] for layer in layers}

    @torch.inference_mode()
    def self_attention(self, images: Tensor, noising: Noising, *, layers: Sequence[str], padded: bool = True) -> Tensor:
        """Self-attention of given pictures, averaged over heads and fused over layers (`RunningSelfAttention`).

        The prompt is empty; latents are the VAE's mean, and the noise is the same for every picture.
        One matrix takes 4 N^2 bytes per picture, 67 MB at 64x64 tokens; four such are held at once at most.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            noising: How they are noised.
            layers: Module paths inside the UNet, as ``up_blocks.3.attentions.1``.
            padded: Whether the empty prompt is filled up to the text encoder's length, as in training.

        Returns:
            float32 (B, N, N), rows summing to 1: how much token i (row by row on the finest grid among `layers`)
            attends to token j. The UNet stops after the last of the layers.
        """
        running = RunningSelfAttention()

        def add(_layer: str, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
            running.add(queries, keys, heads, scale)

        self._walk(images, noising, layers, "attn1", add, padded=padded)
        return running.mean()

    @torch.inference_mode()
    def attention_layers(self, images: Tensor, noising: Noising, *, layers: Sequence[str]) -> dict[str, AttentionLayer]:
        """Queries and keys of self-attention layers of given pictures, from which no matrix has been made yet.

        Everything else is as in `self_attention`. A layer of 64x64 tokens and 320 channels takes 10 MB per picture.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            noising: How they are noised.
            layers: Module paths inside the UNet, as ``up_blocks.3.attentions.1``.

        Returns:
            Per layer its queries and keys, in the order of `layers`. The UNet stops after the last of them.
        """
        found: dict[str, AttentionLayer] = {}

        def keep(layer: str, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
            found[layer] = AttentionLayer(queries, keys, heads, scale)

        self._walk(images, noising, layers, "attn1", keep)
        return {layer: found[layer] for layer in layers}

    def prompt_attention(
        self,
        images: Tensor,
        prompts: Sequence[PhrasedPrompt],
        noising: Noising,
        *,
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
            noising: How the pictures are noised.
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
            noisy = self._noised(images, noising)

        def read(prompt: PhrasedPrompt, phrases: list[list[int]]) -> PromptAttention:
            text = self.prompts.encode_phrases(prompt.text, phrases, emphasis, padded=padded)
            cross = RunningCrossAttention([[0], *phrases])
            own = RunningSelfAttention(finest=finest_self_attention)
            with torch.inference_mode(), self._tap("attn2", cross.add), self._tap("attn1", own.add):
                self._denoise(noisy, noising.timestep, text)
                return PromptAttention(*cross.means(), own.mean(), tuple(map(len, phrases)))

        return map(read, prompts, positions)

    @torch.inference_mode()
    def denoise(
        self, images: Tensor, timesteps: Sequence[int], *, layers: Sequence[str], size: int
    ) -> tuple[list[dict[str, Tensor]], Tensor]:
        """What blocks give out while the latents of clean pictures are denoised as if they were noisy (DEDOS).

        No noise is added: the latent itself, the VAE's mean, is taken for that of the first timestep, and deterministic
        steps (DDIM, with what the network was trained to predict) lead from timestep to timestep and at last to 0. The
        prompt is empty.

        Args:
            images: float (B, 3, H, W) in [0, 1]; squashed to a square.
            timesteps: Where the UNet is asked, the largest first.
            layers: Module paths inside the UNet, as ``up_blocks.1.attentions.0``.
            size: Side of the square in pixels.

        Returns:
            For each timestep, per layer its output, float32 (B, C, g, g); and the pictures afterwards, float32
            (B, 3, size, size) in [0, 1].
        """
        latents = self._encode(squash(images, size, VAE_MEAN, VAE_STD))
        text = self.prompts.empty(padded=True)
        found: list[dict[str, Tensor]] = []
        for place, timestep in enumerate(timesteps):
            outputs: dict[str, Tensor] = {}
            with ExitStack() as stack:
                for layer in layers:
                    stack.enter_context(self._output_of(layer, outputs))
                prediction = self._denoise(latents, timestep, text).float()
            found.append(outputs)
            following = timesteps[place + 1] if place + 1 < len(timesteps) else 0
            latents = self._ddim_step(latents, prediction, timestep, following)
        return found, self._decode(latents)

    def _ddim_step(self, latents: Tensor, prediction: Tensor, timestep: int, following: int) -> Tensor:
        """From a timestep to an earlier one without noise (Song et al., "Denoising Diffusion Implicit Models", 12)."""
        schedule = self.pipeline.scheduler
        now, then = (schedule.alphas_cumprod[t].to(latents) for t in (timestep, following))
        kind = schedule.config.prediction_type
        if kind == "epsilon":
            noise = prediction
            clean = (latents - (1 - now).sqrt() * noise) / now.sqrt()
        elif kind == "v_prediction":
            clean = now.sqrt() * latents - (1 - now).sqrt() * prediction
            noise = now.sqrt() * prediction + (1 - now).sqrt() * latents
        else:
            clean = prediction
            noise = (latents - now.sqrt() * clean) / (1 - now).sqrt()
        return then.sqrt() * clean + (1 - then).sqrt() * noise

    @contextmanager
    def _output_of(self, layer: str, outputs: dict[str, Tensor]) -> Iterator[None]:
        """Keep what a module gives out, on a grid, by its path."""
        try:
            module = self.unet.get_submodule(layer)
        except AttributeError as error:
            raise WeightsError(f"The UNet has no block {layer!r}.") from error

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            outputs[layer] = (output[0] if isinstance(output, tuple) else getattr(output, "sample", output)).float()

        handle = module.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    # ------------------------------------------------------------------ one pass

    def _noised(self, images: Tensor, noising: Noising, *, sampled: bool = False) -> Tensor:
        """Noisy latents (B, C, h, w) of pictures, of the VAE's mean or of its sample; one seed is for both draws."""
        draws = FixedNoise(noising.seed)
        pixels = squash(images, noising.size, noising.mean, noising.std)
        latents = self._encode(pixels, draws if sampled else None)
        return self._add_noise(latents, noising.timestep, draws)

    def _encode(self, pixels: Tensor, draws: FixedNoise | None = None) -> Tensor:
        """Scaled latents of pictures: the VAE's mean, or with noise its sample, the same draw for every picture.

        Args:
            pixels: float (B, 3, H, W), normalised for the VAE, on any device.
            draws: The sample's noise.
        """
        vae = self.pipeline.vae
        pixels = pixels.to(self.device, torch.float32)
        values = vae.config.block_out_channels[0] * pixels[0, 0].numel()  # of the widest layer, for each picture
        together = max(1, portion(pixels.device, len(pixels) * values) // values)
        sliced = vae.use_slicing
        vae.use_slicing = sliced and small_steps(pixels.device)  # where it takes pictures one by one
        try:
            found = [vae.encode(part).latent_dist for part in pixels.split(together)]
        finally:
            vae.use_slicing = sliced
        latents = torch.cat([each.mean for each in found])
        if draws is not None:
            latents = latents + torch.cat([each.std for each in found]) * draws(latents)
        return latents * vae.config.scaling_factor

    def _decode(self, latents: Tensor) -> Tensor:
        """Pictures of scaled latents, float32 (B, 3, H, W) in [0, 1]."""
        vae = self.pipeline.vae
        decoder = next(vae.decoder.parameters())  # not the pipeline's own decoding, which takes the encoder's precision
        pixels = vae.decode((latents / vae.config.scaling_factor).to(decoder.dtype), return_dict=False)[0]
        return (pixels * 0.5 + 0.5).clamp(0, 1).float()

    def _add_noise(self, latents: Tensor, timestep: int, draws: FixedNoise) -> Tensor:
        """The forward process of DDPM, equation 4, with one draw of noise for all pictures.

        Not the scheduler's add_noise: a multistep scheduler knows only the timesteps of its last sampling run.
        """
        alpha = self.pipeline.scheduler.alphas_cumprod[timestep].to("cpu", latents.dtype)  # a number, on every device
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * draws(latents)

    def _denoise(self, noisy: Tensor, timestep: int, text: PromptEmbedding) -> Tensor:
        """One forward pass of the UNet: what it predicts, (B, C, h, w)."""
        count = len(noisy)
        times = torch.full((count,), timestep, device=noisy.device)
        more: dict[str, Any] = {}
        if text.pooled is not None:  # of XL, which was told the size of the picture and what was cut off of it
            size = [length * self.latent_scale for length in noisy.shape[2:]]
            sizes = constant((*size, 0, 0, *size), noisy.device, text.pooled.dtype)[None]
            more["added_cond_kwargs"] = {
                "text_embeds": text.pooled.expand(count, -1),
                "time_ids": sizes.expand(count, -1),
            }
        return self.unet(noisy.to(self.unet.dtype), times, text.tokens.expand(count, -1, -1), **more).sample

    def _use_sampler(self, sampler: Sampler, spacing: str | None = None) -> None:
        """Let another sampler draw. What the network predicts and its noise schedule are its folder's."""
        import diffusers

        kind, settings = SAMPLERS[sampler]
        if spacing is not None:
            settings = {**settings, "timestep_spacing": spacing}
        with quiet_libraries():  # each sampler warns of what is another one's
            made = unrounded(getattr(diffusers, kind)).from_config(self._schedule, **settings)
        made.network_dtype = self.unet.dtype
        self.pipeline.scheduler = made

    def _tap(self, kind: AttentionKind, sink: AttentionSink) -> AbstractContextManager[None]:
        """Give `sink` what every layer of a kind sees at every forward pass."""
        blocks = (module for name, module in self.unet.named_modules() if name.rpartition(".")[2] == kind)
        return tapped((block, sink) for block in blocks)

    def _walk(
        self,
        images: Tensor,
        noising: Noising,
        layers: Sequence[str],
        kind: AttentionKind,
        sink: Callable[[str, Tensor, Tensor, int, float], None],
        *,
        sampled: bool = False,
        padded: bool = True,
    ) -> None:
        """Give `sink` each layer and what `AttentionSink` takes, with an empty prompt, up to the last of the layers."""
        blocks = {layer: self._block(layer, kind) for layer in layers}
        missing = set(blocks)

        def seen(layer: str, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
            sink(layer, queries, keys, heads, scale)
            missing.discard(layer)
            if not missing:
                raise _StopWalkError

        noisy, text = self._noised(images, noising, sampled=sampled), self.prompts.empty(padded=padded)
        with tapped((block, partial(seen, layer)) for layer, block in blocks.items()), suppress(_StopWalkError):
            self._denoise(noisy, noising.timestep, text)

    def _block(self, layer: str, kind: AttentionKind) -> Any:
        """The attention block of a layer; of a layer with several transformer blocks, as in XL, the first one's.

        Another one is named in full, as ``up_blocks.0.attentions.1.transformer_blocks.9``.
        """
        try:
            module = self.unet.get_submodule(layer)
            return getattr(module.transformer_blocks[0] if hasattr(module, "transformer_blocks") else module, kind)
        except AttributeError as error:
            raise WeightsError(f"The UNet has no attention block {layer!r}; correct the profile.") from error


class FixedNoise:
    """Standard normal noise of a seed, draw after draw: the same on every device, as it is drawn on the CPU.

    Pictures are noised alike, so a device is given each draw once.

    Args:
        seed: Of all draws.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._drawn: tuple[tuple[int, ...], ...] = ()

    def __call__(self, latents: Tensor) -> Tensor:
        """The next draw, (1, C, h, w) like latents."""
        self._drawn = (*self._drawn, tuple(latents.shape[1:]))
        return _last_draw(self._seed, self._drawn, latents.dtype, latents.device)


@lru_cache(maxsize=16)
def _last_draw(seed: int, shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The last of several draws from a generator."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(mode=False):
        for shape in shapes:
            noise = torch.randn((1, *shape), generator=generator)
        return put(noise.to(dtype), device)


def _one_each(text: str | Sequence[str], seeds: Sequence[int]) -> Sequence[str]:
    """A text for each image."""
    return [text] * len(seeds) if isinstance(text, str) else text
