from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from ovseg_cli.files.labels import LabelMap, write_label
from ovseg_cli.methods.catalogue import METHODS
from ovseg_cli.runs import speed
from ovseg_cli.runs.speed import Speed, measure
from tests.cli.conftest import REPOSITORY
from tests.evaluation.datasets import miniature
from tests.mini import EXAMPLES
from tests.runs.conftest import paint

HERE = ("benchmark", "--images", "photos", "--gt", "labels", "-c", "cat,dog", "--timed", "0")
FILES = ("table.md", "table.tex", "table.csv", "table.json")


@pytest.fixture
def world(cli, photos, gt):
    """Two pictures of two classes, which the stand-ins segment rightly but for a bird."""
    return cli


def rows(folder):
    return {row["method"]: row for row in csv.DictReader((folder / "table.csv").open(encoding="utf-8"))}


@pytest.mark.slow
def test_a_table_of_several_methods(world, here):
    result = world(*HERE, "--methods", "gem,sclip")
    assert result.exit_code == 0
    folder = here / "ovseg-benchmark"
    assert sorted(path.name for path in folder.iterdir() if path.is_file() and path.name[0] != ".") == sorted(
        [*FILES, "benchmark.json"]
    )
    assert {name: float(row["miou"]) for name, row in rows(folder).items()} == {"gem": 1.0, "sclip": 1.0}
    assert rows(folder)["sclip"]["published_miou"] == "59.63"
    assert rows(folder)["gem"]["seconds_per_picture"] == ""
    assert re.search(r"gem\s+100\.0 .* 46\.2", result.stdout)
    assert "table   ovseg-benchmark/table.md" in result.stdout
    assert "are not to be compared" in (folder / "table.md").read_text(), "of other pictures than VOC's"


def test_made_twice_it_is_the_same_byte_for_byte_and_nothing_is_done_again(world, here, monkeypatch):
    world(*HERE, "--methods", "gem,sclip")
    before = {name: (here / "ovseg-benchmark" / name).read_bytes() for name in FILES}
    stamps = {path: path.stat().st_mtime_ns for path in (here / "ovseg-benchmark").rglob("SegmentationClass/*")}
    monkeypatch.setattr(
        "ovseg_cli.segmentation.segmenter.segment_batch_together", lambda *_: pytest.fail("segmented again")
    )
    world(*HERE, "--methods", "gem,sclip")
    assert {name: (here / "ovseg-benchmark" / name).read_bytes() for name in FILES} == before
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_each_methods_folder_can_be_scored_by_itself(world, here):
    world(*HERE, "--methods", "gem,sclip")
    data = world("eval", "--gt", "labels", "--pred", "ovseg-benchmark/gem", "--json").data
    assert str(data["miou"]) == rows(here / "ovseg-benchmark")["gem"]["miou"]


@pytest.mark.slow
def test_missing_classes_are_made_for_methods_that_match_prototypes(world, here):
    result = world(*HERE, "--methods", "prototype,gem", "--count", "2")
    assert result.exit_code == 0
    assert "making 2 classes" in result.stderr
    assert set(rows(here / "ovseg-benchmark")) == {"prototype", "gem"}
    assert {entry["name"] for entry in world("list-classes", "--json").data} == {"cat", "dog"}
    assert "making" not in world(*HERE, "--methods", "prototype,gem").stderr


@pytest.mark.slow
def test_without_them_such_methods_are_left_out_and_told(world, here):
    result = world(*HERE, "--no-add")
    assert result.exit_code == 0
    assert "prototype is left out: The store has no class 'cat'." in result.stderr
    made = rows(here / "ovseg-benchmark")
    assert "prototype" not in made
    assert {"gem", "maskclip", "sclip", "cliper", "hybrid"} <= set(made) <= set(METHODS)
    assert "`prototype`: The store has no class" in (here / "ovseg-benchmark" / "table.md").read_text()
    named = world(*HERE, "--no-add", "--methods", "prototype,gem", "-o", "other")
    assert named.exit_code == 2, "who names a method wants it"
    assert "has no class 'cat'" in named.error


