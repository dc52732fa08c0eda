from __future__ import annotations

import dataclasses
import logging

import huggingface_hub
import numpy as np
import pytest
import torch

from ovseg_cli.backbones.phrases import phrase_token_positions
from ovseg_cli.errors import UsageError, WeightsError
from ovseg_cli.models import Models
from ovseg_cli.profiles import fetch_weights, find_weights, get_profile, resolve_profile, weights_status
from ovseg_cli.profiles.weights import fetch_command
from ovseg_cli.prototypes.build import SupportSettings, build_class
from tests.mini import (
    MINI_FOLDER,
    put_into_hub_cache,
    random_pictures,
    write_tiny_clip,
    write_tiny_dino,
    write_tiny_dinov2,
    write_tiny_mae,
    write_tiny_stable_diffusion,
)

MINI, SD15 = get_profile("mini"), get_profile("sd15")
DIFFUSION, CLIP, DINO = SD15.weights
EVERY = (*SD15.extractors, *SD15.extra_extractors)
DINOV2, MAE = SD15.weights_for(EVERY)[3:]
PULL = "ovseg pull --profile sd15"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Small random weights under the names of the real files."""
    folder = tmp_path_factory.mktemp("sources")
    write_tiny_stable_diffusion(folder / "diffusion")
    write_tiny_clip(folder / "clip")
    write_tiny_dino(folder / "dino")
    write_tiny_dinov2(folder / "dinov2")
    write_tiny_mae(folder / "mae")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache."""
    path = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(path))
    return path


@pytest.fixture
def full_cache(cache, sources):
    for part in SD15.weights_for(EVERY):
        put_into_hub_cache(cache, part, sources / part.part)
    return cache


# --------------------------------------------------------------------------- finding


def test_bundled_weights_are_always_there():
    for part in MINI.weights:
        assert find_weights(part) == fetch_weights(part, offline=True) == MINI_FOLDER / part.part


def test_nothing_is_found_in_an_empty_cache(cache):
    assert [find_weights(part) for part in SD15.weights_for(EVERY)] == [None] * 5


def test_weights_are_found_in_the_hubs_own_layout(full_cache):
    for part in SD15.weights_for(EVERY):
        folder = find_weights(part)
        assert folder.name == part.revision
        assert (folder / part.marker).is_file()
        assert fetch_weights(part, offline=True) == folder


def test_another_revision_is_not_found(full_cache):
    for part in SD15.weights:
        assert find_weights(dataclasses.replace(part, revision="0" * 40)) is None


def test_the_files_that_the_loaders_need_are_those_that_would_be_downloaded(full_cache):
    """Every file that the tiny folders have, which load, matches a download pattern."""
    from huggingface_hub.utils import filter_repo_objects

    for part in SD15.weights_for(EVERY):
        folder = find_weights(part)
        names = [str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()]
        assert sorted(filter_repo_objects(names, allow_patterns=list(part.files))) == sorted(names)


@pytest.mark.parametrize(
    "lost",
    [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
        "model_index.json",
    ],
)
def test_a_download_that_was_interrupted_counts_as_absent(cache, sources, lost):
    snapshot = put_into_hub_cache(cache, DIFFUSION, sources / "diffusion")
    (snapshot / lost).unlink()
    assert find_weights(DIFFUSION) is None


def test_status_of_present_and_absent_weights(cache, sources):
    put_into_hub_cache(cache, CLIP, sources / "clip")
    states = {state.part: state for state in weights_status(SD15.weights)}
    assert [part for part, state in states.items() if state.present] == ["clip"]
    assert states["clip"].path.name == CLIP.revision
    assert states["clip"].fetch_hint == ""
    assert states["dino"].path is None
    assert states["dino"].repo == DINO.repo
    assert states["dino"].fetch_hint == PULL
    assert all(state.present for state in weights_status(MINI.weights))


def test_status_of_a_picked_ensemble(cache, sources):
    put_into_hub_cache(cache, DINOV2, sources / "dinov2")
    states = {state.part: state for state in weights_status(SD15.weights_for(SD15.pick_extractors(["dinov2", "mae"])))}
    assert list(states) == ["diffusion", "clip", "dinov2", "mae"]
    assert [part for part, state in states.items() if state.present] == ["dinov2"]
    assert states["mae"].fetch_hint == f"{PULL} --extractors mae"
    assert states["clip"].fetch_hint == PULL


# --------------------------------------------------------------------------- fetching


@pytest.mark.parametrize("part", SD15.weights_for(EVERY), ids=lambda w: w.part)
def test_absent_weights_offline_name_the_command_that_fetches_them(cache, part):
    with pytest.raises(WeightsError) as caught:
        fetch_weights(part, offline=True)
    message = str(caught.value)
    assert part.repo in message
    assert f"about {part.nbytes / 1e9:.1f} GB" in message
    assert message.endswith(PULL if part in SD15.weights else f"{PULL} --extractors {part.part}")


