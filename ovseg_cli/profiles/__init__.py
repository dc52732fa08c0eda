"""Named model sets, and where their weights are."""

from ovseg_cli.profiles.registry import PROFILES, get_profile, profile_of
from ovseg_cli.profiles.specs import (
    ClipSpec,
    ExtractorSpec,
    GeneratorSpec,
    InferenceSpec,
    Profile,
    Weights,
)
from ovseg_cli.profiles.weights import (
    WeightsStatus,
    fetch_weights,
    find_weights,
    require_weights,
    resolve_profile,
    weights_status,
)

__all__ = [
    "PROFILES",
    "ClipSpec",
    "ExtractorSpec",
    "GeneratorSpec",
    "InferenceSpec",
    "Profile",
    "Weights",
    "WeightsStatus",
    "fetch_weights",
    "find_weights",
    "get_profile",
    "profile_of",
    "require_weights",
    "resolve_profile",
    "weights_status",
]
