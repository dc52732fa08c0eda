from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.mini_pack.dataset import Dataset, DatasetSpec, render_dataset
from examples.mini_pack.glyphs import FontError, GlyphSet, Jitter, Styles, Warp
from examples.mini_pack.world import World

SPEC = DatasetSpec(scenes=5, first_seed=11, bank_seed=3, size=32)


def render(folder: Path, spec: DatasetSpec) -> Dataset:
    assert list(render_dataset(folder, spec))[-1:] in ([spec.scenes], [])
    return Dataset(folder)


def test_it_holds_the_scenes_of_its_seeds(tmp_path: Path, glyphs: GlyphSet) -> None:
    data = render(tmp_path / "set", SPEC)
    world = World(glyphs, size=32, bank_seed=3)
    assert len(data) == len(data.captions) == 5
    for index in range(5):
        scene = world.scene(11 + index)
        assert np.array_equal(data.images[index], scene.image)
        assert np.array_equal(data.labels[index], scene.labels)
        assert data.counts[index] == len(scene.things)
        assert data.captions[index] == list(scene.captions)


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs")
def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.mini_pack.dataset._CHUNK", 2)
    through = render(tmp_path / "a", SPEC)
    part = render_dataset(tmp_path / "b", SPEC)
    assert next(part) == 2
    part.close()
    with pytest.raises(FileNotFoundError, match="no finished"):
        Dataset(tmp_path / "b")
    # a line that was written before the process died, and scenes that were not counted
    with (tmp_path / "b" / "captions.jsonl").open("a") as file:
        file.write('["half')
    resumed = render(tmp_path / "b", SPEC)
    assert np.array_equal(through.images, resumed.images)
    assert np.array_equal(through.labels, resumed.labels)
    assert through.captions == resumed.captions


@pytest.mark.usefixtures("glyphs")
def test_a_finished_set_is_not_rendered_again(tmp_path: Path) -> None:
    render(tmp_path / "set", SPEC)
    before = (tmp_path / "set" / "images.npy").stat().st_mtime_ns
    assert list(render_dataset(tmp_path / "set", SPEC)) == []
    assert (tmp_path / "set" / "images.npy").stat().st_mtime_ns == before


def test_other_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"spec": {"scenes": 1}, "done": 1}))
    with pytest.raises(ValueError, match="other settings"):
        next(render_dataset(tmp_path, SPEC))


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs")
def test_tensors_give_the_same_scenes(tmp_path: Path) -> None:
    spec = DatasetSpec(scenes=3, size=64)
    plain = render(tmp_path / "plain", spec)
    assert list(render_dataset(tmp_path / "tensors", spec, device="cpu")) == [3]
    tensors = Dataset(tmp_path / "tensors")
    assert tensors.captions == plain.captions
    assert np.array_equal(tensors.counts, plain.counts)
    assert (tensors.labels == plain.labels).mean() > 0.97
    with pytest.raises(ValueError, match="other settings"):
        next(render_dataset(tmp_path / "plain", spec, device="cpu"))


@pytest.mark.usefixtures("glyphs")
def test_the_styles_are_part_of_what_is_asked(tmp_path: Path) -> None:
    spec = replace(SPEC, styles=("noto", "twemoji"), mixed="scene", smallest=0.5, jitter=Jitter(inked=0.5, warp=Warp()))
    data = render(tmp_path / "set", spec)
    world = World(Styles.named(["noto", "twemoji"], "scene"), size=32, bank_seed=3, jitter=spec.jitter, smallest=0.5)
    for index in range(5):
        assert np.array_equal(data.images[index], world.scene(11 + index).image)
    assert list(render_dataset(tmp_path / "set", spec)) == []
    with pytest.raises(ValueError, match="other settings"):
        next(render_dataset(tmp_path / "set", SPEC))
    with pytest.raises(FontError, match="nowhere does not exist"):
        next(render_dataset(tmp_path / "other", replace(SPEC, styles=("nowhere",))))
    with pytest.raises(ValueError, match="in processes on the CPU"):
        next(render_dataset(tmp_path / "tensors", replace(SPEC, smallest=0.5), device="cpu"))
