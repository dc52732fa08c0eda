from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
import torch

from ovseg_cli.errors import UsageError
from ovseg_cli.methods.catalogue import word_methods
from ovseg_cli.profiles import PROFILES, get_profile
from ovseg_cli.profiles.prompts import fill_prompt
from ovseg_cli.profiles.specs import bundled_revision, digest_of
from ovseg_cli.profiles.tables import profile_from_record
from ovseg_cli.random_models import SD15_UNET
from tests.mini import MINI_FOLDER, mini_models

MINI, SD15 = get_profile("mini"), get_profile("sd15")
EXTRACTORS = [e for profile in PROFILES.values() for e in (*profile.extractors, *profile.extra_extractors)]


def test_profiles_are_found_by_name():
    assert list(PROFILES) == ["mini", "sd15", "open-2026", "cliper-l", "cliper-b", "langseg", "turbo"]
    assert all(profile.name == name for name, profile in PROFILES.items())
    with pytest.raises(UsageError, match=r"'sd3'.*mini, sd15"):
        get_profile("sd3")


def test_a_digest_is_the_hash_of_the_record_whatever_the_order_of_its_keys():
    record = {"b": [1, 2.5, None], "a": {"ü": "猫"}}
    turned = {"a": {"ü": "猫"}, "b": [1, 2.5, None]}
    plain = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    assert digest_of(record) == digest_of(turned) == hashlib.sha256(plain).hexdigest()
    assert digest_of({**record, "b": [1, 2.5, 0]}) != digest_of(record)


CHANGES = {
    "name": "other",
    "kind": "vit-key",
    "layers": ("up_blocks.0",),
    "dim": 7,
    "grid": 7,
    "input_size": 96,
    "mean": (0.1, 0.2, 0.3),
    "std": (0.1, 0.2, 0.3),
    "timestep": 7,
    "noise_seed": 7,
    "mask_threshold": 0.25,
}


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: e.name)
@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(EXTRACTORS[0]) if f.name != "weights"])
def test_every_field_of_an_extractor_changes_its_digest(extractor, field):
    changed = dataclasses.replace(extractor, **{field: CHANGES[field]})
    if changed != extractor:
        assert changed.digest != extractor.digest


@pytest.mark.parametrize(("field", "value"), [("repo", "a/b"), ("revision", "0" * 40), ("variant", "ema")])
def test_other_weights_change_the_digest(field, value):
    extractor = SD15.extractors[0]
    changed = dataclasses.replace(extractor, weights=dataclasses.replace(extractor.weights, **{field: value}))
    assert changed.digest != extractor.digest


def test_what_changes_no_feature_changes_no_extractor_digest():
    extractor = SD15.extractors[0]
    weights = dataclasses.replace(extractor.weights, licence="other", nbytes=1, part="other", files=("*",), marker="x")
    assert dataclasses.replace(extractor, weights=weights).digest == extractor.digest


def test_all_digests_are_different_and_every_record_is_json():
    assert len({e.digest for e in EXTRACTORS}) == len(set(EXTRACTORS))
    assert MINI.digest != SD15.digest
    for extractor in EXTRACTORS:
        assert json.loads(json.dumps(extractor.record()))["layers"] == list(extractor.layers)
        assert digest_of(json.loads(json.dumps(extractor.record()))) == extractor.digest


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_a_profiles_digest_survives_json_and_changes_with_any_part(profile):
    assert profile_from_record(json.loads(json.dumps(profile.record()))) == profile
    assert profile_from_record(json.loads(json.dumps(profile.record()))).digest == profile.digest
    for changed in (
        dataclasses.replace(profile, generator=dataclasses.replace(profile.generator, guidance=1.5)),
        dataclasses.replace(profile, generator=dataclasses.replace(profile.generator, sampler="lcm")),
        dataclasses.replace(profile, generator=dataclasses.replace(profile.generator, spacing="linspace")),
        dataclasses.replace(profile, clip=dataclasses.replace(profile.clip, gem_temperature=1.5)),
        dataclasses.replace(profile, inference=dataclasses.replace(profile.inference, short_side=7)),
        dataclasses.replace(profile, extractors=profile.extractors[:1]),
    ):
        assert changed.digest != profile.digest


