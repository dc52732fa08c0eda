"""The whole training, with models of a few thousand parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import ViTModel

from examples.mini_pack import __main__ as training_command
from examples.mini_pack.__main__ import Work
from examples.mini_pack.judge import Judge
from examples.mini_pack.pack import pack_size
from examples.mini_pack.recipes import RECIPES
from examples.mini_pack.training import Clock
from ovseg_cli.profiles.specs import bundled_revision

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = ("autoencoder", "diffusion", "clip", "selfsup", "judge")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "examples.mini_pack", "--hardware", "smoke", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, glyphs: object) -> Path:
    """A pack that was trained in two goes."""
    folder = tmp_path_factory.mktemp("training")
    arguments = ("--work", str(folder / "work"), "--out", str(folder / "pack"))
    stopped = command(*arguments, "--pause-after", "0")
    assert stopped.returncode == 3, stopped.stderr
    assert "the same command goes on from here" in stopped.stderr
    assert not (folder / "pack").exists()
    finished = command(*arguments)
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.slow
def test_the_pipeline_loads_and_draws(trained: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(
        trained / "pack" / "diffusion", dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    images = [
        pipeline(
            "a good picture of a cat",
            num_inference_steps=2,
            height=64,
            width=64,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images
        for seed in (0, 0, 1)
    ]
    assert images[0].shape == (1, 64, 64, 3)
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()


@pytest.mark.slow
def test_clip_loads_with_its_tokenizer(trained: Path) -> None:
    folder = f"local-dir:{trained / 'pack' / 'clip'}"
    model, _ = open_clip.create_model_from_pretrained(folder)
    text = open_clip.get_tokenizer(folder)(["a photo of a dog"])
    assert model.encode_text(text).shape == (1, 16)


@pytest.mark.slow
def test_the_self_supervised_transformer_loads(trained: Path) -> None:
    model, report = ViTModel.from_pretrained(
        trained / "pack" / "dino", add_pooling_layer=False, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert model.config.image_size == 32


@pytest.mark.slow
def test_weights_are_half_precision_and_name_no_path(trained: Path) -> None:
    for file in (trained / "pack").rglob("*.json"):
        assert str(trained) not in file.read_text(encoding="utf-8")
    config = json.loads((trained / "pack" / "diffusion" / "unet" / "config.json").read_text())
    assert "_name_or_path" not in config
    from safetensors import safe_open

    files = [path for path in (trained / "pack").rglob("*.safetensors") if path.parent.name != "domain"]
    assert len(files) == 5
    for file in files:  # all but the few numbers that tell unfamiliar pictures
        with safe_open(file, "pt") as tensors:  # type: ignore[no-untyped-call]
            kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


@pytest.mark.slow
def test_the_curves_are_logged(trained: Path) -> None:
    for stage in STAGES:
        lines = (trained / "work" / f"{stage}.csv").read_text().splitlines()
        assert lines[0].startswith("step,samples,seconds,lr,")
        assert lines[-1].startswith("3,")


@pytest.mark.slow
def test_a_pack_can_be_trained_further(trained: Path, tmp_path: Path) -> None:
    pack = trained / "pack"
    result = command(
        "--work", str(tmp_path / "work"), "--out", str(tmp_path / "pack"), "--start-from", str(pack), "--minutes", "5"
    )
    assert result.returncode == 0, result.stderr
    for stage in STAGES:  # by the clock, and each had its share
        pace = json.loads((tmp_path / "work" / f"{stage}.pace").read_text())
        assert len(pace) == 3
        assert 0 < float((tmp_path / "work" / f"{stage}.seconds").read_text()) < 300
    tokenizers = [folder / "diffusion" / "tokenizer" / "vocab.json" for folder in (pack, tmp_path / "pack")]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()


@pytest.mark.slow
def test_the_parts_are_named_by_their_digests(trained: Path) -> None:
    parts = json.loads((trained / "pack" / "digests.json").read_text())
    assert set(parts) == {"diffusion", "clip", "dino", "domain"}
    for name, part in parts.items():
        assert part["revision"] == bundled_revision(trained / "pack" / name)
        assert part["nbytes"] == pack_size(trained / "pack" / name)


@pytest.mark.slow
def test_the_judge_lies_beside_the_pack(trained: Path) -> None:
    judge = Judge.load(trained / "work" / "judge")
    assert judge.record["scenes"]["styles"] == ["noto", "twemoji"]
    assert judge.record["held_out"]["scenes"] == 8


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:
    """Stages that note their seconds; CLIP's is broken."""
    seen: list[tuple[str, float | None]] = []

    def stage(name: str) -> Callable[[Work, Clock], None]:
        def run(work: Work, clock: Clock) -> None:
            seen.append((name, getattr(work.recipe, name).seconds))
            if name == "clip":
                raise RuntimeError("no such weather")
            work.keep(name, lambda folder: (folder / "x").touch())

        return run

    monkeypatch.setattr(training_command, "_STAGES", {name: stage(name) for name in STAGES})
    return seen