@pytest.mark.slow
def test_an_option_that_methods_lack_leaves_them_out(world, here):
    result = world(*HERE, "--no-add", "--templates", "single")
    assert result.exit_code == 0
    assert (
        "aggsd is left out: With aggsd, the diffusion model reads class names in a prompt of its own" in result.stderr
    )
    assert "aggsd" not in rows(here / "ovseg-benchmark")
    assert world(*HERE, "--methods", "aggsd,gem", "--templates", "single", "-o", "other").exit_code == 2


def test_a_subset_is_drawn_by_its_seed_and_grows(cli, here):
    labels = LabelMap.from_classes(("cat", "dog"))
    for number in range(9):
        paint(here / "photos" / f"p{number}.png", 1, 2)
        write_label(here / "labels" / f"p{number}.png", np.array([[1] * 8 + [2] * 8] * 8), labels)
    (here / "labels" / "labelmap.txt").write_text("background\ncat\ndog\n")

    def drawn(number, seed):
        shutil.rmtree(here / "out", ignore_errors=True)
        assert cli(*HERE, "--methods", "gem", "--subset", number, "--seed", seed, "-o", "out").exit_code == 0
        assert f"{number} of 9 pictures, seed {seed}" in (here / "out" / "table.md").read_text()
        return {path.name for path in (here / "out" / "gem" / "SegmentationClass").iterdir()}

    three, five = drawn(3, 0), drawn(5, 0)
    assert three < five
    assert len(three) == 3
    assert drawn(3, 0) == three
    assert drawn(3, 1) != three
    cli(*HERE, "--methods", "gem", "--subset", 5, "--seed", 1, "-o", "out")
    assert rows(here / "out")["gem"]["pictures"] == "5", "label maps of other pictures in the folder do not count"
    assert "more than the 9 labelled pictures" in cli(*HERE, "--subset", "10").error


def test_pictures_without_labels_are_left_out_and_told(world, here):
    paint(here / "photos" / "z.png", 1, 2)
    result = world(*HERE, "--methods", "gem")
    assert result.exit_code == 0
    assert "1 pictures have no label and are left out: z" in result.stderr
    assert rows(here / "ovseg-benchmark")["gem"]["pictures"] == "2"


def test_a_picture_that_cannot_be_read_is_left_out_of_all_and_told(world, here):
    (here / "photos" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    result = world(*HERE, "--methods", "gem,sclip")
    assert result.exit_code == 3
    assert "1 picture could not be read: a" in result.stderr
    assert {(row["pictures"], row["miou"]) for row in rows(here / "ovseg-benchmark").values()} == {("1", "1.0")}


@pytest.mark.slow
def test_another_list_of_classes_in_the_same_folder_is_refused(world, here):
    world(*HERE, "--methods", "gem")
    result = world("benchmark", "--images", "photos", "--gt", "labels", "-c", "cat", "--timed", "0", "--no-add")
    assert result.exit_code == 2
    assert "holds label maps of other classes" in result.error
    again = world(
        "benchmark", "--images", "photos", "--gt", "labels", "-c", "cat", "--timed", "0", "--no-add", "--overwrite"
    )
    assert again.exit_code == 0


def test_a_damaged_record_is_told(world, here):
    world(*HERE, "--methods", "gem")
    (here / "ovseg-benchmark" / "benchmark.json").write_text("[")
    result = world(*HERE, "--methods", "gem")
    assert result.exit_code == 1
    assert "benchmark.json is damaged" in result.error


def test_dry_run(world, here):
    data = world(*HERE, "--methods", "gem,sclip", "--dry-run", "--json").data
    assert data["methods"] == {"gem": 2, "sclip": 2}
    assert data["to_add"] == []
    assert not (here / "ovseg-benchmark").exists()


def test_without_classes_those_of_the_labels_are_compared(world, here):
    result = world("benchmark", "--images", "photos", "--gt", "labels", "--timed", "0", "--methods", "gem")
    assert result.exit_code == 0
    assert json.loads((here / "ovseg-benchmark" / "benchmark.json").read_text())["classes"] == ["dog", "cat", "bird"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Name a data set with --dataset and --root"),
        (("--images", "photos"), "Name a data set with --dataset and --root"),
        (("--dataset", "voc21"), "--root"),
        (("--dataset", "voc12", "--root", "."), "voc12"),
        (("--dataset", "voc21", "--root", "."), "voc21"),
        (("--dataset", "voc21", "--root", ".", "-c", "cat"), "--classes is for pictures of your own"),
        (("--dataset", "voc21", "--root", ".", "--images", "photos"), "--images is for pictures of your own"),
        (("--dataset", "voc21", "--root", ".", "--no-background"), "says itself whether its background counts"),
        (("--root", ".", "--images", "photos", "--gt", "labels"), "--dataset"),
        (("--images", "photos", "--gt", "labels", "--methods", "gem,gme"), "Did you mean 'gem'"),
        (("--images", "photos", "--gt", "labels", "--methods", "gem,gem"), "each once"),
        (("--images", "photos", "--gt", "labels", "--methods", ","), "or all"),
        (("--images", "photos", "--gt", "labels", "-o", "photos"), "is the input folder"),
        (("--images", "photos", "--gt", "labels", "-c", "zebra"), "names none of the classes"),
        (("--images", "photos", "--gt", "nowhere"), "nowhere"),
    ],
)
def test_bad_requests_get_one_line(world, options, message):
    result = world("benchmark", *options)
    assert result.exit_code == 2
    assert message in result.error


