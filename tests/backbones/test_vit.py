from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ovseg_cli.backbones.vit import ARCHITECTURES, VitBackbone
from ovseg_cli.errors import WeightsError
from tests.mini import random_pictures

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
WIDTH, HEADS, DEPTH, PATCH, TRAINED = 24, 3, 3, 8, 64
SIZE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "patch_size": PATCH,
    "image_size": TRAINED,
}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 16,
}


def published(kind):
    """A model as it is published, with random weights: DINO with a pooler, MAE with its decoder."""
    torch.manual_seed(2)
    make, size = {
        "vit": (transformers.ViTModel, {"intermediate_size": 32}),
        "dinov2": (transformers.Dinov2Model, {"mlp_ratio": 2}),
        "dinov2_with_registers": (transformers.Dinov2WithRegistersModel, {"mlp_ratio": 2, "num_register_tokens": 4}),
        "vit_mae": (transformers.ViTMAEForPreTraining, {"intermediate_size": 32, **DECODER}),
    }[kind]
    model = make(make.config_class(**SIZE, **size))
    assert model.config.model_type == kind
    for name, values in model.named_parameters():
        if any(word in name for word in ("token", "bias", "position")):  # they start as zeros
            torch.nn.init.normal_(values, std=0.3)
    return model.eval()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, kind):
    path = tmp_path_factory.mktemp(kind) / "weights"
    published(kind).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def backbone(folder):
    return VitBackbone.load(folder, device="cpu")


def copy_of(folder, target, change=lambda state: state):
    """The same folder with other weights."""
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    state = change(load_file(folder / "model.safetensors"))
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


# --------------------------------------------------------------------------- an independent walk


