from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from examples.mini_pack.autoencoder import FACTOR, fit_components, new_autoencoder
from examples.mini_pack.config import AutoencoderConfig
from examples.mini_pack.dataset import Dataset, DatasetSpec, render_dataset
from examples.mini_pack.diffusion import PatchEncoder

CONFIG = AutoencoderConfig(widths=(16, 48, 96))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, glyphs: object) -> Dataset:
    folder = tmp_path_factory.mktemp("scenes")
    list(render_dataset(folder, DatasetSpec(scenes=12, size=32)))
    return Dataset(folder)


def pixels(data: Dataset) -> torch.Tensor:
    return torch.from_numpy(data.images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_the_components_span_the_principal_subspace(data: Dataset) -> None:
    components = fit_components(data, 8)
    patches = F.pixel_unshuffle(pixels(data), FACTOR).permute(0, 2, 3, 1).flatten(0, 2)
    reference = PCA(8).fit(patches.numpy())
    basis = torch.linalg.qr(components.matrix).Q
    assert torch.allclose(
        basis @ basis.T, torch.from_numpy(reference.components_.T @ reference.components_).float(), atol=1e-3
    )
    latents = (patches - components.mean) @ components.matrix
    assert latents.std() == pytest.approx(1, abs=0.01)


def test_the_encoder_computes_the_components(data: Dataset) -> None:
    components = fit_components(data, 8)
    vae = new_autoencoder(CONFIG, components, 32).eval()
    images = pixels(data)
    with torch.no_grad():
        encoded = vae.encode(images).latent_dist.mode()
    patches = F.pixel_unshuffle(images, FACTOR).permute(0, 2, 3, 1)
    expected = ((patches - components.mean) @ components.matrix).permute(0, 3, 1, 2)
    assert encoded.shape == (12, 8, 8, 8)
    assert (encoded - expected).std() < 0.02 * expected.std()


def test_the_map_of_patches_is_the_encoder_at_any_size(data: Dataset, tmp_path: Path) -> None:
    vae = new_autoencoder(CONFIG, fit_components(data, 8), 32).eval()
    encode = PatchEncoder.of(vae, data)
    for _ in render_dataset(tmp_path, DatasetSpec(scenes=3, size=64, first_seed=40)):
        pass
    for scenes in (data, Dataset(tmp_path)):
        latents = encode(torch.from_numpy(scenes.images.copy()))
        with torch.no_grad():
            exact = vae.encode(pixels(scenes)).latent_dist.mode()
        assert latents.shape == exact.shape
        assert (latents - exact).std() < 0.02 * exact.std()


def test_an_encoder_that_is_not_linear_is_refused(data: Dataset) -> None:
    torch.manual_seed(0)
    vae = new_autoencoder(CONFIG, fit_components(data, 8), 32).eval()
    with torch.no_grad():
        vae.encoder.mid_block.resnets[0].conv2.weight.normal_(std=0.3)
    with pytest.raises(ValueError, match="not linear"):
        PatchEncoder.of(vae, data)
