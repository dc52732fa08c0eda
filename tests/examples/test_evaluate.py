from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from examples.mini_pack import evaluate
from examples.mini_pack.evaluate import (
    Figure,
    Setup,
    below,
    generate,
    mask_iou,
    outlined,
    over_seeds,
    pack_profile,
    remember_images,
    scene_attribution,
    table,
)
from examples.mini_pack.glyphs import NOTO, TWEMOJI, GlyphSet
from examples.mini_pack.vocabulary import LABEL_IDS, THING_NAMES, find_thing
from examples.mini_pack.world import World
from ovseg_cli.backbones.unet import Samples
from ovseg_cli.models import Models, load_models
from tests.mini import MINI_FOLDER, mini_models


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(pack_profile(MINI_FOLDER), device="cpu")


@pytest.fixture
def setup(glyphs: GlyphSet, models: Models) -> Setup:
    return Setup(pack=MINI_FOLDER, models=models, glyphs=glyphs, second=GlyphSet(TWEMOJI), seeds=1, images=1)


class TestFigures:
    def test_mean_spread_and_worst_class_over_seeds(self) -> None:
        runs = [(0.5, {"cat": 0.2, "dog": 0.9, "bus": None}), (0.7, {"cat": 0.4, "dog": float("nan"), "bus": None})]
        figure = over_seeds("something", runs)
        assert figure.mean == pytest.approx(0.6)
        assert figure.spread == pytest.approx(np.std([0.5, 0.7], ddof=1))
        assert figure.per_class == pytest.approx({"cat": 0.3, "dog": 0.9})
        assert figure.worst == ("cat", pytest.approx(0.3))

    def test_one_seed_has_no_spread_and_a_time_no_classes(self) -> None:
        figure = over_seeds("time", [(3.0, {})], "seconds")
        assert figure.spread == 0
        assert figure.worst is None
        assert json.loads(json.dumps(figure.record(), allow_nan=False))["mean"] == 3.0

    def test_the_table_shows_every_figure(self) -> None:
        shown = table([Figure("a", "share", (0.25,), {"cat": 0.125}), Figure("b", "seconds", (2.0,), {})])
        cells = [list(column.cells) for column in shown.columns]
        assert cells[:4] == [["a", "b"], ["0.250", "2.0 s"], ["0.000", "0.0 s"], ["cat 0.125", ""]]


def test_mask_iou_agrees_with_counting() -> None:
    rng = np.random.default_rng(0)
    found, true = rng.random((5, 7, 9)) < 0.5, rng.random((5, 7, 9)) < 0.3
    found[4] = true[4] = False
    for index, value in enumerate(mask_iou(found, true)):
        ours, theirs = set(np.flatnonzero(found[index])), set(np.flatnonzero(true[index]))
        expected = len(ours & theirs) / len(ours | theirs) if ours | theirs else np.nan
        np.testing.assert_allclose(value, expected)


class TestPackProfile:
    def test_a_copy_of_the_bundled_pack_keeps_every_setting(self) -> None:
        profile, mini = pack_profile(MINI_FOLDER), mini_models().profile
        for ours, theirs in zip(profile.weights, mini.weights, strict=True):
            assert ours.revision == theirs.revision
            assert replace(ours, bundled=theirs.bundled) == theirs
        assert profile.inference == mini.inference
        assert replace(profile.generator, weights=mini.generator.weights) == mini.generator

    @pytest.mark.slow
    def test_its_models_are_those_of_the_folder(self, models: Models) -> None:
        ours = generate(models, "cat", [3])
        theirs = generate(mini_models(), "cat", [3])
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.attribution, theirs.attribution)

    def test_a_folder_without_a_pack_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="laid out like the bundled pack"):
            pack_profile(tmp_path)


def test_attention_in_a_scene_lies_on_the_object(glyphs: GlyphSet, models: Models) -> None:
    scenes = [World(glyphs, variants=2).scene(seed, things=["dog"], count=1) for seed in (1, 2)]
    maps = scene_attribution(models, np.stack([scene.image for scene in scenes]), "dog", 0)
    assert maps.shape == (2, 16, 16)
    for scene, item in zip(scenes, maps, strict=True):
        inside = np.asarray(Image.fromarray(scene.labels == LABEL_IDS["dog"]).resize((16, 16)))
        assert item[inside].mean() > 3 * item[~inside].mean()


