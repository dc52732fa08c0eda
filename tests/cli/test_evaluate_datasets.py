"""Published data sets, COCO files and folders of other conventions, as a person names them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.datasets import miniature
from tests.evaluation.datasets.miniature import scene

NAMES = ("2007_000033", "2007_000042")


@pytest.fixture
def voc(here):
    """Miniature VOC, and its labels as predictions of published code: `pred`, two pixels lower."""
    made = {name: scene(number, 20) for number, name in enumerate(NAMES)}
    miniature.voc(here, made)
    (here / "pred").mkdir()
    for name, places in made.items():
        ids = np.roll(np.where(places < 0, 0, places + 1), 2, axis=0).astype(np.uint8)
        Image.fromarray(ids).save(here / "pred" / f"{name}.png")
    return made


def test_a_data_set_by_one_option(cli, voc):
    result = cli("eval", "--dataset", "voc21", "--root", ".", "--pred", "pred", "--json")
    assert result.exit_code == 0, result.stderr
    data = result.data
    assert [entry["name"] for entry in data["classes"]][:3] == ["background", "aeroplane", "bicycle"]
    assert len(data["classes"]) == 21
    assert data["images"] == 2
    assert 0.5 < data["miou"] < 1
    assert "2 labelled pictures, and the split val of voc21 has 1,449" in result.stderr
    assert "are read as published code has them, 0 background, 1 aeroplane, 2 bicycle ..." in result.stderr
    assert "voc.py" in data["sources"]["ground_truth_labels"]


def test_without_background(cli, voc, here):
    for path in (here / "pred").glob("*.png"):
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.where(ids == 0, 0, ids - 1).astype(np.uint8)).save(path)
    data = cli("eval", "--dataset", "voc20", "--root", "VOCdevkit", "--pred", "pred", "--json").data
    assert len(data["classes"]) == 20
    assert not data["background"]
    assert data["miou"] > 0.5


def test_names_of_a_paper_on_one_side_only(cli, voc, here):
    lines = ["background", *(f"class {number}" for number in range(1, 4)), "ship"]
    (here / "pred" / "labelmap.txt").write_text("\n".join(lines))
    names = "background aeroplane bicycle bird ship bottle bus car cat chair cow table dog horse motorbike person "
    names += "pottedplant sheep sofa train screen"
    (here / "pred" / "labelmap.txt").write_text("\n".join(names.split()))
    result = cli("eval", "--dataset", "voc21", "--root", ".", "--pred", "pred", "--json")
    assert len(result.data["classes"]) == 21
    assert result.data["miou"] > 0.5
    assert "not in the label map" not in result.stderr


def test_classes_that_were_not_looked_for(cli, voc):
    result = cli("eval", "--dataset", "voc21", "--root", ".", "--pred", "pred", "-c", "cat,aeroplane", "--json")
    assert [entry["name"] for entry in result.data["classes"]] == ["background", "aeroplane", "cat"]
    assert "18 of the 20 classes of voc21 were not looked for (bicycle, bird, boat, " in result.stderr


def test_a_list_of_pictures(cli, voc, here):
    (here / "few.txt").write_text("2007_000042\n")
    data = cli("eval", "--dataset", "voc21", "--root", ".", "--split", "few.txt", "--pred", "pred", "--json").data
    assert (data["images"], data["extra"], data["warnings"][1:]) == (1, ["2007_000033"], [])
    (here / "few.txt").write_text("2007_000042\n2008_000001\n")
    result = cli("eval", "--dataset", "voc21", "--root", ".", "--split", "few.txt", "--pred", "pred")
    assert result.exit_code == 2
    assert "names 2 pictures, and 1 of them have no label in" in result.stderr


def test_endings_and_another_ignore_value(cli, here):
    miniature.cityscapes(here, {"frankfurt_000000_000294": scene(1, 19)}, "labelIds")
    (here / "map.txt").write_text("".join(f"{i}: class {i}\n" for i in miniature.CITYSCAPES))
    (here / "pred").mkdir()
    ids = miniature.ids_of(scene(1, 19), miniature.CITYSCAPES, 7, 7)
    Image.fromarray(ids).save(here / "pred" / "frankfurt_000000_000294_pred.png")
    folder = "gtFine/val/frankfurt"
    options = ("--gt-suffix", "_gtFine_labelIds.png", "--pred-suffix", "_pred", "--ignore", "9", "--ignore", "3")
    result = cli("eval", "--gt", folder, "--pred", "pred", "--label-map", "map.txt", *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.data["images"] == 1
    assert result.data["miou"] == 1
    assert "pixels labelled 9 or 3 left out" in result.data["convention"]


def test_a_coco_file(cli, here):
    there = np.zeros((36, 48), bool)
    there[5:20, 8:30] = True
    shape = {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": miniature.encoded(there)}
    images = [{"id": 1, "file_name": "a.jpg", "height": 36, "width": 48}]
    data = {"images": images, "annotations": [shape], "categories": [{"id": 3, "name": "cat"}]}
    (here / "instances.json").write_text(json.dumps(data))
    (here / "pred").mkdir()
    Image.fromarray(there.astype(np.uint8)).save(here / "pred" / "a.png")
    (here / "pred" / "labelmap.txt").write_text("background\ncat\n")
    assert cli("eval", "--gt", "instances.json", "--pred", "pred", "-q").stdout == "1.000\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Name the ground truth: a folder with --gt DIR, or a data set with --dataset NAME --root DIR."),
        (("--dataset", "voc21"), "Say where the data set voc21 was unpacked, with --root DIR."),
        (("--gt", "labels", "--root", "."), "--root is the folder of a data set, so name that with --dataset."),
        (("--dataset", "voc21", "--root", ".", "--gt", "x"), "--dataset says where the labels are"),
        (("--dataset", "voc22", "--root", "."), "There is no data set 'voc22'; there are voc21, "),
        (
            ("--dataset", "voc21", "--root", ".", "--split", "test"),
            "voc21 has no split 'test'; it has val, train, trainval.",
        ),
    ],
)
def test_what_cannot_be(cli, here, options, message):
    result = cli("eval", "--pred", "pred", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_label_map_of_another_run(cli, photos, gt, here):
    cli("segment", "photos", "-c", "cat,dog")
    labels = here / "ovseg-out" / "labelmap.txt"
    labels.write_text(labels.read_text().replace("cat:", "bird:"))
    result = cli("eval", "--gt", "labels", "--pred", "ovseg-out")
    folder = "ovseg-out/SegmentationClass"
    assert (
        f"the label map of {folder} calls 'bird' the id 1, and its run.json calls that 'cat': one of the two is of "
        "another run. Put back the right file, or segment again"
    ) in result.stderr


def test_synonyms_of_a_run_and_of_a_label_map(cli, photos, gt, here):
    """The run looks for a feline, also called cat; the labels know a dog as "hound, dog"."""
    cli("segment", "photos", "-c", "cat,dog")
    run, labels = here / "ovseg-out", here / "ovseg-out" / "labelmap.txt"
    labels.write_text(labels.read_text().replace("cat:", "feline:"))
    manifest = json.loads((run / "run.json").read_text())
    manifest["classes"] = [entry | {"name": entry["name"].replace("cat", "feline")} for entry in manifest["classes"]]
    manifest["options"]["synonyms"] = [["feline", ["cat", "kitty"]]]
    (run / "run.json").write_text(json.dumps(manifest))
    truth = here / "labels" / "labelmap.txt"
    truth.write_text("".join(f"{i}: {name}\n" for i, name in enumerate(_true_names(truth))))
    result = cli("eval", "--gt", "labels", "--pred", "ovseg-out", "--json")
    assert {entry["name"]: entry["iou"] for entry in result.data["classes"]} == {
        "background": 1.0,
        "feline": 1.0,
        "dog": 1.0,
    }
    assert "not in the label map" not in result.stderr


def _true_names(path):
    names = [line.split(":")[0] for line in path.read_text().splitlines() if not line.startswith("#")]
    return [name.replace("dog", "hound, dog") for name in names]


class TestDatasets:
    def test_all(self, cli, here):
        result = cli("datasets", "-q")
        assert result.stdout.split()[:4] == ["voc21", "voc20", "voc20b", "context60"]
        assert "847" in cli("datasets").stdout

    def test_one(self, cli, here):
        data = cli("datasets", "cityscapes", "--json").data
        assert data["splits"]["val"] == [500]
        assert data["names"]["sclip"]["file"] == "wangf3014/SCLIP configs/cls_city_scapes.txt"
        assert "gtFine/{split}/**/*_gtFine_labelIds.png" in cli("datasets", "cityscapes").stdout
        assert cli("datasets", "cityscapes", "-q").stdout.split("\n")[6] == "traffic light"

    def test_a_copy(self, cli, voc):
        result = cli("datasets", "voc21", "--root", ".", "-q")
        assert result.stdout.split() == [f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg" for name in NAMES]
        assert "2 labelled pictures, and the split val of voc21 has 1,449" in result.stderr

    def test_class_names_of_a_paper(self, cli, here):
        from ovseg_cli.files.class_file import read_class_file

        cli("datasets", "voc21:sclip", "--class-file", "voc.txt")
        found = read_class_file(here / "voc.txt")
        assert found.classes[3] == "ship"
        assert found.synonyms["television monitor"] == ("tv monitor", "monitor", "television", "screen")
        assert len(found.background) == 26
        cli("datasets", "voc20b", "--class-file", "voc20b.txt")
        assert len(read_class_file(here / "voc20b.txt").background) == 39
        cli("datasets", "ade847", "--class-file", "ade.txt")
        assert len(read_class_file(here / "ade.txt").classes) == 847

    @pytest.mark.parametrize("options", [("--root", "."), ("voc21", "--split", "val")])
    def test_what_cannot_be(self, cli, here, options):
        assert cli("datasets", *options).exit_code == 2
