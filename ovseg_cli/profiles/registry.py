"""The profiles that ovseg knows. A new model set is one new file with a `Profile`, and one name here."""

from __future__ import annotations

from types import MappingProxyType

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
    """The profile of this name.

    Raises:
        UsageError: No such profile; the message lists the names.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise unknown_choice("profile", name, PROFILES, heading="Known profiles") from None
