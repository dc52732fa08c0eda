from __future__ import annotations

import pytest
import torch

from ovseg_cli.backbones.vit import VitBackbone
from ovseg_cli.errors import WeightsError
from tests.mini import random_pictures, write_tiny_dino

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("dino") / "weights"
    write_tiny_dino(path)
    return path


@pytest.fixture(scope="module")
def backbone(folder):
    return VitBackbone.load(folder, device="cpu")


@pytest.mark.parametrize("block", [0, 1, -1])
@pytest.mark.parametrize("side", [224, 64])
def test_keys_equal_the_key_layer_on_the_blocks_normed_input(backbone, block, side):
    pictures = random_pictures(2, side, side)
    keys = backbone.keys(pictures, block=block, input_size=side, **PLAIN)
    with torch.inference_mode():
        states = backbone.model(pictures, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    names = {name: module for name, module in backbone.model.named_modules()}
    index = block % 3
    norm = next(m for n, m in names.items() if n.endswith(f"{index}.layernorm_before"))
    key = next(m for n, m in names.items() if f".{index}." in f".{n}." and n.rpartition(".")[2] in ("key", "k_proj"))
    with torch.inference_mode():
        by_hand = key(norm(states[index]))
    grid = side // 8
    assert keys.shape == (2, 24, grid, grid)
    for row, column in ((0, 0), (0, grid - 1), (grid - 1, 2)):
        expected = by_hand[:, 1 + row * grid + column]
        torch.testing.assert_close(keys[:, :, row, column], expected, atol=1e-4, rtol=1e-4)


def test_the_same_alone_and_in_a_batch_and_no_hook_stays(backbone):
    hooks = sum(len(module._forward_hooks) for module in backbone.model.modules())
    pictures = random_pictures(3, 64, 64)
    together = backbone.keys(pictures, block=-1, input_size=64, **PLAIN)
    alone = backbone.keys(pictures[1:2], block=-1, input_size=64, **PLAIN)
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=1e-5)
    assert sum(len(module._forward_hooks) for module in backbone.model.modules()) == hooks


def test_loading_is_silent_though_the_file_has_a_pooler(folder, capfd, caplog):
    VitBackbone.load(folder, device="cpu")
    out, err = capfd.readouterr()
    assert (out, err, caplog.records) == ("", "", [])


def test_a_folder_without_weights_is_a_weights_error(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(WeightsError, match="cannot be loaded"):
        VitBackbone.load(tmp_path, device="cpu")


def test_weights_that_lack_a_tensor_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    state = load_file(folder / "model.safetensors")
    lost = next(k for k in state if "layernorm_before.weight" in k)
    save_file({k: v for k, v in state.items() if k != lost}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="cannot be loaded"):
        VitBackbone.load(tmp_path, device="cpu")
