"""The profiles that ovseg knows. A new model set is one new `Profile` here."""

from __future__ import annotations

from types import MappingProxyType

from ovseg_cli.errors import UsageError
from ovseg_cli.profiles.specs import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    CliperThresholds,
    ClipSpec,
    DenseDefaults,
    DomainSpec,
    ExtractorSpec,
    GeneratorSpec,
    InferenceSpec,
    PrefilterSpec,
    Profile,
    RegionSpec,
    Sight,
    Weights,
)

_HALF = (0.5, 0.5, 0.5)

# --------------------------------------------------------------------------- mini (bundled)

_MINI_DIFFUSION = Weights(
    part="diffusion",
    revision="sha256:1ede08b343ac28f9",
    bundled="mini/diffusion",
    files=("**",),
    marker="unet/diffusion_pytorch_model.safetensors",
    licence="Apache-2.0 (trained on Noto Color Emoji glyphs, SIL OFL 1.1)",
    nbytes=18_500_000,
)
_MINI_CLIP = Weights(
    part="clip",
    revision="sha256:916147474eefa014",
    bundled="mini/clip",
    files=("**",),
    marker="open_clip_model.safetensors",
    licence="Apache-2.0 (trained on Noto Color Emoji glyphs, SIL OFL 1.1)",
    nbytes=8_700_000,
)

_MINI_DINO = Weights(
    part="dino",
    revision="sha256:17f8b6d8b1bc1f12",
    bundled="mini/dino",
    files=("**",),
    marker="model.safetensors",
    licence="Apache-2.0 (trained on Noto Color Emoji glyphs, SIL OFL 1.1)",
    nbytes=3_800_000,
)

_MINI_DOMAIN = Weights(
    part="domain",
    revision="sha256:806abca53f6fefe0",
    bundled="mini/domain",
    files=("**",),
    marker="domain.safetensors",
    licence="Apache-2.0",
    nbytes=1_000,
)

_MINI_BACKGROUND = ("grass", "sand", "water", "sky", "snow", "brick wall", "wood", "road")

