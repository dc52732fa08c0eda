"""Train the mini models and write the pack.

    python -m examples.mini_pack --hardware cpu --work build/mini --out build/pack
    python -m examples.mini_pack --hardware gpu --minutes 12 --work build/mini --out build/pack

renders the scenes, trains every model and writes a pack. With `--minutes` all of that takes so many minutes: each
training gets its share, and its learning rate has fallen by then. It can be stopped at any time (Ctrl-C, SIGTERM, or
`--pause-after`); the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL

from examples.mini_pack.autoencoder import fit_components, new_autoencoder, psnr, train_autoencoder
from examples.mini_pack.clip import model_config, save_clip, train_clip
from examples.mini_pack.config import Recipe
from examples.mini_pack.dataset import Dataset, render_dataset
from examples.mini_pack.diffusion import new_text_encoder, new_unet, train_diffusion
from examples.mini_pack.domain import add_domain, write_pictures
from examples.mini_pack.glyphs import FontError, GlyphSet
from examples.mini_pack.judge import finish_judge, new_judge, train_judge
from examples.mini_pack.pack import load_diffusion, pack_size, write_diffusion
from examples.mini_pack.recipes import RECIPES
from examples.mini_pack.selfsup import save as save_vit
from examples.mini_pack.selfsup import train_selfsup
from examples.mini_pack.tokens import Encoder, train_tokenizer
from examples.mini_pack.training import Clock, Schedule, Stopped
from examples.mini_pack.vocabulary import THING_NAMES
from ovseg_cli.atomic import write_json
from ovseg_cli.profiles.specs import bundled_revision

STOPPED: Final = 3
"""Exit status of a training that has more to do."""
FAILED: Final = 1
"""Exit status when a stage could not be done."""
PARTS: Final = {"autoencoder": "diffusion", "diffusion": "diffusion", "clip": "clip", "selfsup": "dino"}
"""The part of a pack that each stage makes; a judge is no part of it."""

_CLOSING: Final = 40.0
"""Seconds that are kept for writing the pack, for the domain classifier and for starts, a tenth of the time at most."""


class Work:
    """A working folder: data set, checkpoints, curves, and the finished models."""

    def __init__(self, folder: Path, recipe: Recipe, start: Path | None) -> None:
        """Open or create it.

        Args:
            folder: The folder.
            recipe: What to train.
            start: A pack whose diffusion and CLIP models are trained further; None trains from scratch.
        """
        self.folder = folder
        self.recipe = recipe
        self.start = start
        folder.mkdir(parents=True, exist_ok=True)

    def data(self, name: str = "scenes") -> Dataset:
        """Rendered scenes; see `Recipe.sets`."""
        return Dataset(self.folder / name)

    @property
    def sizes(self) -> list[Dataset]:
        """The training scenes of each size."""
        return [self.data(name) for name in ("scenes", "scenes-large") if name in self.recipe.sets()]

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer is."""
        return self.folder / "tokenizer"

    def encoder(self) -> Encoder:
        """Return the tokenizer, wrapped for training."""
        from transformers import CLIPTokenizer

        return Encoder(CLIPTokenizer.from_pretrained(self.tokenizer_folder))

    def prepare(self) -> None:
        """Render the scenes, and make the tokenizer, where they are missing."""
        for name, spec in self.recipe.sets().items():
            for done in render_dataset(self.folder / name, spec, workers=os.cpu_count() or 1):
                if done % 10_000 == 0 or done == spec.scenes:
                    print(f"{name} {done}/{spec.scenes}", file=sys.stderr, flush=True)
        if not self.tokenizer_folder.is_dir():
            part = self.folder / ".tokenizer"
            shutil.rmtree(part, ignore_errors=True)
            if self.start is not None:
                shutil.copytree(self.start / "diffusion" / "tokenizer", part)
            else:
                part.mkdir()
                train_tokenizer((text for texts in self.data().captions for text in texts), part)
            part.rename(self.tokenizer_folder)

    def done(self, stage: str) -> bool:
        """Whether the result of a stage is there."""
        return (self.folder / stage).is_dir()

    def seconds(self, stage: str, offered: float) -> float:
        """Seconds of a stage by the clock: those that it was given when it began, so that a break changes nothing.

        Args:
            stage: The stage.
            offered: What it gets if it begins now.
        """
        note = self.folder / f"{stage}.seconds"
        if not note.is_file():
            note.write_text(f"{offered:.1f}\n", encoding="utf-8")
        return float(note.read_text(encoding="utf-8"))

    def schedule(self, stage: str) -> Schedule | None:
        """How long and how fast a stage learns; None for one that learns nothing."""
        schedule: Schedule | None = getattr(self.recipe, stage, None)
        return schedule

    def run_lane(self, stages: Sequence[str], clock: Clock, seconds: float | None) -> list[str]:
        """Run stages one after another, but for those whose result is there.

        Args:
            stages: Their names.
            clock: When to stop.
            seconds: Seconds for all of them; None trains all steps.

        Returns:
            Stages that failed; what happened to each is told.

        Raises:
            Stopped: If the clock ran out.
        """
        end = None if seconds is None else time.monotonic() + seconds
        failed, left = [], [stage for stage in stages if not self.done(stage)]
        while left:
            stage, *rest = left
            schedule = self.schedule(stage)
            if end is not None and schedule is not None:
                shares = [self.recipe.shares.get(name, 1.0) for name in left]
                offered = max(0.0, end - time.monotonic()) * shares[0] / sum(shares)
                timed: dict[str, Any] = {stage: replace(schedule, seconds=self.seconds(stage, offered))}
                self.recipe = replace(self.recipe, **timed)
            try:
                _STAGES[stage](self, clock)
            except Stopped:
                raise
            except Exception:  # one model's misfortune is no reason to leave the others untrained
                traceback.print_exc()
                print(f"error: {stage} failed, see above; the others go on", file=sys.stderr, flush=True)
                failed.append(stage)
            left = rest
        return failed

    def keep(self, stage: str, save: Callable[[Path], object]) -> None:
        """Save the result of a stage; a result that is there is complete."""
        part = self.folder / f".{stage}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        save(part)
        part.rename(self.folder / stage)


