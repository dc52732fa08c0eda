"""Exports as the tools that they are for read them. These libraries are large, so `make interop` brings them."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.exports.base import Options
from ovseg_cli.exports.run import export_run
from ovseg_cli.files.labels import BACKGROUND, is_void
from tests.exports.runs import classes_only, make_run, many_classes, shapes, with_gaps

pytestmark = pytest.mark.filterwarnings("ignore")

RUNS = {"hard": make_run, "many": many_classes, "gaps": with_gaps}


@pytest.fixture(params=RUNS)
def made(request, tmp_path):
    return RUNS[request.param](tmp_path)


@pytest.fixture(params=["hard", "many", "gaps"])
def for_datumaro(request, tmp_path):
    """Without what it cannot hold: pictures that differ in their suffix only, and in COCO a class with the id 0."""
    if request.param == "hard":
        return make_run(tmp_path, truth={key: ids for key, ids in shapes().items() if key != "x.png"})
    return many_classes(tmp_path) if request.param == "many" else with_gaps(tmp_path, BACKGROUND)


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.setenv("YOLO_OFFLINE", "true")

    def load(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip(
                name, reason=f"{name} is not installed; make interop brings it", exc_type=ImportError
            )

    return load


def export(made, to, place, **options):
    images = None if (made.folder / "predictions.jsonl").exists() else made.photos
    return export_run(made.folder, to, place, images=images, options=Options(**options)).output


def class_ids(made):
    return [i for i, name, _ in made.labels if name != BACKGROUND and not is_void(name)]


def keys_of_pictures(made):
    """By the name of the picture below its folder, the key."""
    names = [p.relative_to(made.photos).as_posix() for p in made.photos.rglob("*.*g") if p.is_file()]
    return {name: next(k for k in made.truth if name in (k, f"{k}.png", f"{k}.jpg")) for name in names}


def painted(shape, masks, labels):
    """A label map of masks that do not overlap; ids are one higher, as those of `classes_only`."""
    ids = np.zeros(shape, np.int64)
    for mask, label in zip(masks, labels, strict=True):
        mask = np.asarray(mask, bool)
        assert not ids[mask].any() or (ids[mask] == label + 1).all()
        ids[mask] = label + 1
    return ids


def test_supervision_reads_coco(made, tmp_path, library):
    supervision = library("supervision")
    path = export(made, "coco", tmp_path / "c.json")
    found = supervision.DetectionDataset.from_coco(str(made.photos), str(path), force_masks=True)
    by_name = [next(i for i in class_ids(made) if made.labels.name_of(i) == name) for name in found.classes]
    keys = keys_of_pictures(made)
    seen = 0
    for path, _, detections in found:
        key = keys[str(path).removeprefix(f"{made.photos}/")]
        shape = made.truth[key].shape
        masks = [] if detections.mask is None else detections.mask
        ids = painted(shape, masks, [by_name[i] for i in detections.class_id])
        assert (ids == classes_only(made, key)).all()
        seen += 1
    assert seen == len(made.truth)


@pytest.mark.parametrize("parts", [False, True])
def test_datumaro_reads_coco(for_datumaro, tmp_path, library, parts):
    made, datumaro = for_datumaro, library("datumaro")
    (tmp_path / "set" / "annotations").mkdir(parents=True)
    shutil.copy(export(made, "coco", tmp_path / "c.json", parts=parts), tmp_path / "set/annotations/instances_all.json")
    shutil.copytree(made.photos, tmp_path / "set" / "images" / "all")
    dataset = datumaro.Dataset.import_from(str(tmp_path / "set"), "coco_instances")
    check_datumaro(made, dataset, datumaro)


@pytest.mark.parametrize("parts", [False, True])
def test_datumaro_reads_cvat(for_datumaro, tmp_path, library, parts):
    made, datumaro = for_datumaro, library("datumaro")
    place = export(made, "cvat", tmp_path / "set", parts=parts)
    shutil.copytree(made.photos, place / "images")
    dataset = datumaro.Dataset.import_from(str(place), "cvat")
    check_datumaro(made, dataset, datumaro)


def check_datumaro(made, dataset, datumaro):
    labels = dataset.categories()[datumaro.AnnotationType.label]
    by_name = {made.labels.name_of(i): i for i in class_ids(made)}
    keys = {name.rsplit(".", 1)[0]: key for name, key in keys_of_pictures(made).items()}
    seen = set()
    for item in dataset:
        key = keys[item.id]
        shape = made.truth[key].shape
        found = [a for a in item.annotations if a.type == datumaro.AnnotationType.mask]
        ids = painted(shape, [a.image for a in found], [by_name[labels[a.label].name] for a in found])
        assert (ids == classes_only(made, key)).all(), key
        seen.add(key)
    assert len(seen) == len(made.truth)


def test_datumaro_reads_the_output_folder_as_cvat_takes_it(tmp_path, library):
    datumaro = library("datumaro")
    made = make_run(tmp_path, ("cat", "glazed donut", "été"), {"a": make_run(tmp_path).truth["x.jpg"]})
    lists = made.folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("a\n")
    dataset = datumaro.Dataset.import_from(str(made.folder), "voc_segmentation")
    labels = dataset.categories()[datumaro.AnnotationType.label]
    (item,) = list(dataset)
    found = [a for a in item.annotations if labels[a.label].name != BACKGROUND]
    ids = painted(
        made.truth["a"].shape, [a.image for a in found], [made.labels.id_of(labels[a.label].name) for a in found]
    )
    assert (ids == classes_only(made, "a")).all()


def test_supervision_reads_yolo(made, tmp_path, library):
    supervision = library("supervision")
    place = export(made, "yolo", tmp_path / "yolo", copy=True)
    numbers = class_ids(made)
    for key, truth in made.truth.items():
        if "/" in key:  # it looks into one folder only, so each of these is one
            continue
        found = supervision.DetectionDataset.from_yolo(
            str(place / "images"), str(place / "labels"), str(place / "data.yaml"), force_masks=True
        )
        assert list(found.classes) == [made.labels.name_of(i) for i in numbers]
        annotations = {p.rsplit("/", 1)[1].rsplit(".", 1)[0]: d for p, d in found.annotations.items()}
        detections = annotations[key]
        masks = [] if detections.mask is None else detections.mask
        ids = painted(truth.shape, masks, [numbers[i] for i in detections.class_id])
        assert (ids == classes_only(made, key)).all(), key


def test_ultralytics_reads_yolo(made, tmp_path, library):
    utils = library("ultralytics.data.utils")
    place = export(made, "yolo", tmp_path / "yolo", copy=True)
    numbers = class_ids(made)
    pictures = sorted(p for p in (place / "images").rglob("*.*") if p.is_file())
    labels = utils.img2label_paths([str(p) for p in pictures])
    data = utils.check_det_dataset(str(place / "data.yaml"), autodownload=False)
    assert data["names"] == {n: made.labels.name_of(i) for n, i in enumerate(numbers)}
    assert str(place / "images") == str(data["train"])
    for picture, label in zip(pictures, labels, strict=True):
        key = picture.relative_to(place / "images").as_posix().rsplit(".", 1)[0]
        arguments = (str(picture), label, "", False, len(numbers), 0, 0, False)
        _, found, shape, segments, _, missing, _, _, corrupt, message = utils.verify_image_label(arguments)
        truth = made.truth[key]
        if min(truth.shape) < 10:  # ultralytics takes no pictures below ten pixels
            continue
        assert (missing, corrupt) == (0, 0), message
        assert tuple(shape) == truth.shape
        ids = np.zeros(truth.shape, np.int64)
        for row, segment in zip(found, segments, strict=True):
            polygon = segment * np.array(truth.shape[::-1])
            mask = utils.polygon2mask(truth.shape, [polygon.reshape(-1)], color=1, downsample_ratio=1).astype(bool)
            assert not ids[mask].any()
            ids[mask] = numbers[int(row[0])] + 1
        assert (ids == classes_only(made, key)).all(), key


def test_label_studio_decodes_its_brush(made, tmp_path, library):
    brush = library("label_studio_sdk.converter.brush")
    config = library("label_studio_sdk._extensions.label_studio_tools.core.label_config")
    place = export(made, "label-studio", tmp_path / "ls")
    interface = config.parse_config((place / "labeling.xml").read_text())
    assert interface["label"]["type"] == "BrushLabels"
    assert interface["label"]["to_name"] == ["image"]
    assert list(interface["label"]["labels"]) == [made.labels.name_of(i) for i in class_ids(made)]
    tasks = json.loads((place / "tasks.json").read_text())
    assert len(tasks) == len(made.truth)
    for task in tasks:
        results = task["predictions"][0]["result"]
        (key,) = [k for n, k in keys_of_pictures(made).items() if task["data"]["image"].endswith(f"?d={n}")]
        shape = made.truth[key].shape
        masks = [brush.decode_rle(r["value"]["rle"]).reshape(*shape, 4)[..., 3] > 0 for r in results]
        labels = [made.labels.id_of(r["value"]["brushlabels"][0]) for r in results]
        assert (painted(shape, masks, labels) == classes_only(made, key)).all()


def test_a_code_of_ours_is_that_of_label_studio(library):
    brush = library("label_studio_sdk.converter.brush")
    from ovseg_cli.exports.run_lengths import brush_code

    mask = np.random.default_rng(0).random((30, 50)) < 0.4
    theirs = brush.mask2rle(mask.astype(np.uint8) * 255)
    assert list(brush_code(mask)) == theirs[: len(brush_code(mask))]
    assert not any(theirs[len(brush_code(mask)) :])


def test_the_loss_of_polygons_is_none_at_the_size_of_the_picture_and_told_below(tmp_path, library):
    """What training sees of YOLO's polygons at a quarter of the size, as it is by default: the figure of the page."""
    utils = library("ultralytics.data.utils")
    from scipy import ndimage

    rng = np.random.default_rng(5)
    blobs = ndimage.gaussian_filter(rng.random((480, 640)), 12)
    truth = np.digitize(blobs, np.quantile(blobs, [0.5, 0.75, 0.9])).astype(np.uint16)
    made = make_run(tmp_path, ("a", "b", "c"), {"blobs": truth})
    place = export(made, "yolo", tmp_path / "yolo")
    whole, quarter = np.zeros(truth.shape, int), np.zeros((120, 160), int)
    for line in (place / "labels" / "blobs.txt").read_text().splitlines():
        number, *shares = line.split()
        polygon = (np.array(shares, np.float32).reshape(-1, 2) * (640, 480)).reshape(-1)
        whole[utils.polygon2mask(truth.shape, [polygon], 1, 1) > 0] = int(number) + 1
        quarter[utils.polygon2mask(truth.shape, [polygon], 1, 4) > 0] = int(number) + 1
    small = np.asarray(Image.fromarray(truth.astype(np.uint8)).resize((160, 120), Image.Resampling.NEAREST))
    ious = [((quarter == i) & (small == i)).sum() / ((quarter == i) | (small == i)).sum() for i in (1, 2, 3)]
    print("IoU at a quarter:", np.round(ious, 3))
    assert (whole == truth).all()
    assert min(ious) > 0.9
