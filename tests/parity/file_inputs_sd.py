"""What both sides of `test_labels_sd.py` are fed with: photographs as files, lists of classes, and networks.

Weights of pure noise find all texts and all patches alike, and give attention that is the same everywhere: label maps
would be decided by rounding. These follow from their names too, but are shaped, see `clip_values` and `sd_parts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ovseg_cli.random_models import SD15_UNET, clip_tokenizer
from tests.parity.file_inputs import photographs
from tests.parity.inputs import Floats, fill, golden, noise, parameter

# --------------------------------------------------------------------------- photographs and classes


def write_photograph(name: str, path: Path) -> Path:
    """A photograph as a PNG file, whatever the suffix."""
    Image.fromarray(photographs()[name]).save(path, format="PNG")
    return path


FIVE = ("table", "cat", "cow", "bicycle", "mouse")
"""Those of sixty that these weights see most of in the photographs."""

SIXTY = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building"),
    *("bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog"),
    *("door", "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike"),
    *("mountain", "mouse", "person", "plate", "platform", "potted plant", "road", "rock", "sheep", "shelves"),
    *("sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tv monitor", "wall"),
    *("water", "window", "wood", "umbrella"),
)

SEGMENTER_CLASSES = ("boat", "train")
"""Classes that DiffSegmenter's script knows by these names, each of one token."""

SEGMENTER_PLACES = {"boat": 3, "train": 18}
"""Their places among its twenty."""

TWENTY = (*FIVE, *[name for name in SIXTY if name not in FIVE][:15])

# --------------------------------------------------------------------------- CLIP

ClipSize = Literal["b16", "l14"]

CLIP_SIZES: dict[ClipSize, dict[str, Any]] = {
    "b16": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    },
    "l14": {
        "embed_dim": 768,
        "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
    },
}

RANK = 20
"""Numbers of the space of pictures and texts in which they differ; the others are small. Of fewer numbers, cosines are
larger."""


def clip_values(name: str, shape: tuple[int, ...]) -> Floats:
    """One parameter of a CLIP whose patches differ by their colours, and whose texts differ by their words."""
    leaf = name.rpartition(".")[2]
    if name == "visual.conv1.weight":
        return _smooth_filters(name, shape)
    values = parameter(name, shape)
    if name in ("visual.proj", "text_projection"):
        values[:, RANK:] *= np.float32(0.05)
    if leaf.endswith("bias"):
        values *= np.float32(0.2)
    visual = name.startswith("visual.")
    if leaf == "positional_embedding":
        values *= np.float32(0.1 if visual else 0.3)
    if visual and leaf == "in_proj_weight":
        third = len(values) // 3
        values[third : 2 * third] = 0.8 * values[:third] + 0.6 * values[third : 2 * third]  # keys are like queries
    if not visual and (leaf == "in_proj_weight" or name.endswith("out_proj.weight")):
        values *= np.float32(2)
    if name == "token_embedding.weight":
        values *= np.float32(2)
    return values


def _smooth_filters(name: str, shape: tuple[int, ...]) -> Floats:
    """Filters of patches that see colours, and their slopes a little."""
    places = (np.arange(shape[-1]) + 0.5) / shape[-1] * np.pi
    waves = np.stack([np.cos(k * places) for k in range(2)])
    strength = np.array([[1, 0.2], [0.2, 0.1]])
    coefficients = noise(name, (*shape[:2], 2, 2)) * strength
    return (np.einsum("ocij,ih,jw->ochw", coefficients, waves, waves) / shape[-1] ** 2).astype(np.float32)


@torch.no_grad()
def fill_clip(model: nn.Module, size: ClipSize, *, centred: bool = True) -> None:
    """Fill a CLIP, by the names that its parameters have in OpenAI's code and open_clip's.

    Args:
        model: The whole model.
        size: Which.
        centred: Whether what all patches have in common, and all texts, is taken out of the projections; these
            directions are in golden/labels-directions-*.npz, since they need a walk through the network.
    """
    for name, tensor in model.named_parameters():
        tensor.copy_(torch.from_numpy(np.asarray(clip_values(name, tuple(tensor.shape)))))
    model.eval().requires_grad_(False)
    if centred:
        directions = golden(f"labels-directions-{size}")
        for name, projection in (("patches", model.visual.proj), ("texts", model.text_projection)):
            common = torch.from_numpy(directions[name].astype(np.float32))
            projection.sub_(common.T @ (common @ projection))


