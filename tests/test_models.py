from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.errors import UsageError, WeightsError
from ovseg_cli.models import Models, choose_device, concatenate_maps, load_models
from ovseg_cli.profiles import get_profile
from tests.mini import mini_models, random_pictures

MINI = get_profile("mini")
EVERY = (*MINI.extractors, *MINI.extra_extractors)


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


# --------------------------------------------------------------------------- loading


def test_a_model_is_loaded_when_it_is_first_needed_and_once(caplog):
    with caplog.at_level(logging.INFO, "ovseg_cli"):
        models = load_models(MINI, device="cpu", offline=True)
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
    maps = models.generator.queries(
        pictures,
        layers=extractor.layers,
        timestep=extractor.timestep,
        noise_seed=extractor.noise_seed,
        input_size=extractor.input_size,
        mean=extractor.mean,
        std=extractor.std,
    )
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
    models = Models(dataclasses.replace(MINI, extractors=MINI.extractors[::-1]), "cpu", offline=True)
    models.features(extractor_of("clip-key"), random_pictures(1, 32, 32))
    assert len(models._loaded) == 1
    assert models.clip in models._loaded.values()