def test_what_came_later_or_is_for_people_changes_no_digest_of_a_store():
    """Stores that were made before hold this digest of `sd15`."""
    assert SD15.digest == "afa8710b5090dfff5529d69e5e980f8fcac46c615ecde1331f966de28cf5e070"
    assert SD15.extractors[0].digest == "7e0ba1fc2b7d37b8ecd97b21b790aba157489c814ffdf1be9a95be7ead7c197a"
    for profile in (MINI, SD15):
        assert "sampler" not in profile.record()["generator"]
    assert dataclasses.replace(SD15, table="another").digest == SD15.digest
    assert dataclasses.replace(SD15, source="/my.toml").digest == SD15.digest
    turbo = get_profile("turbo")
    assert turbo.record()["generator"]["sampler"] == "euler"
    assert turbo.record()["generator"]["spacing"] == "trailing"
    weights = dataclasses.replace(SD15.clip.weights, commercial=False)
    other = dataclasses.replace(SD15, table="other", clip=dataclasses.replace(SD15.clip, weights=weights))
    assert other.digest == SD15.digest


def test_a_negative_prompt_wants_guidance():
    with pytest.raises(ValueError, match=r"guidance 1 is none"):
        dataclasses.replace(SD15.generator, guidance=1.0)
    assert SD15.generator.walks == 1920
    assert get_profile("turbo").generator.walks == 128


def test_weights_are_listed_once_each():
    assert [w.part for w in SD15.weights] == ["diffusion", "clip", "dino"]
    assert [w.part for w in MINI.weights] == ["diffusion", "clip"]
    assert MINI.bundled
    assert not SD15.bundled


def test_an_ensemble_is_picked_by_name_whatever_the_order():
    sd, clip, dino = SD15.extractors
    tokens, dinov2, mae = SD15.extra_extractors
    assert [e.name for e in MINI.known_extractors] == ["sd", "clip", "dino", "clip-token"]
    assert [e.name for e in SD15.known_extractors] == ["sd", "clip", "dino", "clip-token", "dinov2", "mae"]
    assert SD15.pick_extractors(None) == SD15.extractors
    assert SD15.pick_extractors(["mae"]) == (mae,)
    assert SD15.pick_extractors(["dinov2", "clip", "sd"]) == SD15.pick_extractors(("sd", "clip", "dinov2"))
    assert SD15.pick_extractors(("sd", "clip", "dinov2")) == (sd, clip, dinov2)
    assert SD15.pick_extractors(("clip-token", "dino")) == (dino, tokens)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["sd", "swin"], r"'mini' has no extractor 'swin'. It has: sd, clip, dino, clip-token\."),
        (["SD"], "no extractor 'SD'"),
        (["clip", "sd", "clip"], "given twice: clip, sd, clip"),
        ([], "No extractor is named.*sd, clip, dino, clip-token"),
    ],
)
def test_an_ensemble_that_cannot_be_is_refused(names, why):
    with pytest.raises(UsageError, match=why):
        MINI.pick_extractors(names)


def test_an_ensemble_needs_its_own_weights_and_the_generator_and_clip():
    assert [w.part for w in SD15.weights_for(SD15.pick_extractors(["mae", "dinov2"]))] == [
        *("diffusion", "clip", "dinov2", "mae")
    ]
    assert [w.part for w in SD15.weights_for(SD15.pick_extractors(["clip-token"]))] == ["diffusion", "clip"]
    assert SD15.weights_for(SD15.extractors) == SD15.weights


@pytest.mark.parametrize("profile", [p for p in PROFILES.values() if not p.bundled], ids=lambda p: p.name)
def test_pinned_revisions_are_whole_commit_hashes(profile):
    for weights in (*profile.weights_for(profile.known_extractors), profile.regions.sam):
        assert len(weights.revision) == 40
        int(weights.revision, 16)
        assert weights.repo.count("/") == 1


