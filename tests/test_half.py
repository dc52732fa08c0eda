"""Half precision, on a CPU: what it rounds, and what stays as it is. For a GPU there is `tests/test_gpu.py`."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ovseg_cli.backbones.attention import attention_probabilities
from ovseg_cli.backbones.clip import BlockTrace
from ovseg_cli.backbones.unet import FixedNoise
from ovseg_cli.methods import cliper, clipsurgery, gem, last_layer, proxyclip
from ovseg_cli.methods.catalogue import naming_methods
from ovseg_cli.models import load_models
from ovseg_cli.profiles import get_profile
from ovseg_cli.prototypes.build import SupportSettings, build_class
from ovseg_cli.prototypes.support import OwnPicture
from ovseg_cli.store import Store
from tests.methods.blocks import made_up_block
from tests.mini import example_labels, example_names, example_scene, mini_models, random_pictures
from tests.scores import by_every_method, class_scores

MINI = get_profile("mini")
EXTRACTORS = (*MINI.extractors, *MINI.extra_extractors)
NAMES = ("cat", "apple", "soccer ball")
QUICK = {"short_side": 64, "windows": ((48, 24), (0, 0))}
PICTURE = example_scene(8)[60:180, 100:256]


@pytest.fixture(scope="module")
def half():
    return load_models(MINI, device="cpu", precision="float16")


def own_picture(name):
    """One of the bundled pictures, with the true mask of a class in it."""
    number = example_names().index(name)
    scene = next(i for i in range(100) if (example_labels(i) == number).sum() > 2000)
    inside = example_labels(scene) == number
    return OwnPicture(name, example_scene(scene), inside, ~inside)


def own_class(models, name):
    return build_class(models, name, SupportSettings(kind="thing"), pictures=[own_picture(name)])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("half") / "store", profile="mini") as opened:
        for name in NAMES[:2]:
            opened.add_class(own_class(mini_models(), name))
        yield opened


# --------------------------------------------------------------------------- every method


QUICKEST = ("prototype", "gem", "hybrid")
"""Methods that are always tried; float16 on a CPU is slow."""


def answers_of(methods, store, half):
    """By method, what float32 and float16 give: scores and label map."""

    def by_method(models):
        scored = by_every_method(models, store, NAMES, PICTURE, methods, **QUICK, prefilter=False)
        return {segmenter.method: (class_scores(one), segmenter.label(one).ids) for segmenter, one in scored}

    exact, rounded = by_method(mini_models()), by_method(half)
    return {method: (exact[method], rounded[method]) for method in methods}


@pytest.fixture(scope="module")
def quickest(store, half):
    return answers_of(QUICKEST, store, half)


@pytest.fixture(scope="module")
def others(store, half):
    return answers_of([method for method in naming_methods() if method not in QUICKEST], store, half)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [method if method in QUICKEST else pytest.param(method, marks=pytest.mark.slow) for method in naming_methods()],
)
def test_every_method_gives_the_labels_of_float32(request, method):
    answers = request.getfixturevalue("quickest" if method in QUICKEST else "others")
    (exact, labels), (rounded, half_labels) = answers[method]
    assert rounded.dtype == torch.float32
    assert rounded.isfinite().all()
    # DiffSegmenter stretches the map of each class, a class that is not there included, and rounding with it.
    assert (labels == half_labels).mean() > (0.98 if method == "diffsegmenter" else 0.99)
    # Where regions decide, rounding can move a cell from one to its neighbour.
    error = (rounded - exact).abs().flatten()
    assert error.quantile(0.98) < 0.02


@pytest.mark.slow
def test_label_maps_are_not_all_background(quickest, others):
    """So that equal labels mean something."""
    named = [method for method, ((_, labels), _) in (quickest | others).items() if (labels > 0).mean() > 0.01]
    assert len(named) > len(naming_methods()) / 2


# --------------------------------------------------------------------------- features, prototypes, support images


def relative(ours, exact):
    return float((ours - exact).norm() / exact.norm())


@pytest.mark.slow
@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: e.name)
def test_features_are_rounded_and_given_in_float32(half, extractor):
    pictures = random_pictures(2, 60, 80)
    for ours, exact in zip(
        half.feature_maps(extractor, pictures), mini_models().feature_maps(extractor, pictures), strict=True
    ):
        assert ours.dtype == torch.float32
        assert 0 < relative(ours, exact) < 5e-3


def test_prototypes_keep_their_direction(half):
    exact, rounded = (own_class(models, "cat") for models in (mini_models(), half))
    means = [
        {(p.extractor, p.role): torch.from_numpy(p.vector) for p in record.prototypes if p.kind == "mean"}
        for record in (exact, rounded)
    ]
    assert means[0].keys() == means[1].keys()
    assert len(means[0]) >= len(MINI.extractors)
    for key, vector in means[0].items():
        assert torch.cosine_similarity(vector, means[1][key], dim=0) > 0.9999


@pytest.mark.slow
def test_a_seed_gives_the_same_picture(half):
    """Up to its rounding; with other noise it would be another picture."""
    settings = {"image_size": 64, "steps": 6, "guidance": 4.0, "negative_prompt": "", "min_attention_grid": 8}
    exact, rounded = (
        models.generator.generate("a good picture of a cat", "cat", [42], **settings)
        for models in (mini_models(), half)
    )
    apart = (rounded.images.float() - exact.images.float()).abs()
    assert apart.mean() < 1
    assert rounded.attribution.dtype == torch.float32
    assert relative(rounded.attribution, exact.attribution) < 0.01


# --------------------------------------------------------------------------- what stays float32


def test_the_text_tower_is_not_rounded(half):
    """Its answers are kept in the store, where every device finds them."""
    texts = [f"a photo of a {name}." for name in example_names()[1:4]]
    assert torch.equal(half.clip.encode_texts(texts)[0], mini_models().clip.encode_texts(texts)[0])
    assert half.clip.dtype == torch.float16


def test_pictures_become_latents_in_float32(half):
    pipeline = half.generator.pipeline
    assert pipeline.unet.dtype == torch.float16
    assert {p.dtype for p in pipeline.vae.decoder.parameters()} == {torch.float16}
    latents = [models.generator._encode(random_pictures(1, 64, 64)) for models in (half, mini_models())]
    assert latents[0].dtype == torch.float32
    # The weights are those of a file in half precision already, or were rounded when they were loaded.
    assert relative(*latents) < 2e-3
    noisy = half.generator._add_noise(latents[0], 500, FixedNoise(0))
    assert noisy.dtype == torch.float32


def test_attention_that_overflows_float16_is_exact():
    """Products of 200 000, before and after they are scaled."""
    random = torch.Generator().manual_seed(0)
    queries = (torch.randn(1, 5, 8, generator=random) * 300).half()
    keys = (torch.randn(1, 7, 8, generator=random) * 300).half()
    found = attention_probabilities(queries, keys, 2, 0.9)
    expected = attention_probabilities(queries.double(), keys.double(), 2, 0.9)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float())
    summed = cliper.early_attention([queries, queries], [queries, queries])
    assert summed.isfinite().all()
    torch.testing.assert_close(summed.sum(-1), torch.full((1, 5), 2.0))


# --------------------------------------------------------------------------- large numbers

TOKENS = {
    "maskclip": lambda block, _: last_layer.maskclip_tokens(block),
    "sclip": lambda block, _: last_layer.sclip_tokens(block),
    "clearclip": lambda block, _: last_layer.clearclip_tokens(block),
    "naclip": lambda block, _: last_layer.naclip_tokens(block, (3, 4)),
    "clipsurgery": lambda block, _: clipsurgery.surgery_tokens([block, block]),
    "gem": lambda block, _: gem.gem_tokens([block, block]),
    "proxyclip": lambda block, proxy: proxyclip.proxyclip_tokens(block, proxy, (3, 4)),
}


def in_type(block, dtype):
    """A made-up block whose tensors are of a type, and whose maps are computed in float64 and rounded to it."""

    def rounded(run):
        return lambda x: run(x.double()).to(dtype)

    tensors = ("inputs", "normed", "queries", "keys", "values")
    maps = ("project", "values_of", "feed_forward")
    return BlockTrace(
        **{name: getattr(block, name).to(dtype) for name in tensors},
        **{name: rounded(getattr(block, name)) for name in maps},
    )


@pytest.mark.parametrize("method", TOKENS)
def test_tokens_as_large_as_those_of_trained_transformers_are_only_rounded(method):
    """A few channels and one token are far larger than the rest, and one token is 0."""
    plain = made_up_block(tokens=13, heads=2, width=16)
    outliers = torch.ones(32, dtype=torch.float64)
    outliers[5] = 60
    inputs = plain.inputs * outliers
    inputs[:, 7] *= 10
    keys, queries, values = (x.clone() for x in (plain.keys, plain.queries, plain.values))
    keys[:, :, 4], queries[:, :, 4], values[:, :, 4] = 0, 0, 0
    keys[:, :, 9] *= 30  # a product of 14 000 with itself
    exact = in_type(dataclasses.replace(plain, inputs=inputs, keys=keys, queries=queries, values=values), torch.float16)
    proxy = torch.randn(2, 10, 4, 5, generator=torch.Generator().manual_seed(1))
    found = TOKENS[method](exact, proxy)
    expected = TOKENS[method](in_type(exact, torch.float64), proxy)
    assert found.dtype == torch.float16
    assert found.isfinite().all()
    assert relative(found.double(), expected) < 5e-3


def test_cosines_with_large_tokens_are_float32(half):
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 9, half.clip.model.visual.ln_post.weight.shape[0], generator=random)
    tokens[:, 2] *= 3000
    found, exact = half.clip.embed(tokens.half()), mini_models().clip.embed(tokens)
    assert found.dtype == torch.float32
    assert (found.norm(dim=-1) - 1).abs().max() < 1e-5
    assert ((found * exact).sum(-1) > 0.9999).all()
