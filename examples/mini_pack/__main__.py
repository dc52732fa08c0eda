"""Train the mini models and write the pack.

    python -m examples.mini_pack --hardware cpu --work build/mini --out build/pack

renders the scenes, trains every model and writes a pack. It can be stopped at any time (Ctrl-C, SIGTERM, or
`--minutes`); the same command goes on where it was.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL

from examples.mini_pack.autoencoder import fit_components, new_autoencoder, psnr, train_autoencoder
from examples.mini_pack.clip import model_config, save_clip, train_clip
from examples.mini_pack.config import Recipe
from examples.mini_pack.dataset import Dataset, DatasetSpec, render_dataset
from examples.mini_pack.diffusion import new_text_encoder, new_unet, train_diffusion
from examples.mini_pack.glyphs import FontError
from examples.mini_pack.pack import load_diffusion, pack_size, write_diffusion
from examples.mini_pack.recipes import RECIPES
from examples.mini_pack.selfsup import save as save_vit
from examples.mini_pack.selfsup import train_selfsup
from examples.mini_pack.tokens import Encoder, train_tokenizer
from examples.mini_pack.training import Clock, Stopped

STOPPED: Final = 3
"""Exit status of a training that has more to do."""


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

    @property
    def data(self) -> Dataset:
        """The training scenes."""
        return Dataset(self.folder / "scenes")

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer is."""
        return self.folder / "tokenizer"

    def encoder(self) -> Encoder:
        """Return the tokenizer, wrapped for training."""
        from transformers import CLIPTokenizer

        return Encoder(CLIPTokenizer.from_pretrained(self.tokenizer_folder))

    def prepare(self, font: Path | None) -> None:
        """Render the scenes, and make the tokenizer and the untrained models, where they are missing."""
        recipe = self.recipe
        spec = DatasetSpec(scenes=recipe.scenes, size=recipe.image_size)
        device = recipe.device if recipe.device != "cpu" else None
        rendering = render_dataset(self.folder / "scenes", spec, workers=os.cpu_count() or 1, device=device, font=font)
        for done in rendering:
            if done % 10_000 == 0 or done == recipe.scenes:
                print(f"scenes {done}/{recipe.scenes}", file=sys.stderr, flush=True)
        if not self.tokenizer_folder.is_dir():
            part = self.folder / ".tokenizer"
            shutil.rmtree(part, ignore_errors=True)
            if self.start is not None:
                shutil.copytree(self.start / "diffusion" / "tokenizer", part)
            else:
                part.mkdir()
                train_tokenizer((text for texts in self.data.captions for text in texts), part)
            part.rename(self.tokenizer_folder)

    def run(self, stage: str, clock: Clock) -> None:
        """Run one stage, unless its result is there."""
        if not (self.folder / stage).is_dir():
            _STAGES[stage](self, clock)

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
    components = fit_components(work.data, work.recipe.autoencoder_model.latent_channels)
    return new_autoencoder(work.recipe.autoencoder_model, components, work.recipe.image_size)


def _autoencoder(work: Work, clock: Clock) -> None:
    recipe = work.recipe
    vae = _initial_autoencoder(work)
    train_autoencoder(
        vae, work.data, work.folder, recipe.autoencoder, clock, device=recipe.device, compiled=recipe.compiled
    )
    vae = vae.to("cpu", memory_format=torch.contiguous_format)
    print(f"autoencoder: {psnr(vae, work.data):.2f} dB", file=sys.stderr)
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
        work.data,
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
        work.data,
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
        work.data,
        work.folder,
        recipe.selfsup_model,
        recipe.selfsup,
        clock,
        device=recipe.device,
        compiled=recipe.compiled,
    )
    work.keep("selfsup", lambda folder: save_vit(folder, vit))


_STAGES: Final[dict[str, Callable[[Work, Clock], None]]] = {
    "autoencoder": _autoencoder,
    "diffusion": _diffusion,
    "clip": _clip,
    "selfsup": _selfsup,
}


def write_pack(work: Work, out: Path) -> None:
    """Assemble the finished models.

    Args:
        work: Holds the result of every stage.
        out: The pack's folder; replaced as a whole if it exists.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    part = out.with_name(f".{out.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_diffusion(
        UNet2DConditionModel.from_pretrained(work.folder / "diffusion" / "unet"),
        CLIPTextModel.from_pretrained(work.folder / "diffusion" / "text_encoder"),
        AutoencoderKL.from_pretrained(work.folder / "autoencoder"),
        CLIPTokenizer.from_pretrained(work.tokenizer_folder),
        work.tokenizer_folder,
        part / "diffusion",
    )
    shutil.copytree(work.folder / "clip", part / "clip")
    shutil.copytree(work.folder / "selfsup", part / "dino")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    print(f"{out}: {pack_size(out) / 1e6:.1f} MB", file=sys.stderr)


def _run_lanes(options: argparse.Namespace, recipe: Recipe, end: float | None) -> int:
    """Run every lane in a process of its own, side by side, and pass signals on."""
    children = []
    for lane in recipe.lanes:
        command = [sys.executable, "-m", "examples.mini_pack", "--hardware", options.hardware]
        command += ["--work", str(options.work), "--stages", ",".join(lane)]
        if options.start_from is not None:
            command += ["--start-from", str(options.start_from)]
        if end is not None:
            command += ["--minutes", f"{max(0.0, (end - time.monotonic()) / 60):.3f}"]
        threads = {"OMP_NUM_THREADS": str(recipe.threads)} if recipe.threads else {}
        children.append(subprocess.Popen(command, env={**os.environ, **threads}))

    def pass_on(number: int, frame: object) -> None:
        for child in children:
            child.send_signal(number)

    # Ctrl-C reaches the children by itself, being typed at the terminal of all of them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, pass_on)
    codes = [child.wait() for child in children]
    return next((code for code in codes if code not in (0, STOPPED)), max(codes))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args(argv)
    recipe = RECIPES[options.hardware]
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if recipe.device == "cuda" and not torch.cuda.is_available():
        print("error: this recipe needs a CUDA GPU; take --hardware cpu", file=sys.stderr)
        return 2
    work = Work(options.work, recipe, options.start_from)
    if options.stages:
        torch.set_flush_denormal(True)
        clock = Clock(options.minutes)
        clock.listen()
        try:
            for stage in options.stages:
                work.run(stage, clock)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return STOPPED
        return 0
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    try:
        work.prepare(options.font)
    except (FontError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    code = _run_lanes(options, recipe, end)
    if code == 0 and options.out is not None:
        write_pack(work, options.out)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.mini_pack", description="Train the mini models and write the pack."
    )
    parser.add_argument("--hardware", choices=sorted(RECIPES), default="cpu", help="which recipe (default: cpu)")
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes, checkpoints and curves")
    parser.add_argument("--out", type=Path, help="folder of the finished pack; replaced if it exists")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes; the same command goes on")
    parser.add_argument("--start-from", type=Path, help="a pack to train further (default: from scratch)")
    parser.add_argument("--font", type=Path, help="other artwork for the glyphs: a font, or a folder of PNG files")
    parser.add_argument("--stages", type=_stages, help="only these, in this process: " + ",".join(_STAGES))
    return parser


def _stages(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(_STAGES):
        raise argparse.ArgumentTypeError(f"no such stage: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