def open_clip_model(size: ClipSize, *, centred: bool = True) -> Any:
    """open_clip's CLIP with these weights."""
    import open_clip

    model = open_clip.CLIP(**CLIP_SIZES[size], quick_gelu=True)
    fill_clip(model, size, centred=centred)
    return model


# --------------------------------------------------------------------------- Stable Diffusion

SdVersion = Literal["1.5", "2.1"]


def sd_parts(version: SdVersion) -> dict[str, Any]:
    """Stable Diffusion with the UNet in its true size; the VAE and the text encoder are narrow.

    In self-attention, keys are like queries and both sharper, so that a token looks at what is like itself; in
    cross-attention queries are sharper. The VAE's latents are ten times as large, or the noise would drown them.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet_config = dict(SD15_UNET)
    context = 768
    if version == "2.1":
        context = 1024
        unet_config |= {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
        unet_config["cross_attention_dim"] = context
    with torch.device("meta"):  # every parameter is filled below
        unet = UNet2DConditionModel.from_config(unet_config)
    unet = unet.to_empty(device="cpu")
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=context,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=2,
        )
    )
    fill(unet, "unet.")
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith("attn1"):
                module.to_q.weight.mul_(2.7)
                module.to_k.weight.copy_(module.to_q.weight)
            if name.endswith("attn2"):
                module.to_q.weight.mul_(2)
        fill(vae, "vae.")
        vae.quant_conv.weight.mul_(10)
        vae.quant_conv.weight[4:] = 0  # without a spread, so that a sample is the mean
        vae.quant_conv.bias[4:] = -30
        fill(getattr(text, "text_model", text), "text.")
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": clip_tokenizer(), "scheduler": scheduler}


def sd_pipeline(version: SdVersion) -> Any:
    """A diffusers pipeline of these parts."""
    from diffusers import StableDiffusionPipeline

    from ovseg_cli.backbones.quiet import quiet_libraries

    with quiet_libraries():
        return StableDiffusionPipeline(
            **sd_parts(version), safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )


# --------------------------------------------------------------------------- directions


@torch.inference_mode()
def common_directions(size: ClipSize, count: int = 12) -> dict[str, Floats]:
    """What is in common to all patches of a photograph, and to all texts, before they are projected."""
    from open_clip import get_tokenizer

    from ovseg_cli.backbones.clip import ClipBackbone
    from ovseg_cli.backbones.pixels import to_tensor
    from ovseg_cli.methods import cliper, gem
    from ovseg_cli.profiles.prompts import prompt_templates
    from tests.parity.clip_family import CLIP_NORM

    model = open_clip_model(size, centred=False)
    clip = ClipBackbone(model, get_tokenizer("ViT-B-16-quickgelu"), "cpu")
    means: list[Tensor] = []
    for image in photographs().values():
        shown = 28 * clip.patch if size == "b16" else 24 * clip.patch
        trace = clip.trace(
            to_tensor(image),
            blocks=range(clip.depth),
            input_size=shown,
            positions="bilinear",
            attention=True,
            **CLIP_NORM,
        )
        blocks = [trace.blocks[i] for i in range(clip.depth)]
        streams = [*cliper.fuse_early_layers(blocks, trace.attention).tokens, gem.gem_tokens(blocks[-6:])]
        means += [model.visual.ln_post(tokens)[0, 1:].mean(dim=0) for tokens in (*streams, blocks[-1].outputs)]
    kept: list[Tensor] = []
    model.ln_final.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    ends = []
    for template in prompt_templates("car"):
        tokens = clip.tokenizer([template.replace("{name}", name) for name in SIXTY[::5]])
        model.encode_text(tokens)
        ends.append(kept.pop()[torch.arange(len(tokens)), tokens.argmax(dim=1)].mean(dim=0))
    found = {}
    for name, vectors, some in (("patches", means, count), ("texts", ends, count // 2)):
        _, _, directions = torch.linalg.svd(torch.stack(vectors), full_matrices=False)
        found[name] = directions[:some].numpy()
    return found
