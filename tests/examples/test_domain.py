from __future__ import annotations

import shutil

import numpy as np
import pytest

from examples.mini_pack import domain
from examples.mini_pack.domain import Seen, add_domain, fit, parts, photographs, rendered, tokens, write_pictures
from examples.mini_pack.evaluate import pack_profile
from examples.mini_pack.training import Clock, Stopped
from ovseg_cli.methods.domain import look, read_domain
from tests.mini import MINI_FOLDER, mini_models


def seen(count=400, seed=0):
    """Two kinds of tokens that differ in one of their numbers."""
    rng = np.random.default_rng(seed)
    scenes, calibration = rng.standard_normal((2, count, 5)).astype(np.float32)
    others = rng.standard_normal((3, 40, 5)).astype(np.float32)
    others[..., 2] += 6
    return Seen(scenes, list(others), calibration)


def test_the_classifier_finds_what_differs_and_keeps_to_its_false_alarms():
    given = seen()
    weight, bias = fit(given)
    assert np.abs(weight).argmax() == 2
    assert (given.calibration @ weight + bias > 0).mean() == pytest.approx(domain.FALSE_ALARMS, abs=1 / 400)
    assert (np.concatenate(given.photographs) @ weight + bias > 0).mean() > 0.95


def test_parts_of_photographs_lie_inside_and_are_not_too_large():
    found = photographs()
    assert len(found) == len(domain.PHOTOGRAPHS) + 2
    for photograph in found:
        for part in parts(photograph, 3, np.random.default_rng(1)):
            assert max(part.size) <= 640
            assert all(1 <= a <= b for a, b in zip(part.size, photograph.size, strict=True))


@pytest.mark.slow
def test_scenes_and_pictures_are_rendered_in_equal_numbers(glyphs):
    sizes = [image.size for image in rendered(glyphs, 4, 5)]
    assert sizes == [(64, 64)] * 4 + list(domain.SIZES)


@pytest.mark.slow
def test_a_pack_gets_its_classifier(tmp_path, glyphs):
    shutil.copytree(MINI_FOLDER, tmp_path / "pack", ignore=shutil.ignore_patterns("domain"))
    write_pictures(tmp_path / "pictures", glyphs, scenes=8)
    assert len(list((tmp_path / "pictures" / "fit").iterdir())) == 16
    assert len(list((tmp_path / "pictures" / "calibration").iterdir())) == 8
    with pytest.raises(Stopped, match="pictures: stopped"):
        write_pictures(tmp_path / "others", glyphs, scenes=8, clock=Clock(minutes=0))
    file = add_domain(tmp_path / "pack", tmp_path / "pictures", crops=1)
    profile = pack_profile(tmp_path / "pack")
    weight, _ = read_domain(file, look(profile.clip, profile.domain))
    assert weight.shape == (192,)


@pytest.mark.slow
def test_the_bundled_classifier_calls_photographs_unfamiliar_and_scenes_not(glyphs):
    models = mini_models()
    folder = MINI_FOLDER / "domain" / "domain.safetensors"
    weight, bias = read_domain(folder, look(models.profile.clip, models.profile.domain))
    told = tokens(models, models.profile.domain, photographs()) @ weight.numpy() + bias > 0
    assert told.mean() >= 0.9
    assert (tokens(models, models.profile.domain, rendered(glyphs, 8, 9)) @ weight.numpy() + bias > 0).sum() <= 2


def test_a_pack_brings_its_own_or_has_none(tmp_path):
    shutil.copytree(MINI_FOLDER, tmp_path / "pack")
    spec = pack_profile(tmp_path / "pack").domain
    assert spec is not None
    assert spec.weights.bundled == str(tmp_path / "pack" / "domain")
    shutil.rmtree(tmp_path / "pack" / "domain")
    assert pack_profile(tmp_path / "pack").domain is None