def test_models_of_absent_weights_say_so_when_they_are_needed_and_fetch_nothing(cache, no_download):
    models = Models(SD15, "cpu")
    with pytest.raises(WeightsError, match=f"timm/.*{PULL}"):
        _ = models.clip


def test_the_download_asks_for_the_pinned_revision_and_the_needed_files(cache, sources, monkeypatch, caplog):
    asked = []
    real = huggingface_hub.snapshot_download

    def download(repo, **settings):
        if settings.get("local_files_only"):
            return real(repo, **settings)
        asked.append((repo, settings))
        return str(put_into_hub_cache(cache, CLIP, sources / "clip"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with caplog.at_level(logging.WARNING, "ovseg_cli"):
        folder = fetch_weights(CLIP)
    assert folder == find_weights(CLIP)
    assert asked == [(CLIP.repo, {"revision": CLIP.revision, "allow_patterns": list(CLIP.files)})]
    assert CLIP.repo in caplog.text
    assert "0.6 GB" in caplog.text
    assert CLIP.licence in caplog.text
    fetch_weights(CLIP)
    assert len(asked) == 1  # now it is there


def test_a_download_that_fails_is_told_in_one_line_with_the_command(cache, monkeypatch):
    def download(repo, **settings):
        if settings.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("nothing")
        raise ConnectionError("no route to host\nand a page of advice")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(WeightsError) as caught:
        fetch_weights(DINO)
    assert "ConnectionError: no route to host)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert DINO.repo in str(caught.value)
    assert PULL in str(caught.value)


def test_a_download_without_a_network_ends_in_the_same_error(cache):
    """The hub's client itself, with sockets blocked and its own offline switch on."""
    with pytest.raises(WeightsError, match="Could not download facebook/dino-vitb8"):
        fetch_weights(DINO)


def test_a_partial_folder_that_the_client_hands_back_is_not_taken_for_the_weights(cache, sources):
    """Without a network, the hub's client returns the folder of an interrupted download."""
    snapshot = put_into_hub_cache(cache, DINO, sources / "dino")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=f"incomplete.*{PULL}"):
        fetch_weights(DINO)


def test_bundled_weights_that_are_gone_say_to_reinstall():
    gone = dataclasses.replace(MINI.weights[0], bundled="mini/gone")
    with pytest.raises(WeightsError, match="reinstall"):
        fetch_weights(gone)


# --------------------------------------------------------------------------- which profile


@pytest.fixture
def no_download(monkeypatch):
    """Whatever would use the network fails the test."""
    real = huggingface_hub.snapshot_download

    def download(repo, **settings):
        assert settings.get("local_files_only"), f"asked the hub for {repo}"
        return real(repo, **settings)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("asked the hub"))


def test_an_explicit_profile_is_taken_without_asking(cache, no_download):
    assert resolve_profile("sd15") is SD15
    assert resolve_profile("mini") is MINI
    with pytest.raises(UsageError, match="Unknown profile"):
        resolve_profile("nothing")