@pytest.mark.slow
def test_clip_names_most_scenes(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "CLIP_SCENES", 1)
    (figure,) = evaluate.clip(setup)
    assert set(figure.per_class) == set(THING_NAMES)
    assert figure.mean == pytest.approx(np.mean(list(figure.per_class.values())))
    assert figure.mean > 0.5


@pytest.mark.slow
def test_segments_are_scored_against_the_right_labels(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    class Oracle:
        def __init__(self, _models: object, _store: object, names: list[str], **_settings: object) -> None:
            self.names = names

        def segment(self, image: np.ndarray) -> object:
            labels = truth[image.tobytes()]
            ids = np.zeros(labels.shape, np.uint16)
            for number, name in enumerate(self.names, start=1):
                known = LABEL_IDS[name] if name in LABEL_IDS else LABEL_IDS[find_thing(name).name]
                ids[labels == known] = number
            return type("Answer", (), {"ids": ids})()

    truth: dict[bytes, np.ndarray] = {}
    render = evaluate.render_set

    def remembered(*arguments: object, **settings: object) -> object:
        for picture in render(*arguments, **settings):
            truth[picture.image.tobytes()] = picture.labels
            yield picture

    monkeypatch.setattr(evaluate, "render_set", remembered)
    monkeypatch.setattr(evaluate, "Segmenter", Oracle)
    monkeypatch.setattr(evaluate, "segment_together", lambda oracles, image: [one.segment(image) for one in oracles])
    monkeypatch.setattr(evaluate, "build_class", lambda *_: None)
    monkeypatch.setattr(evaluate.Store, "add_class", lambda *_: None)
    monkeypatch.setattr(evaluate, "GEM_PICTURES", 3)
    monkeypatch.setattr(evaluate, "PROTOTYPE_PICTURES", 3)
    *scores, recall, precision = (*evaluate.gem(setup), *evaluate.prototypes(setup))
    assert [figure.mean for figure in scores] == [1.0] * 4
    assert 0 < recall.mean <= 1
    assert 0 < precision.mean <= 1
    assert "chocolate glazed donut" in evaluate.SEGMENTED
    assert len(evaluate.SEGMENTED) == 20


def test_images_are_generated_once_and_stay_what_they_are() -> None:
    asked: list[list[int]] = []

    def draw(prompt: str, phrase: str, seeds: list[int], *, on_step: object, steps: int) -> Samples:
        asked.append(list(seeds))
        values = torch.tensor([seed * steps + len(prompt + phrase) for seed in seeds])
        return Samples(values, values + 1)

    models = SimpleNamespace(generator=SimpleNamespace(generate=draw))
    remember_images(models)
    again = models.generator.generate
    assert again("a cat", "cat", [1, 2], steps=10).images.tolist() == [18, 28]
    assert again("a cat", "cat", [3, 2, 1], steps=10, on_step=print).attribution.tolist() == [39, 29, 19]
    assert again("a cat", "cat", [1], steps=20).images.tolist() == [28]
    assert again("a dog!", "dog", [1], steps=10).images.tolist() == [19]
    assert asked == [[1, 2], [3], [1], [1]]


def test_transfer_measures_the_second_font(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(asked: Setup) -> list[Figure]:
        return [Figure("figure", "share", (float(asked.glyphs is setup.second),), {})]

    monkeypatch.setattr(evaluate, "gem", fake)
    monkeypatch.setattr(evaluate, "prototypes", fake)
    assert [(item.what, item.mean) for item in evaluate.transfer(setup)] == 2 * [("second font: figure", 1.0)]


def test_styles_are_measured_artist_by_artist(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def fake(asked: Setup) -> list[Figure]:
        drawn.append(asked.glyphs.path)
        return [Figure(f"{what} figure", "share", (0.5,), {}) for what in ("prototypes,", "pre-filter,")]

    monkeypatch.setattr(evaluate, "gem", lambda asked: [Figure("GEM", "share", (0.5,), {})])
    monkeypatch.setattr(evaluate, "prototypes", fake)
    found = evaluate.styles(replace(setup, others={"mine": GlyphSet(TWEMOJI)}))
    assert [figure.what for figure in found] == [
        f"{artist}: {what}" for artist in ("noto", "twemoji", "mine") for what in ("GEM", "prototypes, figure")
    ]
    assert drawn == [NOTO, TWEMOJI, TWEMOJI]


def test_the_family_reads_pictures_at_the_size_that_is_asked(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Reader:
        def __init__(self, models: Models, _store: object, _names: list[str], **settings: object) -> None:
            sizes.append((settings["method"], models.profile.generator.reading_side))

    monkeypatch.setattr(evaluate, "Segmenter", Reader)
    monkeypatch.setattr(evaluate, "FAMILY_PICTURES", 1)
    monkeypatch.setattr(evaluate, "_scores", lambda segmenters, *_: [(0.5, {}) for _ in segmenters])
    assert len(evaluate.family(setup)) == len(evaluate.FAMILY)
    assert {size for _, size in sizes} == {setup.models.profile.generator.reading_side}
    sizes.clear()
    found = evaluate.family(replace(setup, read_size=128))
    assert sizes == [(method, 128) for method in evaluate.FAMILY]
    assert found[0].what == "gem, read at 128, mIoU of all objects and stuff"


def test_the_installation_for_timing_holds_the_given_pack(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    (pack / "clip").mkdir(parents=True)
    (pack / "clip" / "mark").write_text("mine")
    target = tmp_path / "installed"
    evaluate._install_with(pack, target)
    assert (target / "ovseg_cli" / "profiles" / "mini" / "clip" / "mark").read_text() == "mine"
    assert not (target / "ovseg_cli" / "profiles" / "mini" / "diffusion").exists()
    assert (target / "ovseg_cli" / "cli" / "main.py").is_file()


def test_an_outline_runs_inside_the_mask() -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    shown = np.asarray(outlined(np.full((16, 16, 3), 100, np.uint8), mask, 32))
    assert shown.shape == (32, 32, 3)
    assert tuple(shown[8, 8]) == (255, 0, 200)
    assert tuple(shown[16, 16]) == (100, 100, 100)
    assert tuple(shown[2, 2]) == (177, 177, 177)


def test_the_sheet_shows_every_class(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(_models: Models, name: str, seeds: range) -> Samples:
        asked.append(name)
        images = torch.full((len(seeds), 64, 64, 3), 90, dtype=torch.uint8)
        attribution = torch.zeros(len(seeds), 16, 16)
        attribution[:, 3:13, 3:13] = 0.4
        attribution[:, 5:11, 5:11] = 0.9
        return Samples(images, attribution)

    monkeypatch.setattr(evaluate, "generate", fake)
    sheet = np.asarray(evaluate.contact_sheet(models))
    assert asked == list(THING_NAMES)
    outlines = (sheet == (255, 0, 200)).all(-1).sum()
    # one square per tile of 84 pixels: between the maps' cores of 6 of 16 cells and their skirts of 10
    assert 4 * 30 < outlines / (len(THING_NAMES) * 6) < 4 * 54


@pytest.mark.slow
def test_the_command_writes_figures_and_tells_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glyphs: GlyphSet, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "CLIP_SCENES", 1)
    out = tmp_path / "figures.json"
    assert evaluate.main([str(MINI_FOLDER), "--what", "clip", "--seeds", "1", "--json", str(out)]) == 0
    (record,) = json.loads(out.read_text())["figures"]
    assert record["mean"] == record["per_seed"][0]
    assert "CLIP zero-shot" in capsys.readouterr().out
    assert evaluate.main([str(tmp_path), "--what", "clip"]) == 1
    assert "holds no" in capsys.readouterr().err


def test_floors_are_checked_for_the_mean_and_the_worst_class() -> None:
    figures = [
        Figure("masks", "share", (0.8, 0.9), {"cat": 0.95, "dog": 0.6}),
        Figure("time", "seconds", (9.0, 11.0), {}),
        Figure("other", "share", (0.1,), {}),
    ]
    assert below(figures, {"masks": {"mean": 0.85, "worst": 0.6}, "time": {"most": 10.0}}) == []
    assert below(figures, {"masks": {"mean": 0.86, "worst": 0.61}, "time": {"most": 9.5}}) == [
        "masks: 0.850",
        "masks, dog: 0.600",
        "time: 10.0 s",
    ]
