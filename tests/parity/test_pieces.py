"""The pieces that need no network against the published code: masks, prototypes, scores, filters, refinement."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.labeling.refine import DILATIONS, ITERATIONS, pamr
from ovseg_cli.methods.prototype import prototype_scores
from ovseg_cli.methods.stuff_filter import stuff_filter
from ovseg_cli.models import concatenate_maps
from ovseg_cli.profiles import get_profile
from ovseg_cli.prototypes.masks import class_thresholds, cut_out, minmax, normalise_attribution
from ovseg_cli.prototypes.pooling import PrototypePool, masks_to_grid
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store.records import PrototypeBlock
from ovseg_cli.text.prefilter import Shortlist
from tests.parity import scenes
from tests.parity.inputs import difference, golden, noise, picture, sample, uniform

AGREE = 1e-4
"""Largest difference, as a share of the range of the values."""

# --------------------------------------------------------------------------- masks

PICTURES = range(4)


@pytest.fixture(scope="module")
def published_masks():
    """Masks as bool (4, 512, 512)."""
    packed = golden("masks")
    return {
        name: np.unpackbits(values, axis=-1).astype(bool) if values.ndim == 3 else values
        for name, values in packed.items()
    }


def share_of_other_pixels(ours, theirs):
    return float((np.stack(ours) != theirs).mean())


def test_attribution_at_image_size(published_masks, tell):
    """Min-max on the grid, bilinear, min-max again."""
    maps = normalise_attribution(scenes.attention_maps(), scenes.SIZE)
    theirs = published_masks["attribution"]
    tell("difference", difference(sample("masks", maps, len(theirs)), theirs))
    assert difference(sample("masks", maps, len(theirs)), theirs) < AGREE


def test_otsu_over_the_maps_of_a_class(published_masks, tell):
    found = class_thresholds(minmax(scenes.attention_maps()))
    worst = np.abs(np.array([found.low, found.high]) - published_masks["thresholds"]).max()
    tell("thresholds", worst)
    assert worst < AGREE
    assert found.method == "otsu"


def empty_pictures():
    return [np.zeros((scenes.SIZE, scenes.SIZE, 3), np.uint8)] * len(PICTURES)


def test_masks_by_otsu(published_masks, tell):
    cut = cut_out(empty_pictures(), scenes.attention_maps(), method="otsu", proposer=None)
    for name in ("foreground", "background"):
        other = share_of_other_pixels(getattr(cut, name), published_masks[f"otsu_{name}"])
        tell(f"{name}, share of the pixels", other)
        assert other < AGREE


def test_masks_from_proposals(published_masks, tell):
    """Weights, the heaviest region, the lightest region that survives, 0.2, erosion; picture 2 has no proposal."""
    numbers = iter(PICTURES)
    proposer = SimpleNamespace(name="made up", propose=lambda _image: scenes.proposals(next(numbers)))
    cut = cut_out(empty_pictures(), scenes.attention_maps(), method="sam", proposer=proposer)
    for name in ("foreground", "background"):
        other = share_of_other_pixels(getattr(cut, name), published_masks[name])
        tell(f"{name}, share of the pixels", other)
        assert other < AGREE
    assert sum(cut.record["fallbacks"].values()) == 1
    # The scene has what it is to have: the background is less than its region, and not nothing.
    for picture_number in (0, 1, 3):
        lowest, background = published_masks["lowest"][picture_number], published_masks["background"][picture_number]
        assert 0 < background.sum() < lowest.sum()


# --------------------------------------------------------------------------- prototypes

CHANNELS = 96


@pytest.fixture(scope="module")
def pools():
    """fg and bg of the pictures that have a foreground: the published code leaves out a picture without one."""
    made = {role: PrototypePool(parts=scenes.GROUPS, images=2, seed=0) for role in ("fg", "bg")}
    for number in range(2):
        features = torch.from_numpy(scenes.pooled_features(number, CHANNELS))
        for role, mask in zip(("fg", "bg"), scenes.pooled_masks(number), strict=True):
            cells = masks_to_grid(torch.from_numpy(mask)[None], (scenes.GRID, scenes.GRID), 0.0)[0]
            made[role].add(features, cells, number)
    return {role: pool.prototypes() for role, pool in made.items()}


@pytest.mark.parametrize("role", ["fg", "bg"])
@pytest.mark.parametrize("kind", ["mean", "instance"])
def test_pooled_prototypes(pools, role, kind, tell):
    theirs = golden("prototypes")[f"{role}_{kind}"].reshape(-1, CHANNELS)
    ours = np.stack([pooled.vector for pooled in pools[role] if pooled.kind == kind])
    tell("difference", difference(ours, theirs))
    assert difference(ours, theirs) < AGREE


@pytest.mark.parametrize("role", ["fg", "bg"])
def test_parts_of_clusters_that_are_far_apart(pools, role, tell):
    """scikit-learn clusters all pixels, ours a sample of them, from another start: the clusters are the same."""
    theirs = golden("prototypes")[f"{role}_part"]
    ours = np.stack([pooled.vector for pooled in pools[role] if pooled.kind == "part"])
    assert len(ours) == len(theirs) == scenes.GROUPS
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (ours, theirs)]
    cosines = unit[0] @ unit[1].T
    assert sorted(cosines.argmax(axis=1)) == list(range(scenes.GROUPS))
    tell("1 - cosine", 1 - cosines.max(axis=1).min())
    # Means of 1024 sampled pixels and of all: both err by the spread inside a cluster.
    assert cosines.max(axis=1).min() > 0.999


# --------------------------------------------------------------------------- scores

EXTRACTORS = {"sd": (40, 32), "clip": (24, 28)}


def unit_rows(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


class Shelves:
    """A store that holds the prototypes of `scenes.shelf`."""

    def __init__(self, profile):
        self._names = {spec.digest: spec.name for spec in profile.extractors}

    snapshot = staticmethod(nullcontext)

    def has_class(self, name):
        return name in scenes.CLASSES

    path = None

    def get_classes(self, names):
        return [self._info(name) for name in names]

    def _info(self, name):
        kind = "stuff" if name == "grass" else "thing"
        return SimpleNamespace(name=name, kind=kind, generation=0, extractors=dict.fromkeys(self._names, ""))

    def prototypes(self, names, digest):
        extractor = self._names[digest]
        vectors, owners, roles, kinds = [], [], [], []
        for index, name in enumerate(names):
            for role in ("fg", "bg"):
                shelf = scenes.shelf(extractor, name, role, EXTRACTORS[extractor][0])
                for kind in ("mean", "instance", "part"):
                    rows = getattr(shelf, kind)
                    vectors.append(unit_rows(rows))
                    owners += [index] * len(rows)
                    roles += [role == "fg"] * len(rows)
                    kinds += [kind] * len(rows)
        return PrototypeBlock(
            classes=tuple(names),
            vectors=np.concatenate(vectors).astype(np.float32),
            class_index=np.array(owners),
            role_is_fg=np.array(roles),
            kind=tuple(kinds),
            ids=np.arange(len(owners)),
        )


@pytest.fixture(scope="module")
def segmenter():
    """The profile `sd15`'s inference with two made-up extractors."""
    profile = get_profile("sd15")
    specs = {spec.name: spec for spec in profile.extractors}
    profile = replace(
        profile,
        extractors=tuple(replace(specs[name], dim=dim, grid=grid) for name, (dim, grid) in EXTRACTORS.items()),
    )
    models = SimpleNamespace(
        profile=profile,
        device="cpu",
        precision="auto",
        domain=None,
        feature_maps=lambda spec, crops, _sight: [scenes.colour_features(crops, spec.name, *EXTRACTORS[spec.name])],
    )
    return Segmenter(
        models, Shelves(profile), scenes.CLASSES, method="prototype", options=SegmentOptions(prefilter=False)
    )


