from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import LabelError, NoInputError, UsageError
from ovseg_cli.runs import own_pictures
from ovseg_cli.runs.own_pictures import load_pictures


@pytest.fixture
def photos(tmp_path):
    """Two pictures, one of them in a subfolder: the second is red where the first is blue."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    save(folder / "a.png", np.full((6, 8, 3), (0, 0, 200), np.uint8))
    save(folder / "more" / "b.png", np.full((5, 4, 3), (200, 0, 0), np.uint8))
    return folder


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def masks_for(tmp_path, a, b):
    folder = tmp_path / "masks"
    save(folder / "a.png", np.asarray(a, np.uint8))
    save(folder / "more" / "b.png", np.asarray(b, np.uint8))
    return folder


def block(shape, value, ignored=None):
    mask = np.zeros(shape, np.uint8)
    mask[1:3, 1:3] = value
    if ignored is not None:
        mask[4, :] = ignored
    return mask


def test_pictures_without_masks_are_named_by_their_place(photos):
    pictures = load_pictures("cat", photos)
    assert [p.name for p in pictures] == ["a", "more/b"]
    assert [p.image.shape for p in pictures] == [(6, 8, 3), (5, 4, 3)]
    assert all(p.foreground is None and p.background is None for p in pictures)


@pytest.mark.parametrize("value", [1, 7, 255])
def test_a_mask_of_two_values_is_the_object_whatever_the_other_value(photos, tmp_path, value):
    masks = masks_for(tmp_path, block((6, 8), value), block((5, 4), value))
    for picture in load_pictures("cat", photos, masks):
        expected = block(picture.image.shape[:2], 1).astype(bool)
        np.testing.assert_array_equal(picture.foreground, expected)
        np.testing.assert_array_equal(picture.background, ~expected)


def test_255_beside_1_is_neither_object_nor_background(photos, tmp_path):
    masks = masks_for(tmp_path, block((6, 8), 1, ignored=255), block((5, 4), 1))
    first = load_pictures("cat", photos, masks)[0]
    assert first.foreground.sum() == 4
    assert not first.background[4].any()
    assert first.background.sum() == 6 * 8 - 4 - 8


def test_a_labelmap_says_which_id_is_the_class_and_pictures_without_it_are_left_out(photos, tmp_path, caplog):
    masks = masks_for(tmp_path, block((6, 8), 2, ignored=255), block((5, 4), 1))
    (masks / "labelmap.txt").write_text("background:0,0,0::\ndog:1,1,1::\ncat:2,2,2::\n")
    (picture,) = load_pictures("Cat", photos, masks)
    assert picture.name == "a"
    assert picture.foreground.sum() == 4
    assert not picture.background[4].any()
    assert "1 of 2 pictures are left out, as their masks do not show 'Cat': more/b" in caplog.text
    with pytest.raises(LabelError, match=r"names no class 'bird'.*background, dog, cat"):
        load_pictures("bird", photos, masks)


def test_masks_in_black_and_white_and_names_in_another_form(tmp_path):
    save(tmp_path / "photos" / "cafe\u0301.png", np.zeros((6, 8, 3), np.uint8))
    white = np.repeat(block((6, 8), 255)[..., None], 3, axis=2)
    save(tmp_path / "masks" / "caf\u00e9.png", white)
    (picture,) = load_pictures("cat", tmp_path / "photos", tmp_path / "masks")
    np.testing.assert_array_equal(picture.foreground, block((6, 8), 1).astype(bool))


def test_masks_below_the_pictures_are_no_pictures(photos):
    save(photos / "masks" / "a.png", block((6, 8), 1))
    save(photos / "masks" / "more" / "b.png", block((5, 4), 1))
    assert [p.name for p in load_pictures("cat", photos, photos / "masks")] == ["a", "more/b"]


def test_a_class_of_several_ids(photos, tmp_path):
    masks = masks_for(tmp_path, block((6, 8), 2), block((5, 4), 1))
    (masks / "labelmap.txt").write_text("0: background\n1: cat\n2: Cat\n")
    assert [p.foreground.sum() for p in load_pictures("cat", photos, masks)] == [4, 4]


def test_masks_without_the_class_anywhere_are_an_error(photos, tmp_path):
    masks = masks_for(tmp_path, np.zeros((6, 8)), np.zeros((5, 4)))
    with pytest.raises(NoInputError, match="None of the 2 masks"):
        load_pictures("cat", photos, masks)


def test_what_does_not_fit_is_told(photos, tmp_path):
    masks = masks_for(tmp_path, block((6, 8), 1), block((4, 4), 1))
    with pytest.raises(LabelError, match="4 x 4 pixels, and its picture 4 x 5"):
        load_pictures("cat", photos, masks)
    save(masks / "more" / "b.png", np.array([[0, 1, 2, 3]] * 5, np.uint8))
    with pytest.raises(LabelError, match=r"several labels \(1, 2, 3\).*labelmap.txt"):
        load_pictures("cat", photos, masks)
    (masks / "more" / "b.png").unlink()
    with pytest.raises(LabelError, match=r"1 of 2 pictures in .* have no mask in .*: more/b"):
        load_pictures("cat", photos, masks)
    with pytest.raises(UsageError, match="--from-images"):
        load_pictures("cat", photos / "a.png")


def test_large_pictures_are_shrunk_with_their_masks_and_small_objects_survive(tmp_path, monkeypatch):
    monkeypatch.setattr(own_pictures, "MAX_SIDE", 10)
    photo = np.zeros((40, 100, 3), np.uint8)
    photo[10:30, 40:60] = 255
    mask = np.zeros((40, 100), np.uint8)
    mask[10:30, 40:60] = 255
    save(tmp_path / "photos" / "large.png", photo)
    save(tmp_path / "masks" / "large.png", mask)
    (picture,) = load_pictures("cat", tmp_path / "photos", tmp_path / "masks")
    assert picture.image.shape == (4, 10, 3)
    assert picture.foreground.nonzero()[1].tolist() == [4, 5, 4, 5]
    assert picture.image[1, 4].min() > 200
    assert not (picture.foreground & picture.background).any()
    mask[...] = 0
    mask[17, 33] = 255  # a hundredth of a pixel of the shrunk picture
    save(tmp_path / "masks" / "large.png", mask)
    (picture,) = load_pictures("cat", tmp_path / "photos", tmp_path / "masks")
    assert picture.foreground.nonzero()[0].tolist() == [1]
    assert picture.foreground.nonzero()[1].tolist() == [3]


def test_pictures_without_a_mask_are_left_out_when_that_is_asked_for(photos, tmp_path, caplog):
    masks = tmp_path / "masks"
    save(masks / "a.png", block((6, 8), 1))
    with pytest.raises(LabelError, match=r"1 of 2 pictures.*--skip-unmasked"):
        load_pictures("cat", photos, masks)
    assert [p.name for p in load_pictures("cat", photos, masks, skip_unmasked=True)] == ["a"]
    assert "1 of 2 pictures are left out, as they have no mask: more/b" in caplog.text
    (masks / "a.png").rename(masks / "other.png")
    with pytest.raises(LabelError, match="2 of 2 pictures"):
        load_pictures("cat", photos, masks, skip_unmasked=True)