def keys_by_hand(folder, picture, block):
    """From the published tensors alone: patches, tokens, blocks, and the keys of one, (1 + registers + N, D)."""
    config = json.loads((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")
    state = {name.removeprefix("vit."): values for name, values in state.items()}

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(x, (WIDTH,), weight, bias, config["layer_norm_eps"])

    side = picture.shape[-1] // PATCH
    patches = picture.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    kernel = state["embeddings.patch_embeddings.projection.weight"].flatten(1)
    tokens = patches @ kernel.T + state["embeddings.patch_embeddings.projection.bias"]
    place = state["embeddings.position_embeddings"][0]
    grid = place[1:].T.reshape(1, WIDTH, TRAINED // PATCH, TRAINED // PATCH)
    if side != TRAINED // PATCH:
        # DINOv2 with registers was trained so; the others are resized without it.
        smooth = config["model_type"] == "dinov2_with_registers"
        grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False, antialias=smooth)
    tokens = tokens + grid[0].flatten(1).T
    first = [state["embeddings.cls_token"][0] + place[:1]]
    if "embeddings.register_tokens" in state:
        first.append(state["embeddings.register_tokens"][0])
    tokens = torch.cat([*first, tokens])
    for index in range(DEPTH):
        layer = f"encoder.layer.{index}"
        two = config["model_type"].startswith("dinov2")
        normed = norm(tokens, f"{layer}.norm1" if two else f"{layer}.layernorm_before")
        query, key, value = (linear(normed, f"{layer}.attention.attention.{n}") for n in ("query", "key", "value"))
        if index == block:
            return key
        heads = []
        for part in torch.arange(WIDTH).chunk(HEADS):
            weights = (query[:, part] @ key[:, part].T / len(part) ** 0.5).softmax(-1)
            heads.append(weights @ value[:, part])
        update = linear(torch.cat(heads, dim=1), f"{layer}.attention.output.dense")
        tokens = tokens + (update * state[f"{layer}.layer_scale1.lambda1"] if two else update)
        normed = norm(tokens, f"{layer}.norm2" if two else f"{layer}.layernorm_after")
        wide = F.gelu(linear(normed, f"{layer}.mlp.fc1" if two else f"{layer}.intermediate.dense"))
        update = linear(wide, f"{layer}.mlp.fc2" if two else f"{layer}.output.dense")
        tokens = tokens + (update * state[f"{layer}.layer_scale2.lambda1"] if two else update)
    raise AssertionError(block)


@pytest.mark.parametrize("block", [0, 1, -1])
@pytest.mark.parametrize("side", [TRAINED, 40, 96])
def test_keys_equal_a_walk_through_the_published_tensors(backbone, folder, block, side):
    """Patch by patch where they lie in the picture, also at another size than the one of the training."""
    pictures = random_pictures(2, side, side)
    keys = backbone.keys(pictures, block=block, input_size=side, **PLAIN)
    grid = side // PATCH
    assert keys.shape == (2, WIDTH, grid, grid)
    assert keys.dtype == torch.float32
    for picture, ours in zip(pictures, keys, strict=True):
        patches = keys_by_hand(folder, picture, block % DEPTH)[-grid * grid :]
        torch.testing.assert_close(ours, patches.T.reshape(WIDTH, grid, grid), atol=2e-5, rtol=1e-4)


def test_what_lies_in_a_corner_of_the_picture_changes_that_corner_of_the_first_keys(backbone):
    """In the first block nothing has been mixed: a masked autoencoder that shuffles would show here."""
    pictures = random_pictures(1, 64, 64).repeat(2, 1, 1, 1)
    pictures[1, :, 56:, :8] = 0
    one, other = backbone.keys(pictures, block=0, input_size=64, **PLAIN)
    changed = (one - other).norm(dim=0) > 1e-6
    assert changed[7, 0]
    assert int(changed.sum()) == 1


def test_the_same_twice_alone_and_in_a_batch_and_no_hook_stays(backbone):
    hooks = sum(len(module._forward_hooks) for module in backbone.model.modules())
    pictures = random_pictures(3, 64, 64)
    together = backbone.keys(pictures, block=-1, input_size=64, **PLAIN)
    alone = backbone.keys(pictures[1:2], block=-1, input_size=64, **PLAIN)
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(together, backbone.keys(pictures, block=-1, input_size=64, **PLAIN))
    assert sum(len(module._forward_hooks) for module in backbone.model.modules()) == hooks


def test_a_block_that_does_not_exist_is_refused(backbone):
    assert backbone.depth == DEPTH
    for block in (DEPTH, -DEPTH - 1):
        with pytest.raises(ValueError, match=f"{DEPTH} blocks, got index {block}"):
            backbone.keys(random_pictures(1, 64, 64), block=block, input_size=64, **PLAIN)


# --------------------------------------------------------------------------- loading


def test_loading_is_silent_though_the_file_has_more_than_is_needed(folder, capfd, caplog):
    VitBackbone.load(folder, device="cpu")
    out, err = capfd.readouterr()
    assert (out, err, caplog.records) == ("", "", [])


def test_tensors_in_a_pickle_are_the_same(backbone, folder, tmp_path):
    """As MAE is published."""
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    pictures = random_pictures(1, 64, 64)
    keys = VitBackbone.load(tmp_path, device="cpu").keys(pictures, block=-1, input_size=64, **PLAIN)
    assert torch.equal(keys, backbone.keys(pictures, block=-1, input_size=64, **PLAIN))


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("a pickle ran code",))


def test_a_pickle_that_would_run_code_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save({"embeddings.cls_token": Harmful()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"cannot be loaded: a pickle in it is damaged, or holds more than tensors"):
        VitBackbone.load(tmp_path, device="cpu")


def test_a_folder_without_weights_is_a_weights_error(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(WeightsError, match="cannot be loaded"):
        VitBackbone.load(tmp_path, device="cpu")


@pytest.mark.parametrize("lost", ["projection.weight", "key.bias", "position_embeddings"])
def test_weights_that_lack_a_tensor_are_refused(folder, tmp_path, lost):
    copy_of(folder, tmp_path, lambda state: {k: v for k, v in state.items() if not k.endswith(lost) or "decoder" in k})
    with pytest.raises(WeightsError, match=r"cannot be loaded.*lack"):
        VitBackbone.load(tmp_path, device="cpu")


def test_weights_of_another_width_are_refused(folder, tmp_path):
    def narrow(state):
        return {k: v[..., :-1].contiguous() if k.endswith("cls_token") else v for k, v in state.items()}

    with pytest.raises(WeightsError, match="cannot be loaded"):
        VitBackbone.load(copy_of(folder, tmp_path, narrow), device="cpu")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ('{"model_type": "swin"}', "model_type is 'swin'.*vit, dinov2, dinov2_with_registers, vit_mae"),
        ('{"hidden_size": 24}', "no model_type"),
        ("[1]", "no model_type"),
        ("{", "no model_type"),
        (None, "no model_type"),
    ],
)
def test_a_folder_of_another_model_or_of_none_says_so(tmp_path, config, why):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=why):
        VitBackbone.load(tmp_path, device="cpu")