def test_a_stage_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, stages: list[tuple[str, float | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    work = Work(tmp_path / "work", RECIPES["smoke"], None)
    assert work.run_lane(("autoencoder", "clip", "judge"), Clock(), None) == ["clip"]
    assert stages == [("autoencoder", None), ("clip", None), ("judge", None)]
    said = capsys.readouterr().err
    assert "no such weather" in said
    assert "error: clip failed, see above; the others go on" in said
    assert work.run_lane(("autoencoder", "clip", "judge"), Clock(), None) == ["clip"]
    assert len(stages) == 4  # what is done is not done again


def test_a_pack_lacks_no_part(
    tmp_path: Path, stages: list[tuple[str, float | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    work = Work(tmp_path / "work", RECIPES["smoke"], None)
    work.run_lane(STAGES, Clock(), None)
    assert not training_command.close(work, tmp_path / "pack")
    assert "no pack was written, as clip failed" in capsys.readouterr().err
    assert not (tmp_path / "pack").exists()


def test_what_failed_is_taken_from_the_pack_that_it_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    for part in ("diffusion", "clip", "dino"):
        (start / part).mkdir(parents=True)
        (start / part / "x.safetensors").write_text("old")
    work = Work(tmp_path / "work", RECIPES["smoke"], start)
    work.keep("clip", lambda folder: (folder / "x.safetensors").write_text("new"))
    asked = []
    monkeypatch.setattr(training_command, "add_domain", lambda *folders, **settings: asked.append((folders, settings)))
    (tmp_path / "work" / "pictures").mkdir()
    assert not training_command.close(work, tmp_path / "pack")
    found = {path.parent.name: path.read_text() for path in (tmp_path / "pack").glob("*/x.safetensors")}
    assert found == {"diffusion": "old", "clip": "new", "dino": "old"}
    assert f"diffusion: taken from {start}" in capsys.readouterr().err
    assert asked == [((tmp_path / "pack", tmp_path / "work" / "pictures"), {"device": "cpu", "crops": 1})]


def test_the_stages_of_a_lane_share_its_time_and_keep_their_share(
    tmp_path: Path, stages: list[tuple[str, float | None]]
) -> None:
    recipe = replace(RECIPES["smoke"], shares={"autoencoder": 3.0})
    Work(tmp_path / "work", recipe, None).run_lane(("autoencoder", "clip"), Clock(), 100.0)
    first, second = (seconds for _, seconds in stages)
    assert first == pytest.approx(75, abs=2)
    assert second == pytest.approx(100, abs=2)  # the first took none of its time
    Work(tmp_path / "work", recipe, None).run_lane(("autoencoder", "clip"), Clock(), 10.0)
    assert stages[2] == ("clip", second)


def test_a_lane_is_told_everything_that_was_asked() -> None:
    arguments = ["--hardware", "smoke", "--work", "w", "--minutes", "10", "--styles", "noto,x", "--device", "cpu"]
    options = training_command._parser().parse_args([*arguments, "--start-from", "p", "--pause-after", "5"])
    words = training_command._lane_command(options, ("clip", "judge"), 120.0)[3:]
    asked = training_command._parser().parse_args(words)
    assert (asked.stages, asked.styles, asked.device) == (("clip", "judge"), ("noto", "x"), "cpu")
    assert (asked.work, asked.start_from) == (Path("w"), Path("p"))
    assert asked.minutes == pytest.approx((600 - 120 - 40) / 60, abs=0.001)  # what closes the pack has its time
    assert asked.pause_after == pytest.approx(3)
    plain = training_command._parser().parse_args(["--hardware", "smoke", "--work", "w"])
    assert training_command._lane_command(plain, ("clip",), 1.0)[3:] == [
        "--hardware",
        "smoke",
        "--work",
        "w",
        "--stages",
        "clip",
    ]
