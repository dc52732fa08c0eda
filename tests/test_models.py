from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone, ClipTrace
from ovseg_cli.backbones.phrases import PhrasedPrompt
from ovseg_cli.backbones.unet import DiffusionBackbone, Noising
from ovseg_cli.backbones.vit import VitBackbone
from ovseg_cli.errors import UsageError, WeightsError
from ovseg_cli.models import Models, choose_device, concatenate_maps, load_models
from ovseg_cli.profiles import get_profile
from ovseg_cli.profiles.specs import Sight
from tests.mini import mini_models, random_pictures

MINI = get_profile("mini")
EVERY = (*MINI.extractors, *MINI.extra_extractors)


@pytest.fixture(autouse=True)
def models_loaded_once():
    """Here each test loads its own."""


def extractor_of(kind):
    return next(e for e in EVERY if e.kind == kind)


# --------------------------------------------------------------------------- devices


def test_auto_takes_the_best_device_that_is_here(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert choose_device("auto") == expected


@pytest.mark.parametrize("device", ["", "gpu", "cuda:x", "tpu", "cpu,cuda"])
def test_a_device_that_does_not_exist_is_refused(device):
    with pytest.raises(UsageError, match="Unknown device"):
        choose_device(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps", "meta", "xpu"])
def test_a_device_that_is_not_here_is_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="not available"):
        choose_device(device)
    with pytest.raises(UsageError, match="--device auto"):
        load_models(MINI, device=device)


def test_the_number_of_a_cuda_device_is_checked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match="cuda:2"):
        choose_device("cuda:2")


def test_half_precision_on_cuda_only():
    assert Models(MINI, "cuda:0").dtype == torch.float16
    assert Models(MINI, "cpu").dtype == torch.float32
    assert Models(MINI, "mps").dtype == torch.float32


@pytest.mark.parametrize("device", ["cuda", "cpu", "mps"])
def test_a_precision_that_is_asked_for_holds_on_every_device(device):
    assert Models(MINI, device, precision="float16").dtype == torch.float16
    assert Models(MINI, device, precision="float32").dtype == torch.float32


@pytest.mark.parametrize("precision", ["half", "", "bfloat16"])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(UsageError, match="Use auto, float32 or float16"):
        load_models(MINI, device="cpu", precision=precision)


def test_every_network_that_sees_pictures_computes_in_the_precision_asked_for(monkeypatch):
    seen = []
    for kind in (ClipBackbone, DiffusionBackbone, VitBackbone):
        monkeypatch.setattr(kind, "load", lambda folder, *, dtype, **_others: seen.append(dtype))
    models = Models(MINI, "cpu", precision="float16")
    _ = models.clip, models.generator, models.vit(extractor_of("vit-key").weights)
    assert seen == [torch.float16] * 3


# --------------------------------------------------------------------------- loading


def test_a_model_is_loaded_when_it_is_first_needed_and_once(caplog):
    with caplog.at_level(logging.INFO, "ovseg_cli"):
        models = load_models(MINI, device="cpu")
        assert caplog.records == []
        clip = models.clip
        models.features(extractor_of("clip-key"), random_pictures(1, 32, 32))
        assert models.clip is clip
    assert [r.getMessage() for r in caplog.records] == ["Loading bundled:mini/clip on cpu."]


# --------------------------------------------------------------------------- features


def test_query_features_are_the_layers_enlarged_and_stacked_in_order():
    models, extractor = mini_models(), extractor_of("unet-query")
    pictures = random_pictures(2, 40, 60)
    features = models.features(extractor, pictures)
    noising = Noising(extractor.timestep, extractor.noise_seed, extractor.input_size, extractor.mean, extractor.std)
    maps = models.generator.queries(pictures, noising, layers=extractor.layers)
    native = models.feature_maps(extractor, pictures)
    assert [tuple(m.shape) for m in native] == [(2, 96, 8, 8), (2, 64, 16, 16), (2, 64, 16, 16)]
    for ours, layer in zip(native, extractor.layers, strict=True):
        torch.testing.assert_close(ours, maps[layer].float(), atol=1e-4, rtol=1e-4)
    side = max(m.shape[-1] for m in maps.values())
    start = 0
    for layer in extractor.layers:
        one = maps[layer]
        expected = F.interpolate(one, (side, side), mode="bilinear", align_corners=False)
        torch.testing.assert_close(features[:, start : start + one.shape[1]], expected, atol=1e-4, rtol=1e-4)
        start += one.shape[1]
    assert features.shape == (2, start, side, side)


