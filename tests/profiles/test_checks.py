from __future__ import annotations

import dataclasses
import shutil

import pytest
from huggingface_hub import constants

from ovseg_cli.profiles import find_weights, get_profile
from ovseg_cli.profiles import weights as weights_module
from ovseg_cli.profiles.checks import damaged_files
from tests.mini import MINI_FOLDER, put_into_hub_cache

MINI, SD15 = get_profile("mini"), get_profile("sd15")
DINO = SD15.weights[2]


def flip(file, place=-1):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Something small under the names of a published model, as the hub's client lays it out."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = tmp_path / "source"
    source.mkdir()
    names = {DINO.marker, "config.json", "model.safetensors"}
    for name in names:
        (source / name).write_bytes(name.encode() * 300_000)
    put_into_hub_cache(tmp_path / "hub", DINO, source)
    return find_weights(DINO)


def test_bundled_weights_are_as_published():
    assert [damaged_files(part) for part in MINI.weights] == [()] * len(MINI.weights)


def test_a_bit_of_bundled_weights(tmp_path, monkeypatch):
    part = MINI.weights[-1]
    folder = shutil.copytree(MINI_FOLDER.parent / part.bundled, tmp_path / part.bundled)
    monkeypatch.setattr(weights_module, "_PACKAGE_FOLDER", tmp_path)
    assert damaged_files(part) == ()
    flip(next(folder.rglob("*.safetensors")), 5000)
    assert damaged_files(part) == (folder,)


def test_fetched_weights_are_as_their_names_say(fetched):
    assert damaged_files(DINO) == ()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_bit_of_fetched_weights(fetched, name):
    blob = (fetched / name).resolve()
    flip(blob)
    assert damaged_files(DINO) == (blob,)


def test_weights_that_are_not_here(fetched):
    assert damaged_files(dataclasses.replace(DINO, revision="0" * 40)) == ()


def test_a_cache_without_links_is_not_judged(fetched):
    for path in [path for path in fetched.rglob("*") if path.is_symlink()]:
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    flip(fetched / "model.safetensors")
    assert damaged_files(DINO) == ()