MINI = Profile(
    name="mini",
    summary="Bundled models, 31 MB, seconds on a CPU. They know 44 pictograms and 8 textures, not photographs.",
    generator=GeneratorSpec(
        weights=_MINI_DIFFUSION,
        image_size=64,
        prompt="a good picture of {article} {name}",
        negative_prompt="",
        guidance=4.0,
        steps=16,
        count=16,
        seed=42,
        batch_size=16,
        parts=32,
        mask_method="fixed",  # the maps' objects are a fifth larger than Otsu's strict level has them
        min_attention_grid=16,
        # As of Stable Diffusion's layers, the last one is left out.
        refine_layers=("up_blocks.2.attentions.0",),
        # Measured on rendered pictures that no figure is given for. The published ones are for Stable Diffusion: here
        # CLIPer's maps run from one object into the next with 0.1, and DiffSeg ends with two or three regions at 0.8.
        refine_threshold=0.6,
        cluster_divergence=0.1,
        idle_attention="padding",  # on the finest grid the start token draws less than 0.01 %
        phrase_size=192,  # objects are small in these pictures, and were large in training
    ),
    regions=RegionSpec(
        layers=(
            "down_blocks.1.attentions.0",
            "mid_block.attentions.0",
            "up_blocks.1.attentions.0",
            "up_blocks.1.attentions.1",
            "up_blocks.2.attentions.0",
            "up_blocks.2.attentions.1",
        ),
        anchors=8,
    ),
    clip=ClipSpec(
        weights=_MINI_CLIP,
        input_size=64,
        mean=_HALF,
        std=_HALF,
        prompts=("a photo of {article} {name}",),
        background_words=_MINI_BACKGROUND,
        best="gem",
        dense=DenseDefaults(
            background_words=_MINI_BACKGROUND,
            short_side=192,
            windows=((128, 64), (96, 48), (64, 32), (48, 24)),
            whole_image=True,
            squash=64,
            logit_scale=40.0,
        ),
        streams=2,
        gem_temperature=10.0,
        cliper=CliperThresholds(score=0.9, background=0.5),  # measured as above
    ),
    extractors=(
        ExtractorSpec(
            name="sd",
            kind="unet-query",
            weights=_MINI_DIFFUSION,
            layers=("up_blocks.1.attentions.1", "up_blocks.2.attentions.0", "up_blocks.2.attentions.1"),
            dim=224,
            grid=16,
            input_size=64,
            mean=_HALF,
            std=_HALF,
            timestep=20,
            noise_seed=42,
        ),
        ExtractorSpec(
            name="clip",
            kind="clip-key",
            weights=_MINI_CLIP,
            layers=("-1",),
            dim=192,
            grid=8,
            input_size=64,
            mean=_HALF,
            std=_HALF,
        ),
    ),
    extra_extractors=(
        ExtractorSpec(
            name="dino",
            kind="vit-key",
            weights=_MINI_DINO,
            layers=("-1",),
            dim=192,
            grid=8,
            input_size=64,
            mean=_HALF,
            std=_HALF,
        ),
        ExtractorSpec(
            name="clip-token",
            kind="clip-token",
            weights=_MINI_CLIP,
            layers=("-1",),
            dim=192,
            grid=8,
            input_size=64,
            mean=_HALF,
            std=_HALF,
        ),
    ),
    proxy="dino",
    domain=DomainSpec(
        weights=_MINI_DOMAIN,
        knows="44 pictograms on 8 textures, no photographs",
        instead="For photographs: ovseg pull --profile sd15, then ovseg --profile sd15 --store DIR …",
        block=2,
        short_side=192,
        windows=((128, 64),),
    ),
    inference=InferenceSpec(short_side=192, windows=((128, 64), (96, 48), (64, 32))),
    prefilter=PrefilterSpec(
        input_size=64,
        phrase="{article} {name}",
        prompt="a photo of {name}",
        limit=6,  # more names than that do not fit into the text model's 24 tokens
        crops=(4,),  # in the whole picture objects are smaller than any in training
        # Without these two, three of five classes that stay are not there, as each of the crops keeps at least one.
        margin=0.08,
        background=True,
    ),
)

# --------------------------------------------------------------------------- sd15 (OVDiff's set)

_SD15 = Weights(
    part="diffusion",
    # The original repository is gone from the hub; this is its mirror, at the same commit.
    repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    files=(
        "model_index.json",
        "scheduler/*.json",
        "tokenizer/*",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ),
    marker="unet/diffusion_pytorch_model.fp16.safetensors",
    variant="fp16",
    licence="CreativeML OpenRAIL-M",
    nbytes=2_130_000_000,
)
_CLIP_B16 = Weights(
    part="clip",
    repo="timm/vit_base_patch16_clip_224.openai",
    revision="977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d",
    files=(
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer*.json",
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
    ),
    marker="open_clip_model.safetensors",
    licence="MIT (OpenAI CLIP)",
    nbytes=600_000_000,
)
_DINO_B8 = Weights(
    part="dino",
    repo="facebook/dino-vitb8",
    revision="6bd5b7757e4224b035fe579f31fb816985e18e35",
    files=("config.json", "model.safetensors", "preprocessor_config.json"),
    marker="model.safetensors",
    licence="Apache-2.0",
    nbytes=343_000_000,
)
_DINOV2_B14 = Weights(
    part="dinov2",
    repo="facebook/dinov2-base",
    revision="f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    files=("config.json", "model.safetensors", "preprocessor_config.json"),
    marker="model.safetensors",
    licence="Apache-2.0",
    nbytes=346_000_000,
)
_MAE_L16 = Weights(
    part="mae",
    # The paper's size. Its own weights were trained at 448 pixels and are not on the hub; these at 224.
    repo="facebook/vit-mae-large",
    revision="142cb8c25e1b1bc1769997a919aa1b5a2345a6b8",
    # There is no safetensors file. A pickle is read with torch's unpickler for tensors alone, which runs no code.
    files=("config.json", "pytorch_model.bin", "preprocessor_config.json"),
    marker="pytorch_model.bin",
    licence="Apache-2.0",
    nbytes=1_318_000_000,
)
_SAM_B = Weights(
    part="sam",
    repo="facebook/sam-vit-base",
    revision="70c1a07f894ebb5b307fd9eaaee97b9dfc16068f",
    files=("config.json", "model.safetensors", "preprocessor_config.json"),
    marker="model.safetensors",
    licence="Apache-2.0",
    nbytes=375_000_000,
)