@pytest.mark.slow
def test_eval_takes_several_methods_at_once(world, here):
    result = world("eval", "--images", "photos", "--gt", "labels", "-c", "cat,dog", "--method", "gem,sclip")
    assert result.exit_code == 0
    assert re.search(r"gem\s+100\.0", result.stdout)
    data = world(
        "eval", "--images", "photos", "--gt", "labels", "-c", "cat,dog", "--method", "gem,sclip", "--json"
    ).data
    assert {method: report["miou"] for method, report in data["methods"].items()} == {"gem": 1.0, "sclip": 1.0}
    several = ("eval", "--images", "photos", "--gt", "labels", "-c", "cat,dog", "--method", "gem,sclip")
    world(*several, "-o", "table.tex")
    assert "\\toprule" in (here / "table.tex").read_text()
    assert world(*several, "--fail-under", "0.5").exit_code == 0
    write_label(here / "labels" / "a.png", np.full((8, 16), 1), LabelMap.from_classes(("dog", "cat", "bird")))
    low = world(*several, "--fail-under", "0.99")
    assert low.exit_code == 4
    assert "gem: the mIoU" in low.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("eval", "--gt", "labels", "--pred", "ovseg-out", "--method", "gem,sclip"), "name these with --images"),
        (("eval", "--gt", "labels", "--images", "photos", "--method", "gem,gem"), "each method once"),
        (("eval", "--gt", "labels", "--images", "photos", "--method", "auto,gem"), "auto by itself"),
        (
            ("eval", "--gt", "labels", "--images", "photos", "--method", "gem,sclip", "--report", "a.html"),
            "--report is of one method",
        ),
        (("segment", "photos", "-c", "cat", "--method", "gem,sclip"), "One --method is wanted here"),
        (("eval", "--gt", "labels", "--report", "a.pdf"), "--report writes .html or .htm"),
        (("eval", "--gt", "labels", "--per-picture", "a.txt"), "--per-picture writes .csv or .jsonl"),
        (("eval", "--gt", "labels", "--confusion", "a.png"), "--confusion writes .csv or .svg"),
    ],
)
def test_bad_requests_of_several_methods_and_files(world, options, message):
    result = world(*options)
    assert result.exit_code == 2
    assert message in result.error