BUNDLED = (*MINI.weights_for((*MINI.extractors, *MINI.extra_extractors)), MINI.domain.weights)


@pytest.mark.parametrize("weights", BUNDLED, ids=lambda w: w.part)
def test_the_bundled_revision_is_the_hash_of_the_files_on_disk(weights):
    assert weights.revision == bundled_revision(MINI_FOLDER.parent / weights.bundled)


def test_a_bundled_revision_changes_with_any_weight_file(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "a.safetensors").write_bytes(b"1")
    (tmp_path / "b.safetensors").write_bytes(b"2")
    first = bundled_revision(tmp_path)
    (tmp_path / "vae" / "a.safetensors").write_bytes(b"3")
    second = bundled_revision(tmp_path)
    (tmp_path / "b.safetensors").rename(tmp_path / "c.safetensors")
    assert len({first, second, bundled_revision(tmp_path)}) == 3


@pytest.mark.parametrize("weights", BUNDLED, ids=lambda w: w.part)
def test_the_bundled_size_is_about_what_is_on_disk(weights):
    folder = MINI_FOLDER.parent / weights.bundled
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert size == pytest.approx(weights.nbytes, rel=0.1)


def channels(unet, layers):
    return [unet.get_submodule(layer).transformer_blocks[0].attn2.to_q.out_features for layer in layers]


def test_the_layers_of_sd15_exist_and_have_the_published_width():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SD15_UNET)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964  # Stable Diffusion 1's UNet
    (extractor,) = [e for e in SD15.extractors if e.kind == "unet-query"]
    assert channels(unet, extractor.layers) == [320, 1280, 1280, 1280, 1280, 640, 640, 640, 320]
    assert sum(channels(unet, extractor.layers)) == extractor.dim == 7680


def test_the_layers_of_sd15_are_the_published_choice_from_the_published_list():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SD15_UNET)
    names = [n.removesuffix(".transformer_blocks.0.attn2") for n, _ in unet.named_modules() if n.endswith(".attn2")]
    # The published list runs down, mid, up; module order has the middle block last.
    listed = [n for part in ("down", "mid", "up") for n in names if n.startswith(part)]
    assert len(listed) == 16
    assert list(SD15.extractors[0].layers) == [listed[0], *listed[6:13], listed[15]]


def test_the_layers_of_mini_exist():
    unet = mini_models().generator.unet
    assert len(channels(unet, MINI.extractors[0].layers)) == len(MINI.extractors[0].layers)
    assert MINI.clip.streams <= mini_models().clip.depth


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_settings_of_a_profile_fit_together(profile):
    names = [e.name for e in (*profile.extractors, *profile.extra_extractors)]
    assert len(set(names)) == len(names)
    assert "{name}" in profile.generator.prompt
    assert all("{name}" in prompt for prompt in profile.clip.prompts or ())
    assert profile.clip.best in word_methods()
    assert profile.proxy in {extractor.name for extractor in profile.known_extractors}
    assert all(stride <= size for size, stride in profile.inference.windows)
    assert len(set(profile.clip.background_words)) == len(profile.clip.background_words)


@pytest.mark.parametrize(
    ("template", "name", "filled"),
    [
        ("a photo of {article} {name}", "cat", "a photo of a cat"),
        ("a photo of {article} {name}", "apple", "a photo of an apple"),
        ("a photo of {article} {name}", "Umbrella", "a photo of an Umbrella"),
        ("{name}, {name}", "猫", "猫, 猫"),
        ("{name}", "{article} {name}", "{article} {name}"),
    ],
)
def test_prompts_are_filled_in(template, name, filled):
    assert fill_prompt(template, name) == filled


def test_the_second_stream_has_as_many_blocks_as_published():
    """The code of GEM and of CLIP Surgery says 7 and takes the last 6."""
    assert get_profile("sd15").clip.streams == 6
