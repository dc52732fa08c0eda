from __future__ import annotations

import math
import unicodedata
from contextlib import contextmanager

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from ovseg_cli.backbones.diffusion import (
    DiffusionBackbone,
    PhrasedPrompt,
    RunningAttribution,
    RunningCrossAttention,
    RunningSelfAttention,
    attention_probabilities,
    mean_self_attention,
    phrase_token_positions,
)
from ovseg_cli.errors import UsageError, WeightsError
from tests.mini import MINI_FOLDER, mini_models, random_pictures

HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
DONUT = "chocolate glazed donut"
UP = ("up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "up_blocks.2.attentions.0", "up_blocks.2.attentions.1")


@pytest.fixture(scope="module")
def backbone():
    return mini_models().generator


@pytest.fixture(autouse=True)
def no_hook_is_left(backbone):
    before = count_hooks(backbone)
    yield
    assert count_hooks(backbone) == before


def count_hooks(backbone):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.unet.modules())


def generate(backbone, seeds, *, name="cat", steps=2, guidance=4.0, **changes):
    settings = {
        "image_size": 64,
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": "",
        "min_attention_grid": 8,
        **changes,
    }
    return backbone.generate(f"a good picture of a {name}", name, seeds, **settings)


def queries(backbone, pictures, **changes):
    settings = {"layers": UP, "timestep": 50, "noise_seed": 42, "input_size": 64, **HALF, **changes}
    return backbone.queries(pictures, **settings)


def attribution(backbone, pictures, name="cat", **changes):
    settings = {"timesteps": (100, 400), "noise_seed": 3, "input_size": 64, "min_attention_grid": 8, **HALF, **changes}
    return backbone.attribution(pictures, f"a good picture of a {name}", name, **settings)


def self_attention(backbone, pictures, **changes):
    settings = {"layers": UP, "timestep": 100, "noise_seed": 3, "input_size": 64, **HALF, **changes}
    return backbone.self_attention(pictures, **settings)


# --------------------------------------------------------------------------- which tokens


def tokens_of(backbone, prompt, phrase):
    tokenizer = backbone.pipeline.tokenizer
    ids = tokenizer(prompt).input_ids
    positions = phrase_token_positions(tokenizer, prompt, phrase)
    return positions, tokenizer.decode([ids[i] for i in positions])


@pytest.mark.parametrize(
    ("prompt", "phrase", "decoded"),
    [
        ("a good picture of a cat", "cat", "cat"),
        (f"a photo of a {DONUT} on grass", DONUT, DONUT),
        ("a good picture of a CAT", "CAT", "cat"),
        ("A Good Picture of a Cat", "cat", "cat"),
        ("a photo of a photo", "photo", "photo"),
        ("a cat", "a", "a"),
        ("a good picture of a zyxwv", "zyxwv", "zyxwv"),  # splits into several tokens
        ("a good picture of a crème brûlée", "crème brûlée", "crème brûlée"),
        ("a good picture of a 猫", "猫", "猫"),
        ("猫 and a dog", "dog", "dog"),
        ("a picture of a hot-dog, on a plate", "hot-dog", "hot - dog"),
        ("a picture of a cat's eye", "cat's eye", "cat's eye"),
        ("a  big   cat", "big   cat", "big cat"),
    ],
)
def test_the_phrases_tokens_are_found(backbone, prompt, phrase, decoded):
    _, text = tokens_of(backbone, prompt, phrase)
    assert text.replace(" ", "") == decoded.replace(" ", "")


def test_positions_are_those_of_the_whole_words_counted_by_hand(backbone):
    # <start> a photo of a chocolate glazed donut <end>
    assert phrase_token_positions(backbone.pipeline.tokenizer, f"a photo of a {DONUT}", DONUT) == [5, 6, 7]


def test_of_a_repeated_word_the_last_one_counts(backbone):
    positions, _ = tokens_of(backbone, "a cat and a cat", "cat")
    assert positions == [5]


def test_a_word_that_only_contains_the_phrase_is_not_taken_for_it(backbone):
    positions, text = tokens_of(backbone, "a cat in a scattered field", "cat")
    assert (positions, text) == ([2], "cat")


