from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ovseg_cli.backbones import sam
from ovseg_cli.backbones.sam import SamBackbone
from ovseg_cli.errors import WeightsError
from tests.mini import write_tiny_sam, write_tiny_sam2

WRITERS = {"sam": write_tiny_sam, "sam2": write_tiny_sam2}
EVERYTHING = {"min_quality": -100.0, "min_stability": 0.0}


@pytest.fixture(scope="module", params=list(WRITERS))
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "weights"
    WRITERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def backbone(folder):
    return SamBackbone.load(folder, device="cpu")


def picture(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def masks_of_the_middle(backbone, image):
    """The three masks of one point in the middle, from the model's own forward pass."""
    model, processor = backbone._pipeline.model, backbone._pipeline.image_processor
    inputs = processor(images=image, return_tensors="pt")
    height, width = image.shape[:2]
    side = processor.size.longest_edge
    scale = (side / max(height, width),) * 2 if side else (64 / height, 64 / width)
    point = torch.tensor([[[[width / 2 * scale[1], height / 2 * scale[0]]]]])
    with torch.inference_mode():
        low = model(pixel_values=inputs["pixel_values"], input_points=point).pred_masks[0, 0]
    if side:  # the picture lies in the upper left corner of a square
        low = F.interpolate(low[None], (64, 64), mode="bilinear")[0]
        low = low[:, : round(height * scale[0]), : round(width * scale[1])]
    return F.interpolate(low[None], (height, width), mode="bilinear")[0] > 0


def test_masks_of_one_point_are_those_of_the_models_forward_pass(backbone):
    image = picture(64, 64)
    found = backbone.masks(image, points=1, **EVERYTHING)
    expected = masks_of_the_middle(backbone, image).numpy()
    assert found.dtype == bool
    assert 1 <= len(found) <= 3
    for mask in found:
        assert max((mask == one).mean() for one in expected) > 0.99


@pytest.mark.parametrize("size", [(40, 60), (61, 33), (64, 64)])
def test_masks_have_the_pictures_size_and_are_the_same_every_time(backbone, size):
    image = picture(*size)
    masks = backbone.masks(image, points=3, **EVERYTHING)
    assert masks.shape[1:] == size
    assert len(masks)
    np.testing.assert_array_equal(masks, backbone.masks(image, points=3, **EVERYTHING))


def test_masks_that_the_model_rates_low_are_dropped(backbone):
    masks = backbone.masks(picture(32, 48), points=2, min_quality=100.0)
    assert masks.shape == (0, 32, 48)


def test_masks_of_a_large_picture_are_made_small_and_enlarged(backbone, monkeypatch):
    monkeypatch.setattr(sam, "MAX_SIDE", 32)
    large = picture(70, 100)
    masks = backbone.masks(large, points=2, **EVERYTHING)
    small = np.asarray(Image.fromarray(large).resize((32, 22), Image.Resampling.BICUBIC))
    expected = backbone.masks(small, points=2, **EVERYTHING)
    assert masks.shape == (len(expected), 70, 100)
    for y, x in ((0, 0), (69, 99), (35, 50), (12, 71)):
        np.testing.assert_array_equal(masks[:, y, x], expected[:, y * 22 // 70, x * 32 // 100])


def test_a_picture_of_one_pixel_does_no_harm(backbone):
    assert backbone.masks(picture(1, 1), points=1).shape[1:] == (1, 1)


def test_loading_is_silent(folder, capfd, caplog):
    SamBackbone.load(folder, device="cpu").masks(picture(16, 16), points=1)
    assert (*capfd.readouterr(), caplog.records) == ("", "", [])


def test_a_folder_without_weights_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="cannot be loaded"):
        SamBackbone.load(tmp_path, device="cpu")


def test_weights_that_lack_a_tensor_are_refused(tmp_path):
    write_tiny_sam(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack mask_decoder\.iou_token"):
        SamBackbone.load(tmp_path, device="cpu")
