"""CAT-Seg against its published code, from a checkpoint of its layout to probabilities of pixels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.heads.catseg import CatSeg
from ovseg_cli.heads.published import catseg_from
from ovseg_cli.heads.tiles import PUBLISHED_TILES, cut, fuse
from ovseg_cli.heads.towers import read
from ovseg_cli.profiles.specs import CLIP_MEAN, CLIP_STD
from tests.parity.catseg import CASES, CONTEXT, VOCABULARY, Case, photograph, tokens
from tests.parity.inputs import difference, golden, noise, parameter, sample

AGREE = 1e-4
"""Largest difference, as a share of the range of the values."""

SIZES = ["narrow", *(pytest.param(size, marks=pytest.mark.parity) for size in ("b16", "l14"))]


def clip_of(case: Case) -> ClipBackbone:
    """open_clip's CLIP with the made-up weights, and other queries and values than the checkpoint's."""
    import open_clip

    tower, (text_width, text_layers) = case.tower, case.text
    vision = {
        "image_size": case.trained_for,
        "layers": tower.layers,
        "width": tower.width,
        "head_width": 64,
        "patch_size": tower.patch,
    }
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": text_width, "heads": text_width // 64}
    with torch.device("meta"):
        model = open_clip.CLIP(tower.embed, vision, {**text, "layers": text_layers}, quick_gelu=True)
    model = model.to_empty(device="cpu")
    model.attn_mask = torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("in_proj_weight"):
                start, shape = name.removesuffix("in_proj_weight"), (tensor.shape[1], tensor.shape[1])
                key = torch.from_numpy(parameter(f"clip.{start}k_proj_weight", shape))
                others = [torch.from_numpy(noise(f"{start}{letter}", shape)) * 0.05 for letter in "qv"]
                tensor.copy_(torch.cat([others[0], key, others[1]]))
            else:
                tensor.copy_(torch.as_tensor(parameter(f"clip.{name}", tuple(tensor.shape))))
    return ClipBackbone(model, lambda *_texts: torch.zeros(0), "cpu")


def checkpoint(case: Case, clip: ClipBackbone) -> dict[str, torch.Tensor]:
    """A state dict as the published code saves it, with the weights of the golden numbers."""
    state = {}
    for name, tensor in clip.model.state_dict().items():
        start = name.removesuffix("in_proj_weight")
        if start == name:
            state[f"sem_seg_head.predictor.clip_model.{name}"] = tensor
            continue
        for letter in "qkv":
            value = parameter(f"clip.{start}{letter}_proj_weight", (tensor.shape[1], tensor.shape[1]))
            state[f"sem_seg_head.predictor.clip_model.{start}{letter}_proj_weight"] = torch.from_numpy(value)
    for name, shape in published_shapes(case).items():
        made = torch.from_numpy(parameter(name, shape))
        key = (
            name if name.startswith("upsample") else name.replace("aggregator.", "sem_seg_head.predictor.transformer.")
        )
        state[key] = made
    state["sem_seg_head.predictor.transformer.layers.0.swin_block.block_2.attn_mask"] = torch.zeros(4, 144, 144)
    return state


def published_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the published head's parameters (`golden/catseg-keys.txt` has them at B/16)."""
    c, g, e = case.hidden, case.guidance, case.tower.embed
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def conv(name: str, inputs: int, outputs: int, side: int, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, side, side)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    for layer in range(2):
        start = f"aggregator.layers.{layer}"
        for block in ("block_1", "block_2"):
            at = f"{start}.swin_block.{block}"
            for letter, inputs in (("q", c + g), ("k", c + g), ("v", c), ("proj", c)):
                linear(f"{at}.attn.{letter}", inputs, c)
            norm(f"{at}.norm1", c)
            norm(f"{at}.norm2", c)
            linear(f"{at}.mlp.fc1", c, 4 * c)
            linear(f"{at}.mlp.fc2", 4 * c, c)
        norm(f"{start}.swin_block.guidance_norm", g)
        at = f"{start}.attention"
        shapes[f"{at}.padding_tokens"], shapes[f"{at}.padding_guidance"] = (1, 1, c), (1, 1, g)
        for letter, inputs in (("q", c + g), ("k", c + g), ("v", c)):
            linear(f"{at}.attention.{letter}", inputs, c)
        linear(f"{at}.MLP.0", c, 4 * c)
        linear(f"{at}.MLP.2", 4 * c, c)
        norm(f"{at}.norm1", c)
        norm(f"{at}.norm2", c)
    conv("aggregator.conv1", 1, c, 7)
    conv("aggregator.guidance_projection.0", e, g, 3)
    linear("aggregator.text_guidance_projection.0", e, g)
    widths = (c, *case.decoder)
    for step in (0, 1):
        own = case.decoder_guidance[step]
        conv(f"aggregator.decoder_guidance_projection.{step}.0", case.hooks[step], own, 3)
        at = f"aggregator.decoder{step + 1}"
        shapes[f"{at}.up.weight"], shapes[f"{at}.up.bias"] = (
            (widths[step], widths[step] - own, 2, 2),
            (widths[step] - own,),
        )
        conv(f"{at}.conv.double_conv.0", widths[step], widths[step + 1], 3, bias=False)
        norm(f"{at}.conv.double_conv.1", widths[step + 1])
        conv(f"{at}.conv.double_conv.3", widths[step + 1], widths[step + 1], 3, bias=False)
        norm(f"{at}.conv.double_conv.4", widths[step + 1])
        side = (2, 4)[step]
        shapes[f"upsample{step + 1}.weight"] = (case.tower.width, case.hooks[step], side, side)
        shapes[f"upsample{step + 1}.bias"] = (case.hooks[step],)
    conv("aggregator.head", case.decoder[1], 1, 3)
    return shapes


