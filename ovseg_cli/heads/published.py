"""The published CAT-Seg checkpoints, by the names of their keys."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ovseg_cli.errors import WeightsError
from ovseg_cli.heads.catseg import CatSeg
from ovseg_cli.heads.sizes import ClipSizes, CostSizes, HeadSpec

CATSEG_TEMPLATE = "A photo of a {name} in the scene"
"""The one prompt that the published heads were trained with."""

_AGGREGATOR = "sem_seg_head.predictor.transformer."
_CLIP = "sem_seg_head.predictor.clip_model."

_RENAMED = (
    (r"layers\.(\d+)\.swin_block\.(block_\d)\.mlp\.fc1\.", r"cost.layers.\1.\2.mlp.0."),
    (r"layers\.(\d+)\.swin_block\.(block_\d)\.mlp\.fc2\.", r"cost.layers.\1.\2.mlp.2."),
    (r"layers\.(\d+)\.swin_block\.", r"cost.layers.\1."),
    (r"layers\.(\d+)\.attention\.attention\.", r"cost.layers.\1.names."),
    (r"layers\.(\d+)\.attention\.MLP\.", r"cost.layers.\1.names.mlp."),
    (r"layers\.(\d+)\.attention\.padding_tokens", r"cost.layers.\1.names.filling"),
    (r"layers\.(\d+)\.attention\.padding_guidance", r"cost.layers.\1.names.filling_guidance"),
    (r"layers\.(\d+)\.attention\.", r"cost.layers.\1.names."),
    (r"conv1\.", "cost.embedding."),
    (r"guidance_projection\.0\.", "cost.appearance."),
    (r"text_guidance_projection\.0\.", "cost.text."),
    (r"decoder_guidance_projection\.(\d)\.0\.", r"cost.fine.\1."),
    (r"decoder1\.", "cost.decoder.0."),
    (r"decoder2\.", "cost.decoder.1."),
    (r"head\.", "cost.head."),
)
_DOUBLE = {"conv.double_conv.0": "conv_1", "conv.double_conv.1": "norm_1"} | {
    "conv.double_conv.3": "conv_2",
    "conv.double_conv.4": "norm_2",
}


def catseg_key(key: str) -> str | None:
    """Our name of a published parameter of the head; None for one of CLIP's, or for a buffer that is computed here."""
    if key.startswith("upsample"):
        number, _, leaf = key.removeprefix("upsample").partition(".")
        return f"upsample.{int(number) - 1}.{leaf}"
    if not key.startswith(_AGGREGATOR) or key.endswith(".attn_mask"):
        return None
    ours = key.removeprefix(_AGGREGATOR)
    for pattern, name in _RENAMED:
        if re.match(pattern, ours):
            ours = re.sub("^" + pattern, name, ours)
            break
    for theirs, name in _DOUBLE.items():
        ours = ours.replace(theirs, name)
    return ours


def catseg_spec(state: Mapping[str, Tensor]) -> HeadSpec:
    """The sizes of a published checkpoint, read off its shapes.

    Raises:
        WeightsError: It is no checkpoint of CAT-Seg.
    """
    try:
        width, depth = _tower(state, "visual.")
        patch = state[f"{_CLIP}visual.conv1.weight"].shape[-1]
        embed = state[f"{_CLIP}visual.proj"].shape[1]
        hidden, prompts = state[f"{_AGGREGATOR}conv1.weight"].shape[:2]
        layers = len({key.split(".")[4] for key in state if key.startswith(f"{_AGGREGATOR}layers.")})
        guidance = state[f"{_AGGREGATOR}guidance_projection.0.weight"].shape[0]
        fine = [state[f"{_AGGREGATOR}decoder_guidance_projection.{i}.0.weight"].shape for i in (0, 1)]
        decoder = [state[f"{_AGGREGATOR}decoder{i}.conv.double_conv.0.weight"].shape[0] for i in (1, 2)]
    except KeyError as error:
        raise WeightsError(f"This is no checkpoint of CAT-Seg: it has no {error.args[0]}.") from error
    padded = f"{_AGGREGATOR}layers.0.attention.padding_tokens" in state
    return HeadSpec(
        kind="catseg",
        # Always 24 x 24 patches: 384 pixels for a patch of 16, 336 for one of 14.
        clip=ClipSizes(width=width, embed=embed, depth=depth, patch=patch, input_size=24 * patch),
        tuned="both",
        cost=CostSizes(
            hidden=hidden,
            layers=layers,
            guidance=guidance,
            hooks=(fine[0][1], fine[1][1]),
            decoder=(decoder[0], decoder[1]),
            decoder_guidance=(fine[0][0], fine[1][0]),
            pad=256 if padded else 0,
            prompts=prompts,
        ),
    )