def test_a_page_and_what_is_beside_it(world, here):
    world("segment", "photos", "-c", "cat,dog")
    files = ("--report", "deep/page.html", "--per-picture", "per.jsonl", "--confusion", "matrix.csv")
    result = world("eval", "--gt", "labels", *files)
    assert result.exit_code == 0
    assert "report  deep/page.html" in result.stdout
    page = (here / "deep" / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<img") == 8, "two pictures, each with truth, prediction and difference"
    assert "Expected calibration error" in page
    assert [json.loads(line)["picture"] for line in (here / "per.jsonl").read_text().splitlines()] == ["a", "sub/b"]
    assert (here / "matrix.csv").read_text().splitlines()[0] == "true \\ found,background,cat,dog"


def test_a_page_of_pictures_that_are_segmented_first(world, here):
    files = ("--report", "page.html", "--worst", "1")
    assert world("eval", "--gt", "labels", "--images", "photos", "-c", "cat,dog", *files).exit_code == 0
    assert (here / "page.html").read_text(encoding="utf-8").count("<img") == 4


def test_a_page_of_label_maps_from_elsewhere(world, here):
    shutil.copytree(here / "labels", here / "maps")
    world("eval", "--gt", "labels", "--pred", "maps", "--report", "page.html")
    page = (here / "page.html").read_text(encoding="utf-8")
    assert "Nothing says where the picture lies." in page
    assert "No scores are kept for these label maps" in page


def test_speed_is_measured_once_in_a_process_of_its_own(world, here, monkeypatch):
    asked = []

    def measured(recipe, pictures, *, device, store):
        asked.append((recipe.method, [path.name for path in pictures], device))
        return Speed(seconds=(0.5, 0.7), memory=1_500_000_000, device="cpu", precision="float32", threads=1)

    monkeypatch.setattr(speed, "measure", measured)
    timed = (*HERE[:-1], "1")
    world(*timed, "--methods", "gem")
    world(*timed, "--methods", "gem,sclip")
    assert asked == [("gem", ["a.png"], "auto"), ("sclip", ["a.png"], "auto")]
    row = rows(here / "ovseg-benchmark")["gem"]
    assert (row["seconds_per_picture"], row["memory_bytes"]) == ("0.6", "1500000000")
    world(*timed, "--methods", "gem", "--refine", "pamr")
    assert asked[-1][0] == "gem", "other settings take other times"


@pytest.mark.slow
def test_a_speed_is_one_of_a_real_process(tmp_path):
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.segmentation.options import SegmentOptions
    from ovseg_cli.segmentation.recipe import make_recipe
    from ovseg_cli.store import Store

    with Store.open(tmp_path / "store", profile="mini") as store:
        options = SegmentOptions(short_side=64, windows=((64, 64),))
        recipe = make_recipe(store, get_profile("mini"), ["cat"], method="maskclip", options=options)
    pictures = [EXAMPLES / "images" / "scene_003.jpg", tmp_path / "missing.png"]
    large = np.ones(1 << 28)  # 2 GB of this process, which are not the method's
    found = measure(recipe, pictures, device="cpu", store=tmp_path / "store")
    assert large.sum() > 0
    assert len(found.seconds) == 1
    assert 0 < found.mean < 60
    assert found.memory is None or 10**8 < found.memory < 2 * 10**9
    assert Speed.of(json.loads(json.dumps(found.record()))) == Speed.of(found.record())
    assert Speed.of({"seconds": "x"}) is None
    assert Speed.of(None) is None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "background"), [("voc21", True), ("voc20", False)])