def test_letters_that_grow_when_lowered_do_not_shift_the_phrase(backbone):
    _, text = tokens_of(backbone, "İİİ cat sky", "cat")
    assert text == "cat"


def test_a_name_written_with_combining_marks_is_found(backbone):
    name = unicodedata.normalize("NFD", "café")
    _, text = tokens_of(backbone, f"a good picture of a {name}", name)
    assert text == "café"


def test_positions_agree_with_the_padded_prompt_that_the_pipeline_encodes(backbone):
    tokenizer = backbone.pipeline.tokenizer
    positions = phrase_token_positions(tokenizer, "a photo of a cat on sand", "cat")
    padded = tokenizer("a photo of a cat on sand", padding="max_length", truncation=True).input_ids
    assert [padded[i] for i in positions] == tokenizer("cat", add_special_tokens=False).input_ids


@pytest.mark.parametrize("prompt", ["word " * 40 + "cat", "a b c d e f g h i j k l m n o p q r s t zyxwv cat"])
def test_a_phrase_that_the_tokenizer_cuts_off_is_refused(backbone, prompt):
    with pytest.raises(UsageError, match="24 tokens"):
        phrase_token_positions(backbone.pipeline.tokenizer, prompt, "zyxwv cat" if "zyxwv" in prompt else "cat")


def test_a_long_tail_after_the_phrase_does_no_harm(backbone):
    positions, text = tokens_of(backbone, "a cat " + "x " * 40, "cat")
    assert (positions, text) == ([2], "cat")


def test_a_prompt_without_the_phrase_is_refused(backbone):
    with pytest.raises(UsageError, match="does not contain"):
        phrase_token_positions(backbone.pipeline.tokenizer, "a photo of a dog", "cat")


# --------------------------------------------------------------------------- attention


def test_probabilities_equal_a_loop_over_heads_and_rows():
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, n, 6, generator=random) for n in (9, 5))
    ours = attention_probabilities(q, k, heads=3, scale=0.7)
    assert ours.shape == (2, 3, 9, 5)
    for b in range(2):
        for h in range(3):
            for n in range(9):
                logits = torch.stack(
                    [0.7 * (q[b, n, 2 * h : 2 * h + 2] * k[b, t, 2 * h : 2 * h + 2]).sum() for t in range(5)]
                )
                weights = logits.exp()
                torch.testing.assert_close(ours[b, h, n], weights / weights.sum())


def test_probabilities_of_half_precision_are_computed_in_single():
    q = torch.full((1, 4, 8), 3.0, dtype=torch.float16)
    assert attention_probabilities(q, q, heads=2, scale=0.5).dtype == torch.float32


def test_running_mean_without_any_layer_says_why():
    attribution = RunningAttribution(1, 16, [1], min_grid=8)
    attribution.add(torch.zeros(1, 16, 4), torch.zeros(1, 3, 4), 1, 1.0)  # 4 x 4: too coarse
    with pytest.raises(RuntimeError, match="at least 8"):
        attribution.mean()


class RecordingProcessor:
    """Attention written out with an explicit softmax, in diffusers' processor interface; keeps the probabilities."""

    def __init__(self, name, log):
        self.name = name
        self.log = log

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(context))
        value = attn.head_to_batch_dim(attn.to_v(context))
        logits = torch.einsum("bnd,btd->bnt", query, key) * attn.scale
        logits = logits - logits.amax(dim=-1, keepdim=True)
        probabilities = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
        if self.log is not None:
            self.log.append((self.name, attn.heads, probabilities.detach().clone()))
        output = attn.batch_to_head_dim(probabilities @ value)
        return attn.to_out[1](attn.to_out[0](output))


@contextmanager
def recording(backbone, kind):
    """(layer, heads, probabilities (B * heads, N, T)) of every attention call of one kind, in order."""
    log = []
    before = backbone.unet.attn_processors
    backbone.unet.set_attn_processor({n: RecordingProcessor(n, log if f".{kind}." in n else None) for n in before})
    try:
        yield log
    finally:
        backbone.unet.set_attn_processor(before)


@pytest.fixture
def recorded(backbone):
    with recording(backbone, "attn2") as log:
        yield log