def test_clip_features_are_the_keys_of_the_patches_where_they_lie():
    models, extractor = mini_models(), extractor_of("clip-key")
    pictures = random_pictures(2, 50, 50)
    features = models.features(extractor, pictures)
    block = int(extractor.layers[0])
    trace = models.clip.trace(
        pictures, blocks=(block,), input_size=extractor.input_size, mean=extractor.mean, std=extractor.std
    )
    (step,) = trace.blocks.values()
    rows, columns = trace.grid
    for row, column in ((0, 0), (0, columns - 1), (rows - 1, 1)):
        token = step.keys[:, :, 1 + row * columns + column]  # (B, heads, d)
        torch.testing.assert_close(features[:, :, row, column], token.flatten(1))


def test_clip_tokens_are_what_leaves_the_block():
    """The block's own output, seen from outside while the model embeds the picture by itself."""
    models, extractor = mini_models(), extractor_of("clip-token")
    pictures = random_pictures(2, 64, 64)
    features = models.features(extractor, pictures)
    visual = models.clip.model.visual
    block = visual.transformer.resblocks[int(extractor.layers[0])]
    seen = []
    handle = block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode():
        visual((pictures - 0.5) / 0.5)
    handle.remove()
    patches = seen[0][:, 1:]
    assert features.shape == (2, 192, 8, 8)
    for row, column in ((0, 0), (0, 7), (5, 2)):
        torch.testing.assert_close(features[:, :, row, column], patches[:, row * 8 + column], atol=1e-3, rtol=1e-3)
    keys = models.features(extractor_of("clip-key"), pictures)
    assert not torch.allclose(features, keys)


@pytest.mark.parametrize("extractor", EVERY, ids=lambda e: e.name)
def test_joined_features_are_as_long_and_as_fine_as_the_profile_says(extractor):
    features = mini_models().features(extractor, random_pictures(1, 30, 50))
    assert features.shape == (1, extractor.dim, extractor.grid, extractor.grid)


