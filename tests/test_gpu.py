"""The same answers on a GPU, where the networks compute in half precision.

`tests/test_half.py` has what half precision does to the methods, and needs no GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovseg_cli.backbones.attention import attention_probabilities, token_probabilities
from ovseg_cli.clustering.kmeans import kmeans
from ovseg_cli.labeling.refine import pamr
from ovseg_cli.methods.catalogue import naming_methods
from ovseg_cli.models import load_models
from ovseg_cli.profiles import get_profile
from ovseg_cli.prototypes.build import SupportSettings, build_class, build_classes
from ovseg_cli.prototypes.support import ClassItem, OwnPicture
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from tests.mini import example_scene, mini_class, mini_models, random_pictures
from tests.scores import by_every_method

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MINI = get_profile("mini")
EXTRACTORS = (*MINI.extractors, *MINI.extra_extractors)
NAMES = ("cat", "apple", "soccer ball")
QUICK = {"short_side": 96, "windows": ((64, 32), (0, 0))}


@pytest.fixture(scope="module")
def on_gpu():
    return load_models(MINI, device="cuda")


@pytest.fixture(scope="module")
def exact_on_gpu():
    return load_models(MINI, device="cuda", precision="float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two of the three classes have prototypes."""
    with Store.open(tmp_path_factory.mktemp("gpu") / "store", profile="mini") as opened:
        opened.add_class(mini_class("cat"))
        opened.add_class(mini_class("apple"))
        yield opened


@pytest.fixture(scope="module")
def answers(store):
    """By method, what the labels of one picture are made of, on the CPU, and the labels; once for each models."""
    made = {}

    def of(models):
        if id(models) not in made:
            scored = by_every_method(models, store, NAMES, example_scene(8), naming_methods(), **QUICK)
            made[id(models)] = {s.method: (one.values.cpu(), s.label(one).ids) for s, one in scored}
        return made[id(models)]

    return of


@pytest.mark.parametrize("method", naming_methods())
def test_label_maps_agree_with_the_cpu(answers, on_gpu, method):
    assert on_gpu.dtype == torch.float16
    (_, labels), (_, exact) = answers(on_gpu)[method], answers(mini_models())[method]
    assert (labels == exact).mean() > 0.98


@pytest.mark.parametrize("method", naming_methods())
def test_in_float32_all_agrees_with_the_cpu(answers, exact_on_gpu, method):
    """Scores too, where no clustering is in between, whose regions may differ by a token."""
    (ours, labels), (exact, exact_labels) = answers(exact_on_gpu)[method], answers(mini_models())[method]
    assert (labels == exact_labels).mean() > 0.99
    if method not in ("specclust", "diffsegclust"):
        assert (ours - exact).abs().max() <= 1e-3 * exact.abs().max()


def test_a_label_map_of_few_classes_comes_as_bytes_in_one_copy_with_all_its_figures(store, on_gpu):
    segmenter = Segmenter(on_gpu, store, NAMES, method="gem", options=SegmentOptions(**QUICK))
    scored = segmenter.score(example_scene(8))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        result = segmenter.label(scored)
    copies = [event for event in profiler.events() if "DtoH" in event.name]
    assert result.ids.dtype == np.uint16
    assert len(copies) <= 2  # the other one says whether the picture is familiar