@pytest.mark.parametrize(("mode", "kept"), [("all", (0, 1, 2)), ("filtered", (0, 2))])
def test_scores_and_labels_of_a_photograph(segmenter, mode, kept, monkeypatch, tell):
    """Nine crops, two extractors, stuff filter, background rule, fusion, decision; with a class filtered out."""
    if mode == "filtered":
        monkeypatch.setattr(segmenter, "_prefilter", lambda _picture: Shortlist(kept, (0.3, None)))
    scored = segmenter.score(scenes.photo())
    result, scores = segmenter.label(scored), scored.values
    theirs = golden("scores")
    everything = torch.full((len(scenes.CLASSES) + 1, *scores.shape[1:]), -1.0)
    everything[[0, *(place + 1 for place in kept)]] = scores.cpu()
    found = difference(sample("scores", everything, len(theirs[f"{mode}_scores"])), theirs[f"{mode}_scores"])
    tell("scores", found)
    assert found < AGREE
    other = float((result.ids != theirs[f"{mode}_labels"]).mean())
    tell("labels, share of the pixels", other)
    assert other < AGREE


def near_features(joined, key):
    """The prototypes that the published code was given."""
    cells = (uniform(f"unet/{key}/cells", (8,)) * 64 * 64).astype(np.int64)
    return joined[0].flatten(1)[:, cells].T.numpy() + 0.5 * noise(f"unet/{key}/vectors", (8, joined.shape[1]))