def test_a_crop_that_is_not_squashed_keeps_its_shape():
    """A grid of whole patches; what fills none at the right is left out, and a strip has one row of them."""
    models, extractor = mini_models(), extractor_of("vit-key")
    patch, side = models.vit(extractor.weights).patch, extractor.input_size
    sight = Sight(resample="bilinear", unsquashed=(extractor.name,))
    crop = random_pictures(1, side - patch, 2 * patch + 1)
    (seen,) = models.feature_maps(extractor, crop, sight)
    assert seen.shape == (1, extractor.dim, side // patch - 1, 2)
    torch.testing.assert_close(seen, models.feature_maps(extractor, crop[..., :-1], sight)[0])
    (strip,) = models.feature_maps(extractor, crop[:, :, :1, : 2 * patch], sight)
    assert strip.shape[2:] == (1, 2)


@pytest.mark.parametrize("extractor", EVERY, ids=lambda e: e.name)
def test_crops_are_squashed_as_they_are_to_be_seen(extractor):
    models, crop = mini_models(), random_pictures(1, 20, 30)
    seen = models.feature_maps(extractor, crop, Sight(resample="bilinear"))
    squashed = F.interpolate(crop, (extractor.input_size,) * 2, mode="bilinear", align_corners=False)
    for ours, wanted, usual in zip(
        seen, models.feature_maps(extractor, squashed), models.feature_maps(extractor, crop), strict=True
    ):
        torch.testing.assert_close(ours, wanted)
        assert not torch.allclose(ours, usual, atol=1e-4)


@pytest.mark.parametrize("extractor", EVERY, ids=lambda e: e.name)
@pytest.mark.parametrize("change", [{"dim": 7}, {"grid": 7}])
def test_features_that_are_not_what_the_profile_says_are_refused(extractor, change):
    wrong = dataclasses.replace(extractor, **change)
    with pytest.raises(WeightsError) as caught:
        mini_models().feature_maps(wrong, random_pictures(1, 32, 32))
    said = f"'mini' says that its extractor {extractor.name!r} gives features of length {wrong.dim} on a grid of"
    assert f"{said} {wrong.grid} x {wrong.grid}, but {extractor.weights.model_id} gives" in str(caught.value)
    assert f"gives {extractor.dim} on {extractor.grid} x {extractor.grid}." in str(caught.value)


@pytest.mark.parametrize("extractor", EVERY, ids=lambda e: e.name)
def test_an_image_has_the_same_features_alone_and_in_a_batch(extractor):
    models, pictures = mini_models(), random_pictures(3, 48, 48)
    together = models.features(extractor, pictures)
    assert together.dtype == torch.float32
    for i in range(3):
        torch.testing.assert_close(
            models.features(extractor, pictures[i : i + 1])[0], together[i], atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("extractor", EVERY, ids=lambda e: e.name)
def test_features_follow_the_picture(extractor):
    """What lies left in the picture lies left in the features."""
    picture = random_pictures(1, 64, 64).repeat(2, 1, 1, 1)
    picture[1, :, :, :32] = torch.rand(3, 1, 1)
    one, other = mini_models().features(extractor, picture)
    change = (one - other).norm(dim=0)
    half = change.shape[1] // 2
    assert change[:, :half].mean() > 1.5 * change[:, half:].mean()


def test_concatenate_leaves_the_finest_map_as_it_is():
    coarse, fine = torch.arange(4.0).view(1, 1, 2, 2), torch.rand(1, 2, 4, 4)
    joined = concatenate_maps([coarse, fine])
    assert torch.equal(joined[:, 1:], fine)
    torch.testing.assert_close(joined[:, :1], F.interpolate(coarse, (4, 4), mode="bilinear", align_corners=False))


def test_equal_weights_are_one_model():
    models = Models(dataclasses.replace(MINI, extractors=MINI.extractors[::-1]), "cpu")
    models.features(extractor_of("clip-key"), random_pictures(1, 32, 32))
    assert len(models._loaded) == 1
    assert models.clip in models._loaded.values()


# --------------------------------------------------------------------------- nothing is left behind

INPUT = {"input_size": 64, "mean": (0.5,) * 3, "std": (0.5,) * 3}
NOISED = Noising(50, 42, 64)
PROMPT = "a photo of a cat"
LAYERS = ("up_blocks.1.attentions.0", "up_blocks.2.attentions.1")
MADE = {"image_size": 64, "steps": 2, "guidance": 4.0, "negative_prompt": "", "min_attention_grid": 8}
VIT = extractor_of("vit-key")

WALKS = {
    "clip": {
        "trace": lambda models, x: models.clip.trace(x, blocks=(0, -1), **INPUT),
        "attention": lambda models, x: models.clip.trace(x, blocks=(-1,), attention=True, **INPUT),
    },
    "unet": {
        "queries": lambda models, x: models.generator.queries(x, NOISED, layers=LAYERS),
        "self_attention": lambda models, x: models.generator.self_attention(x, NOISED, layers=LAYERS),
        "attention_layers": lambda models, x: models.generator.attention_layers(x, NOISED, layers=LAYERS),
        "prompt_attention": lambda models, x: list(
            models.generator.prompt_attention(x, [PhrasedPrompt(PROMPT, ((13, 16),))], NOISED, emphasis=1.2)
        ),
        "attribution": lambda models, x: models.generator.attribution(
            x, PROMPT, "cat", timesteps=[50], seed=42, size=64, min_attention_grid=8
        ),
        "generate": lambda models, _: models.generator.generate(PROMPT, "cat", [1], **MADE),
    },
    "vit": {
        "keys": lambda models, x: models.vit(VIT.weights).keys(x, block=-1, **INPUT),
        "tokens": lambda models, x: models.vit(VIT.weights).tokens(x, **{**INPUT, "input_size": (64, 64)}),
    },
}


def inside(models, network):
    """A module that every walk goes through, neither first nor last."""
    if network == "clip":
        return models.clip.model.visual.transformer.resblocks[0].mlp
    if network == "unet":
        return models.generator.unet.mid_block
    vit = models.vit(VIT.weights).model
    return next(module for name, module in vit.named_modules() if name.endswith("layernorm_after"))


def state_of(models):
    """Hooks by module, and attention processors: what a walk might change."""
    pipeline = models.generator.pipeline
    networks = (models.clip.model, pipeline.unet, pipeline.vae, pipeline.text_encoder, models.vit(VIT.weights).model)
    modules = [module for network in networks for module in network.modules()]
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = [tuple(len(getattr(module, kind)) for kind in kinds) for module in modules]
    return hooks, dict(pipeline.unet.attn_processors), [module.training for module in modules]


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, ClipTrace):
        return [
            *tensors_in(value.attention),
            *(x for _, step in sorted(value.blocks.items()) for x in (step.inputs, step.keys, step.outputs)),
        ]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    return [x for item in value for x in tensors_in(item)] if isinstance(value, list | tuple) else []


class StopError(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("network", "call"), [(n, call) for n, calls in WALKS.items() for call in calls])
def test_an_exception_inside_a_walk_changes_nothing(network, call, monkeypatch):
    models, pictures = mini_models(), random_pictures(1, 64, 64)
    walk, before = WALKS[network][call], state_of(models)
    first = tensors_in(walk(models, pictures))
    assert first

    def fail(*_args, **_others):
        raise StopError

    with monkeypatch.context() as broken:
        broken.setattr(inside(models, network), "forward", fail)
        with pytest.raises(StopError):
            walk(models, pictures)
    assert state_of(models) == before
    assert all(map(torch.equal, tensors_in(walk(models, pictures)), first))


@pytest.mark.parametrize(("network", "call"), [(n, call) for n, calls in WALKS.items() for call in calls])
def test_a_walk_records_no_gradients(network, call):
    """Not even where the caller wants them."""
    pictures = random_pictures(1, 64, 64).requires_grad_()
    assert torch.is_grad_enabled()
    assert not any(tensor.requires_grad for tensor in tensors_in(WALKS[network][call](mini_models(), pictures)))


@pytest.mark.parametrize("extractor", EVERY, ids=lambda e: e.name)
def test_features_and_texts_record_no_gradients(extractor):
    models, pictures = mini_models(), random_pictures(1, 64, 64).requires_grad_()
    assert not models.features(extractor, pictures).requires_grad
    assert not models.clip.embed_text(["cat"], ["a photo of a {name}."]).requires_grad
    assert not models.clip.embed(torch.rand(1, 3, 192, requires_grad=True)).requires_grad


@pytest.mark.parametrize("quick", [True, False])
def test_a_clip_that_is_built_with_another_activation_is_refused(quick):
    """With GELU for QuickGELU everything runs, and every answer is a little wrong."""
    profile = dataclasses.replace(MINI, clip=dataclasses.replace(MINI.clip, quick_gelu=quick))
    models = Models(profile, "cpu")
    built = Models(MINI, "cpu").clip.quick_gelu
    if quick == built:
        assert models.clip.quick_gelu == built
    else:
        with pytest.raises(WeightsError, match=r"QuickGELU, and bundled:mini/clip is built the other way.*quick_gelu"):
            _ = models.clip


def test_the_clip_for_photographs_is_openais():
    assert get_profile("sd15").clip.quick_gelu
