"""Training, naming and using a head by the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ovseg_cli.cli.app import app
from tests.cli.conftest import Result
from tests.heads.conftest import paint_folder

TRAIN = ("--steps", "2", "--batch", "2")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_models")]


@pytest.fixture
def run(here):
    """Runs a command in this process, with the bundled models."""

    def command(*args):
        result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="ovseg")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    return command


@pytest.fixture
def trained(here, run):
    """A head of two steps in the current folder, and its labelled pictures."""
    paint_folder(here / "data", count=20)
    (here / "novel.txt").write_text("car\n")
    result = run(
        "train-head", "squares", "--images", "data/images", "--labels", "data/labels", "--novel", "novel.txt",
        *TRAIN, "--beside", "maskclip", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return result


def labels_of(folder, key="p0"):
    return np.asarray(Image.open(folder / "SegmentationClass" / f"{key}.png"))


def test_training_reports_base_and_novel(trained, here):
    report = trained.data["report"]
    assert report["base"] == ["grass", "cat", "dog"]
    assert report["novel"] == ["car"]
    assert report["images"] == 2
    assert report["head"]["method"] == "head:squares.safetensors"
    assert [other["method"] for other in report["others"]] == ["maskclip"]
    assert report["remarks"]
    assert json.loads((here / "squares.training" / "report.json").read_text()) == report
    assert (here / "squares.training" / "curves.png").is_file()
    assert trained.data["steps"] == 2


def test_segmenting_naming_and_training_anew(trained, here, run):
    """One head through its life: used as a file, named, used by name; other weights make label maps anew."""
    out = ("-c", "cat,dog", "-o", "out", "--json")
    first = run("segment", "data/images/p0.png", "--method", "head:squares.safetensors", *out)
    assert first.exit_code == 0, first.stderr
    assert first.data["done"] == 1
    assert set(np.unique(labels_of(here / "out"))) <= {0, 1, 2}
    assert run("heads", "add", "squares.safetensors").exit_code == 0
    assert run("heads", "--json").data[0]["base"] == ["grass", "cat", "dog"]
    by_name = run("segment", "data/images/p0.png", "--method", "head:squares", *out)
    assert by_name.exit_code == 0, by_name.stderr
    assert by_name.data["skipped"] == 1  # the same weights, whatever they are called
    again = run(
        "train-head", "squares", "--images", "data/images", "--labels", "data/labels", "--novel", "novel.txt",
        "--steps", "3", "--batch", "2", "--no-report",
    )  # fmt: skip
    assert again.exit_code == 0, again.stderr
    changed = run("segment", "data/images/p0.png", "--method", "head:squares", *out)
    assert (changed.data["done"], changed.data["skipped"]) == (1, 0)
    assert run("heads", "remove", "squares").exit_code == 0
    assert "neither a file nor a registered name" in run("segment", "x.png", "--method", "head:squares").error


def test_options_of_words(trained, here, run):
    (here / "shown.txt").write_text("p0.png: cat\np1.png: dog\n")
    common = ("--method", "head:squares.safetensors", "--json")
    result = run(
        "segment", "data/images/p0.png", "data/images/p1.png", "--image-classes", "shown.txt", "--batch", "2",
        "--synonym", "cat=kitten", "--templates", "single", "--windows", "64/32", "-c", "cat,dog", *common,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert set(np.unique(labels_of(here / "ovseg-out"))) <= {0, 1}
    refused = run("segment", "data/images/p0.png", "-c", "cat", "--settings", "voc21", *common[:2])
    assert refused.error == "A trained head brings settings of its own. Leave out --settings."
    assert "cannot be taken apart" in run("segment", "data/images/p0.png", "-c", "cat", "--explain", *common[:2]).error


def test_showing_a_head(trained, run):
    shown = run("heads", "show", "squares.safetensors", "--json").data
    assert shown["kind"] == "catseg"
    assert shown["training"]["finished"]
    assert shown["spec"]["clip"]["width"] == 192
    assert "CAT-Seg (squares)" in run("methods", "head:squares.safetensors").stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--novel", "zebra.txt"), "does not name 'zebra' of --novel"),
        (("-c", "cat,zebra"), "does not name 'zebra' of --classes"),
        (("--row", "II"), "--row and --queries belong to --head dedos"),
        (("--test-images", "data/images"), "belong together"),
        (("-o", "head.pt"), "A head is written as .safetensors"),
        (("--beside", "nothing"), "nothing"),
        (("--minutes", "0"), "--minutes must be above 0"),
    ],
)
def test_requests_that_cannot_be(here, run, options, message):
    paint_folder(here / "data")
    (here / "zebra.txt").write_text("zebra\n")
    result = run("train-head", "x", "--images", "data/images", "--labels", "data/labels", *options)
    assert result.exit_code == 2
    assert message in result.error
    assert not list(here.glob("x.*"))


def test_a_report_that_could_not_be_made_is_told_before_the_training(here, run):
    paint_folder(here / "data")
    paint_folder(here / "other", names=("grass", "car"))
    result = run(
        "train-head", "x", "--images", "data/images", "--labels", "data/labels", "-c", "cat,dog",
        "--test-images", "other/images", "--test-labels", "other/labels",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "show none of the names to train (cat, dog); they show grass, car." in result.error
    assert not list(here.glob("x.*"))


def test_dedos_by_the_command_line(here, run):
    """A head without diffusion at inference, and its three readings refused where they belong to nothing."""
    paint_folder(here / "data", count=4)
    result = run(
        "train-head", "d", "--head", "dedos", "--images", "data/images", "--labels", "data/labels", *TRAIN,
        "--queries", "mean", "--no-report", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.data["kind"] == "dedos"
    segmented = run("segment", "data/images/p0.png", "-c", "cat,dog", "--method", "head:d.safetensors", "--json")
    assert segmented.exit_code == 0, segmented.stderr


def test_a_checkpoint_that_is_none(here, run):
    (here / "model.pth").write_bytes(b"nothing")
    result = run("heads", "convert", "model.pth", "-o", "x.safetensors")
    assert "is damaged, or holds more than tensors" in result.error


def test_hybrid_with_a_head(trained, here, run):
    """Words are read by the head where a class has no prototypes."""
    words = ("--words", "head:squares.safetensors")
    result = run("segment", "data/images/p0.png", "-c", "cat,dog", "--method", "hybrid", *words, "--json")
    assert result.exit_code == 0, result.stderr
    plain = run("segment", "data/images/p0.png", "-c", "cat,dog", "--method", "hybrid", "--json")
    assert plain.data["done"] == 1  # another reader of words, other label maps
    refused = run("segment", "data/images/p0.png", "-c", "cat,dog", "--method", "gem", *words)
    assert refused.error.startswith("--words says how hybrid reads words, and gem segments")


def test_comparing_a_head_with_others(trained, here):
    from ovseg_cli import Store, compare

    with Store.open(here / "store", profile="mini") as store:
        image = np.asarray(Image.open("data/images/p0.png"))
        found = compare(store, image, ["cat", "dog"], methods=["gem", "head:squares.safetensors"])
    assert {name: answer.ids.shape for name, answer in found.items()} == {
        "gem": (64, 64),
        "head:squares.safetensors": (64, 64),
    }