def _initial_autoencoder(work: Work) -> AutoencoderKL:
    torch.manual_seed(work.recipe.autoencoder.seed)
    if work.start is not None:
        return load_diffusion(work.start / "diffusion")[2]
    components = fit_components(work.data(), work.recipe.autoencoder_model.latent_channels)
    return new_autoencoder(work.recipe.autoencoder_model, components, work.recipe.image_size)


def _autoencoder(work: Work, clock: Clock) -> None:
    recipe = work.recipe
    vae = _initial_autoencoder(work)
    train_autoencoder(
        vae, work.sizes, work.folder, recipe.autoencoder, clock, device=recipe.device, compiled=recipe.compiled
    )
    vae = vae.to("cpu", memory_format=torch.contiguous_format)
    print(f"autoencoder: {psnr(vae, work.data()):.2f} dB", file=sys.stderr)
    work.keep("autoencoder", vae.save_pretrained)


def _diffusion(work: Work, clock: Clock) -> None:
    from transformers import CLIPTokenizer

    recipe = work.recipe
    vae = _initial_autoencoder(work)  # its encoder is final before the decoder is trained
    torch.manual_seed(recipe.diffusion.seed)
    if work.start is not None:
        unet, text_encoder, _ = load_diffusion(work.start / "diffusion")
    else:
        cells = recipe.image_size // 2 ** (len(recipe.autoencoder_model.widths) - 1)
        unet = new_unet(recipe.diffusion_model, recipe.autoencoder_model.latent_channels, cells)
        text_encoder = new_text_encoder(recipe.diffusion_model, CLIPTokenizer.from_pretrained(work.tokenizer_folder))
    train_diffusion(
        unet,
        text_encoder,
        vae,
        work.encoder(),
        work.sizes,
        work.folder,
        recipe.diffusion_model,
        recipe.diffusion,
        clock,
        device=recipe.device,
        compiled=recipe.compiled,
    )
    unet.to("cpu", memory_format=torch.contiguous_format)
    text_encoder.to("cpu")

    def save(folder: Path) -> None:
        unet.save_pretrained(folder / "unet")
        text_encoder.save_pretrained(folder / "text_encoder")

    work.keep("diffusion", save)


def _clip(work: Work, clock: Clock) -> None:
    import open_clip
    from open_clip.model import CLIP

    recipe = work.recipe
    encoder = work.encoder()
    torch.manual_seed(recipe.clip.seed)
    if work.start is not None:
        folder = work.start / "clip"
        model = open_clip.create_model_from_pretrained(f"local-dir:{folder}")[0].float()
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    else:
        config = model_config(recipe.clip_model, encoder.size, recipe.image_size)
        model = CLIP(**config)
    train_clip(
        model,
        encoder,
        work.data(),
        work.folder,
        recipe.clip_model,
        recipe.clip,
        clock,
        device=recipe.device,
        compiled=recipe.compiled,
    )
    work.keep("clip", lambda folder: save_clip(model, config, work.tokenizer_folder, folder))


