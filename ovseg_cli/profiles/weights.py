"""From a `Weights` description to a folder on this machine, through the hub's cache."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovseg_cli.errors import WeightsError
from ovseg_cli.profiles.registry import MINI, PROFILES, SD15, get_profile
from ovseg_cli.profiles.specs import Profile, Weights

log = logging.getLogger("ovseg_cli")

_PACKAGE_FOLDER = Path(__file__).resolve().parent
_HUB_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class WeightsStatus:
    """Whether one set of weights is on this machine.

    Attributes:
        part: "diffusion", "clip", "dino", ...
        repo: Hub id, or ``bundled:<folder>``.
        revision: Pinned revision.
        licence: Licence of the weights.
        present: True when they can be loaded without a network.
        path: The folder, when present.
        nbytes: Size of the download, about.
        fetch_hint: The command that fetches them; empty when present.
    """

    part: str
    repo: str
    revision: str
    licence: str
    present: bool
    path: Path | None
    nbytes: int
    fetch_hint: str


def fetch_command(weights: Weights) -> str:
    """The shell command that downloads these weights, with what is needed beside them, into the hub's cache."""
    for profile in PROFILES.values():
        if weights in profile.weights:
            return f"ovseg pull --profile {profile.name}"
        for extractor in profile.extra_extractors:
            if extractor.weights == weights:
                return f"ovseg pull --profile {profile.name} --extractors {extractor.name}"
        if weights == profile.regions.sam:
            return f"ovseg pull --profile {profile.name} --mask-method sam"
    return "ovseg pull --profile NAME"


def find_weights(weights: Weights) -> Path | None:
    """The folder that holds these weights, or None when they are not on this machine. Never uses the network."""
    if weights.bundled is not None:
        folder = _PACKAGE_FOLDER / weights.bundled
    else:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(
                snapshot_download(
                    weights.repo,
                    revision=weights.revision,
                    allow_patterns=list(weights.files),
                    local_files_only=True,
                )
            )
        except LocalEntryNotFoundError:
            return None
    # A download that was interrupted leaves a snapshot folder without some of its files.
    return folder if all((folder / name).is_file() for name in _needed_files(weights)) else None


def _needed_files(weights: Weights) -> list[str]:
    """The marker, and every tensor file and model configuration that the patterns name in full."""
    configurations = ("config.json", "model_index.json", "open_clip_config.json")
    named = [name for name in weights.files if "*" not in name]
    needed = [n for n in named if n.endswith(".safetensors") or n.rpartition("/")[2] in configurations]
    return [weights.marker, *needed]


def fetch_weights(weights: Weights, *, offline: bool = False) -> Path:
    """The folder that holds these weights, downloading them when they are absent.

    Args:
        weights: What to find or fetch.
        offline: Look on this machine only.

    Raises:
        WeightsError: They are not here and cannot be (or, with `offline`, must not be) downloaded.
    """
    folder = find_weights(weights)
    if folder is not None:
        return folder
    if weights.bundled is not None:
        raise WeightsError(
            f"The bundled weights {weights.bundled!r} are missing from this installation; reinstall ovseg."
        )
    if offline:
        raise WeightsError(
            f"{weights.repo} is not in the local cache and --offline is set. "
            f"Fetch it once with a network: {fetch_command(weights)}"
        )
    from huggingface_hub import snapshot_download

    log.warning("Downloading %s (about %.1f GB, %s).", weights.repo, weights.nbytes / 1e9, weights.licence)
    try:
        snapshot_download(weights.repo, revision=weights.revision, allow_patterns=list(weights.files))
    except Exception as error:  # the hub client raises a dozen unrelated types; each means "not fetched"
        raise WeightsError(
            f"Could not download {weights.repo} ({type(error).__name__}: {_first_line(error)}). "
            f"Check the network and try again: {fetch_command(weights)} (or copy a hub cache here and set HF_HOME)."
        ) from error
    folder = find_weights(weights)
    if folder is None:  # without a network, the hub client hands back what an interrupted download left
        raise WeightsError(
            f"The download of {weights.repo} is incomplete. Check the network and try again, "
            f"or fetch it with: {fetch_command(weights)}"
        )
    return folder


def weights_status(parts: Iterable[Weights]) -> list[WeightsStatus]:
    """Status of sets of weights. Never uses the network.

    Args:
        parts: The weights, such as `Profile.weights`.
    """
    states = []
    for weights in parts:
        folder = find_weights(weights)
        states.append(
            WeightsStatus(
                part=weights.part,
                repo=weights.model_id,
                revision=weights.revision,
                licence=weights.licence,
                present=folder is not None,
                path=folder,
                nbytes=weights.nbytes,
                fetch_hint=fetch_command(weights) if folder is None else "",
            )
        )
    return states


def hub_answers(weights: Weights) -> bool:
    """Whether the hub answers for this repository and revision, asked once with a short timeout."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(str(weights.repo), revision=weights.revision, timeout=_HUB_TIMEOUT_SECONDS)
    except Exception:  # whatever the reason, the answer to "can it be fetched?" is no
        return False
    return True


def resolve_profile(name: str | None = None, *, offline: bool = False) -> Profile:
    """The profile for a new store: the named one, else `sd15` if it can be had, else `mini`.

    Without a name, `sd15` is chosen when all its weights are cached or the hub answers; otherwise `mini`,
    with a warning, because it knows pictograms only.

    Args:
        name: An explicit choice (``--profile``), or None.
        offline: Do not ask the hub.

    Raises:
        UsageError: No profile has this name.
    """
    if name is not None:
        return get_profile(name)
    missing = [w for w in SD15.weights if find_weights(w) is None]
    if not missing:
        return SD15
    if not offline and all(hub_answers(w) for w in missing):
        log.warning(
            "This store uses profile sd15; its weights will be downloaded now (about %.1f GB). It wants a GPU; to try "
            "ovseg on the bundled mini models instead: ovseg --profile mini --store DIR …",
            sum(w.nbytes for w in missing) / 1e9,
        )
        return SD15
    reason = "--offline is set" if offline else "the model hub does not answer"
    log.warning(
        "THIS STORE USES THE BUNDLED MINI MODELS. The weights for photographs (profile sd15) are not on this "
        "machine and %s. The mini models know 44 pictograms (cat, dog, car, …) and nothing else: use them to "
        "try ovseg out, not on photographs. For photographs make another store later: "
        "ovseg --profile sd15 --store DIR …",
        reason,
    )
    return MINI


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else "no message"