def loaded(case: Case) -> tuple[ClipBackbone, CatSeg, torch.Tensor]:
    """CLIP, the head of a checkpoint, and the texts (1, T, 1, E) as the head reads them."""
    clip = clip_of(case)
    head = catseg_from(checkpoint(case, clip), clip.model.state_dict())
    with torch.inference_mode():
        texts = F.normalize(read(clip, tokens(case), head.text), dim=-1)
    return clip, head, texts[None, :, None]


def resized(side: int) -> torch.Tensor:
    """The picture squashed to a square, float32 (1, 3, side, side) in 0..1."""
    return F.interpolate(photograph()[None] / 255, (side, side), mode="bilinear", align_corners=False)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)


def square(side: int) -> torch.Tensor:
    """The picture squashed twice, as the published data loader and model do, and normalised."""
    return normalised(F.interpolate(resized(384), (side, side), mode="bilinear", align_corners=False))


@pytest.mark.slow
@pytest.mark.parametrize("which", SIZES)
def test_the_whole_network(which, tell):
    """Logits with and without pooling, and the probabilities of the published sliding windows."""
    case, theirs = CASES[which], golden(f"catseg-{which}")
    clip, head, texts = loaded(case)
    assert head.spec.clip == case.sizes
    with torch.inference_mode():
        features = head.features(clip, square(case.sizes.input_size))
        found = difference(sample(f"catseg/{which}", head.compare(features, texts), 4000), theirs["logits_pool1"])
        tell("logits", found)
        assert found < AGREE
        head.train()
        found = difference(sample(f"catseg/{which}", head.compare(features, texts), 4000), theirs["logits_pool2"])
        tell("logits with pooling", found)
        assert found < AGREE
        head.eval()
        pieces = cut(resized(640), PUBLISHED_TILES, resized(384))[0]
        pixels = normalised(F.interpolate(pieces, (case.sizes.input_size,) * 2, mode="bilinear", align_corners=False))
        maps = torch.cat([head.compare(head.features(clip, one), texts) for one in pixels.split(1)])
        maps = F.interpolate(fuse(maps[None], PUBLISHED_TILES), (300, 420), mode="bilinear", align_corners=False)[0]
        found = difference(sample(f"catseg/{which}/sliding", maps, 4000), theirs["sliding"])
        tell("probabilities of sliding windows", found)
        assert found < AGREE


@pytest.mark.slow
def test_more_names_than_are_looked_at():
    """Of 270 names the 256 of the highest cosine get logits, and the others -100, as published."""
    case, theirs = CASES["many"], golden("catseg-many")
    clip, head, texts = loaded(case)
    with torch.inference_mode():
        logits = head.compare(head.features(clip, square(case.sizes.input_size)), texts)
    assert (logits == -100).all(dim=(2, 3)).sum() == 14
    assert difference(sample("catseg/many", logits, 4000), theirs["logits_pool1"]) < AGREE