def test_scores_at_native_resolution_of_stable_diffusions_true_shape(tell):
    """7680 channels of nine layers on four grids, against enlarging and stacking them first, as published."""
    maps = scenes.unet_maps()
    joined = concatenate_maps(maps)
    assert joined.shape == (1, 7680, 64, 64)
    vectors, channel = [], []
    for place, name in enumerate(scenes.CLASSES[:2], 1):
        for role in ("fg", "bg"):
            vectors.append(unit_rows(near_features(joined, f"{name}/{role}")))
            channel += [place if role == "fg" else 0] * 8
    scores = prototype_scores(
        maps, torch.from_numpy(np.concatenate(vectors).astype(np.float32)), torch.tensor(channel), 3
    )
    enlarged = F.interpolate(scores, (448, 448), mode="bilinear", align_corners=False)[0]
    theirs = golden("unet-scores")["scores"]
    found = difference(sample("unet-scores", enlarged, len(theirs)), theirs)
    tell("scores", found)
    assert found < AGREE


def test_stuff_filter(tell):
    """Backgrounds of stuff go, and backgrounds of things that look like a stuff foreground."""
    theirs = golden("stuff-filter")
    rows, background, of_stuff, owner = [], [], [], []
    for place, name in enumerate(scenes.CLASSES, 1):
        for role in ("fg", "bg"):
            shelf = scenes.shelf("sd", name, role, EXTRACTORS["sd"][0])
            rows.append(np.concatenate([shelf.mean, shelf.instance, shelf.part]))
            background += [role == "bg"] * 8
            of_stuff += [name == "grass"] * 8
            owner += [place] * 8
    vectors = np.concatenate(rows)
    is_background, is_stuff = torch.tensor(background), torch.tensor(of_stuff)
    stays = stuff_filter(
        torch.from_numpy(unit_rows(vectors).astype(np.float32)),
        background=is_background,
        of_stuff=is_stuff,
        against=~is_background & is_stuff,
        threshold=get_profile("sd15").inference.stuff_similarity,
    )
    left = (stays & is_background).numpy()
    np.testing.assert_array_equal(vectors[left], theirs["vectors"])
    np.testing.assert_array_equal(np.array(owner)[left], theirs["classes"])
    assert left.sum() == 14  # of 24: all 8 of grass, and one of each thing


def test_pamr(tell):
    image = torch.from_numpy(picture("pamr", 41, 53)).permute(2, 0, 1)[None].float() / 255
    coarse = torch.from_numpy(uniform("pamr/scores", (1, 3, 12, 16)))
    before = F.interpolate(coarse, (41, 53), mode="bilinear", align_corners=False)[0]
    assert (ITERATIONS, DILATIONS) == (10, (1, 2, 4, 8, 12, 24))
    found = difference(pamr(image, before), golden("pamr")["scores"])
    tell("scores", found)
    assert found < AGREE
