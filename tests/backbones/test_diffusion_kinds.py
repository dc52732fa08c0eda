"""Stable Diffusion 2 and XL, and few-step models, in small: what differs from 1.5, by the libraries' own words."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ovseg_cli.backbones.phrases import PhrasedPrompt, phrase_token_positions
from ovseg_cli.backbones.unet import DiffusionBackbone, Noising
from ovseg_cli.errors import WeightsError
from ovseg_cli.random_models import SCHEDULE, SD2_UNET, SDXL_UNET, TEXT_G, TEXT_H, TEXT_L, clip_tokenizer
from tests.backbones.test_unet import brute_force_attribution, recording
from tests.mini import random_pictures

pytestmark = pytest.mark.slow

SIDE = 64
PROMPT = "a good picture of a chocolate glazed donut"
DONUT = "chocolate glazed donut"
NARROW = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def narrow_vae():
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=64,
    )


def write_kind(folder, kind):
    """A folder as the hub has it; the networks have the true ones' blocks with fewer channels."""
    torch.manual_seed(0)
    if kind == "2":
        unet = {**SD2_UNET, "block_out_channels": [8, 16, 32, 32], "attention_head_dim": [1, 2, 4, 4]}
        unet |= {"norm_num_groups": 4, "cross_attention_dim": 24}
        diffusers.StableDiffusionPipeline(
            unet=diffusers.UNet2DConditionModel.from_config(unet),
            vae=narrow_vae(),
            text_encoder=CLIPTextModel(CLIPTextConfig(**{**TEXT_H, **NARROW, "hidden_size": 24})),
            tokenizer=clip_tokenizer("!"),
            scheduler=diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True, prediction_type="v_prediction"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
        return
    unet = {**SDXL_UNET, "block_out_channels": [8, 16, 32], "attention_head_dim": [1, 2, 4], "norm_num_groups": 4}
    unet |= {"cross_attention_dim": 40, "transformer_layers_per_block": [1, 2, 3]}
    unet |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24 + 6 * 8}
    diffusers.StableDiffusionXLPipeline(
        unet=diffusers.UNet2DConditionModel.from_config(unet),
        vae=narrow_vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**{**TEXT_L, **NARROW, "hidden_size": 16})),
        text_encoder_2=CLIPTextModelWithProjection(
            CLIPTextConfig(**{**TEXT_G, **NARROW, "hidden_size": 24, "projection_dim": 24})
        ),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer("!"),
        scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULE),
        add_watermarker=False,
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {kind: tmp_path_factory.mktemp(f"kind-{kind}") for kind in ("2", "xl")}
    for kind, folder in made.items():
        write_kind(folder, kind)
    return made


@pytest.fixture(params=["2", "xl"])
def backbone(request, folders):
    return DiffusionBackbone.load(folders[request.param], device="cpu")


@pytest.fixture
def wide(folders):
    return DiffusionBackbone.load(folders["xl"], device="cpu")


def generate(backbone, seeds, **changes):
    settings = {
        "image_size": SIDE,
        "steps": 2,
        "guidance": 4.0,
        "negative_prompt": "blurry",
        "min_attention_grid": 1,
        **changes,
    }
    return backbone.generate(PROMPT, DONUT, seeds, **settings)


