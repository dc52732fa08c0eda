from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from ovseg_cli.backbones.attention import attention_probabilities
from ovseg_cli.backbones.phrases import PhrasedPrompt, phrase_token_positions
from ovseg_cli.backbones.unet import DiffusionBackbone, Noising
from ovseg_cli.errors import UsageError, WeightsError
from tests.backbones.test_attention import brute_force_fusion
from tests.mini import MINI_FOLDER, mini_models, random_pictures

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


def queries(backbone, pictures, *, layers=UP, timestep=50, seed=42):
    return backbone.queries(pictures, Noising(timestep, seed, 64), layers=layers)


def attribution(backbone, pictures, name="cat", **changes):
    settings = {"timesteps": (100, 400), "seed": 3, "size": 64, "min_attention_grid": 8, **changes}
    return backbone.attribution(pictures, f"a good picture of a {name}", name, **settings)


def self_attention(backbone, pictures, *, layers=UP, timestep=100):
    return backbone.self_attention(pictures, Noising(timestep, 3, 64), layers=layers)


# --------------------------------------------------------------------------- attention


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


@pytest.mark.slow
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


def plain_passes(backbone, pictures, prompt, timesteps, seed):
    """Forward passes of pictures that diffusers' own scheduler noises, from the VAE's mean."""
    pipeline = backbone.pipeline
    random = torch.Generator().manual_seed(seed)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    with torch.inference_mode():
        latents = pipeline.vae.encode(pictures * 2 - 1).latent_dist.mode() * pipeline.vae.config.scaling_factor
        ids = pipeline.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
        text = pipeline.text_encoder(ids)[0].expand(len(pictures), -1, -1)
        for timestep in timesteps:
            noise = torch.randn((1, *latents.shape[1:]), generator=random).expand_as(latents)
            noisy = scheduler.add_noise(latents, noise, torch.tensor([timestep] * len(pictures)))
            pipeline.unet(noisy, timestep, encoder_hidden_states=text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cat", DONUT])
def test_attribution_of_given_pictures_equals_brute_force_on_plain_forward_passes(backbone, name):
    pictures, timesteps = random_pictures(2, 64, 64), (50, 200, 900)
    found = attribution(backbone, pictures, name, timesteps=timesteps, seed=5)
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
    assert not torch.allclose(attribution(backbone, pictures, seed=4), together, atol=1e-4)


def test_attribution_of_a_name_that_the_prompt_cuts_off_is_refused(backbone):
    with pytest.raises(UsageError, match="24 tokens"):
        attribution(backbone, random_pictures(1, 64, 64), "word " * 30)


# --------------------------------------------------------------------------- self-attention


@pytest.mark.slow
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


def attention_layers(backbone, pictures, *, layers=UP, timestep=50, seed=42):
    return backbone.attention_layers(pictures, Noising(timestep, seed, 64), layers=layers)


def test_attention_layers_give_the_probabilities_of_plain_forward_passes(backbone):
    pictures, layers = random_pictures(2, 64, 64), (UP[3], "mid_block.attentions.0", UP[0])
    found = attention_layers(backbone, pictures, layers=layers, timestep=300, seed=3)
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


def prompt_attention(backbone, pictures, prompts, **settings):
    return list(backbone.prompt_attention(pictures, prompts, Noising(100, 3, 64), **settings))


@pytest.mark.slow
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
    empty = backbone.prompts.empty().tokens
    first, second = (one.tokens for one in seen)
    torch.testing.assert_close(second[:, places] - empty[:, places], 1.5 * (first[:, places] - empty[:, places]))
    others = [i for i in range(24) if i not in places]
    assert torch.equal(second[:, others], first[:, others])


def test_a_list_of_names_that_the_prompt_cuts_off_is_refused_before_anything_runs(backbone):
    text = "word " * 30 + "cat"
    with pytest.raises(UsageError, match=r"cuts off the class name 'cat'\. Give fewer class names"):
        backbone.prompt_attention(random_pictures(1, 64, 64), [PhrasedPrompt(text, ((150, 153),))], Noising(1, 0, 64))


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


@pytest.mark.slow
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


def full_forward(backbone, pictures, timestep, seed):
    """Outputs of every cross-attention to_q of a whole, plain forward pass with independently made noise."""
    pipeline = backbone.pipeline
    seen, handles = {}, []
    for name, module in pipeline.unet.named_modules():
        if name.endswith("attn2.to_q"):
            key = name.removesuffix(".transformer_blocks.0.attn2.to_q")
            handles.append(module.register_forward_hook(lambda _m, _i, out, key=key: seen.update({key: out})))
    random = torch.Generator().manual_seed(seed)
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


@pytest.mark.slow
@pytest.mark.parametrize(("timestep", "seed"), [(50, 42), (200, 43), (0, 1), (999, 1)])
def test_queries_equal_to_q_outputs_of_a_plain_forward_pass(backbone, timestep, seed):
    pictures = random_pictures(2, 64, 64)
    everywhere = full_forward(backbone, pictures, timestep, seed)
    layers = (*UP[::-1], "mid_block.attentions.0", "down_blocks.1.attentions.0")
    found = queries(backbone, pictures, layers=layers, timestep=timestep, seed=seed)
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
    assert not torch.allclose(queries(backbone, pictures, seed=7)[UP[0]], first, atol=1e-3)


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
    def fail(**_settings):
        raise StopError

    before = count_hooks(backbone)
    monkeypatch.setattr(backbone.prompts, "empty", fail)
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
