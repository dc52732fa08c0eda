"""Packs: folders that diffusers, open_clip and transformers load, in half precision; using one where it lies."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from examples.mini_pack.diffusion import NOISE
from ovseg_cli.profiles import Profile, Weights, get_profile
from ovseg_cli.profiles.specs import bundled_revision

MINI: Final = get_profile("mini")


def write_diffusion(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    tokenizer_folder: Path,
    folder: Path,
) -> None:
    """Write a `StableDiffusionPipeline` folder in half precision.

    Args:
        unet: The UNet.
        text_encoder: The text encoder.
        vae: The autoencoder.
        tokenizer: The tokenizer.
        tokenizer_folder: Where it was saved; ``vocab.json`` and ``merges.txt`` are copied from there.
        folder: Where to write.
    """
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=DPMSolverMultistepScheduler(
            **NOISE, algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing"
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(tokenizer_folder / name, folder / "tokenizer" / name)
    # the libraries note from where a model was loaded: a path of the machine that trained it
    for config in folder.rglob("*.json"):
        content: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        if "_name_or_path" in content:
            del content["_name_or_path"]
            config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_diffusion(folder: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, AutoencoderKL]:
    """Load UNet, text encoder and autoencoder of a pack in single precision."""
    return (
        UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32),
        CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32),
    )


def pack_size(folder: Path) -> int:
    """Return the bytes of all files in a pack."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def pack_profile(folder: Path) -> Profile:
    """The settings of the profile ``mini`` with the weights of a pack in any folder.

    Args:
        folder: Laid out like ``ovseg_cli/profiles/mini``.

    Raises:
        FileNotFoundError: If a part of the pack is missing.
    """

    def located(weights: Weights) -> Weights:
        part = folder.resolve() / Path(str(weights.bundled)).relative_to(MINI.name)
        if not (part / weights.marker).is_file():
            raise FileNotFoundError(f"{part} holds no {weights.marker}; give a folder laid out like the bundled pack")
        # an absolute path stays what it is when it is looked up below the package's own folder
        return replace(weights, bundled=str(part), revision=bundled_revision(part))

    domain = None
    if (
        MINI.domain is not None
        and (folder / Path(str(MINI.domain.weights.bundled)).name / MINI.domain.weights.marker).is_file()
    ):
        domain = replace(MINI.domain, weights=located(MINI.domain.weights))
    return replace(
        MINI,
        domain=domain,
        generator=replace(MINI.generator, weights=located(MINI.generator.weights)),
        clip=replace(MINI.clip, weights=located(MINI.clip.weights)),
        extractors=tuple(replace(item, weights=located(item.weights)) for item in MINI.extractors),
        extra_extractors=tuple(replace(item, weights=located(item.weights)) for item in MINI.extra_extractors),
    )
