"""doctor: what this installation has, and whether the store is sound."""

from __future__ import annotations

import platform
import sys
from typing import Any

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.output import fields, file_size
from ovseg_cli.cli.soundness import in_short, store_lines, store_report

_DISTRIBUTIONS = (
    "ovseg",
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "faiss-gpu",
    "faiss-cpu",
    "numpy",
    "pillow",
    "sqlalchemy",
    "huggingface_hub",
)


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(app, "doctor", examples=("ovseg doctor", "ovseg doctor --json > doctor.json"), tolerant=True)(doctor)


def doctor(common: Common) -> None:
    """Check this installation and the store.

    Looks at Python, the libraries, devices, weights, and the health of the store. Weights, vectors and support images
    are read and compared with their digests, which takes a while for large stores.
    Exit code 1: the store, or weights, are damaged.
    """
    out = common.out
    if common.defaults.problem is not None:
        out.warning(f"no file with defaults is used here, whatever store it names: {common.defaults.problem}")
    damaged_weights = _damaged_weights()
    data: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "libraries": _versions(),
        "devices": _devices(),
        "profiles": _weights(),
        "damaged_weights": damaged_weights,
        "store": store_report(common),
    }

    def human() -> None:
        _section(common, "machine")
        out.show(
            fields(
                [
                    ("python", f"{data['python']} on {data['platform']}"),
                    *(("device", f"{name}: {what}") for name, what in data["devices"].items()),
                ]
            )
        )
        _section(common, "libraries")
        out.show(fields(data["libraries"].items()))
        _section(common, "weights")
        out.show(fields([*data["profiles"].items(), *(("problem", problem) for problem in damaged_weights)]))
        _section(common, "store")
        out.show(fields(store_lines(data["store"])))

    healthy = data["store"]["healthy"]
    state = "damaged" if healthy else data["store"].get("state", "damaged")
    out.result(data, human=human, quiet=["ok" if healthy and not damaged_weights else state])
    problems = [] if healthy else [f"the store is {state}: {in_short(data['store']['problems'])}"]
    if damaged_weights:
        problems.append(f"weights are damaged: {in_short(damaged_weights)}")
    if problems:
        out.error("; ".join(problems))
        raise typer.Exit(1)


def _section(common: Common, title: str) -> None:
    common.out.line((title, "bold"))


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if not name.startswith("faiss"):
                found[name] = "missing"
    if not any(name.startswith("faiss") for name in found):
        found["faiss"] = "missing"
    return found


def _devices() -> dict[str, str]:
    """The devices that `--device` can name here."""
    import torch

    devices = {"cpu": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {file_size(properties.total_memory)}"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _weights() -> dict[str, str]:
    from ovseg_cli.profiles import PROFILES, weights_status
    from ovseg_cli.profiles.own import own_profiles

    summary = {}
    readings, broken = own_profiles()
    for profile in (*PROFILES.values(), *(reading.profile for reading in readings)):
        missing = [state.part for state in weights_status(profile.weights) if not state.present]
        summary[profile.name] = f"missing: {', '.join(missing)} (see `ovseg profiles`)" if missing else "ready"
    return summary | {path.stem: why for path, why in broken.items()}


def _damaged_weights() -> list[str]:
    """What has changed among the weights that are here, with what to do about it."""
    from ovseg_cli.profiles import PROFILES
    from ovseg_cli.profiles.checks import damaged_files
    from ovseg_cli.profiles.own import own_profiles
    from ovseg_cli.profiles.weights import fetch_command

    own = [reading.profile for reading in own_profiles()[0]]
    known = dict.fromkeys(weights for profile in (*PROFILES.values(), *own) for weights in profile.every_weights)
    return [
        f"{path} is not what was published: "
        + ("install ovseg again" if weights.bundled else f"delete it, then run {fetch_command(weights)}")
        for weights in known
        for path in damaged_files(weights)
    ]
