from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data

from ovseg_cli.backbones.pixels import resize, to_tensor, to_working_tensor
from ovseg_cli.errors import WeightsError
from ovseg_cli.methods.domain import DOMAIN_FILE, Domain, domain_tokens, look, read_domain, write_domain
from ovseg_cli.models import Models
from ovseg_cli.profiles import get_profile
from tests.mini import MINI_FOLDER, example_scene, mini_models

MINI, SD15 = get_profile("mini"), get_profile("sd15")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "camera")
"""None of them had a part in making the classifier."""


def photograph(name: str) -> np.ndarray:
    return np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("side", [None, 128])
def test_photographs_are_told(name, side):
    image = Image.fromarray(photograph(name))
    if side is not None:
        image.thumbnail((side, side))
    assert mini_models().domain.unfamiliar(image)


@pytest.mark.slow
def test_the_bundled_pictures_are_not():
    told = [number for number in range(64) if mini_models().domain.unfamiliar(example_scene(number))]
    assert len(told) <= 1  # one in a hundred scenes is, on average


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (2000, 7)])
def test_any_size_gets_an_answer(size):
    assert mini_models().domain.unfamiliar(np.full((*size, 3), 128, np.uint8)) in (True, False)


def test_models_that_know_photographs_say_nothing():
    assert SD15.domain is None
    assert Models(SD15, "cpu").domain is None


def test_a_batch_gets_the_answers_of_its_pictures():
    domain = mini_models().domain
    pictures = [photograph("astronaut"), photograph("chelsea"), np.resize(example_scene(3), (300, 451, 3))]
    tensors = torch.cat([to_working_tensor(picture, (192, 256)) for picture in pictures])
    alone = torch.cat([domain.scores(tensor[None]) for tensor in tensors])
    assert domain.scores(tensors) == pytest.approx(alone, abs=1e-3)


def test_tokens_are_the_mean_over_crops_and_patches():
    models, spec = mini_models(), MINI.domain
    image = to_tensor(np.ascontiguousarray(example_scene(5)[:128]))  # 128 x 256: three windows and the whole
    crops = [image[..., left : left + 128] for left in (0, 64, 128)] + [image]
    seen = torch.cat([resize(crop, (64, 64)) for crop in crops])
    trace = models.clip.trace(seen, blocks=(2,), input_size=64, mean=MINI.clip.mean, std=MINI.clip.std)
    expected = trace.blocks[2].outputs[:, 1:].mean((0, 1))
    assert torch.allclose(domain_tokens(models.clip, MINI.clip, spec, image)[0], expected, atol=1e-5)


def test_what_is_written_is_read(tmp_path):
    made_for = look(MINI.clip, MINI.domain)
    write_domain(tmp_path / "a", torch.arange(3.0), -0.5, made_for)
    weight, bias = read_domain(tmp_path / "a", made_for)
    assert weight.tolist() == [0, 1, 2]
    assert bias == -0.5
    write_domain(tmp_path / "b", torch.arange(3.0), -0.5, dict(reversed(made_for.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_for_another_model_is_refused(tmp_path):
    made_for = look(MINI.clip, MINI.domain)
    for other in (
        look(SD15.clip, MINI.domain),
        look(MINI.clip, replace(MINI.domain, block=1)),
        look(MINI.clip, replace(MINI.domain, windows=((96, 48),))),
        {},
    ):
        write_domain(tmp_path / "a", torch.ones(3), 0.0, other)
        with pytest.raises(WeightsError, match=r"made for another model.*instead of"):
            read_domain(tmp_path / "a", made_for)


def test_a_damaged_file_is_refused(tmp_path):
    made_for = look(MINI.clip, MINI.domain)
    path = tmp_path / DOMAIN_FILE
    with pytest.raises(WeightsError, match="cannot be read"):
        read_domain(path, made_for)
    path.write_bytes((MINI_FOLDER / "domain" / DOMAIN_FILE).read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read"):
        read_domain(path, made_for)
    save_file({"weight": torch.ones(3)}, path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_domain(path, made_for)
    for weight in (torch.ones(3, 3), torch.full((3,), torch.nan)):
        write_domain(path, weight, 0.0, made_for)
        with pytest.raises(WeightsError, match="holds no classifier"):
            read_domain(path, made_for)


def test_weights_for_tokens_of_another_length_are_refused(tmp_path):
    write_domain(tmp_path / DOMAIN_FILE, torch.ones(3), 0.0, look(MINI.clip, MINI.domain))
    domain = Domain(mini_models().clip, MINI.clip, MINI.domain, tmp_path)
    with pytest.raises(WeightsError, match=r"3 weights.*192 numbers"):
        domain.unfamiliar(example_scene(0))


def test_the_remark_fits_the_number():
    spec = MINI.domain
    assert spec.remark(1, 1, "so what").startswith("the picture looks like nothing that the models were trained on (44")
    assert spec.remark(1, 9, "so what").startswith("1 of 9 pictures looks like")
    assert spec.remark(2, 9, "so what").startswith("2 of 9 pictures look like")
    assert "so so what. For photographs: ovseg pull --profile sd15" in spec.remark(2, 9, "so what")


def test_a_copy_of_the_bundled_clip_is_the_same_model():
    spec = MINI.clip
    copied = replace(spec.weights, bundled=None, folder=str(MINI_FOLDER / "clip"), revision="sha256:other")
    assert look(replace(spec, weights=copied), MINI.domain) == look(spec, MINI.domain)
