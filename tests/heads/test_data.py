from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.mask import encode

from ovseg_cli.errors import LabelError, UsageError
from ovseg_cli.files.labels import LabelMap, write_label
from ovseg_cli.heads.catseg import IGNORED, NOTHING
from ovseg_cli.heads.data import Augmentation, Pictures, choose_names, draw_batch, read_data
from tests.heads.conftest import NAMES, paint_folder


def read(folder, **settings):
    return read_data(folder / "images", folder / "labels", **settings)


def relabel(folder, key, ids):
    write_label(folder / "labels" / f"{key}.png", np.asarray(ids), LabelMap.from_classes(NAMES))


def test_names_and_pixels(folder):
    data = read(folder, hold_out=False)
    assert data.names == NAMES
    assert data.pixels["cat"] == 2 * 32 * 32
    assert sum(data.pixels.values()) == 6 * 64 * 64
    assert data.nothing == data.left_out == 0


def test_novel_names_count_for_nothing(folder):
    data = read(folder, novel=["Car"], hold_out=False)
    assert data.names == ("grass", "cat", "dog")
    assert data.novel == ("car",)
    assert data.left_out == 2 * 32 * 32
    places = data.places("p2")
    assert set(np.unique(places)) == {IGNORED, 0}


def test_a_coco_file_is_labels_too(folder, tmp_path):
    """With the same regions, it is the same training."""
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
    images, annotations = [], []
    for number in range(6):
        with Image.open(folder / "labels" / f"p{number}.png") as label:
            ids = np.asarray(label)
        images.append({"id": number, "file_name": f"p{number}.png", "height": 64, "width": 64})
        for category in np.unique(ids).tolist():
            runs = encode(np.asfortranarray(ids == category, dtype=np.uint8))
            shape = {"size": runs["size"], "counts": runs["counts"].decode()}
            annotations.append({"image_id": number, "category_id": category, "segmentation": shape, "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": categories}
    for number, annotation in enumerate(annotations):
        annotation["id"] = number + 1
    (tmp_path / "labels.json").write_text(json.dumps(content))
    ours, data = read_data(folder / "images", tmp_path / "labels.json"), read(folder)
    assert (ours.names, ours.pixels, ours.digest) == (data.names, data.pixels, data.digest)
    for key in ("p0", "p5"):
        np.testing.assert_array_equal(ours.places(key), data.places(key))


def test_background_shows_nothing(folder):
    relabel(folder, "p0", np.where(np.arange(64)[:, None] < 32, 0, np.full((64, 64), 2)))
    data = read(folder, hold_out=False)
    assert data.nothing == 32 * 64
    assert set(np.unique(data.places("p0"))) == {NOTHING, 1}


def test_a_name_that_no_label_shows(tmp_path):
    folder = paint_folder(tmp_path / "data", shown=("grass", "cat", "dog"))
    with pytest.raises(LabelError, match=r"No label shows car.*--classes"):
        read(folder, classes=["cat", "dog", "car"])
    data = read(folder)
    assert data.names == ("grass", "cat", "dog")
    assert data.notes == ("no label shows car: left out of training",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"novel": ["zebra"]}, "does not name 'zebra' of --novel"),
        ({"classes": ["zebra"]}, "does not name 'zebra' of --classes"),
        ({"classes": ["cat", "dog"], "novel": ["cat"]}, "in --classes and in --novel"),
        ({"novel": list(NAMES)}, "All names of the label map are novel"),
        ({"novel": ["grass", "cat", "dog"]}, "two names or more"),
    ],
)
def test_names_that_cannot_be(folder, settings, message):
    with pytest.raises(UsageError, match=message):
        read(folder, **settings)


def test_an_id_beyond_the_map(folder):
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(folder / "labels" / "p3.png")
    with pytest.raises(LabelError, match=r"p3\.png holds the id 9 \(4096 pixels\), which the label map does not name"):
        read(folder)


def test_a_label_of_another_size(folder):
    relabel(folder, "p3", np.ones((64, 60), int))
    with pytest.raises(LabelError, match=r"The sizes differ: .*p3\.png is 64x64"):
        read(folder)


def test_a_label_that_cannot_be_read(folder):
    (folder / "labels" / "p4.png").write_bytes(b"no picture")
    with pytest.raises(Exception, match=r"p4\.png"):
        read(folder)


def test_pictures_put_aside_are_always_the_same(tmp_path):
    folder = paint_folder(tmp_path / "data", count=20)
    first, second = read(folder), read(folder)
    assert first.held_out == second.held_out
    assert len(first.held_out) == 2
    assert not {sample.key for sample in first.held_out} & {sample.key for sample in first.samples}


def test_the_digest_knows_labels_and_names(folder):
    before = read(folder).digest
    assert read(folder, novel=["car"]).digest != before
    relabel(folder, "p0", np.full((64, 64), 2))
    assert read(folder).digest != before


def test_crops_fit_their_labels(folder):
    pictures = Pictures(read(folder, hold_out=False))
    how = Augmentation(crop=32, zoom=(1.0, 2.0), colour=0.0)
    batch = draw_batch(pictures, 16, how, torch.Generator().manual_seed(3))
    assert batch.images.shape == (16, 3, 32, 32)
    grass = batch.labels == 0
    green = batch.images[:, 1] > batch.images[:, 0] + 0.1
    assert (grass == green).float().mean() > 0.97
    again = draw_batch(pictures, 16, how, torch.Generator().manual_seed(3))
    assert torch.equal(batch.images, again.images)
    assert torch.equal(batch.boxes, again.boxes)


def test_boxes_say_where_crops_come_from(folder):
    from ovseg_cli.heads.taps import cut_as

    pictures = Pictures(read(folder, hold_out=False))
    batch = draw_batch(pictures, 8, Augmentation(crop=32, colour=0.0), torch.Generator().manual_seed(1))
    whole = torch.stack([torch.from_numpy(pictures.get(i)[0].copy()).permute(2, 0, 1) for i in batch.samples])
    cut = cut_as(whole.float() / 255, batch.boxes, 32)
    assert (cut - batch.images).abs().mean() < 0.03


def test_names_of_a_crop():
    labels = torch.tensor([[[5, 5], [IGNORED, NOTHING]], [[0, 1], [2, 3]]])
    chosen, places = choose_names(labels, 8, 4, torch.Generator().manual_seed(0))
    assert 5 in chosen[0]
    assert set(chosen[1].tolist()) == {0, 1, 2, 3}
    assert len(set(chosen[0].tolist())) == 4
    assert chosen[0][places[0, 0, 0]] == 5
    assert places[0, 1].tolist() == [IGNORED, NOTHING]
    every, same = choose_names(labels, 8, None, torch.Generator())
    assert every.shape == (2, 8)
    assert torch.equal(same, labels)