def test_a_published_data_set_brings_its_pictures_classes_and_figures(cli, here, name, background):
    miniature.voc(here, {f"2007_00000{number}": miniature.scene(number, 20) for number in range(4)})
    data = ("benchmark", "--dataset", name, "--root", "VOCdevkit", "--timed", "0", "--no-add", "--methods")
    assert cli(*data, "sclip,prototype").exit_code == 2, "there are no prototypes"
    result = cli(*data, "sclip,diffseg", "-o", "out")
    assert result.exit_code == 0, result.stderr
    table = json.loads((here / "out" / "table.json").read_text())
    assert table["published_of"] == name
    assert not any("not to be compared" in note for note in table["notes"]), "these pictures are those of the papers"
    assert table["facts"]["pictures"] == "4", "those of the split alone"
    assert table["facts"]["classes"].startswith("20: aeroplane, bicycle")
    assert table["facts"]["background counts"] is background
    found = {row["method"]: row for row in table["rows"]}
    assert found["sclip"]["published"][0]["miou"] == (59.63 if background else 81.54)
    assert {method: row["kind"] for method, row in found.items()} == {"sclip": "training-free", "diffseg": "oracle"}
    assert found["sclip"]["settings"]["background"] is background
    alone = cli("eval", "--dataset", name, "--root", "VOCdevkit", "--pred", "out/sclip", "--json").data
    assert alone["miou"] == found["sclip"]["miou"]
    # A page of a data set finds its pictures.
    assert (
        cli("eval", "--dataset", name, "--root", "VOCdevkit", "--pred", "out/sclip", "--report", "a.html").exit_code
        == 0
    )
    assert (here / "a.html").read_text(encoding="utf-8").count("<img") == 16


def test_every_row_is_scored_alike_from_its_folder(world, here):
    """Also of regions without names, which the truth names by some of its classes only."""
    assert world(*HERE, "--methods", "gem,diffseg").exit_code == 0
    rows = json.loads((here / "ovseg-benchmark" / "table.json").read_text())["rows"]
    for row in rows:
        folder = here / "ovseg-benchmark" / row["method"]
        alone = world("eval", "--gt", "labels", "--pred", folder, "-c", "cat,dog", "--json").data
        assert alone["miou"] == row["miou"], row["method"]


def test_a_page_of_regions_without_names_is_refused(world, here):
    result = world("eval", "--gt", "labels", "--images", "photos", "--method", "diffseg", "--report", "a.html")
    assert result.exit_code == 2
    assert "hold regions without names" in result.error
    assert not (here / "a.html").exists()


def test_the_methods_can_be_told_what_each_picture_shows(world, here):
    (here / "shown.txt").write_text("a.png: cat\nsub/b.png: dog\n")
    assert world(*HERE, "--methods", "gem", "--image-classes", "shown.txt").exit_code == 0
    made = json.loads((here / "ovseg-benchmark" / "table.json").read_text())
    assert made["rows"][0]["miou"] < 1, "the cat of the second picture was not looked for"
    assert any("all of these rows are oracles" in note for note in made["notes"])


@pytest.mark.slow
def test_after_a_kill_it_goes_on_to_the_same_table(world, here):
    labels = LabelMap.from_classes(("dog", "cat", "bird"))
    for number in range(12):
        paint(here / "photos" / f"p{number:02d}.png", number % 3, 1)
        write_label(here / "labels" / f"p{number:02d}.png", np.full((8, 16), number % 2), labels)
    paused = {"OVSEG_TEST_PAUSE_AT": "segment:9", "OVSEG_TEST_PAUSE_FILE": str(here / "paused")}
    killed = subprocess.Popen(
        [sys.executable, "-m", "tests.doubles", *HERE, "--methods", "gem,sclip", "-o", "killed"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OVSEG_PROFILE": "mini"} | paused,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 120
    while not (here / "paused").exists():
        assert killed.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert not (here / "killed" / "table.md").exists()
    before = {path: path.stat().st_mtime_ns for path in (here / "killed").rglob("SegmentationClass/*.png")}
    assert world(*HERE, "--methods", "gem,sclip", "-o", "killed").exit_code == 0
    assert world(*HERE, "--methods", "gem,sclip", "-o", "whole").exit_code == 0
    for name in FILES:
        assert (here / "killed" / name).read_bytes() == (here / "whole" / name).read_bytes()
    assert len(before) == 8
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items()), "what was done is not done again"


def test_upper_bounds_stand_on_the_page(world, here):
    world("segment", "photos", "-c", "cat,dog")
    data = world("eval", "--gt", "labels", "--oracle", "all", "--report", "page.html", "--json").data
    page = (here / "page.html").read_text(encoding="utf-8")
    assert len(data["oracles"]) == 3
    assert page.count("mIoU, oracle: ") == 3
