"""doctor: what this installation has, and whether the store is sound."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.output import amount, fields, file_size
from ovseg_cli.errors import NoDefaultStoreError, OvsegError, StoreCorruptError, StoreVersionError

if TYPE_CHECKING:
    from ovseg_cli.store import Store

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


_MOST_TOLD = 3
"""Problems that the closing error line names."""


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
        "store": _store_health(common),
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
        out.show(fields(_store_lines(data["store"])))

    healthy = data["store"]["healthy"]
    state = "damaged" if healthy else data["store"].get("state", "damaged")
    out.result(data, human=human, quiet=["ok" if healthy and not damaged_weights else state])
    problems = [] if healthy else [f"the store is {state}: {_in_short(data['store']['problems'])}"]
    if damaged_weights:
        problems.append(f"weights are damaged: {_in_short(damaged_weights)}")
    if problems:
        out.error("; ".join(problems))
        raise typer.Exit(1)


def _in_short(problems: list[str]) -> str:
    """The first problems in one line; all of them are in the report."""
    from ovseg_cli.names import listed

    return listed(problems, most=_MOST_TOLD, between="; ")


def _section(common: Common, title: str) -> None:
    common.out.line((title, "bold"))


def _store_lines(store: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The state of the store for a person."""
    if store["path"] is None:
        yield "state", "none is named, and this user has no home for the default one; name one with --store DIR"
        return
    yield "path", store["path"]
    if not store["exists"]:
        yield "state", "not made yet; ovseg add-class NAME makes it"
        return
    yield "state", "sound" if store["healthy"] else store.get("state", "damaged")
    for problem in store["problems"]:
        yield "problem", problem
    if "profile" not in store:  # it could not even be opened
        return
    yield "profile", store["profile"] + (" (read-only)" if store["read_only"] else "")
    for why in store["lacks"]:
        yield "weights", why
    yield (
        "holds",
        f"{amount(store['classes'], 'class', 'classes')}, {amount(store['prototypes'], 'prototype')}, "
        f"{amount(store['support_images'], 'support image')}, {file_size(store['bytes'])}",
    )
    for index in store["indexes"]:
        why = index["reason"] or ("made when neighbours are next asked for" if index["status"] == "missing" else "")
        yield "index", f"{index['extractor']}: {index['status']}" + (f" ({why})" if why else "")
    if store["leftovers"]:
        yield "leftovers", f"{len(store['leftovers'])}, swept by the next command that writes"


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


def _store_health(common: Common) -> dict[str, Any]:
    """The state of the store; a store that cannot be opened is a finding, not a crash."""
    try:
        store = common.find_store(any_profile=True)
        if store is None:
            return {"path": _default_path(common), "exists": False, "healthy": True, "problems": []}
        with store:
            return _examine(store)
    except NoDefaultStoreError:
        return {"path": None, "exists": False, "healthy": True, "problems": []}
    except OvsegError as error:
        states: dict[type[OvsegError], str] = {StoreVersionError: "of another version", StoreCorruptError: "damaged"}
        state = states.get(type(error), "not usable")
        found = {"path": _default_path(common), "exists": True, "healthy": False, "state": state}
        return {**found, "problems": [str(error)]}


def _examine(store: Store) -> dict[str, Any]:
    health = store.health()
    remedy = "put a backup in its place, or make the class anew with ovseg add-class --if-exists replace"
    lost = [f"{path} is missing; {remedy}" for path in health.missing]
    lost += [f"{path} is not what was stored; {remedy}" for path in health.damaged]
    return {
        "path": str(health.path),
        "exists": True,
        "healthy": health.ok,
        "problems": [*health.problems, *lost],
        "profile": store.profile_name,
        "lacks": _lacking(store),
        "read_only": health.read_only,
        "classes": health.classes,
        "prototypes": health.prototypes,
        "support_images": health.supports,
        "bytes": health.nbytes,
        "leftovers": [str(path) for path in health.orphans],
        "indexes": [
            {"extractor": index.extractor, "path": str(index.path), "status": index.status, "reason": index.reason}
            for index in health.indexes
        ],
    }


def _lacking(store: Store) -> list[str]:
    """Why the weights of the store's own profile cannot be used; nothing of it makes the store itself unsound."""
    from ovseg_cli.profiles import profile_of
    from ovseg_cli.profiles.weights import require_weights

    found = []
    try:
        profile = profile_of(store)
        for weights in profile.weights:
            try:
                require_weights(weights, profile)
            except OvsegError as error:
                found.append(str(error))
    except OvsegError as error:  # a profile that this version does not know
        found.append(str(error))
    return found


def _default_path(common: Common) -> str:
    from ovseg_cli.store import default_store_path

    path: Path = common.options.store or default_store_path()
    return str(path.absolute())
