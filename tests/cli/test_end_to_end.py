"""The main job with the bundled models: the three commands, as a stranger would type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ovseg_cli.cli.app import app
from ovseg_cli.store import Store
from tests.cli.conftest import heed_ctrl_c

PICTOGRAMS = Path(__file__).resolve().parents[2] / "examples" / "pictograms"
DONUT = "chocolate glazed donut"


def ovseg(*args, code=0):
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="ovseg")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two classes, made once."""
    folder = tmp_path_factory.mktemp("end-to-end") / "store"
    result = ovseg("--store", folder, "--offline", "add-class", DONUT, "cat", "--count", 6, "--steps", 8)
    assert "BUNDLED MINI MODELS" in result.stderr, "nobody may take these models for those for photographs"
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [DONUT, "cat"]
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The two bundled pictures that show most of a donut or a cat, with their labels."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / "labels" / "labelmap.txt").write_bytes((PICTOGRAMS / "labels" / "labelmap.txt").read_bytes())
    shares = {}
    for path in sorted((PICTOGRAMS / "labels").glob("*.png")):
        with Image.open(path) as label:
            shares[path.stem] = float(np.isin(np.asarray(label), (1, 3)).mean())
    for stem in sorted(shares, key=shares.__getitem__)[-2:]:
        for place, suffix in (("images", "jpg"), ("labels", "png")):
            name = f"{stem}.{suffix}"
            (folder / place / name).write_bytes((PICTOGRAMS / place / name).read_bytes())
    return folder


def test_classes_are_made_with_supports_and_prototypes(store, tmp_path):
    [donut, cat] = json.loads(ovseg("--store", store, "list-classes", "--json").stdout)
    assert (donut["name"], cat["name"]) == (DONUT, "cat")
    for entry in (donut, cat):
        assert entry["images"] == 6
        kinds = {(group["extractor"], group["role"], group["kind"]) for group in entry["prototypes"]}
        assert {(name, role, "mean") for name in ("sd", "clip") for role in ("fg", "bg")} <= kinds
    ovseg("--store", store, "show-class", DONUT, "--contact-sheet", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 6 * 128


def test_segment_then_eval(store, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = f"{DONUT},cat"
    run = json.loads(ovseg("--store", store, "segment", pictures / "images", "-c", names, "--overlay", "--json").stdout)
    assert (run["method"], run["done"], run["failed"]) == ("prototype", 2, 0)
    for path in (pictures / "images").iterdir():
        with Image.open(path) as picture, Image.open(f"ovseg-out/SegmentationClass/{path.stem}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == picture.size
        assert Path("ovseg-out", "overlay", f"{path.stem}.png").is_file()
    made_by = json.loads(Path("ovseg-out/run.json").read_text())
    assert made_by["profile"]["name"] == "mini"
    assert made_by["device"]
    report = json.loads(ovseg("--store", store, "eval", "--gt", pictures / "labels", "--json").stdout)
    scores = {entry["name"]: entry["iou"] for entry in report["classes"]}
    # The figures of the bundled models on two pictures; chance is near 0.1.
    assert max(scores[DONUT] or 0, scores["cat"] or 0) > 0.3, scores
    again = json.loads(ovseg("--store", store, "segment", pictures / "images", "-c", names, "--json").stdout)
    assert (again["done"], again["skipped"]) == (0, 2)


@pytest.mark.slow
def test_a_class_without_prototypes_is_found_by_its_name(store, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ovseg("--store", store, "segment", pictures / "images", "-c", "cat,dog", "--limit", 1, "--json")
    assert json.loads(result.stdout)["method"] == "hybrid"
    only = ("-c", "dog", "-o", "only-dog", "--limit", 1, "--json")
    result = ovseg("--store", store, "segment", pictures / "images", *only)
    assert json.loads(result.stdout)["method"] == "gem"
    assert "no prototypes for dog" in result.stderr


def test_dry_run_of_the_real_thing(store):
    [plan] = json.loads(ovseg("--store", store, "add-class", "dog", "--dry-run", "--json").stdout)
    assert plan["prompt"] == "a good picture of a dog"
    assert plan["extractors"] == ["sd", "clip"]
    assert (
        "no place for the class name"
        in ovseg("--store", store, "add-class", "dog", "--prompt", "a picture", "--dry-run", code=2).stderr
    )


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_generation(store):
    """As a process of its own: the class in the making leaves nothing, those that were there stay."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ovseg_cli", "-vv", "--store", store, "--offline", "add-class", "dog", "--steps", "500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PICTOGRAMS.parents[1]), "PYTHONUNBUFFERED": "1"},
        preexec_fn=heed_ctrl_c,
    )
    for line in process.stderr:
        if "Loading" in line:
            break
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "nothing was kept of 'dog'" in rest
    with Store.open(store) as opened:
        assert opened.class_names() == [DONUT, "cat"]
        assert opened.health().ok
        assert opened.health().orphans == ()
