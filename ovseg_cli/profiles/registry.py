"""The profiles that ovseg knows. A new model set is one new file with a `Profile`, and one name here."""

from __future__ import annotations

from types import MappingProxyType

from ovseg_cli.names import unknown_choice
from ovseg_cli.profiles.mini import MINI
from ovseg_cli.profiles.sd15 import SD15
from ovseg_cli.profiles.specs import Profile

PROFILES = MappingProxyType({p.name: p for p in (MINI, SD15)})
"""Every profile by name, in the order in which they are listed."""


def get_profile(name: str) -> Profile:
    """The profile of this name.

    Raises:
        UsageError: No such profile; the message lists the names.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise unknown_choice("profile", name, PROFILES, heading="Known profiles") from None