def _selfsup(work: Work, clock: Clock) -> None:
    recipe = work.recipe
    vit = train_selfsup(
        work.data(),
        work.folder,
        recipe.selfsup_model,
        recipe.selfsup,
        clock,
        device=recipe.device,
        compiled=recipe.compiled,
    )
    work.keep("selfsup", lambda folder: save_vit(folder, vit.cpu()))


def _judge(work: Work, clock: Clock) -> None:
    recipe, schedule = work.recipe, work.recipe.judge
    if schedule is None:
        raise ValueError("this recipe trains no judge; python -m examples.mini_pack.judge does")
    torch.manual_seed(schedule.seed)
    network = new_judge(recipe.judge_model).to(recipe.device)
    train_judge(network, work.data("scenes-judge"), work.folder, schedule, clock)
    record = {
        "names": list(THING_NAMES),
        "size": recipe.image_size,
        "spec": asdict(recipe.judge_model),
        "schedule": asdict(replace(schedule, pace=())),
        "scenes": asdict(recipe.sets()["scenes-judge"]),
    }

    def save(folder: Path) -> None:
        found = finish_judge(network.cpu(), folder, work.data("scenes-held-out"), record)
        print(f"judge: {found['top1']:.2%} of {found['scenes']} held-out scenes", file=sys.stderr)

    work.keep("judge", save)


def _pictures(work: Work, clock: Clock) -> None:
    scenes = work.recipe.domain_scenes
    work.keep("pictures", lambda folder: write_pictures(folder, GlyphSet(), scenes=scenes, clock=clock))


_STAGES: Final[dict[str, Callable[[Work, Clock], None]]] = {
    "autoencoder": _autoencoder,
    "diffusion": _diffusion,
    "clip": _clip,
    "selfsup": _selfsup,
    "judge": _judge,
    "pictures": _pictures,
}