def _tower(state: Mapping[str, Tensor], tower: str) -> tuple[int, int]:
    """(width, depth) of one of CLIP's towers."""
    start = f"{_CLIP}{tower}transformer.resblocks."
    depth = len({key.removeprefix(start).split(".")[0] for key in state if key.startswith(start)})
    return state[f"{start}0.attn.q_proj_weight"].shape[0], depth


def catseg_from(state: Mapping[str, Tensor], clip: Mapping[str, Tensor]) -> CatSeg:
    """A head with the parameters of a published checkpoint.

    A checkpoint holds all of CLIP, with separate query, key and value projections of which queries and values were
    trained. What the head keeps is their difference to the CLIP that they were trained from.

    Args:
        state: The checkpoint's ``model``.
        clip: The state of the CLIP that it was trained from, with open_clip's names, which are OpenAI's.

    Raises:
        WeightsError: It is no checkpoint of CAT-Seg, or it was trained from another CLIP.
    """
    spec = catseg_spec(state)
    text_width, text_depth = _tower(state, "")
    head = CatSeg(spec, (text_depth, text_width))
    ours = {name: value for key, value in state.items() if (name := catseg_key(key)) is not None}
    for name in [name for name in ours if name.endswith(("filling", "filling_guidance"))]:
        ours[name] = ours[name].flatten()
    missing = {name for name in head.state_dict() if not name.startswith(("visual.", "text."))} - ours.keys()
    if missing or (strange := ours.keys() - head.state_dict().keys()):
        odd = sorted(missing or strange)[0]
        raise WeightsError(f"This is no checkpoint of CAT-Seg as it was published: {odd} is at odds with it.")
    _check_clip(state, clip)
    for tower, part in (("visual.", "visual"), ("", "text")):
        for block in range(spec.clip.depth if part == "visual" else text_depth):
            base = clip[f"{tower}transformer.resblocks.{block}.attn.in_proj_weight"].float().chunk(3)
            for place, letter in ((0, "q"), (2, "v")):
                key = f"{_CLIP}{tower}transformer.resblocks.{block}.attn.{letter}_proj_weight"
                ours[f"{part}.{letter}.{block}"] = state[key].float() - base[place]
    head.load_state_dict(ours)
    return head.eval()


def _check_clip(state: Mapping[str, Tensor], clip: Mapping[str, Tensor]) -> None:
    """Compare what was not trained.

    Raises:
        WeightsError: It differs.
    """
    for name in ("visual.conv1.weight", "visual.ln_post.weight", "ln_final.weight"):
        theirs, ours = state.get(f"{_CLIP}{name}"), clip.get(name)
        # Published weights went through half precision.
        alike = (
            theirs is not None
            and ours is not None
            and theirs.shape == ours.shape
            and torch.allclose(theirs.float(), ours.float(), rtol=2e-3, atol=2e-3)
        )
        if not alike:
            raise WeightsError(
                f"The checkpoint was trained from another CLIP than this profile's: {name} differs. Take a profile "
                "with OpenAI's ViT-B/16 or ViT-L/14 at 336 pixels."
            )
