"""How the folders of models are laid out: the files that loaders need, and what must not be in them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from ovseg_cli.errors import WeightsError

Use = Literal["diffusion", "clip", "vit", "sam", "domain"]
"""What a set of weights is loaded as."""

_TEXT = ("tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_TRANSFORMERS = ("config.json", "preprocessor_config.json")

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""How the names of files end that Python's unpickler would be asked to read."""

_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")
"""Where the parts of a pipeline may come from: `model_index.json` can also name a Python file of the folder."""

_READ_FIRST = {
    "clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    "vit": ("model.safetensors", "model.safetensors.index.json"),
}
"""Files that the loaders prefer to every pickle. open_clip prefers some pickles to other safetensors."""


def default_marker(use: Use, variant: str | None, pickles: Iterable[str]) -> str:
    """The file without which weights count as absent, where nobody names another.

    Args:
        use: What they are loaded as.
        variant: Of a diffusion model's files.
        pickles: Those that may be read; the first of them is the marker.
    """
    named = next(iter(pickles), None)
    if named is not None:
        return named
    dot = f".{variant}" if variant else ""
    return {
        "diffusion": f"unet/diffusion_pytorch_model{dot}.safetensors",
        "clip": "open_clip_model.safetensors",
        "vit": "model.safetensors",
        "sam": "model.safetensors",
        "domain": "domain.safetensors",
    }[use]


def diffusers_files(variant: str | None, *, encoders: tuple[str, ...] = ("",)) -> tuple[str, ...]:
    """The files of a Stable Diffusion pipeline in diffusers' layout, without those of a safety checker.

    Args:
        variant: Of its weights.
        encoders: What stands behind "text_encoder" and "tokenizer" in the names of their folders.
    """
    end = f"{variant}.safetensors" if variant else "safetensors"
    texts = [(f"text_encoder{number}/config.json", f"text_encoder{number}/model.{end}") for number in encoders]
    return (
        "model_index.json",
        "scheduler/*.json",
        *(f"tokenizer{number}/*" for number in encoders),
        *(name for pair in texts for name in pair),
        "unet/config.json",
        f"unet/diffusion_pytorch_model.{end}",
        "vae/config.json",
        f"vae/diffusion_pytorch_model.{end}",
    )


def default_files(use: Use, variant: str | None, marker: str) -> tuple[str, ...]:
    """Patterns of the files that a loader needs, where nobody names others: nothing else is downloaded.

    Args:
        use: What the weights are loaded as.
        variant: Of a diffusion model's files.
        marker: Their marker.
    """
    if use == "diffusion":
        dot = f".{variant}" if variant else ""
        # The brackets make a pattern of a name, so that XL's second text encoder need not be there.
        second = ("tokenizer_2/*", "text_encoder_2/*config.json", f"text_encoder_2/model{dot}.safetensor[s]")
        return (*diffusers_files(variant), *second)
    if use == "clip":
        return ("open_clip_config.json", marker, *_TEXT)
    if use == "domain":
        return ("**",)
    return (_TRANSFORMERS[0], marker, *_TRANSFORMERS[1:])


def is_pickle(name: str) -> bool:
    """Whether a file of this name, or files of this pattern, would be unpickled."""
    return name.lower().endswith(PICKLES)


def refuse_code(folder: Path, use: Use, allowed: Iterable[str] = ()) -> None:
    """See that loading a folder can run no code of the folder's.

    Args:
        folder: The folder.
        use: What it is to be loaded as.
        allowed: Pickles that may be read, as tensors alone.

    Raises:
        WeightsError: It names code of its own, wants another model from the hub, or holds a pickle that the loader
            would read and that nobody allowed.
    """
    if use == "diffusion":
        index = _json(folder / "model_index.json")
        named = {"the pipeline": index.get("_class_name"), **index}
        for part, value in named.items():
            library = value[0] if isinstance(value, list) and value else None
            if library not in _LIBRARIES or (part == "the pipeline" and not isinstance(value, str | None)):
                raise WeightsError(
                    f"The diffusion model in {folder} is not loaded: model_index.json takes {part} from {library!r}, "
                    "which would run code that is not diffusers' or transformers'."
                )
    if use == "clip":
        text = _json(folder / "open_clip_config.json").get("model_cfg", {})
        text = text.get("text_cfg", {}) if isinstance(text, dict) else {}
        if isinstance(text, dict) and text.get("hf_model_name"):
            raise WeightsError(
                f"The CLIP model in {folder} is not loaded: its text tower is {text['hf_model_name']!r}, another model "
                "of the hub. Take a CLIP with a text tower of open_clip's own."
            )
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if "auto_map" in _json(folder / name):
            raise WeightsError(
                f"The model in {folder} is not loaded: {name} names code of its own (auto_map). Take a model that the "
                "libraries know, or remove that entry."
            )
    first = _READ_FIRST.get(use, ())
    if first and not any((folder / name).is_file() for name in first):
        pickles = sorted(p.name for p in folder.iterdir() if is_pickle(p.name) and p.name not in set(allowed))
        if pickles:
            if any((folder / name).is_file() for name in allowed):
                raise WeightsError(
                    f"The model in {folder} is not loaded: beside the pickle that the profile allows there is "
                    f"{pickles[0]}, which might be read in its place. Move it out of the folder."
                )
            raise WeightsError(
                f"The model in {folder} is not loaded: it would be read from {pickles[0]}, a pickle, and not from "
                f"{first[0]}. Convert it to safetensors, or name it in the profile: "
                f'allow-pickle = ["{pickles[0]}"].'
            )


def _json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none: what is wrong with it, its loader says better."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def feature_shape(folder: Path, use: Use, layers: tuple[str, ...], input_size: int) -> tuple[int, int] | None:
    """(length, grid) of features, read from the configurations in a folder.

    Args:
        folder: Where the model is.
        use: What it is loaded as.
        layers: As `ExtractorSpec` has them.
        input_size: Side of the square that it sees.

    Returns:
        None where the configurations do not say it.
    """
    try:
        if use == "diffusion":
            return _unet_shape(folder, layers, input_size)
        if use == "clip":
            config = _json(folder / "open_clip_config.json")["model_cfg"]["vision_cfg"]
            return int(config.get("width", 768)), input_size // int(config.get("patch_size", 16))
        config = _json(folder / "config.json")
        return int(config["hidden_size"]), input_size // int(config["patch_size"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError):
        return None


def _unet_shape(folder: Path, layers: tuple[str, ...], input_size: int) -> tuple[int, int]:
    channels = _json(folder / "unet" / "config.json")["block_out_channels"]
    autoencoder = _json(folder / "vae" / "config.json")["block_out_channels"]
    latent = input_size // 2 ** (len(autoencoder) - 1)
    dim = grid = 0
    for layer in layers:
        part, _, rest = layer.partition(".")
        last = len(channels) - 1
        block = last if part == "mid_block" else int(rest.split(".")[0])
        level = last - block if part == "up_blocks" else block
        if level < 0:
            raise IndexError(level)
        dim += int(channels[level])
        grid = max(grid, latent // 2**level)
    return dim, grid