def write_pack(work: Work, out: Path) -> None:
    """Assemble the finished models.

    Args:
        work: Holds the result of every stage; a part of the pack without results is taken from the pack that the
            training started from.
        out: The pack's folder; replaced as a whole if it exists.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    part = out.with_name(f".{out.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if work.done("diffusion") and work.done("autoencoder"):
        write_diffusion(
            UNet2DConditionModel.from_pretrained(work.folder / "diffusion" / "unet"),
            CLIPTextModel.from_pretrained(work.folder / "diffusion" / "text_encoder"),
            AutoencoderKL.from_pretrained(work.folder / "autoencoder"),
            CLIPTokenizer.from_pretrained(work.tokenizer_folder),
            work.tokenizer_folder,
            part / "diffusion",
        )
    for stage, name in (("clip", "clip"), ("selfsup", "dino")):
        if work.done(stage):
            shutil.copytree(work.folder / stage, part / name)
    for name in dict.fromkeys(PARTS.values()):
        if work.start is not None and not (part / name).is_dir():
            shutil.copytree(work.start / name, part / name)
            print(f"{name}: taken from {work.start}", file=sys.stderr)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def describe_pack(out: Path) -> None:
    """Write ``digests.json``: for each part its revision and its bytes, as a profile names them; and tell them."""
    parts: dict[str, dict[str, str | int]] = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        revision, nbytes = bundled_revision(folder), pack_size(folder)
        parts[folder.name] = {"revision": revision, "nbytes": nbytes}
        print(f"{folder}: {revision}, {nbytes / 1e6:.1f} MB", file=sys.stderr)
    write_json(out / "digests.json", parts)


def close(work: Work, out: Path) -> bool:
    """Write the pack, fit its domain classifier, and tell what it is.

    Args:
        work: Holds the results.
        out: The pack's folder.

    Returns:
        Whether the pack is complete.
    """
    missing = [stage for stage in PARTS if not work.done(stage)]
    if missing and work.start is None:
        print(
            f"error: no pack was written, as {', '.join(missing)} failed; the same command tries again",
            file=sys.stderr,
        )
        return False
    write_pack(work, out)
    complete = not missing
    try:
        work.run_lane(("pictures",), Clock(), None)  # rendered while the models trained, unless that failed
        add_domain(out, work.folder / "pictures", device=work.recipe.device, crops=work.recipe.domain_crops)
    except Exception:  # a pack without it is complete but for one warning to its users
        traceback.print_exc()
        print(f"error: {out} has no domain; try again: python -m examples.mini_pack.domain {out}", file=sys.stderr)
        complete = False
    describe_pack(out)
    return complete


def _lane_command(options: argparse.Namespace, lane: Sequence[str], spent: float) -> list[str]:
    """The command that runs one lane.

    Args:
        options: Of the whole command.
        lane: Names of the stages.
        spent: Seconds since the whole command began.
    """
    command = [sys.executable, "-m", "examples.mini_pack", "--hardware", options.hardware]
    command += ["--work", str(options.work), "--stages", ",".join(lane)]
    given = {
        "--start-from": options.start_from,
        "--styles": options.styles and ",".join(options.styles),
        "--device": options.device,
    }
    if options.pause_after is not None:
        given["--pause-after"] = f"{max(0.0, options.pause_after - spent / 60):.3f}"
    if options.minutes is not None:
        whole = 60 * options.minutes
        given["--minutes"] = f"{max(0.0, whole - spent - min(_CLOSING, 0.1 * whole)) / 60:.3f}"
    return command + [word for name, value in given.items() if value is not None for word in (name, str(value))]


def _run_lanes(options: argparse.Namespace, recipe: Recipe, begun: float) -> int:
    """Run every lane in a process of its own, side by side, and pass signals on.

    Args:
        options: Of the command line.
        recipe: What to train.
        begun: When the command began.

    Returns:
        0, or `FAILED` if a stage failed, or else `STOPPED`.
    """
    threads = {"OMP_NUM_THREADS": str(recipe.threads)} if recipe.threads else {}
    spent = time.monotonic() - begun
    children = [
        subprocess.Popen(_lane_command(options, lane, spent), env={**os.environ, **threads}) for lane in recipe.lanes
    ]

    def pass_on(number: int, frame: object) -> None:
        for child in children:
            child.send_signal(number)

    # Ctrl-C reaches the children by itself, being typed at the terminal of all of them
    before = {
        number: signal.signal(number, action)
        for number, action in ((signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, pass_on))
    }
    codes = {",".join(lane): child.wait() for lane, child in zip(recipe.lanes, children, strict=True)}
    for number, action in before.items():
        signal.signal(number, action)
    for lane, code in codes.items():
        if code not in (0, STOPPED, FAILED):
            print(f"error: the process of {lane} ended with status {code}", file=sys.stderr)
    if STOPPED in codes.values():
        return STOPPED
    return FAILED if any(codes.values()) else 0


def _run_stages(options: argparse.Namespace, work: Work) -> int:
    """Run the stages of one lane in this process."""
    torch.set_flush_denormal(True)
    clock = Clock(options.pause_after)
    clock.listen()
    try:
        failed = work.run_lane(options.stages, clock, None if options.minutes is None else 60 * options.minutes)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return STOPPED
    return FAILED if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    begun = time.monotonic()
    options = _parser().parse_args(argv)
    recipe = RECIPES[options.hardware]
    if options.minutes is None:
        options.minutes = recipe.minutes
    if options.styles is not None:
        recipe = replace(recipe, styles=options.styles)
    if options.device is not None:
        recipe = replace(recipe, device=options.device)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if recipe.device == "cuda" and not torch.cuda.is_available():
        print("error: this needs a CUDA GPU; take --hardware cpu, and no --device", file=sys.stderr)
        return 2
    work = Work(options.work, recipe, options.start_from)
    if options.stages:
        return _run_stages(options, work)
    try:
        work.prepare()
    except (FontError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    code = _run_lanes(options, recipe, begun)
    if code == STOPPED or options.out is None:
        return code
    return code if close(work, options.out) else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.mini_pack", description="Train the mini models and write the pack."
    )
    parser.add_argument("--hardware", choices=sorted(RECIPES), default="cpu", help="which recipe (default: cpu)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to train (default: where the recipe says)")
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes, checkpoints and curves")
    parser.add_argument("--out", type=Path, help="folder of the finished pack; replaced if it exists")
    parser.add_argument(
        "--minutes",
        type=float,
        help="train for so many minutes in all, rendering and writing included; the learning rates have fallen by "
        "then. After a break each training goes on with the rest of its time (default: the recipe's, or all steps)",
    )
    parser.add_argument("--pause-after", type=float, help="stop after so many minutes; the same command goes on")
    parser.add_argument("--start-from", type=Path, help="a pack to train further (default: from scratch)")
    parser.add_argument(
        "--styles",
        type=lambda text: tuple(text.split(",")),
        help="whose glyphs, comma-separated: noto, twemoji, fonts, or folders of PNG files (default: the recipe's)",
    )
    parser.add_argument("--stages", type=_stages, help="only these, in this process: " + ",".join(_STAGES))
    return parser


def _stages(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(_STAGES):
        raise argparse.ArgumentTypeError(f"no such stage: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