def brute_force_attribution(log, batch, guided, positions, grid, min_grid):
    """Mean over steps, layers, heads and tokens of the enlarged, clamped maps; one map at a time."""
    total, per_image = torch.zeros(batch, grid, grid, dtype=torch.float64), 0
    for _, heads, probabilities in log:
        side = round(probabilities.shape[1] ** 0.5)
        if side < min_grid:
            continue
        probabilities = probabilities.view(-1, heads, side, side, probabilities.shape[-1])
        assert len(probabilities) == (2 * batch if guided else batch)
        for image in range(batch):
            mine = probabilities[batch + image if guided else image]  # the unconditional half comes first
            for head in range(heads):
                for token in positions:
                    one = mine[head, :, :, token][None, None]
                    if side != grid:
                        one = F.interpolate(one, (grid, grid), mode="bicubic", align_corners=False)
                    total[image] += one[0, 0].clamp(min=0).double() / (heads * len(positions))
        per_image += 1
    return total / per_image


@pytest.mark.parametrize(
    ("name", "guidance", "steps", "min_grid"), [("cat", 4.0, 3, 8), (DONUT, 4.0, 2, 8), ("dog", 1.0, 2, 1)]
)
def test_attribution_equals_brute_force_from_recorded_probabilities(
    backbone, recorded, name, guidance, steps, min_grid
):
    seeds = [7, 8]
    generated = generate(
        backbone, seeds, name=name, steps=steps, guidance=guidance, min_attention_grid=min_grid, negative_prompt="dog"
    )
    layers = {layer for layer, _, _ in recorded}
    assert layers == {n for n in backbone.unet.attn_processors if ".attn2." in n}
    assert len(recorded) == len(layers) * steps
    positions = phrase_token_positions(backbone.pipeline.tokenizer, f"a good picture of a {name}", name)
    expected = brute_force_attribution(recorded, len(seeds), guidance > 1, positions, 16, min_grid)
    assert generated.attribution.shape == (2, 16, 16)
    torch.testing.assert_close(generated.attribution.double(), expected, atol=1e-6, rtol=1e-4)
    # The test would mean little if the maps were flat, or the two images the same.
    assert expected.std() > 1e-3
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def plain_passes(backbone, pictures, prompt, timesteps, noise_seed):
    """Forward passes of pictures that diffusers' own scheduler noises, from the VAE's mean."""
    pipeline = backbone.pipeline
    random = torch.Generator().manual_seed(noise_seed)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    with torch.inference_mode():
        latents = pipeline.vae.encode(pictures * 2 - 1).latent_dist.mode() * pipeline.vae.config.scaling_factor
        ids = pipeline.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
        text = pipeline.text_encoder(ids)[0].expand(len(pictures), -1, -1)
        for timestep in timesteps:
            noise = torch.randn((1, *latents.shape[1:]), generator=random).expand_as(latents)
            noisy = scheduler.add_noise(latents, noise, torch.tensor([timestep] * len(pictures)))
            pipeline.unet(noisy, timestep, encoder_hidden_states=text)


@pytest.mark.parametrize("name", ["cat", DONUT])
def test_attribution_of_given_pictures_equals_brute_force_on_plain_forward_passes(backbone, name):
    pictures, timesteps = random_pictures(2, 64, 64), (50, 200, 900)
    found = attribution(backbone, pictures, name, timesteps=timesteps, noise_seed=5)
    with recording(backbone, "attn2") as log:
        plain_passes(backbone, pictures, f"a good picture of a {name}", timesteps, 5)
    positions = phrase_token_positions(backbone.pipeline.tokenizer, f"a good picture of a {name}", name)
    expected = brute_force_attribution(log, 2, False, positions, 16, 8)
    assert found.shape == (2, 16, 16)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-3)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def test_a_picture_has_the_same_attribution_alone_and_in_a_batch_whatever_the_global_seed(backbone):
    pictures = random_pictures(3, 40, 90)
    together = attribution(backbone, pictures)
    torch.manual_seed(1)
    for i in range(3):
        torch.testing.assert_close(attribution(backbone, pictures[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-3)
    assert not torch.allclose(attribution(backbone, pictures, noise_seed=4), together, atol=1e-4)


def test_attribution_of_a_name_that_the_prompt_cuts_off_is_refused(backbone):
    with pytest.raises(UsageError, match="24 tokens"):
        attribution(backbone, random_pictures(1, 64, 64), "word " * 30)


# --------------------------------------------------------------------------- self-attention


def test_the_mean_over_heads_is_made_head_by_head(monkeypatch):
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 9, 12, generator=random) for _ in range(2))
    expected = attention_probabilities(q, k, heads=3, scale=0.7).mean(dim=1)
    asked = []

    def spy(queries, keys, heads, scale):
        asked.append(heads)
        return attention_probabilities(queries, keys, heads, scale)

    monkeypatch.setattr("ovseg_cli.backbones.diffusion.attention_probabilities", spy)
    torch.testing.assert_close(mean_self_attention(q, k, 3, 0.7), expected)
    assert asked == [1, 1, 1]


