from __future__ import annotations

import unicodedata

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from ovseg_cli.backbones.diffusion import (
    DiffusionBackbone,
    RunningAttribution,
    attention_probabilities,
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
    """Attention written out with an explicit softmax, in diffusers' processor interface; keeps cross-attention."""

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
        if encoder_hidden_states is not None:
            self.log.append((self.name, attn.heads, probabilities.detach().clone()))
        output = attn.batch_to_head_dim(probabilities @ value)
        return attn.to_out[1](attn.to_out[0](output))


@pytest.fixture
def recorded(backbone):
    """(layer, heads, probabilities (2B * heads, N, T)) of every cross-attention call, in order."""
    log = []
    before = backbone.unet.attn_processors
    backbone.unet.set_attn_processor({name: RecordingProcessor(name, log) for name in before})
    yield log
    backbone.unet.set_attn_processor(before)


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
