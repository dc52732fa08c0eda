from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from ovseg_cli.cli.app import app
from ovseg_cli.profiles import PROFILES


@pytest.fixture(autouse=True)
def no_torch(monkeypatch):
    """Asking torch for its devices takes seconds, and is not what these tests are about."""
    monkeypatch.setattr("ovseg_cli.cli.doctor._devices", lambda: {"cpu": "a processor, 2 threads"})


def test_without_a_store_all_is_well(cli, own_world):
    result = cli("doctor")
    assert result.exit_code == 0
    assert "not made yet" in result.stdout
    assert not (own_world / "store").exists()


def test_says_what_is_here(cli, own_world):
    cli("add-class", "cat")
    data = cli("doctor", "--json").data
    assert data["libraries"]["torch"].startswith("2.")
    assert data["devices"] == {"cpu": "a processor, 2 threads"}
    assert data["profiles"]["mini"] == "ready"
    assert data["profiles"]["sd15"].startswith("missing: diffusion, clip, dino")
    store = data["store"]
    assert store["path"] == str(own_world / "store")
    assert (store["healthy"], store["classes"], store["support_images"]) == (True, 1, 2)


def test_says_it_to_a_person(cli):
    cli("add-class", "cat")
    text = cli("doctor").stdout
    for words in ("machine", "libraries", "weights", "store", "sound", "1 class, 8 prototypes, 2 support images"):
        assert words in text


def test_a_store_with_lost_files_is_damaged(cli, own_world):
    cli("add-class", "cat")
    shutil.rmtree(own_world / "store" / "support" / "cat")
    result = cli("doctor")
    assert result.exit_code == 1
    assert "damaged" in result.error
    assert "missing" in result.stdout
    assert cli("doctor", "-q").stdout == "damaged\n"


def test_a_bit_of_a_support_image_is_damage(cli, own_world):
    cli("add-class", "cat")
    (picture,) = (own_world / "store" / "support" / "cat").glob("*/001.png")
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(data)
    result = cli("doctor")
    assert result.exit_code == 1
    assert "001.png is not what was stored" in result.error
    assert "add-class" in result.error


def test_damaged_weights_are_told_with_the_remedy(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "ovseg_cli.profiles.checks.damaged_files",
        lambda weights: (tmp_path / weights.part,) if weights.part == "dino" else (),
    )
    result = cli("doctor")
    assert result.exit_code == 1
    assert "weights are damaged" in result.error
    assert "install ovseg again" in result.error
    assert "delete it, then run ovseg pull --profile sd15" in result.error
    assert cli("doctor", "-q").stdout == "damaged\n"
    assert len(cli("doctor", "--json").data["damaged_weights"]) == 2


def test_a_store_that_cannot_be_opened_is_damaged(cli, own_world):
    (own_world / "store").mkdir()
    (own_world / "store" / "ovseg.db").write_text("no database" * 99)
    result = cli("doctor")
    assert result.exit_code == 1
    assert "damaged" in result.error


def test_profiles(cli):
    [mini, sd15, *_] = cli("profiles", "--json").data
    assert (mini["name"], mini["ready"]) == ("mini", True)
    assert (sd15["name"], sd15["ready"]) == ("sd15", False)
    assert {weights["part"] for weights in sd15["weights"]} == {"diffusion", "clip", "dino"}
    assert all(len(weights["revision"]) == 40 for weights in sd15["weights"]), "full revisions in the data"
    assert all(weights["licence"] for weights in sd15["weights"])


def test_profiles_for_a_person(cli):
    lines = cli("profiles").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("mini", "sd15"))] == ["here", "missing"]
    assert "mini  ready" in cli("profiles", "show", "mini").stdout
    result = cli("profiles", "show", "sd15")
    assert "sd15  weights are missing" in result.stdout
    assert "fetch them: ovseg pull --profile sd15" in result.stderr
    told = CliRunner().invoke(app, ["profiles", "sd15"], prog_name="ovseg").stderr
    assert "To show one: ovseg profiles show sd15" in told
    assert cli("profiles", "-q").stdout == "".join(f"{name}\n" for name in PROFILES)


def test_a_profile_shows_what_is_loaded_on_request_too(cli):
    data = cli("profiles", "show", "mini", "--json").data
    assert {part["part"]: part["for"] for part in data["on_request"]} == {
        "dino": "--extractors dino",
        "domain": "unfamiliar pictures",
    }
    pulled = cli("pull", "--profile", "mini", "--extractors", "dino", "--json").data
    assert [part["part"] for part in pulled["weights"]] == ["diffusion", "clip", "dino"]
    assert [part["part"] for part in pulled["on_request"]] == ["domain"]


def test_pull_offline_names_what_is_missing(cli):
    result = cli("pull", "--offline", "--profile", "sd15")
    assert result.exit_code == 1
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5 (about 2.1 GB) are not on this machine" in result.error


def test_pull_of_what_is_bundled_does_nothing(cli):
    result = cli("pull", "--profile", "mini", "--json")
    assert result.exit_code == 0
    assert all(part["present"] for part in json.loads(result.stdout)["weights"])


@pytest.mark.parametrize("args", [("add-class", "cat"), ("add-class", "cat", "--extractors", "clip")])
def test_a_store_whose_weights_are_missing_names_the_command_and_downloads_nothing(cli, args):
    result = cli("--profile", "sd15", *args)
    assert result.exit_code == 1
    assert "nothing is downloaded unasked" in result.error
    assert result.error.endswith("ovseg pull --profile sd15")