def brute_force_fusion(layers):
    """Row by row: enlarge what the cell around the token attends to, weighted by the side of the layer's grid."""
    finest = max(math.isqrt(attention.shape[1]) for attention in layers)
    total = sum(math.isqrt(attention.shape[1]) for attention in layers)
    fused = torch.zeros(len(layers[0]), finest**2, finest**2, dtype=torch.float64)
    for attention in layers:
        side = math.isqrt(attention.shape[1])
        for image in range(len(fused)):
            for y in range(finest):
                for x in range(finest):
                    row = attention[image, (y * side // finest) * side + x * side // finest].view(1, 1, side, side)
                    large = F.interpolate(row.double(), (finest, finest), mode="bilinear").flatten()
                    fused[image, y * finest + x] += large / large.sum() * side / total
    return fused


@pytest.mark.parametrize("sides", [(4,), (2, 4), (4, 2, 4, 2, 1), (3, 5)])
def test_fusion_equals_a_loop_over_tokens(sides):
    random = torch.Generator().manual_seed(1)
    running, layers = RunningSelfAttention(), []
    for side in sides:
        q, k = (torch.randn(2, side * side, 6, generator=random) for _ in range(2))
        running.add(q, k, 2, 1.0)
        layers.append(attention_probabilities(q, k, 2, 1.0).mean(dim=1))
    fused = running.mean()
    torch.testing.assert_close(fused.double(), brute_force_fusion(layers), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fused.sum(dim=-1), torch.ones(fused.shape[:2]))


@pytest.mark.parametrize("layers", [UP, ("mid_block.attentions.0", UP[0], "down_blocks.1.attentions.0"), UP[3:]])
def test_self_attention_equals_the_probabilities_of_plain_forward_passes(backbone, layers):
    pictures = random_pictures(2, 64, 64)
    found = self_attention(backbone, pictures, layers=layers, timestep=300)
    with recording(backbone, "attn1") as log:
        plain_passes(backbone, pictures, "", (300,), 3)
    named = {name.partition(".transformer_blocks")[0]: p.view(2, heads, *p.shape[1:]) for name, heads, p in log}
    expected = brute_force_fusion([named[layer].mean(dim=1) for layer in layers])
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-3)


def test_self_attention_is_the_same_alone_and_in_a_batch_and_for_layers_in_any_order(backbone):
    pictures = random_pictures(2, 70, 50)
    together = self_attention(backbone, pictures)
    torch.testing.assert_close(self_attention(backbone, pictures[1:])[0], together[1], atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(self_attention(backbone, pictures, layers=UP[::-1]), together)


def test_self_attention_stops_after_the_last_layer_asked_for(backbone):
    ran = []
    handle = backbone.unet.up_blocks[2].register_forward_pre_hook(lambda *_: ran.append("up_blocks.2"))
    self_attention(backbone, random_pictures(1, 64, 64), layers=UP[:2])
    assert ran == []
    self_attention(backbone, random_pictures(1, 64, 64), layers=UP[:3])
    assert ran == ["up_blocks.2"]
    handle.remove()


def attention_layers(backbone, pictures, **changes):
    settings = {"layers": UP, "timestep": 50, "noise_seed": 42, "input_size": 64, **HALF, **changes}
    return backbone.attention_layers(pictures, **settings)


def test_attention_layers_give_the_probabilities_of_plain_forward_passes(backbone):
    pictures, layers = random_pictures(2, 64, 64), (UP[3], "mid_block.attentions.0", UP[0])
    found = attention_layers(backbone, pictures, layers=layers, timestep=300, noise_seed=3)
    assert tuple(found) == layers
    with recording(backbone, "attn1") as log:
        plain_passes(backbone, pictures, "", (300,), 3)
    named = {name.partition(".transformer_blocks")[0]: p.view(2, heads, *p.shape[1:]) for name, heads, p in log}
    for name, layer in found.items():
        ours = attention_probabilities(layer.queries, layer.keys, layer.heads, layer.scale)
        torch.testing.assert_close(ours.double(), named[name].double(), atol=1e-5, rtol=1e-3)


def test_attention_layers_are_the_same_alone_and_in_a_batch(backbone):
    pictures = random_pictures(2, 70, 50)
    together = attention_layers(backbone, pictures)
    for name, alone in attention_layers(backbone, pictures[1:]).items():
        torch.testing.assert_close(alone.queries[0], together[name].queries[1], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(alone.keys[0], together[name].keys[1], atol=1e-4, rtol=1e-3)


def test_attention_layers_stop_the_unet_and_leave_no_hook_behind_an_exception(backbone, monkeypatch):
    ran = []
    handle = backbone.unet.up_blocks[2].register_forward_pre_hook(lambda *_: ran.append("up_blocks.2"))
    attention_layers(backbone, random_pictures(1, 64, 64), layers=UP[:2])
    handle.remove()
    assert ran == []
    before = count_hooks(backbone)
    with pytest.raises(WeightsError, match=r"up_blocks\.0"):
        attention_layers(backbone, random_pictures(1, 64, 64), layers=(UP[0], "up_blocks.0.attentions.0"))

    def fail(*_args, **_settings):
        raise StopError

    monkeypatch.setattr(backbone.unet.mid_block, "forward", fail)
    with pytest.raises(StopError):
        attention_layers(backbone, random_pictures(1, 64, 64))
    assert count_hooks(backbone) == before


def test_a_missing_self_attention_layer_is_named(backbone):
    with pytest.raises(WeightsError, match=r"up_blocks\.0"):
        self_attention(backbone, random_pictures(1, 64, 64), layers=("up_blocks.0.attentions.0",))


# --------------------------------------------------------------------------- cross- and self-attention of prompts

TWO = PhrasedPrompt(
    f"a photo of a {DONUT}, and a dog", ((13, 13 + len(DONUT)), (13 + len(DONUT) + 8, 16 + len(DONUT) + 8))
)
CAT = PhrasedPrompt("a photo of a cat", ((13, 16),))


def prompt_attention(backbone, pictures, prompts, **changes):
    settings = {"timestep": 100, "noise_seed": 3, "input_size": 64, **HALF, **changes}
    return list(backbone.prompt_attention(pictures, prompts, **settings))


def test_the_mean_cross_attention_of_groups_equals_a_loop():
    random = torch.Generator().manual_seed(2)
    running, layers = RunningCrossAttention([[0], [2, 3], [4]]), []
    for side in (2, 4, 2, 2):
        q, k = torch.randn(2, side * side, 6, generator=random), torch.randn(2, 5, 6, generator=random)
        running.add(q, k, 3, 0.5)
        layers.append(attention_probabilities(q, k, 3, 0.5))
    found, counts = running.means()
    assert counts == {2: 3, 4: 1}
    for side, maps in found.items():
        mine = torch.stack([layer for layer in layers if layer.shape[2] == side * side])
        for channel, group in enumerate(([0], [2, 3], [4])):
            expected = mine[..., group].mean(dim=(0, 2, 4)).view(2, side, side)
            torch.testing.assert_close(maps[:, channel], expected)


def test_the_finest_grids_self_attention_is_the_mean_of_its_layers_whatever_the_order():
    random = torch.Generator().manual_seed(1)
    running, layers = RunningSelfAttention(finest=True), []
    for side in (2, 4, 3, 4):
        q, k = (torch.randn(2, side * side, 6, generator=random) for _ in range(2))
        running.add(q, k, 2, 1.0)
        layers.append(attention_probabilities(q, k, 2, 1.0).mean(dim=1))
    torch.testing.assert_close(running.mean(), (layers[1] + layers[3]) / 2)


@pytest.mark.parametrize("finest", [False, True])
def test_the_attention_of_a_prompt_equals_that_of_a_plain_forward_pass(backbone, finest):
    pictures = random_pictures(2, 64, 64)
    (found,) = prompt_attention(backbone, pictures, [TWO], finest_self_attention=finest)
    with recording(backbone, "attn2") as cross:
        plain_passes(backbone, pictures, TWO.text, (100,), 3)
    with recording(backbone, "attn1") as own:
        plain_passes(backbone, pictures, TWO.text, (100,), 3)
    tokenizer = backbone.pipeline.tokenizer
    groups = [[0], *(phrase_token_positions(tokenizer, TWO.text, phrase) for phrase in (DONUT, "dog"))]
    assert len(groups[1]) == 3
    by_side = {}
    for _, heads, probabilities in cross:
        mean = probabilities.view(2, heads, *probabilities.shape[1:]).mean(dim=1)
        by_side.setdefault(math.isqrt(mean.shape[1]), []).append(mean)
    assert found.layers == {side: len(layers) for side, layers in by_side.items()}
    assert found.cross.keys() == by_side.keys()
    for side, layers in by_side.items():
        for channel, group in enumerate(groups):
            expected = torch.stack(layers).mean(dim=0)[..., group].mean(dim=-1).view(2, side, side)
            torch.testing.assert_close(found.cross[side][:, channel], expected, atol=1e-6, rtol=1e-3)
            assert expected.std() > 0
    layers = [p.view(2, heads, *p.shape[1:]).mean(dim=1) for _, heads, p in own]
    if finest:
        layers = [layer for layer in layers if layer.shape[1] == 256]
    torch.testing.assert_close(found.self_attention.double(), brute_force_fusion(layers), atol=1e-5, rtol=1e-3)


def test_each_prompt_has_the_attention_that_it_has_alone_and_each_picture_too(backbone):
    pictures = random_pictures(2, 70, 50)
    together = prompt_attention(backbone, pictures, [TWO, CAT])
    for prompt, mine in zip((TWO, CAT), together, strict=True):
        (alone,) = prompt_attention(backbone, pictures[1:], [prompt])
        torch.testing.assert_close(alone.self_attention[0], mine.self_attention[1], atol=1e-5, rtol=1e-3)
        for side, maps in alone.cross.items():
            torch.testing.assert_close(maps[0], mine.cross[side][1], atol=1e-5, rtol=1e-3)
    assert not torch.allclose(together[0].cross[16][:, 1], together[1].cross[16][:, 1], atol=1e-3)


def test_an_unpadded_prompt_shares_all_attention_among_its_own_tokens(backbone):
    text = "cat dog"
    every = PhrasedPrompt(text, ((0, 3), (4, 7)))
    found = {
        padded: prompt_attention(backbone, random_pictures(1, 64, 64), [every], padded=padded)[0]
        for padded in (False, True)
    }
    # Start, two words and the end token: what the three channels leave is the end token's.
    left = {padded: 1 - attention.cross[16].sum(dim=1) for padded, attention in found.items()}
    assert (left[False] > 0).all()
    assert (left[False] < left[True]).all()


def test_emphasis_moves_the_phrases_tokens_and_no_others(backbone, monkeypatch):
    seen = []
    monkeypatch.setattr(
        backbone, "_denoise", lambda noisy, timestep, text: seen.append(text) or plain(noisy, timestep, text)
    )
    plain = DiffusionBackbone._denoise.__get__(backbone)
    for emphasis in (1.0, 1.5):
        prompt_attention(backbone, random_pictures(1, 64, 64), [TWO], emphasis=emphasis)
    places = [5, 6, 7, 11]  # <start> a photo of a chocolate glazed donut , and a dog <end>
    empty = backbone._encode_empty_prompt()
    torch.testing.assert_close(seen[1][:, places] - empty[:, places], 1.5 * (seen[0][:, places] - empty[:, places]))
    others = [i for i in range(24) if i not in places]
    assert torch.equal(seen[1][:, others], seen[0][:, others])


def test_a_list_of_names_that_the_prompt_cuts_off_is_refused_before_anything_runs(backbone):
    text = "word " * 30 + "cat"
    with pytest.raises(UsageError, match=r"cuts off the class name 'cat'\. Give fewer class names"):
        backbone.prompt_attention(
            random_pictures(1, 64, 64),
            [PhrasedPrompt(text, ((150, 153),))],
            timestep=1,
            noise_seed=0,
            input_size=64,
            **HALF,
        )


def test_the_negative_prompt_reaches_the_sampler(backbone):
    plain = generate(backbone, [3], name="cat")
    other = generate(backbone, [3], name="cat", negative_prompt="a photo of a dog on grass")
    assert not torch.equal(plain.images, other.images)


def test_the_sampler_is_dpm_solver_plus_plus_of_the_models_own_noise_schedule(backbone):
    scheduler = backbone.pipeline.scheduler
    assert type(scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert scheduler.config.algorithm_type == "dpmsolver++"
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.beta_schedule == "scaled_linear"


# --------------------------------------------------------------------------- generation


def test_generation_is_deterministic_and_a_seed_means_one_image(backbone):
    once, again = generate(backbone, [1, 2]), generate(backbone, [1, 2])
    assert once.images.shape == (2, 64, 64, 3)
    assert once.images.dtype == torch.uint8
    assert torch.equal(once.images, again.images)
    assert torch.equal(once.attribution, again.attribution)
    assert not torch.equal(once.images[0], once.images[1])


@pytest.mark.parametrize("seeds", [[5], [5, 9], [1, 2, 5, 3]])
def test_an_image_depends_on_its_own_seed_and_not_on_its_batch(backbone, seeds):
    alone = generate(backbone, [5])
    batch = generate(backbone, seeds)
    place = seeds.index(5)
    # Matrix products of other sizes round otherwise in the last bit, which may tip a grey level.
    assert (alone.images[0].int() - batch.images[place].int()).abs().max() <= 1
    torch.testing.assert_close(batch.attribution[place], alone.attribution[0], atol=1e-5, rtol=1e-3)


def test_generation_leaves_the_global_random_state_alone(backbone):
    before = torch.get_rng_state()
    generate(backbone, [1], steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_step_is_reported_in_order(backbone):
    told = []
    generate(backbone, [1], steps=3, on_step=told.append)
    assert told == [1, 2, 3]


class StopError(BaseException):
    pass


def test_an_exception_from_the_progress_leaves_no_hook(backbone):
    def stop(step):
        raise StopError

    before = count_hooks(backbone)
    with pytest.raises(StopError):
        generate(backbone, [1], on_step=stop)
    assert count_hooks(backbone) == before


def test_generation_prints_nothing(backbone, capfd):
    generate(backbone, [1], steps=1)
    assert capfd.readouterr() == ("", "")


# --------------------------------------------------------------------------- features


def full_forward(backbone, pictures, timestep, noise_seed):
    """Outputs of every cross-attention to_q of a whole, plain forward pass with independently made noise."""
    pipeline = backbone.pipeline
    seen, handles = {}, []
    for name, module in pipeline.unet.named_modules():
        if name.endswith("attn2.to_q"):
            key = name.removesuffix(".transformer_blocks.0.attn2.to_q")
            handles.append(module.register_forward_hook(lambda _m, _i, out, key=key: seen.update({key: out})))
    random = torch.Generator().manual_seed(noise_seed)
    pixels = F.interpolate(pictures, (64, 64), mode="bicubic", antialias=True).clamp(0, 1) * 2 - 1
    with torch.inference_mode():
        moments = pipeline.vae.encode(pixels).latent_dist
        shape = (1, *moments.mean.shape[1:])
        sample = moments.mean + moments.std * torch.randn(shape, generator=random)
        noise = torch.randn(shape, generator=random).expand_as(sample)
        scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        latents = sample * pipeline.vae.config.scaling_factor
        noisy = scheduler.add_noise(latents, noise, torch.tensor([timestep] * len(pictures)))
        ids = pipeline.tokenizer("", padding="max_length", return_tensors="pt").input_ids
        text = pipeline.text_encoder(ids)[0].expand(len(pictures), -1, -1)
        pipeline.unet(noisy, timestep, encoder_hidden_states=text)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize(("timestep", "noise_seed"), [(50, 42), (200, 43), (0, 1), (999, 1)])
def test_queries_equal_to_q_outputs_of_a_plain_forward_pass(backbone, timestep, noise_seed):
    pictures = random_pictures(2, 64, 64)
    everywhere = full_forward(backbone, pictures, timestep, noise_seed)
    layers = (*UP[::-1], "mid_block.attentions.0", "down_blocks.1.attentions.0")
    found = queries(backbone, pictures, layers=layers, timestep=timestep, noise_seed=noise_seed)
    assert tuple(found) == layers
    for layer in layers:
        flat = everywhere[layer]
        side = round(flat.shape[1] ** 0.5)
        expected = flat.view(2, side, side, -1).permute(0, 3, 1, 2)
        torch.testing.assert_close(found[layer], expected, atol=1e-4, rtol=1e-3)


def test_an_image_has_the_same_queries_alone_and_in_a_batch(backbone):
    pictures = random_pictures(3, 50, 80)
    together = queries(backbone, pictures)
    for i in range(3):
        for layer, alone in queries(backbone, pictures[i : i + 1]).items():
            torch.testing.assert_close(together[layer][i], alone[0], atol=1e-4, rtol=1e-3)


def test_noise_depends_on_its_seed_and_on_nothing_else(backbone):
    pictures = random_pictures(1, 64, 64)
    torch.manual_seed(0)
    first = queries(backbone, pictures)[UP[0]]
    torch.manual_seed(1)
    assert torch.equal(queries(backbone, pictures)[UP[0]], first)
    assert not torch.allclose(queries(backbone, pictures, noise_seed=7)[UP[0]], first, atol=1e-3)


def test_the_unet_stops_after_the_last_layer_asked_for(backbone):
    ran = []
    names = ("down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.2", "conv_out")
    handles = [
        backbone.unet.get_submodule(name).register_forward_pre_hook(lambda _m, _a, name=name: ran.append(name))
        for name in names
    ]
    queries(backbone, random_pictures(1, 64, 64), layers=("down_blocks.1.attentions.0", "mid_block.attentions.0"))
    for handle in handles:
        handle.remove()
    assert ran == ["down_blocks.1", "mid_block"]


@pytest.mark.parametrize("wrong", ["up_blocks.0.attentions.0", "up_blocks.9.attentions.0", "conv_in", "nonsense"])
def test_a_layer_that_is_not_there_is_named_and_leaves_no_hook(backbone, wrong):
    before = count_hooks(backbone)
    with pytest.raises(WeightsError, match=wrong):
        queries(backbone, random_pictures(1, 64, 64), layers=(UP[0], wrong))
    assert count_hooks(backbone) == before
    generate(backbone, [1], steps=1)  # a hook left behind would end this walk


def test_an_exception_during_the_walk_leaves_no_hook(backbone, monkeypatch):
    def fail(*_args):
        raise StopError

    before = count_hooks(backbone)
    monkeypatch.setattr(backbone, "_encode_empty_prompt", fail)
    with pytest.raises(StopError):
        queries(backbone, random_pictures(1, 64, 64))
    assert count_hooks(backbone) == before


# --------------------------------------------------------------------------- loading


def test_latent_scale_is_the_vaes(backbone):
    with torch.inference_mode():
        latent = backbone.pipeline.vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
    assert 64 // latent.shape[-1] == backbone.latent_scale == 4


def test_a_folder_that_holds_no_pipeline_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="cannot be loaded"):
        DiffusionBackbone.load(tmp_path, device="cpu")


def test_loading_writes_nothing_on_the_terminal(capfd, caplog):
    DiffusionBackbone.load(MINI_FOLDER / "diffusion", device="cpu")
    out, err = capfd.readouterr()
    assert (out, err, caplog.records) == ("", "", [])
