from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.files.labels import voc_colour
from ovseg_cli.pages.thumbnails import MOST_CLASSES, small_labels, small_picture

COLOURS = [voc_colour(i) for i in range(1, 301)]


def opened(content):
    return Image.open(io.BytesIO(content))


def noise(height, width, top=256, shape=()):
    return np.random.default_rng(3).integers(0, top, (height, width, *shape))


def test_a_picture_has_the_size_that_is_asked_for():
    found = opened(small_picture(Image.new("RGB", (800, 600), (200, 30, 30)), (256, 192), 20_000))
    assert (found.format, found.size) == ("JPEG", (256, 192))


@pytest.mark.parametrize("most", [20_000, 4000, 900])
def test_whatever_is_in_a_picture_it_takes_no_more_than_its_bytes(most):
    image = Image.fromarray(noise(400, 400, shape=(3,)).astype(np.uint8))
    assert len(small_picture(image, (256, 256), most)) <= most


@pytest.mark.parametrize("most", [20_000, 500])
def test_whatever_is_in_a_label_map_it_takes_no_more_than_its_bytes(most):
    content, classes = small_labels(noise(600, 600, 301), COLOURS, 512, most)
    assert len(content) <= most
    assert len(classes) <= MOST_CLASSES
    opened(content).load()


def test_a_label_map_holds_each_class_with_its_edge():
    ids = np.zeros((6, 8), np.uint16)
    ids[1:, 1:5] = 7
    ids[1:, 5:] = 300
    content, classes = small_labels(ids, COLOURS, 512, 20_000)
    assert classes == (7, 300), "the largest first"
    found = opened(content)
    indices = np.asarray(found)
    assert indices[0].tolist() == [0] * 8
    assert indices[3].tolist() == [0, 2, 1, 1, 2, 4, 3, 3]
    assert content[content.index(b"tRNS") + 4 :].startswith(b"\0\xff\xff\xff\xff"), "one for each index"
    assert np.asarray(found.convert("RGBA"))[3, 0].tolist() == [0, 0, 0, 0]
    assert np.asarray(found.convert("RGBA"))[3, 2].tolist() == [*voc_colour(7), 255]


def test_ids_without_a_class_are_not_drawn():
    content, classes = small_labels(np.full((4, 4), 255), COLOURS[:3], 512, 20_000)
    assert classes == ()
    assert not np.asarray(opened(content)).any()


def test_of_too_many_classes_the_largest_are_drawn():
    ids = np.arange(1, 301).repeat(np.arange(300, 0, -1))
    _, classes = small_labels(ids[None, :].repeat(20, axis=0)[:, :45000].reshape(20, -1), COLOURS, 50_000, 10**6)
    assert classes == tuple(range(1, MOST_CLASSES + 1))
