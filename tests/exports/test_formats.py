from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from ovseg_cli.errors import UsageError
from ovseg_cli.evaluation.coco import CocoLabels
from ovseg_cli.exports.base import Options
from ovseg_cli.exports.registry import exporter_of
from ovseg_cli.exports.run import export_run
from ovseg_cli.names import slugify
from tests.exports.runs import NAMES, classes_only, make_run, many_classes, shapes, with_gaps
from tests.exports.test_outlines import filled
from tests.exports.test_run_lengths import decoded

RUNS = {"hard": make_run, "many": many_classes, "gaps": with_gaps}


@pytest.fixture(params=RUNS)
def made(request, tmp_path):
    return RUNS[request.param](tmp_path)


def export(made, to, tmp_path, **options):
    images = None if (made.folder / "predictions.jsonl").exists() else made.photos
    target = tmp_path / f"exported{Path(exporter_of(to).target).suffix}"
    return export_run(made.folder, to, target, images=images, options=Options(**options)).output


def of_key(made, name):
    """The key of a picture by the name that other tools are told."""
    (key,) = [
        key for key in made.truth if (made.photos / name) in (made.photos / f"{key}{s}" for s in ("", ".png", ".jpg"))
    ]
    return key


@pytest.mark.parametrize("parts", [False, True])
def test_coco_read_by_its_own_library_is_the_label_map(made, tmp_path, parts):
    coco = COCO(export(made, "coco", tmp_path, parts=parts))
    assert {i: c["name"] for i, c in coco.cats.items()} == {
        i: name for i, name, _ in made.labels if name not in ("background", "void") and (i or name == "background")
    } | ({} if made.labels.name_of(0) == "background" else {0: "sky"})
    for image in coco.imgs.values():
        truth = classes_only(made, of_key(made, image["file_name"]))
        ids = np.zeros((image["height"], image["width"]), np.int64)
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation).astype(bool)
            assert not ids[mask].any()
            ids[mask] = annotation["category_id"] + 1
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            assert annotation["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
            assert annotation["area"] == mask.sum()
        assert (ids == truth).all()
    assert len(coco.imgs) == len(made.truth)
    assert len({a["id"] for a in coco.anns.values()}) == len(coco.anns)


def test_coco_is_ground_truth_for_ovseg_too(tmp_path):
    made = make_run(tmp_path, truth={key: ids for key, ids in shapes().items() if key != "x.png"})
    read = CocoLabels(export(made, "coco", tmp_path).rename(tmp_path / "truth.json"))
    assert len(read.keys) == len(made.truth)
    for key in made.truth:
        assert (read.read({"x.jpg": "x"}.get(key, key)) == made.truth[key]).all()


def test_without_parts_a_class_is_one_annotation_and_with_them_each_part_is(tmp_path):
    made = make_run(tmp_path)
    whole = COCO(export(made, "coco", tmp_path))
    parts = COCO(export_run(made.folder, "coco", tmp_path / "parts.json", options=Options(parts=True)).output)
    name = "sub/deep/y.png"
    counts = [
        [a["category_id"] for i, p in coco.imgs.items() if p["file_name"] == name for a in coco.imgToAnns[i]]
        for coco in (whole, parts)
    ]
    assert counts == [[1, 2, 3], [1, 1, 2, 3]]  # pixels that touch at a corner are one part


def test_yolo_filled_is_the_label_map(made, tmp_path):
    place = export(made, "yolo", tmp_path)
    data = yaml.safe_load((place / "data.yaml").read_text())
    by_number = [i for i, _, _ in made.labels if made.labels.name_of(i) not in ("background", "void")]
    assert data["names"] == {number: made.labels.name_of(i) for number, i in enumerate(by_number)}
    assert data["train"] == data["val"] == "images"
    for key in made.truth:
        truth = classes_only(made, key)
        ids = np.zeros(truth.shape, np.int64)
        for line in (place / "labels" / f"{key}.txt").read_text().splitlines():
            number, *shares = line.split()
            shares = np.array(shares, float)
            assert len(shares) >= 6
            assert shares.min() >= 0
            assert shares.max() <= 1
            places = shares.reshape(-1, 2) * truth.shape[::-1]
            for corners in (places.astype(int), np.round(places).astype(int)):  # both ways of readers
                mask = filled(corners, truth.shape)
                assert (ids[mask] == 0).all() or (ids[mask] == by_number[int(number)] + 1).all()
                ids[mask] = by_number[int(number)] + 1
        assert (ids == truth).all()


def test_yolo_finds_each_picture_beside_its_labels(tmp_path):
    made = make_run(tmp_path)
    linked = export(made, "yolo", tmp_path)
    copied = export_run(made.folder, "yolo", tmp_path / "copied", options=Options(copy=True)).output
    for place in (linked, copied):
        pictures = sorted(p.relative_to(place / "images").as_posix() for p in (place / "images").rglob("*.*g"))
        labels = sorted(p.relative_to(place / "labels").as_posix() for p in (place / "labels").rglob("*.txt"))
        assert [p.rsplit(".", 1)[0] + ".txt" for p in pictures] == labels
        assert pictures == ["empty.png", "noise.png", "sub/deep/y.png", "x.jpg.jpg", "x.png.png"]
        assert (place / "images/x.png.png").read_bytes() == (made.photos / "x.png").read_bytes()
    assert (linked / "images/empty.png").is_symlink()
    assert not (copied / "images/empty.png").is_symlink()
    assert (linked / "labels/empty.txt").read_text() == ""


@pytest.mark.parametrize("empty", [False, True])
def test_masks_are_the_classes_of_the_label_map(made, tmp_path, empty):
    place = export(made, "masks", tmp_path, empty=empty)
    listed = json.loads((place / "classes.json").read_text())
    assert len({one["folder"].casefold() for one in listed}) == len(listed)
    for key, truth in made.truth.items():
        for one in listed:
            path = place / one["folder"] / f"{key}.png"
            there = np.isin(truth, one["ids"])
            assert path.exists() == bool(empty or there.any())
            if path.exists():
                with Image.open(path) as image:
                    assert image.mode == "L"
                    assert (np.asarray(image) == there * 255).all()


def test_folders_of_masks_can_be_held_by_every_file_system(tmp_path):
    made = make_run(tmp_path)
    place = export(made, "masks", tmp_path)
    listed = json.loads((place / "classes.json").read_text())
    assert [one["name"] for one in listed] == list(NAMES)
    assert [one["folder"] for one in listed] == [*map(slugify, NAMES)]
    assert all(one["folder"].isascii() and "/" not in one["folder"] for one in listed)


@pytest.mark.parametrize("parts", [False, True])
def test_cvat_masks_are_the_label_map(made, tmp_path, parts):
    place = export(made, "cvat", tmp_path, parts=parts)
    root = ET.parse(place / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    labels = json.loads((place / "labels.json").read_text())
    assert [label["name"] for label in labels] == [e.findtext("name") for e in root.iter("label")]
    assert all(label["type"] == "mask" for label in labels)
    images = root.findall("image")
    assert [image.get("id") for image in images] == [str(i) for i in range(len(made.truth))]
    for image in images:
        truth = classes_only(made, of_key(made, image.get("name")))
        ids = np.zeros((int(image.get("height")), int(image.get("width"))), np.int64)
        for mask in image.findall("mask"):
            left, top, width, height = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
            runs = [*map(int, mask.get("rle").split(","))]
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
            ids[top : top + height, left : left + width][inside] = made.labels.id_of(mask.get("label")) + 1
        assert (ids == truth).all()


def test_label_studio_brushes_are_the_label_map(made, tmp_path):
    place = export(made, "label-studio", tmp_path)
    tasks = json.loads((place / "tasks.json").read_text())
    view = ET.parse(place / "labeling.xml").getroot()
    brush, image = view.find("BrushLabels"), view.find("Image")
    assert image.get("value") == "$image"
    assert brush.get("toName") == image.get("name")
    assert len(tasks) == len(made.truth)
    for task in tasks:
        key = of_key(made, parse_qs(urlsplit(task["data"]["image"]).query)["d"][0])
        ids = np.zeros(made.truth[key].shape, np.int64)
        (prediction,) = task["predictions"]
        for result in prediction["result"]:
            assert (result["original_height"], result["original_width"]) == ids.shape
            assert (result["from_name"], result["to_name"]) == (brush.get("name"), image.get("name"))
            (name,) = result["value"]["brushlabels"]
            assert name in [label.get("value") for label in brush]
            mask = np.array(decoded(result["value"]["rle"])).reshape(*ids.shape, 4)[..., 3] > 0
            ids[mask] = made.labels.id_of(name) + 1
        assert (ids == classes_only(made, key)).all()


def test_an_option_without_effect_is_refused(tmp_path):
    made = make_run(tmp_path)
    with pytest.raises(UsageError, match="--parts has no effect on yolo"):
        export(made, "yolo", tmp_path, parts=True)
    with pytest.raises(UsageError, match="Unknown format 'cocoa'"):
        export(made, "cocoa", tmp_path)