@pytest.mark.parametrize(("gpu", "time"), [(False, "hours for each class"), (True, "half a minute on a large GPU")])
def test_mini_with_a_loud_notice_of_what_sd15_costs_and_how_to_get_it(
    cache, no_download, caplog, monkeypatch, gpu, time
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_profile() is MINI
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "MINI MODELS" in message
    assert "a download of 3.1 GB" in message
    assert time in message
    assert f"{PULL}, and" in message
    assert "--profile sd15 --store DIR" in message


def test_a_set_whose_weights_are_here_is_taken_and_told(full_cache, no_download, caplog):
    assert resolve_profile() is SD15
    (record,) = caplog.records
    assert "the profile sd15, whose weights are on this machine" in record.getMessage()
    assert "--profile mini" in record.getMessage()


def test_of_several_sets_that_are_here_the_first_is_taken_and_the_others_are_told(no_download, caplog, monkeypatch):
    here = {"cliper-l", "cliper-b"}
    parts = {weights for name in here for weights in get_profile(name).weights}
    monkeypatch.setattr("ovseg_cli.profiles.weights.find_weights", lambda weights: weights in parts)
    assert resolve_profile().name == "cliper-l"
    (record,) = caplog.records
    assert (
        "the profile cliper-l, the first in `ovseg profiles` of those whose weights are on this" in record.getMessage()
    )
    assert "Here are also cliper-b: --profile NAME takes one." in record.getMessage()


@pytest.mark.parametrize("name", ["turbo", "langseg"])
def test_a_set_that_must_not_be_used_commercially_is_never_taken_unasked(no_download, monkeypatch, name):
    parts = get_profile(name).weights
    monkeypatch.setattr("ovseg_cli.profiles.weights.find_weights", lambda weights: weights in parts)
    assert resolve_profile() is MINI
    assert resolve_profile(name).name == name


def test_the_command_that_fetches_weights_is_that_of_the_profile_at_hand(cache):
    small = get_profile("cliper-b")
    assert fetch_command(CLIP) == PULL
    assert fetch_command(CLIP, small) == "ovseg pull --profile cliper-b"
    assert fetch_command(DINO, small) == "ovseg pull --profile cliper-b --extractors dino"
    assert fetch_command(MAE, small) == f"{PULL} --extractors mae"
    with pytest.raises(WeightsError, match=r"ovseg pull --profile cliper-b$"):
        _ = Models(small, "cpu").clip


def test_a_set_of_which_something_is_missing_is_not_here(cache, sources, no_download):
    for part in (CLIP, DIFFUSION):
        put_into_hub_cache(cache, part, sources / part.part)
    assert resolve_profile() is MINI


# --------------------------------------------------------------------------- the loaders of sd15


# Length and grid of the features. For "sd": 8 + 32 + 3 * 32 + 3 * 16 + 8 channels, the narrow counterpart of 7680.
SMALL = {"sd": (192, 8), "clip": (32, 4), "clip-token": (32, 4), "dino": (24, 8), "dinov2": (24, 8), "mae": (40, 4)}


def small(extractor):
    dim, grid = SMALL[extractor.name]
    size = 112 if extractor.name == "dinov2" else 64
    return dataclasses.replace(extractor, input_size=size, dim=dim, grid=grid)


@pytest.fixture
def models(full_cache):
    """The real profile over tiny random weights in the hub's layout; small pictures, so that it is quick."""
    profile = dataclasses.replace(
        SD15,
        generator=dataclasses.replace(SD15.generator, image_size=64, min_attention_grid=1, parts=2),
        extractors=tuple(small(e) for e in SD15.extractors),
        extra_extractors=tuple(small(e) for e in SD15.extra_extractors),
    )
    return Models(profile, "cpu")


def test_all_extractors_give_features_through_the_hubs_layout(models, capfd, caplog):
    pictures = random_pictures(2, 70, 50)
    for extractor in models.profile.pick_extractors(list(SMALL)):
        features = models.features(extractor, pictures)
        assert features.dtype == torch.float32
        assert torch.isfinite(features).all()
        dim, grid = SMALL[extractor.name]
        assert features.shape == (2, dim, grid, grid)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_the_sampler_replaces_the_published_scheduler_and_keeps_its_noise_schedule(models):
    scheduler = models.generator.pipeline.scheduler
    assert type(scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert scheduler.config.algorithm_type == "dpmsolver++"
    assert scheduler.config.prediction_type == "epsilon"
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod.float(), torch.cumprod(1 - beta, 0))
    assert models.generator.latent_scale == 8
    assert models.generator.pipeline.safety_checker is None


def test_the_tokenizer_without_its_newer_file_still_gives_offsets(models):
    folder = find_weights(DIFFUSION)
    assert not (folder / "tokenizer" / "tokenizer.json").exists()
    tokenizer = models.generator.pipeline.tokenizer
    assert tokenizer.model_max_length == 77
    ids = tokenizer("a photo of a cat").input_ids
    (position,) = phrase_token_positions(tokenizer, "a photo of a cat", "cat")
    assert tokenizer.decode([ids[position]]).strip() == "cat"


def test_half_precision_files_give_the_precision_that_is_asked_for(models):
    from safetensors.torch import load_file

    stored = load_file(find_weights(DIFFUSION) / DIFFUSION.marker)
    loaded = models.generator.unet.state_dict()
    assert stored["conv_in.weight"].dtype == torch.float16
    assert loaded["conv_in.weight"].dtype == torch.float32
    for name, tensor in stored.items():
        assert torch.equal(loaded[name], tensor.float())


def test_clip_is_loaded_with_its_activation_and_openais_tokenizer(models):
    clip = models.clip
    assert type(clip.model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert type(clip.tokenizer).__name__ == "SimpleTokenizer"
    text = clip.embed_text(["cat", "dog"], ("a photo of a {name}.",))
    assert text.shape == (2, 8)
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))


def test_a_class_is_built_from_end_to_end_with_the_real_profiles_shape(models, monkeypatch):
    # Random weights draw grey noise with even attention, which is rightly refused.
    monkeypatch.setattr("ovseg_cli.prototypes.build.find_degenerate", lambda images, *_a, **_k: [None] * len(images))
    record = build_class(models, "chocolate glazed donut", SupportSettings(count=2, steps=2))
    assert {e.name: e.dim for e in record.extractors} == {"sd": 192, "clip": 32, "dino": 24}
    assert record.supports[0].prompt == "A good picture of a chocolate glazed donut"
    assert record.supports[0].image.shape == (64, 64, 3)
    assert all(np.isfinite(p.vector).all() for p in record.prototypes)


def test_weights_that_lack_a_part_are_a_weights_error(models, full_cache):
    folder = find_weights(DIFFUSION)
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(WeightsError):
        _ = models.generator
