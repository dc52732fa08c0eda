"""Whether a store is sound, as `doctor` and `store check` tell it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg_cli.cli.common import Common
from ovseg_cli.cli.output import amount, file_size
from ovseg_cli.errors import (
    NoDefaultStoreError,
    OvsegError,
    StoreCorruptError,
    StoreNotFoundError,
    StoreVersionError,
)

if TYPE_CHECKING:
    from ovseg_cli.store import Store

_MOST_TOLD = 3
"""Problems that the closing error line names."""


def in_short(problems: list[str]) -> str:
    """The first problems in one line; all of them are in the report."""
    from ovseg_cli.names import listed

    return listed(problems, most=_MOST_TOLD, between="; ")


def store_lines(store: dict[str, Any]) -> Iterator[tuple[str, str]]:
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
        missing = "made when neighbours are next asked for, or by ovseg store reindex"
        why = index["reason"] or (missing if index["status"] == "missing" else "")
        yield "index", f"{index['extractor']}: {index['status']}" + (f" ({why})" if why else "")
    if store["leftovers"]:
        by = "the next command that changes classes" if store["interrupted"] else "ovseg store check --repair"
        yield "leftovers", f"{len(store['leftovers'])}, taken away by {by}"


def store_report(common: Common, *, typed: bool = False) -> dict[str, Any]:
    """The state of the store; a store that cannot be opened is a finding, not a crash.

    Args:
        common: What the command works with.
        typed: Whether one that is typed behind `--store` has to be there.

    Raises:
        StoreNotFoundError: With `typed`, when such a folder holds none.
    """
    try:
        store = common.find_store(any_profile=True, typed=typed)
        if store is None:
            return {"path": _default_path(common), "exists": False, "healthy": True, "problems": []}
        with store:
            return _examine(store)
    except StoreNotFoundError:
        raise
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
    names = {info.slug: info.name for info in store.classes()} if health.missing or health.damaged else {}

    def of_class(path: Path) -> str:
        name = names.get(path.parent.parent.name)
        return f"{path} is" if name is None else f"class {name!r}: {path} is"

    lost = [f"{of_class(path)} missing; {remedy}" for path in health.missing]
    lost += [f"{of_class(path)} not what was stored; {remedy}" for path in health.damaged]
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
        "interrupted": health.interrupted,
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
    from ovseg_cli.places import default_store_path

    path: Path = common.options.store or default_store_path()
    return str(path.absolute())
