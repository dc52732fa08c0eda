"""The profiles that ovseg knows. A new model set is one new file with a `Profile`, and one name here.

Those of the user's own are files (`ovseg_cli.profiles.own`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from ovseg_cli.errors import UsageError
from ovseg_cli.names import unknown_choice
from ovseg_cli.profiles.cliper import CLIPER_B, CLIPER_L
from ovseg_cli.profiles.langseg import LANGSEG
from ovseg_cli.profiles.mini import MINI
from ovseg_cli.profiles.open2026 import OPEN_2026
from ovseg_cli.profiles.sd15 import SD15
from ovseg_cli.profiles.specs import Profile
from ovseg_cli.profiles.turbo import TURBO

PROFILES = MappingProxyType({p.name: p for p in (MINI, SD15, OPEN_2026, CLIPER_L, CLIPER_B, LANGSEG, TURBO)})
"""Every profile by name, in the order in which they are listed, and in which a new store looks for one that is here:
what classes were published with, what is larger, what is for words alone. (See `resolve_profile` for the licences.)"""


def get_profile(name: str) -> Profile:
    """The profile of this name: one of ovseg's, a file, or one from the user's configuration folder.

    Args:
        name: What ``--profile`` takes.

    Raises:
        UsageError: No such profile; the message lists the names. Or its file is not sound, or leaves something open.
    """
    if name in PROFILES:
        return PROFILES[name]
    from ovseg_cli.profiles.own import file_of, load_profile

    file = file_of(name)
    if file is None:
        raise _unknown(name)
    return load_profile(file)


def _unknown(name: str) -> UsageError:
    from ovseg_cli.profiles.own import own_files

    here = next((file for file in (name, f"{name}.toml") if os.path.isfile(file)), None)
    error = unknown_choice("profile", name, (*PROFILES, *own_files()), heading="Known profiles")
    if here is None:
        return error
    return UsageError(f"{error} To take the file of that name: --profile {os.path.join(os.curdir, here)}")


class StoreLike(Protocol):
    """What a store knows of its profile."""

    @property
    def profile_name(self) -> str:
        """Its name."""
        ...

    @property
    def profile_record(self) -> Mapping[str, Any]:
        """All of it, as `Profile.record` wrote it."""
        ...


def profile_of(store: StoreLike) -> Profile:
    """The profile that a store was made with: one of the user's own comes from what the store has kept of it.

    Args:
        store: The store.

    Raises:
        UsageError: It was made with a profile of another ovseg.
        StoreCorruptError: What it has kept cannot be understood.
    """
    if store.profile_name in PROFILES or store.profile_record.get("source") is None:
        if store.profile_name not in PROFILES:
            raise _unknown(store.profile_name)
        return PROFILES[store.profile_name]
    from ovseg_cli.profiles.own import current_profile
    from ovseg_cli.profiles.tables import profile_from_record

    return current_profile(profile_from_record(store.profile_record))