def test_nothing_waits_between_the_picture_and_the_label_map(store, on_gpu):
    segmenter = Segmenter(on_gpu, store, NAMES, method="gem", options=SegmentOptions(**QUICK, refine="pamr"))
    segmenter.segment(example_scene(8))
    torch.cuda.set_sync_debug_mode("error")
    try:
        read = segmenter.labelling(segmenter.score(example_scene(8)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert read().ids.shape == example_scene(8).shape[:2]


def test_refinement_is_that_of_the_cpu(on_gpu):
    picture = random_pictures(1, 60, 80)
    values = torch.rand(22, 60, 80, generator=torch.Generator().manual_seed(0))
    ours = pamr(picture.to(on_gpu.device), values.to(on_gpu.device)).cpu()
    torch.testing.assert_close(ours, pamr(picture, values), atol=1e-4, rtol=0)


def test_pictures_in_a_batch_are_labelled_as_each_alone(store, on_gpu):
    pictures = [example_scene(8), example_scene(3)[: example_scene(8).shape[0], : example_scene(8).shape[1]]]
    segmenter = Segmenter(on_gpu, store, NAMES, method="hybrid", options=SegmentOptions(**QUICK))
    for together, picture in zip(segmenter.segment_batch(pictures), pictures, strict=True):
        assert (together.ids == segmenter.segment(picture).ids).mean() > 0.99


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: e.name)
def test_features_are_those_of_the_cpu_in_float32(on_gpu, extractor):
    pictures = random_pictures(2, 60, 80)
    for ours, exact in zip(
        on_gpu.feature_maps(extractor, pictures), mini_models().feature_maps(extractor, pictures), strict=True
    ):
        assert ours.is_cuda
        assert ours.dtype == torch.float32
        assert (ours.cpu() - exact).norm() / exact.norm() < 5e-3


def test_texts_are_those_of_the_cpu(on_gpu):
    """A store keeps them for every device."""
    texts = [f"a photo of a {name}." for name in NAMES]
    torch.testing.assert_close(
        on_gpu.clip.encode_texts(texts)[0].cpu(), mini_models().clip.encode_texts(texts)[0], atol=1e-4, rtol=0
    )


def test_a_class_made_on_the_gpu_looks_like_the_one_made_on_the_cpu(on_gpu):
    record = build_class(on_gpu, "cat", SupportSettings(count=6, steps=12))
    other = mini_class("cat")
    overlap = [
        (a.foreground & b.foreground).sum() / (a.foreground | b.foreground).sum()
        for a, b in zip(record.supports, other.supports, strict=True)
    ]
    # In half precision on a CPU, it is .999 and more, and pictures are .2 of 255 apart at most.
    assert [s.seed for s in record.supports] == [s.seed for s in other.supports]
    apart = [np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(record.supports, other.supports, strict=True)]
    assert max(apart) < 2
    assert min(overlap) > 0.95
    means = [
        {(p.extractor, p.role): p.vector / np.linalg.norm(p.vector) for p in made.prototypes if p.kind == "mean"}
        for made in (record, other)
    ]
    assert all(means[0][key] @ vector > 0.999 for key, vector in means[1].items())


def test_a_class_is_made_of_the_same_bytes_again(on_gpu):
    first, again = (build_class(on_gpu, "apple", SupportSettings(count=3, steps=4, seed=7)) for _ in range(2))
    for one, other in zip(first.supports, again.supports, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.attribution, other.attribution)
    for one, other in zip(first.prototypes, again.prototypes, strict=True):
        np.testing.assert_array_equal(one.vector, other.vector)


def test_classes_that_share_batches_are_those_made_alone(on_gpu):
    """Up to the kernels that other batch sizes choose."""
    settings = SupportSettings(count=3, steps=6, batch_size=4)
    for _, made in build_classes(on_gpu, [ClassItem(name) for name in NAMES], settings):
        alone = build_class(on_gpu, made.name, settings)
        for one, other in zip(made.supports, alone.supports, strict=True):
            assert one.seed == other.seed
            assert np.abs(one.image.astype(int) - other.image).mean() < 2
            assert (one.foreground == other.foreground).mean() > 0.98


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(("side", "heads", "width"), [(64, 8, 40), (32, 8, 80), (16, 8, 160), (32, 10, 64)])
def test_probabilities_of_tokens_are_those_of_all_whatever_kernel_makes_them(dtype, side, heads, width):
    random = torch.Generator().manual_seed(0)
    q = torch.randn(2, side**2, heads * width, generator=random).to(dtype)
    k = torch.randn(2, 77, heads * width, generator=random).to(dtype)
    chosen = torch.eye(77, dtype=dtype)[None, :, 5 : 5 + width].expand(2, -1, -1)
    found = token_probabilities(q.cuda(), k.cuda(), heads, width**-0.5, chosen.cuda()).cpu().double()
    exact = attention_probabilities(q.double(), k.double(), heads, width**-0.5)[..., 5 : 5 + width].double()
    bound = 1.1e-3 if dtype == torch.float16 else 2e-3  # float32 may be multiplied as TF32
    torch.testing.assert_close(found[..., : exact.shape[-1]], exact, rtol=bound, atol=1e-7)


@pytest.mark.parametrize("spherical", [False, True])
def test_parts_are_those_of_the_cpu(spherical):
    random = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 300, generator=random) + 3 * torch.randn(40, 300, generator=random).repeat(100, 1)
    exact, labels = kmeans(points, 32, seed=1, spherical=spherical)
    found, own = kmeans(points.cuda(), 32, seed=1, spherical=spherical)
    assert (own.cpu() == labels).float().mean() > 0.999
    assert (found.cpu() - exact).norm() / exact.norm() < 1e-3
    again = kmeans(points.cuda(), 32, seed=1, spherical=spherical)
    assert torch.equal(again[0], found)


def test_own_pictures_without_masks_are_cut_out_on_the_gpu(on_gpu):
    pictures = [OwnPicture("whole", example_scene(8)), OwnPicture("part", example_scene(8)[:, :100])]
    settings = SupportSettings(kind="thing")
    ours, exact = (build_class(models, "cat", settings, pictures=pictures) for models in (on_gpu, mini_models()))
    for one, other in zip(ours.supports, exact.supports, strict=True):
        assert (one.foreground == other.foreground).mean() > 0.98


def test_faiss_finds_the_same_on_the_gpu(store):
    """Many queries at once, which go to the GPU, against each alone, which does not."""
    from ovseg_cli.faiss_import import gpu_count

    if not gpu_count():
        pytest.skip("FAISS knows no GPU")
    spec = MINI.extractors[0]
    block = store.prototypes(["cat"], spec.digest)
    queries = block.vectors[block.role_is_fg]
    scores, ids = store.nearest(queries, spec.digest, k=3)
    alone = [store.nearest(query[None], spec.digest, k=3) for query in queries]
    np.testing.assert_allclose(scores, np.concatenate([own for own, _ in alone]), atol=1e-5)
    np.testing.assert_array_equal(ids, np.concatenate([own for _, own in alone]))
