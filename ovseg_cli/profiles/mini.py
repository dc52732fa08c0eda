"""The bundled models (`mini/` beside this file): pictograms, on any machine, in seconds."""

from __future__ import annotations

from ovseg_cli.profiles.specs import (
    ClipSpec,
    DenseDefaults,
    DomainSpec,
    ExtractorSpec,
    GeneratorSpec,
    HybridSpec,
    InferenceSpec,
    PrefilterSpec,
    Profile,
    RegionSpec,
    Tuning,
    Weights,
)

_HALF = (0.5, 0.5, 0.5)

_DIFFUSION = Weights(
    part="diffusion",
    revision="sha256:1ede08b343ac28f9",
    bundled="mini/diffusion",
    files=("**",),
    marker="unet/diffusion_pytorch_model.safetensors",
    licence="Apache-2.0 (trained on Noto Color Emoji glyphs, SIL OFL 1.1)",
    nbytes=18_500_000,
)
_CLIP = Weights(
    part="clip",
    revision="sha256:64142ac9b26bfcd0",
    bundled="mini/clip",
    files=("**",),
    marker="open_clip_model.safetensors",
    licence="Apache-2.0 (trained on Noto Color Emoji glyphs, SIL OFL 1.1)",
    nbytes=8_700_000,
)

_DINO = Weights(
    part="dino",
    revision="sha256:102a5997c9b1074a",
    bundled="mini/dino",
    files=("**",),
    marker="model.safetensors",
    licence="Apache-2.0 (trained on Noto Color Emoji glyphs, SIL OFL 1.1)",
    nbytes=3_800_000,
)

_DOMAIN = Weights(
    part="domain",
    revision="sha256:d386939f538f3fc8",
    bundled="mini/domain",
    files=("**",),
    marker="domain.safetensors",
    licence="Apache-2.0",
    nbytes=1_000,
)

_BACKGROUND = ("grass", "sand", "water", "sky", "snow", "brick wall", "wood", "road")

MINI = Profile(
    name="mini",
    summary="Bundled models, seconds on a CPU. They know 44 pictograms and 8 textures, not photographs.",
    generator=GeneratorSpec(
        weights=_DIFFUSION,
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
        merge_divergence=0.4,
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
        weights=_CLIP,
        input_size=64,
        mean=_HALF,
        std=_HALF,
        prompts=("a photo of {article} {name}",),
        background_words=_BACKGROUND,
        best="gem",
        dense=DenseDefaults(
            background_words=_BACKGROUND,
            short_side=192,
            windows=((96, 48), (64, 32), (48, 24)),
            whole_image=True,
            squash=64,
            logit_scale=40.0,
        ),
        streams=3,  # half of the blocks, as published
        gem_temperature=4.0,
        tuned=(  # measured as above
            Tuning(methods=("cliper", "cliper-coarse"), values=(("score_threshold", 0.9), ("threshold", 0.5))),
        ),
    ),
    extractors=(
        ExtractorSpec(
            name="sd",
            kind="unet-query",
            weights=_DIFFUSION,
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
            weights=_CLIP,
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
            weights=_DINO,
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
            weights=_CLIP,
            layers=("-1",),
            dim=192,
            grid=8,
            input_size=64,
            mean=_HALF,
            std=_HALF,
        ),
    ),
    hybrid=HybridSpec(weight=0.65),  # words are as good as prototypes in this world
    proxy="dino",
    domain=DomainSpec(
        weights=_DOMAIN,
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
        margin=0.12,
        background=True,
    ),
)