@pytest.mark.parametrize("guidance", [4.0, 0.0])
def test_attribution_is_of_the_names_tokens_in_every_layer(backbone, guidance):
    """Linear projections, heads by their number, several transformer blocks in a layer, other padding."""
    positions = phrase_token_positions(backbone.pipeline.tokenizer, PROMPT, DONUT)
    assert positions == [6, 7, 8, 9][: len(positions)]
    with recording(backbone, "attn2") as log:
        made = generate(backbone, [1, 2], guidance=guidance)
    layers = sum(name.endswith("attn2") for name, _ in backbone.unet.named_modules())
    assert len(log) == 2 * layers
    expected = brute_force_attribution(log, 2, guidance > 1, positions, SIDE // backbone.latent_scale, 1)
    torch.testing.assert_close(made.attribution, expected.float(), rtol=1e-4, atol=1e-7)


def test_without_guidance_there_is_one_walk_and_no_negative_prompt(backbone):
    with recording(backbone, "attn2") as log:
        generate(backbone, [1, 2], guidance=0.0, negative_prompt="")
    assert {len(probabilities) // heads for _, heads, probabilities in log} == {2}
    first = generate(backbone, [1, 2], guidance=0.0, negative_prompt="")
    again = generate(backbone, [1, 2], guidance=1.0, negative_prompt="never read")
    assert torch.equal(first.images, again.images)
    with recording(backbone, "attn2") as log:
        guided = generate(backbone, [1, 2])
    assert {len(probabilities) // heads for _, heads, probabilities in log} == {4}
    assert not torch.equal(first.images, guided.images)


def test_an_image_depends_on_its_own_seed_only(backbone):
    for sampler in ("dpmsolver++", "euler-ancestral", "lcm"):
        together = generate(backbone, [1, 2], sampler=sampler).images
        alone = generate(backbone, [2], sampler=sampler).images
        assert (together[1].int() - alone[0].int()).abs().max() <= 1, sampler


def test_names_in_one_batch_are_drawn_and_found_as_each_alone(backbone):
    """Whatever their numbers of tokens are."""
    names = (DONUT, "cat")
    prompts = [PROMPT.replace(DONUT, name) for name in names]
    settings = {"image_size": SIDE, "steps": 2, "guidance": 4.0, "negative_prompt": "blurry", "min_attention_grid": 1}
    together = backbone.generate(prompts, names, [1, 2], **settings)
    for place, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
        alone = backbone.generate(prompt, name, [1 + place], **settings)
        assert (together.images[place].int() - alone.images[0].int()).abs().max() <= 1
        torch.testing.assert_close(together.attribution[place], alone.attribution[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["2", "xl"])
def test_noise_is_drawn_on_the_cpu_in_float32_whatever_the_network_computes_in(folders, monkeypatch, kind):
    """Some versions of torch draw other numbers in half precision, and so another picture."""
    backbone = DiffusionBackbone.load(folders[kind], device="cpu", dtype=torch.float16)
    drawn, shown = [], []
    randn = torch.randn

    def watched(*args, **settings):
        drawn.append((settings.get("dtype") or torch.float32, torch.device(settings.get("device") or "cpu").type))
        return randn(*args, **settings)

    monkeypatch.setattr(torch, "randn", watched)
    handle = backbone.unet.register_forward_pre_hook(lambda _module, inputs: shown.append(inputs[0].dtype))
    for sampler, between in (("dpmsolver++", 0), ("euler-ancestral", 2), ("lcm", 1)):
        drawn.clear()
        generate(backbone, [1, 2], sampler=sampler)
        assert len(drawn) == 2 * (1 + between), sampler
        assert set(drawn) == {(torch.float32, "cpu")}
    handle.remove()
    assert set(shown) == {torch.float16}


@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        ("dpmsolver++", "DPMSolverMultistepScheduler"),
        ("euler", "EulerDiscreteScheduler"),
        ("euler-ancestral", "EulerAncestralDiscreteScheduler"),
        ("lcm", "LCMScheduler"),
    ],
)
def test_a_sampler_keeps_what_the_folder_says_of_the_noise(folders, sampler, kind):
    backbone = DiffusionBackbone.load(folders["2"], device="cpu")
    before = backbone.pipeline.scheduler.alphas_cumprod.clone()
    generate(backbone, [1], sampler=sampler, spacing="trailing", steps=4)
    scheduler = backbone.pipeline.scheduler
    assert type(scheduler).__name__ == kind
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.timestep_spacing == "trailing"
    torch.testing.assert_close(scheduler.alphas_cumprod, before)
    if sampler != "lcm":  # has steps of its own
        assert scheduler.timesteps.tolist()[0] == 999  # noise and nothing else, as in few-step training
    generate(backbone, [1])
    assert type(backbone.pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert backbone.pipeline.scheduler.config.timestep_spacing != "trailing"


def test_images_are_those_of_the_librarys_own_pipeline(folders):
    for kind, name in (("2", "StableDiffusionPipeline"), ("xl", "StableDiffusionXLPipeline")):
        ours = generate(DiffusionBackbone.load(folders[kind], device="cpu"), [3], sampler="euler", spacing="trailing")
        more = {"add_watermarker": False} if kind == "xl" else {}
        theirs = getattr(diffusers, name).from_pretrained(folders[kind], local_files_only=True, **more)
        theirs.set_progress_bar_config(disable=True)
        theirs.scheduler = diffusers.EulerDiscreteScheduler.from_config(
            theirs.scheduler.config, timestep_spacing="trailing"
        )
        drawn = theirs(
            PROMPT,
            negative_prompt="blurry",
            height=SIDE,
            width=SIDE,
            num_inference_steps=2,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(3),
            output_type="pt",
        ).images
        theirs_in_8_bits = (drawn * 255).round().byte().permute(0, 2, 3, 1)
        assert (theirs_in_8_bits.int() - ours.images.int()).abs().max() <= 1
        assert len(ours.images.unique()) > 20


def test_what_xl_is_told_beside_the_prompt_is_what_its_pipeline_tells_it(wide, monkeypatch):
    told = []
    forward = wide.unet.forward

    def spy(*args, **more):
        told.append((args, more))
        return forward(*args, **more)

    monkeypatch.setattr(wide.unet, "forward", spy)
    wide.attribution(
        random_pictures(2, SIDE, SIDE), PROMPT, DONUT, timesteps=(200,), seed=3, size=SIDE, min_attention_grid=1
    )
    (_, _, ours), given = told.pop()
    generate(wide, [1, 2], guidance=0.0, negative_prompt="", steps=1)
    theirs = told.pop()[1]
    torch.testing.assert_close(ours, theirs["encoder_hidden_states"])
    for key, value in theirs["added_cond_kwargs"].items():
        torch.testing.assert_close(given["added_cond_kwargs"][key], value)
    assert given["added_cond_kwargs"]["time_ids"].tolist() == [[SIDE, SIDE, 0, 0, SIDE, SIDE]] * 2


def test_what_is_read_of_pictures_has_its_shapes(backbone):
    pictures, noising = random_pictures(2, SIDE, SIDE), Noising(100, 3, SIDE)
    grid = SIDE // backbone.latent_scale
    names = [n for n, m in backbone.unet.named_modules() if hasattr(m, "transformer_blocks")]
    queries = backbone.queries(pictures, noising, layers=names)
    assert list(queries) == names
    assert all(len(maps) == 2 and maps.isfinite().all() for maps in queries.values())
    attention = backbone.self_attention(pictures, noising, layers=names)
    tokens = max(maps.shape[-1] for maps in queries.values()) ** 2
    assert attention.shape == (2, tokens, tokens)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, tokens))
    (seen,) = backbone.prompt_attention(pictures, [PhrasedPrompt(PROMPT, ((20, 42),))], noising)
    assert max(seen.cross) <= grid
    assert seen.tokens == (len(phrase_token_positions(backbone.pipeline.tokenizer, PROMPT, DONUT)),)


def test_a_layer_with_several_blocks_is_its_first_one_or_any_by_its_whole_name(wide):
    pictures, noising = random_pictures(1, SIDE, SIDE), Noising(100, 3, SIDE)
    layer = "up_blocks.0.attentions.1"
    first, second = (f"{layer}.transformer_blocks.{number}" for number in (0, 1))
    seen = wide.queries(pictures, noising, layers=(layer, first, second))
    assert torch.equal(seen[layer], seen[first])
    assert not torch.equal(seen[first], seen[second])
    with pytest.raises(WeightsError, match=r"no attention block 'up_blocks.2.attentions.0'"):
        wide.queries(pictures, noising, layers=("up_blocks.2.attentions.0",))


def test_padding_is_cut_off_whatever_token_it_is(backbone):
    """Start, six words, the end: what stands behind it is "!" in Stable Diffusion 2, and the end again in 1.5."""
    prompt = "a photo of a cat"
    count = len(backbone.pipeline.tokenizer(prompt).input_ids)
    padded = backbone.prompts.encode(prompt)
    cut = backbone.prompts.encode_phrases(prompt, [[5]], 1.0, padded=False)
    assert padded.tokens.shape[1] == 77
    assert cut.tokens.shape[1] == count == 7
    assert torch.equal(cut.tokens, padded.tokens[:, :count])
    assert backbone.prompts.empty(padded=False).tokens.shape[1] == 2
    # Both encoders are causal: with another padding, the tokens that stay are the same.
    for name in ("tokenizer", "tokenizer_2"):
        if (tokenizer := getattr(backbone.pipeline, name, None)) is not None:
            tokenizer.pad_token = "cat</w>" if tokenizer.pad_token == "!" else "!"
    other = backbone.prompts.encode(prompt).tokens
    torch.testing.assert_close(other[:, :count], cut.tokens)
    assert not torch.allclose(other[:, count:], padded.tokens[:, count:])


def test_the_start_token_comes_first_and_words_follow(backbone):
    text = "a photograph of cat"
    (seen,) = backbone.prompt_attention(
        random_pictures(1, SIDE, SIDE), [PhrasedPrompt(text, ((16, 19),))], Noising(100, 3, SIDE)
    )
    with recording(backbone, "attn2") as log:
        (again,) = backbone.prompt_attention(
            random_pictures(1, SIDE, SIDE), [PhrasedPrompt(text, ((16, 19),))], Noising(100, 3, SIDE)
        )
    side = max(seen.cross)
    mine = [p.view(1, h, side, side, -1).mean(1) for _, h, p in log if p.shape[1] == side * side]
    expected = torch.stack([torch.stack([p[0, :, :, place] for p in mine]).mean(0) for place in (0, 4)])
    torch.testing.assert_close(seen.cross[side][0], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(again.cross[side], seen.cross[side], rtol=1e-4, atol=1e-6)


def test_xl_decodes_in_float32_where_its_folder_says_that_less_overflows(folders):
    half = DiffusionBackbone.load(folders["xl"], device="cpu", dtype=torch.float16)
    assert {p.dtype for p in half.pipeline.vae.parameters()} == {torch.float32}
    assert generate(half, [1]).images.shape == (1, SIDE, SIDE, 3)
    two = DiffusionBackbone.load(folders["2"], device="cpu", dtype=torch.float16)
    assert {p.dtype for p in two.pipeline.vae.decoder.parameters()} == {torch.float16}


def test_another_kind_of_pipeline_is_refused_by_its_name(tmp_path):
    with pytest.raises(WeightsError, match=r"no _class_name in its model_index\.json"):
        DiffusionBackbone.load(tmp_path, device="cpu")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    with pytest.raises(WeightsError, match=r"'StableDiffusion3Pipeline'\. What can be used: StableDiffusionPipeline, "):
        DiffusionBackbone.load(tmp_path, device="cpu")
