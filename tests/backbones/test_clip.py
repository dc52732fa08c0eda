from __future__ import annotations

from typing import get_args

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones import clip as module
from ovseg_cli.backbones.clip import ClipBackbone, resize_position_embedding
from ovseg_cli.errors import WeightsError
from ovseg_cli.profiles.specs import PositionMode
from tests.mini import MINI_FOLDER, mini_models, random_pictures, write_tiny_clip

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def tiny_clip(image_size: int = 32, **vision) -> open_clip.CLIP:
    """In small what ViT-B-16-quickgelu is; random weights that make attention anything but uniform."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=12,
        quick_gelu=True,
        vision_cfg={"image_size": image_size, "layers": 4, "width": 48, "head_width": 16, "patch_size": 8, **vision},
        text_cfg=TEXT,
    ).eval()
    for parameter in model.visual.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def fake_tokenizer(texts, context_length=16):
    """One token per character between a start (98) and an end (99), and 0 behind it; long texts lose their end."""
    rows = torch.zeros(len(texts), context_length, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        tokens = [98, *(1 + ord(c) % 90 for c in text[: context_length - 2]), 99]
        row[: len(tokens)] = torch.tensor(tokens)
    return rows


TEXT = {"context_length": 16, "vocab_size": 100, "width": 16, "heads": 2, "layers": 3}


def text_clip(**changes) -> open_clip.CLIP:
    """A tiny model whose text transformer attends to all that it may."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    kind = open_clip.CustomTextCLIP if changes.pop("custom", False) else open_clip.CLIP
    model = kind(embed_dim=12, vision_cfg=vision, text_cfg={**TEXT, **changes}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def models():
    return {
        "bundled": mini_models().clip,
        "quickgelu": ClipBackbone(tiny_clip(), fake_tokenizer, "cpu"),
        "layer-scale": ClipBackbone(tiny_clip(ls_init_value=0.5, no_ln_pre=True), fake_tokenizer, "cpu"),
    }


@pytest.fixture(params=["bundled", "quickgelu", "layer-scale"])
def backbone(request, models):
    return models[request.param]


def record_forward(model, pixels):
    """What open_clip's own forward pass feeds into and gets out of each block, and its embedding."""
    inputs, outputs, handles = [], [], []
    for block in model.visual.transformer.resblocks:
        handles.append(block.register_forward_pre_hook(lambda _module, args: inputs.append(args[0])))
        handles.append(block.register_forward_hook(lambda _module, _args, output: outputs.append(output)))
    try:
        with torch.inference_mode():
            embedding = model.encode_image(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return inputs, outputs, embedding


def enlarged(model, side: int):
    """The same weights in a model made for another input size, by open_clip's own position resizing."""
    from open_clip.model import resize_pos_embed

    state = {k: v.clone() for k, v in model.state_dict().items()}
    bigger = tiny_clip(side)
    resize_pos_embed(state, bigger)
    bigger.load_state_dict(state)
    return bigger.eval()


def test_walk_equals_open_clips_forward_at_the_native_size(backbone):
    side = backbone.model.visual.image_size[0]
    pixels = random_pictures(2, side, side)
    inputs, outputs, embedding = record_forward(backbone.model, pixels)
    trace = backbone.trace(pixels, blocks=range(backbone.depth), input_size=side, **PLAIN)
    assert sorted(trace.blocks) == list(range(backbone.depth))
    for index, block in trace.blocks.items():
        torch.testing.assert_close(block.inputs, inputs[index], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(block.outputs, outputs[index], atol=1e-4, rtol=1e-4)
    # The class token of the last block is the image embedding.
    pooled = backbone.embed(trace.blocks[backbone.depth - 1].outputs)[:, 0]
    torch.testing.assert_close(pooled, F.normalize(embedding, dim=-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", [16, 40, 64])
def test_walk_at_another_size_equals_a_model_made_for_that_size(models, side):
    backbone = models["quickgelu"]
    pixels = random_pictures(2, side, side)
    _, outputs, _ = record_forward(enlarged(backbone.model, side), pixels)
    trace = backbone.trace(pixels, blocks=(-1,), input_size=side, **PLAIN)
    assert trace.grid == (side // 8, side // 8)
    torch.testing.assert_close(trace.blocks[3].outputs, outputs[-1], atol=1e-4, rtol=1e-4)


def test_pictures_are_squashed_and_normalised_before_the_walk(models):
    backbone = models["quickgelu"]
    pictures = random_pictures(1, 50, 23)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    by_hand = F.interpolate(pictures, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    by_hand = (by_hand - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    inputs, _, _ = record_forward(backbone.model, by_hand)
    trace = backbone.trace(pictures, blocks=(0,), input_size=32, mean=mean, std=std)
    torch.testing.assert_close(trace.blocks[0].inputs, inputs[0], atol=1e-5, rtol=1e-5)


def test_walk_at_another_aspect_has_rows_and_columns_in_place(models):
    """A picture of two equal halves, and without position embeddings: what is at the left is at the right again."""
    backbone = models["quickgelu"]
    half = random_pictures(1, 24, 32)
    position = backbone.model.visual.positional_embedding
    before = position.clone()
    try:
        position.zero_()
        trace = backbone.trace(torch.cat([half, half], dim=3), blocks=(0,), input_size=(24, 64), **PLAIN)
    finally:
        position.copy_(before)
    assert trace.grid == (3, 8)
    patches = trace.blocks[0].inputs[0, 1:].view(3, 8, -1)
    torch.testing.assert_close(patches[:, :4], patches[:, 4:])


def test_values_of_other_tokens(backbone):
    side = backbone.model.visual.image_size[0]
    trace = backbone.trace(random_pictures(2, side, side), blocks=range(backbone.depth), input_size=side, **PLAIN)
    first, last = trace.blocks[0], trace.blocks[backbone.depth - 1]
    torch.testing.assert_close(last.values_of(last.inputs), last.values)
    # Of another number of images and tokens.
    alone = last.values_of(first.inputs[:1, :3])
    torch.testing.assert_close(alone, last.values_of(first.inputs)[:1, :, :3], atol=1e-5, rtol=1e-4)


def test_queries_keys_values_are_multihead_attentions_own(backbone):
    side = backbone.model.visual.image_size[0]
    trace = backbone.trace(random_pictures(2, side, side), blocks=range(backbone.depth), input_size=side, **PLAIN)
    for index, step in trace.blocks.items():
        attention = backbone.model.visual.transformer.resblocks[index].attn
        width = attention.embed_dim
        for which, part in enumerate((step.queries, step.keys, step.values)):
            weight = attention.in_proj_weight[which * width : (which + 1) * width]
            bias = attention.in_proj_bias[which * width : (which + 1) * width]
            flat = torch.einsum("bnd,ed->bne", step.normed, weight) + bias
            heads = torch.stack(flat.split(width // attention.num_heads, dim=-1), dim=1)
            torch.testing.assert_close(part, heads, atol=1e-4, rtol=1e-4)
        with torch.inference_mode():
            output, probabilities = attention(
                step.normed, step.normed, step.normed, need_weights=True, average_attn_weights=False
            )
        scale = step.queries.shape[-1] ** -0.5
        ours = torch.softmax(step.queries @ step.keys.transpose(-1, -2) * scale, dim=-1)
        torch.testing.assert_close(ours, probabilities, atol=1e-5, rtol=1e-3)
        block = backbone.model.visual.transformer.resblocks[index]
        torch.testing.assert_close(step.project(ours @ step.values), block.ls_1(output), atol=1e-4, rtol=1e-3)


def test_only_the_asked_blocks_are_kept_and_later_ones_do_not_run(models):
    backbone = models["quickgelu"]
    ran = []
    handles = [
        block.ln_1.register_forward_hook(lambda _m, _x, _y, i=i: ran.append(i))
        for i, block in enumerate(backbone.model.visual.transformer.resblocks)
    ]
    trace = backbone.trace(random_pictures(1, 32, 32), blocks=(-3, 0), input_size=32, **PLAIN)
    for handle in handles:
        handle.remove()
    assert sorted(trace.blocks) == [0, 1]
    assert ran == [0, 1]


def test_a_block_is_left_only_when_somebody_wants_what_leaves_it(models):
    backbone = models["quickgelu"]
    ran = []
    handles = [
        block.mlp.register_forward_hook(lambda _m, _x, _y, i=i: ran.append(i))
        for i, block in enumerate(backbone.model.visual.transformer.resblocks)
    ]
    last = backbone.trace(random_pictures(1, 32, 32), blocks=(2,), input_size=32, **PLAIN).blocks[2]
    assert ran == [0, 1]
    assert last.outputs is last.outputs
    assert ran == [0, 1, 2]
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("cells", [1, 2**19])
def test_attention_summed_on_the_walk(backbone, cells, monkeypatch):
    """The same walk, and the sum of the attention of all blocks before the last one."""
    monkeypatch.setattr(module, "CELLS_PER_CORE", cells)
    side = backbone.model.visual.image_size[0]
    walk = {"blocks": range(3), "input_size": side, **PLAIN}
    pictures = random_pictures(2, side, side)
    plain, summed = backbone.trace(pictures, **walk), backbone.trace(pictures, attention=True, **walk)
    assert plain.attention is None
    expected = 0
    for index in range(2):
        block = plain.blocks[index]
        expected = expected + torch.softmax(block.queries @ block.keys.mT * block.keys.shape[-1] ** -0.5, dim=-1)
    torch.testing.assert_close(summed.attention, expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(summed.blocks[2].inputs, plain.blocks[2].inputs, atol=1e-4, rtol=1e-3)


def cubic(distance, a):
    distance = abs(distance)
    if distance < 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0


def resizing_matrix(mode, length, side):
    """Weights of `side` cells in each of `length`, written cell by cell."""
    weights = np.zeros((length, side))
    cell = side / (length + 0.1) if mode == "bicubic-tenth" else side / length
    for i in range(length):
        place = (i + 0.5) * cell - 0.5
        if mode == "bicubic":  # smoothed where the grid shrinks, and cut off at the border
            stretch = max(cell, 1)
            row = np.array([cubic((j - place) / stretch, -0.5) for j in range(side)])
            weights[i] = row / row.sum()
        elif mode == "bilinear":
            place = max(place, 0)
            for j in range(side):
                weights[i, j] = max(0.0, 1 - abs(j - min(place, side - 1)))
        else:  # cells beyond the border are those at the border
            for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
                weights[i, min(max(j, 0), side - 1)] += cubic(j - place, -0.75)
    return weights


@pytest.mark.parametrize("mode", get_args(PositionMode))
@pytest.mark.parametrize("grid", [(11, 16), (5, 3), (7, 9), (28, 28)])
def test_position_embeddings_are_resized_as_each_mode_says(mode, grid):
    embedding = torch.randn(1 + 7 * 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    rows, columns = (resizing_matrix(mode, length, 7) for length in grid)
    patches = embedding[1:].view(7, 7, 5).double().numpy()
    expected = np.einsum("ir,jc,rcd->ijd", rows, columns, patches).reshape(-1, 5)
    found = resize_position_embedding(embedding, grid, mode)
    assert torch.equal(found[0], embedding[0])
    np.testing.assert_allclose(found[1:].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("mode", get_args(PositionMode))
def test_position_embeddings_stay_as_they_are_at_the_size_they_were_made_for(mode):
    embedding = torch.randn(1 + 7 * 7, 5)
    assert torch.equal(resize_position_embedding(embedding, (7, 7), mode), embedding)


@pytest.mark.parametrize("index", [4, -5, 99])
def test_a_block_that_is_not_there_is_refused(models, index):
    with pytest.raises(ValueError, match=f"4 blocks, got index {index}"):
        models["quickgelu"].trace(random_pictures(1, 32, 32), blocks=(index,), input_size=32, **PLAIN)


def test_an_image_has_the_same_keys_alone_and_in_a_batch(backbone):
    side = backbone.model.visual.image_size[0]
    pictures = random_pictures(3, side, side)
    together = backbone.trace(pictures, blocks=(-2,), input_size=side, **PLAIN).blocks[backbone.depth - 2].keys
    for i in range(3):
        alone = backbone.trace(pictures[i : i + 1], blocks=(-2,), input_size=side, **PLAIN)
        torch.testing.assert_close(alone.blocks[backbone.depth - 2].keys[0], together[i], atol=1e-4, rtol=1e-4)


def test_position_embedding_at_the_native_grid_is_the_same_object():
    embedding = torch.randn(17, 5)
    assert resize_position_embedding(embedding, (4, 4)) is embedding


def test_position_embedding_keeps_the_class_token_and_a_constant():
    embedding = torch.cat([torch.randn(1, 5), torch.arange(5.0).expand(16, 5)])
    resized = resize_position_embedding(embedding, (3, 7))
    assert resized.shape == (22, 5)
    torch.testing.assert_close(resized[0], embedding[0])
    torch.testing.assert_close(resized[1:], torch.arange(5.0).expand(21, 5), atol=1e-5, rtol=1e-5)


def test_position_embedding_keeps_rows_and_columns_apart():
    rows = torch.arange(4.0)[:, None].expand(4, 4)
    embedding = torch.cat([torch.zeros(1, 2), torch.stack([rows, rows.T], -1).reshape(16, 2)])
    resized = resize_position_embedding(embedding, (8, 4))[1:].reshape(8, 4, 2)
    torch.testing.assert_close(resized[..., 1], torch.arange(4.0).expand(8, 4), atol=1e-5, rtol=1e-5)
    assert (resized[1:, 0, 0] > resized[:-1, 0, 0]).all()


def test_embed_is_ln_post_projection_and_unit_norm(backbone):
    visual = backbone.model.visual
    tokens = torch.randn(2, 5, visual.conv1.out_channels)
    by_hand = F.layer_norm(tokens, tokens.shape[-1:], visual.ln_post.weight, visual.ln_post.bias) @ visual.proj
    by_hand = by_hand / by_hand.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(backbone.embed(tokens), by_hand, atol=1e-5, rtol=1e-5)


def test_text_embedding_is_the_unit_mean_over_prompts():
    backbone = mini_models().clip
    prompts = ("a photo of {article} {name}", "{name}")
    ours = backbone.embed_text(["apple", "cat"], prompts)
    for row, texts in zip(ours, (["a photo of an apple", "apple"], ["a photo of a cat", "cat"]), strict=True):
        with torch.inference_mode():
            each = F.normalize(backbone.model.encode_text(backbone.tokenizer(texts)), dim=-1)
        torch.testing.assert_close(row, F.normalize(each.mean(0), dim=0), atol=1e-5, rtol=1e-5)


def test_text_embeddings_are_cached_per_name_and_prompt():
    asked = []

    def tokenizer(texts, **options):
        if not options:
            asked.append(len(texts))
        return fake_tokenizer(texts, **options)

    backbone = ClipBackbone(tiny_clip(), tokenizer, "cpu")
    first = backbone.embed_text(["a", "b", "a"], ("{name}",))
    torch.testing.assert_close(first[0], first[2])
    backbone.embed_text(["b", "c"], ("{name}",))
    assert asked == [2, 1]
    backbone.embed_text(["b"], ("x {name}",))
    assert asked == [2, 1, 1]
    many = backbone.embed_text([f"n{i}" for i in range(150)], ("{name}",))
    assert asked[3:] == [64, 64, 22]
    torch.testing.assert_close(many[130], backbone.embed_text(["n130"], ("{name}",))[0])


# --------------------------------------------------------------------------- texts


CAUSAL = [
    {},
    {"pool_type": "eos", "eos_id": 99},
    {"proj_bias": True},
    {"proj_type": "none", "width": 12},
    {"custom": True},
    {"custom": True, "pool_type": "eos", "eos_id": 99},
    {"custom": True, "proj_bias": True},
    {"custom": True, "proj_type": "none", "width": 12},
]
OTHER = [
    {"no_causal_mask": True},
    {"custom": True, "no_causal_mask": True},
    {"pool_type": "last"},
    {"custom": True, "pool_type": "last", "no_causal_mask": True},
    {"custom": True, "embed_cls": True},
]
TEXTS = [
    "",
    "a",
    "a cat",
    "cats",
    "fourteen chars",
    "fifteen charact",
    "far more than sixteen characters",
    "dog",
    "a cat",
]


def texts_read(backbone, texts):
    """Embeddings, which texts were cut, and how many tokens each batch had."""
    lengths = []
    transformer = getattr(backbone.model, "text", backbone.model).transformer
    handle = transformer.register_forward_pre_hook(lambda _module, args: lengths.append(args[0].shape[1]))
    vectors, cut = backbone.encode_texts(texts)
    handle.remove()
    return vectors, cut, lengths


@pytest.mark.parametrize("changes", [*CAUSAL, *OTHER], ids=str)
def test_texts_are_embedded_as_the_model_itself_does(changes, monkeypatch):
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    backbone = ClipBackbone(text_clip(**changes), fake_tokenizer, "cpu")
    vectors, cut, lengths = texts_read(backbone, TEXTS)
    with torch.inference_mode():
        expected = F.normalize(backbone.model.encode_text(fake_tokenizer(TEXTS)), dim=-1)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(vectors[1], vectors[2], atol=0.01)
    assert cut.tolist() == [len(text) > 14 for text in TEXTS]
    # Texts of one length go together: start, characters, end.
    shortened = sorted(min(len(text) + 2, 16) for text in TEXTS)[1::2]
    full = 17 if changes.get("embed_cls") else 16
    assert lengths == ([*shortened, 16] if changes in CAUSAL else [full] * 5)


def test_the_bundled_texts_are_embedded_as_the_model_itself_does():
    backbone = mini_models().clip
    texts = [f"a photo of a {name}" for name in ("cat", "dog", "chocolate glazed donut and a zebra", "猫", "x" * 99)]
    vectors, cut, lengths = texts_read(backbone, texts[:3])
    with torch.inference_mode():
        expected = F.normalize(backbone.model.encode_text(backbone.tokenizer(texts)), dim=-1)
    torch.testing.assert_close(vectors, expected[:3], atol=1e-6, rtol=1e-5)
    assert max(lengths) < backbone.model.context_length
    vectors, cut, _ = texts_read(backbone, texts)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=1e-5)
    assert cut.tolist() == [False, False, False, False, True]


def test_text_that_reads_bytes_of_any_script_and_brackets_of_any_kind():
    vectors, _ = mini_models().clip.encode_texts(["猫", "🐱", "кот", "{name}", "<|endoftext|>", "\u0301", "  "])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(7))


@pytest.mark.parametrize("name", ["bundled", "ViT-B-16"])
def test_a_text_is_cut_when_it_is_longer_than_the_context_and_not_before(name):
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MINI_FOLDER / 'clip'}" if name == "bundled" else name)
    length = tokenizer(["a"]).shape[1]
    # "cat" is one token in both vocabularies; start and end take two places.
    texts = [" ".join(["cat"] * count) for count in (length - 3, length - 2, length - 1, 3 * length)]
    model = text_clip(context_length=length, vocab_size=50_000)
    _, cut = ClipBackbone(model, tokenizer, "cpu").encode_texts(texts)
    assert cut.tolist() == [False, False, True, True]


def test_many_texts_keep_their_order():
    backbone = ClipBackbone(text_clip(), fake_tokenizer, "cpu")
    texts = [f"{'n' * (i % 7)}{i}" for i in range(150)]
    vectors, _ = backbone.encode_texts(texts)
    for place in (0, 1, 77, 149):
        torch.testing.assert_close(vectors[place], backbone.encode_texts([texts[place]])[0][0], atol=1e-6, rtol=1e-5)


def test_another_vision_tower_is_refused():
    model = tiny_clip()
    model.visual = torch.nn.Conv2d(3, 3, 1)
    with pytest.raises(WeightsError, match="Conv2d"):
        ClipBackbone(model, fake_tokenizer, "cpu")


def test_attention_pooling_is_refused():
    with pytest.raises(WeightsError, match="plain open_clip ViT"):
        ClipBackbone(tiny_clip(attentional_pool=True, attn_pooler_heads=2), fake_tokenizer, "cpu")


def test_a_folder_that_holds_no_clip_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="cannot be loaded"):
        ClipBackbone.load(tmp_path, device="cpu")


def test_a_folder_without_the_weights_is_not_filled_with_random_ones(tmp_path):
    write_tiny_clip(tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot be loaded"):
        ClipBackbone.load(tmp_path / "clip", device="cpu")


def test_loading_writes_nothing_on_the_terminal(capfd, caplog):
    ClipBackbone.load(MINI_FOLDER / "clip", device="cpu")
    out, err = capfd.readouterr()
    assert (out, err, caplog.records) == ("", "", [])


def test_bilinear_positions_are_not_smoothed():
    embedding = torch.randn(1 + 16, 5)
    resized = resize_position_embedding(embedding, (2, 8), "bilinear")
    assert torch.equal(resized[0], embedding[0])
    grid = embedding[1:].view(4, 4, 5)
    # Halved without antialiasing: between the second and third of four pairs of rows; doubled: a quarter and three.
    rows = torch.stack([grid[0:2].mean(dim=0), grid[2:4].mean(dim=0)])
    torch.testing.assert_close(resized[1:].view(2, 8, 5)[:, 0], rows[:, 0])
    torch.testing.assert_close(resized[1:].view(2, 8, 5)[:, 2], 0.25 * rows[:, 0] + 0.75 * rows[:, 1])