SD15 = Profile(
    name="sd15",
    summary="OVDiff's set: Stable Diffusion 1.5, CLIP ViT-B/16 and DINO ViT-B/8. For photographs; wants a GPU.",
    generator=GeneratorSpec(
        weights=_SD15,
        image_size=512,
        prompt="A good picture of a {name}",
        negative_prompt="text, low quality, blurry, cartoon, meme, low resolution, bad, poor, faded",
        guidance=8.0,
        steps=30,
        count=32,
        seed=42,
        batch_size=8,
        parts=32,
    ),
    regions=RegionSpec(
        # Every self-attention layer, as DiffSeg has it, on grids of 64, 32, 16 and 8.
        layers=(
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
        ),
        anchors=16,
        sam=_SAM_B,
    ),
    clip=ClipSpec(
        weights=_CLIP_B16,
        input_size=448,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        quick_gelu=True,
        best="proxyclip",
    ),
    extractors=(
        ExtractorSpec(
            name="sd",
            kind="unet-query",
            weights=_SD15,
            # Indices 0, 6:13 and 15 of the published list (down, mid, up), by module path: 7680 channels.
            layers=(
                "down_blocks.0.attentions.0",
                "mid_block.attentions.0",
                "up_blocks.1.attentions.0",
                "up_blocks.1.attentions.1",
                "up_blocks.1.attentions.2",
                "up_blocks.2.attentions.0",
                "up_blocks.2.attentions.1",
                "up_blocks.2.attentions.2",
                "up_blocks.3.attentions.2",
            ),
            dim=7680,
            grid=64,
            input_size=512,
            mean=_HALF,
            std=_HALF,
            timestep=200,
            noise_seed=43,
        ),
        ExtractorSpec(
            name="clip",
            kind="clip-key",
            weights=_CLIP_B16,
            layers=("-2",),
            dim=768,
            grid=28,
            input_size=448,
            # The published code feeds CLIP with ImageNet's normalisation here; its numbers were made so.
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        ExtractorSpec(
            name="dino",
            kind="vit-key",
            weights=_DINO_B8,
            layers=("-1",),
            dim=768,
            grid=56,
            input_size=448,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
    ),
    extra_extractors=(
        ExtractorSpec(
            name="clip-token",
            kind="clip-token",
            weights=_CLIP_B16,
            layers=("-2",),
            dim=768,
            grid=28,
            input_size=448,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        ExtractorSpec(
            name="dinov2",
            kind="vit-key",
            weights=_DINOV2_B14,
            layers=("-1",),
            dim=768,
            grid=32,
            input_size=448,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        ExtractorSpec(
            name="mae",
            kind="vit-key",
            weights=_MAE_L16,
            layers=("-1",),
            dim=1024,
            grid=28,
            input_size=448,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
    ),
    inference=InferenceSpec(
        short_side=448,
        resample="lanczos",
        cut=True,
        windows=((448, 224), (336, 224)),
        sight=Sight(resample="bilinear", unsquashed=("dino",), positions="bicubic-tenth"),
    ),
    proxy="dino",
    # The published filter: the whole picture, "a X and a Y" whatever the first letter, the ten best classes.
    prefilter=PrefilterSpec(input_size=224, phrase="a {name}"),
)

PROFILES = MappingProxyType({p.name: p for p in (MINI, SD15)})
"""Every profile by name, in the order in which they are listed."""


def get_profile(name: str) -> Profile:
    """The profile of this name.

    Raises:
        UsageError: No such profile; the message lists the names.
    """
    try:
        return PROFILES[name]
    except KeyError:
        known = ", ".join(PROFILES)
        raise UsageError(f"Unknown profile {name!r}. Known profiles: {known} (see `ovseg profiles`).") from None
