from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from examples.mini_pack.dataset import Dataset, DatasetSpec, render_dataset
from examples.mini_pack.judge import (
    Judge,
    JudgeSpec,
    augment,
    measure,
    new_judge,
    per_class_accuracy,
    save_judge,
    scene_targets,
    train_judge,
)
from examples.mini_pack.training import Clock, Schedule, Stopped
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, STUFF_NAMES, THING_NAMES
from ovseg_cli.atomic import write_json

TINY = JudgeSpec(channels=(8, 8, 16, 16), layers=(1, 1, 1, 1), stem_width=8)
RECORD = {
    "names": list(THING_NAMES),
    "size": 32,
    "spec": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "stem_width": 8},
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(count: int, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey pictures with a disc of one tone on a ground of another."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = (x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 3) ** 2
    images = torch.where(disc, 0.75, 0.35).expand(count, 3, side, side).clone()
    return images, disc.expand(count, side, side).clone()


class TestAugment:
    def test_pictures_stay_pictures_and_arguments_stay_as_they_are(self) -> None:
        images, objects = torch.rand(24, 3, 20, 20), torch.rand(24, 20, 20) < 0.4
        before = images.clone()
        varied = augment(images, objects, seeded(1))
        assert varied.shape == images.shape
        assert varied.dtype == torch.float32
        assert float(varied.min()) >= 0
        assert float(varied.max()) <= 1
        assert torch.equal(images, before)

    def test_the_generator_decides_everything(self) -> None:
        images, objects = scenes(16)
        first = augment(images, objects, seeded(5))
        torch.rand(7)  # the global generator plays no part
        assert torch.equal(first, augment(images, objects, seeded(5)))
        assert not torch.equal(first, augment(images, objects, seeded(6)))

    def test_the_outline_survives(self) -> None:
        images, objects = scenes(200)
        varied = augment(images, objects, seeded(2))
        inner, outer = objects[:1, None], ~objects[:1, None]

        def mean(mask: torch.Tensor) -> torch.Tensor:
            return (varied * mask).sum((2, 3)) / mask.sum()

        # some changes make object and ground alike, most leave them apart
        apart = (mean(inner) - mean(outer)).abs().amax(1)
        assert float((apart > 0.05).float().mean()) > 0.85

    def test_some_scenes_keep_their_colours(self) -> None:
        images, objects = scenes(400)
        varied = augment(images, objects, seeded(3))
        kept = ((varied - images).abs().amax((1, 2, 3)) < 1e-5).float().mean()
        assert 0.01 < float(kept) < 0.25

    def test_hues_go_round_the_full_circle(self) -> None:
        images = torch.tensor([0.8, 0.3, 0.3]).view(1, 3, 1, 1).expand(600, 3, 8, 8).contiguous()
        varied = augment(images, torch.zeros(600, 8, 8, dtype=torch.bool), seeded(4)).mean((2, 3))
        strongest = varied.argmax(1).bincount(minlength=3) / 600
        weakest = varied.argmin(1).bincount(minlength=3) / 600
        assert float(strongest.min()) > 0.2
        assert float(weakest.min()) > 0.2

    def test_object_and_ground_change_together_or_each_on_its_own(self) -> None:
        images = torch.full((600, 3, 16, 16), 0.6)
        images[:, 0] = 0.8
        objects = torch.zeros(600, 16, 16, dtype=torch.bool)
        objects[:, 4:12] = True
        varied = augment(images, objects, seeded(9))
        inner, outer = varied[:, :, 7:9].mean((2, 3)), varied[:, :, :2].mean((2, 3))
        alike = ((inner - outer).abs().amax(1) < 0.1).float().mean()
        assert 0.3 < float(alike) < 0.9


def test_targets_are_the_objects_of_the_scenes() -> None:
    labels = np.full((3, 6, 6), LABEL_IDS["grass"], np.uint8)
    for scene, name in enumerate(("cat", THING_NAMES[-1], "dog")):
        labels[scene, 2, 3] = LABEL_IDS[name]
    targets = scene_targets(labels, chunk=2)
    assert [THING_NAMES[i] for i in targets] == ["cat", THING_NAMES[-1], "dog"]


def test_scenes_without_an_object_are_refused() -> None:
    labels = np.full((2, 4, 4), LABEL_IDS[STUFF_NAMES[-1]], np.uint8)
    labels[0, 0, 0] = LABEL_IDS["cat"]
    with pytest.raises(ValueError, match="scene 1 shows no object"):
        scene_targets(labels)


def test_accuracy_per_class_agrees_with_counting() -> None:
    rng = np.random.default_rng(0)
    targets, answers = rng.integers(0, 5, 200), rng.integers(0, 6, 200)
    expected = [
        np.mean([a == t for a, t in zip(answers, targets, strict=True) if t == c]) if c in targets else np.nan
        for c in range(6)
    ]
    np.testing.assert_allclose(per_class_accuracy(answers, targets, 6), expected)


def fake_data(folder: Path, count: int = 60, side: int = 32) -> Dataset:
    """Two easy classes: a tall and a wide bar, in random colours."""
    rng = np.random.default_rng(0)
    images = np.empty((count, side, side, 3), np.uint8)
    labels = np.full((count, side, side), LABEL_IDS["sand"], np.uint8)
    images[:] = rng.integers(0, 100, (count, 1, 1, 3))
    for index in range(count):
        box = np.s_[2:-2, 12:20] if index % 2 else np.s_[12:20, 2:-2]
        labels[index][box] = 1 + index % 2
        images[index][box] = rng.integers(150, 255, 3)
    folder.mkdir()
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "counts.npy", np.ones(count, np.uint8))
    (folder / "captions.jsonl").write_text('["x"]\n' * count)
    write_json(folder / "dataset.json", {"spec": {"scenes": count}, "done": count})
    return Dataset(folder)


def trained(data: Dataset, folder: Path, schedule: Schedule) -> torch.nn.Module:
    torch.manual_seed(0)
    network = new_judge(TINY)
    folder.mkdir(exist_ok=True)
    train_judge(network, data, folder, schedule, Clock())
    return network


def test_a_training_that_was_stopped_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fake_data(tmp_path / "data")
    schedule = Schedule(steps=4, batch=4, lr=1e-3, warmup=1, ema=0.0)
    whole = trained(data, tmp_path / "whole", schedule)

    spent = iter([False, False, True])
    monkeypatch.setattr(Clock, "spent", property(lambda _: next(spent)))
    with pytest.raises(Stopped, match="step 2 of 4"):
        trained(data, tmp_path / "parts", schedule)
    monkeypatch.undo()
    parts = trained(data, tmp_path / "parts", schedule)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[key]), key


@pytest.mark.slow
def test_it_learns_shapes_and_survives_being_saved(tmp_path: Path) -> None:
    data = fake_data(tmp_path / "data")
    network = trained(data, tmp_path / "run", Schedule(steps=60, batch=24, lr=5e-3, warmup=5, ema=0.0))
    save_judge(network, tmp_path / "judge", RECORD)
    judge = Judge.load(tmp_path / "judge")
    found = measure(judge, data)
    assert found["top1"] > 0.9
    assert found["per_class"]["cat"] > 0.9
    assert np.isnan(found["per_class"]["bus"])

    inputs = torch.from_numpy(np.array(data.images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        exact = network.eval()(inputs).argmax(1).numpy()
    assert np.mean(judge.classify(data.images, batch=7) == exact) > 0.95
    larger = np.array(data.images).repeat(2, 1).repeat(2, 2)
    assert np.mean(judge.classify(larger) == exact) > 0.9
    assert judge.classify(data.images[:0]).shape == (0,)


def test_a_judge_that_is_missing_or_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"examples\.mini_pack\.judge"):
        Judge.load(tmp_path)
    save_judge(new_judge(TINY), tmp_path, {**RECORD, "names": ["cat", "unicorn"]})
    with pytest.raises(ValueError, match="another vocabulary"):
        Judge.load(tmp_path)


@pytest.mark.slow
def test_the_judge_of_the_repository_names_held_out_scenes(tmp_path: Path) -> None:
    spec = DatasetSpec(scenes=132, count=1, first_seed=61_000_000, bank_seed=72, captions=1)
    for _ in render_dataset(tmp_path, spec):
        pass
    assert measure(Judge.load(), Dataset(tmp_path))["top1"] >= 0.95
    assert Judge.load().record["held_out"]["top1"] >= 0.97
    assert set(Judge.load().names) < set(LABEL_NAMES)
