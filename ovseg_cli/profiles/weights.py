"""From a `Weights` description to a folder on this machine, through the hub's cache."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovseg_cli.errors import WeightsError
from ovseg_cli.names import listed
from ovseg_cli.profiles.folders import folder_revision
from ovseg_cli.profiles.mini import MINI
from ovseg_cli.profiles.own import seen_profiles
from ovseg_cli.profiles.registry import PROFILES, get_profile
from ovseg_cli.profiles.sd15 import SD15
from ovseg_cli.profiles.specs import Profile, Weights

log = logging.getLogger("ovseg_cli")

_PACKAGE_FOLDER = Path(__file__).resolve().parent


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
        commercial: Whether the licence allows commercial use to everybody.
    """

    part: str
    repo: str
    revision: str
    licence: str
    present: bool
    path: Path | None
    nbytes: int
    fetch_hint: str
    commercial: bool = True


def fetch_command(weights: Weights, profile: Profile | None = None) -> str:
    """The shell command that downloads these weights, with what is needed beside them, into the hub's cache.

    Args:
        weights: What to fetch.
        profile: Whose weights they are; None for the first that has them.
    """
    every = [*PROFILES.items(), *seen_profiles()]
    for name, known in sorted(every, key=lambda pair: pair[1] != profile):
        if weights in known.weights:
            return f"ovseg pull --profile {name}"
        for extractor in known.extra_extractors:
            if extractor.weights == weights:
                return f"ovseg pull --profile {name} --extractors {extractor.name}"
        if weights == known.regions.sam:
            return f"ovseg pull --profile {name} --mask-method sam"
    return "ovseg pull --profile NAME"


def find_weights(weights: Weights) -> Path | None:
    """The folder that holds these weights, or None when they are not on this machine. Never uses the network."""
    if weights.bundled is not None:
        folder = _PACKAGE_FOLDER / weights.bundled
    elif weights.folder is not None:
        folder = Path(weights.folder)
    elif not weights.revision:  # a profile of the user's own that is not pinned yet
        return None
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


def require_weights(weights: Weights, profile: Profile | None = None) -> Path:
    """The folder that holds these weights. Never uses the network: gigabytes are fetched only by `ovseg pull`.

    Args:
        weights: What to find.
        profile: As `fetch_command` takes it.

    Raises:
        WeightsError: They are not on this machine.
    """
    folder = find_weights(weights)
    if weights.folder is not None:
        return _own_folder(weights, folder)
    if folder is not None:
        return folder
    if weights.bundled is not None:
        raise WeightsError(
            f"The bundled weights {weights.bundled!r} are missing from this installation; reinstall ovseg."
        )
    raise WeightsError(
        f"The weights of {weights.repo} ({_size(weights)}) are not on this machine, and nothing is "
        f"downloaded unasked. Fetch them once with a network: {fetch_command(weights, profile)}"
    )


def _own_folder(weights: Weights, folder: Path | None) -> Path:
    """A folder of the user's own, if it is still what the profile was made with."""
    if folder is None:
        raise WeightsError(
            f"The folder {weights.folder} is gone, or lacks files of the model ({weights.part}): put it back, or name "
            "its new place in the profile's file and give that with --profile."
        )
    found = folder_revision(folder, weights.files)
    if found != weights.revision:
        raise WeightsError(
            f"The files in {folder} ({weights.part}) are not those that the profile was made with: put them back, or "
            "make another store for the new ones with --profile and --store."
        )
    return folder


def _size(weights: Weights) -> str:
    return f"about {weights.nbytes / 1e9:.1f} GB" if weights.nbytes else "of unknown size"


def fetch_weights(weights: Weights, *, offline: bool = False, profile: Profile | None = None) -> Path:
    """The folder that holds these weights, downloading them when they are absent.

    Args:
        weights: What to find or fetch.
        offline: Look on this machine only.
        profile: As `fetch_command` takes it.

    Raises:
        WeightsError: They are not here and cannot be (or, with `offline`, must not be) downloaded.
    """
    if offline or weights.repo is None or find_weights(weights) is not None:
        return require_weights(weights, profile)
    from huggingface_hub import snapshot_download

    log.warning("Downloading %s (%s, %s).", weights.repo, _size(weights), weights.licence)
    try:
        snapshot_download(weights.repo, revision=weights.revision, allow_patterns=list(weights.files))
    except Exception as error:  # the hub client raises a dozen unrelated types; each means "not fetched"
        raise WeightsError(
            f"Could not download {weights.repo} ({type(error).__name__}: {_first_line(error)}). "
            f"Check the network and try again: {fetch_command(weights, profile)} "
            "(or copy a hub cache here and set HF_HOME)."
        ) from error
    folder = find_weights(weights)
    if folder is None:  # without a network, the hub client hands back what an interrupted download left
        raise WeightsError(
            f"The download of {weights.repo} is incomplete. Check the network and try again, "
            f"or fetch it with: {fetch_command(weights, profile)}"
        )
    return folder


def weights_status(parts: Iterable[Weights], profile: Profile | None = None) -> list[WeightsStatus]:
    """Status of sets of weights. Never uses the network.

    Args:
        parts: The weights, such as `Profile.weights`.
        profile: As `fetch_command` takes it.
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
                fetch_hint=fetch_command(weights, profile) if folder is None else "",
                commercial=weights.commercial,
            )
        )
    return states


def resolve_profile(name: str | None = None) -> Profile:
    """The profile for a new store: the named one, else one whose weights are on this machine, else `mini`.

    Of several that are here, the first in the order of `PROFILES` is taken. One whose licences forbid commercial use is
    never taken unasked. Without a name, a warning says what was taken, and what the other set would cost: `mini` knows
    pictograms only, and the others take long without a GPU. Nothing is downloaded.

    Args:
        name: An explicit choice (``--profile``), or None.

    Raises:
        UsageError: No profile has this name.
    """
    if name is not None:
        return get_profile(name)
    here = [p for p in PROFILES.values() if not p.bundled and p.commercial and all(map(find_weights, p.weights))]
    if here:
        first, *others = here
        log.warning(
            "This store uses the profile %s, %s on this machine (%s). %s"
            "To try ovseg out on the bundled mini models instead: ovseg --profile mini --store DIR …",
            first.name,
            "the first in `ovseg profiles` of those whose weights are" if others else "whose weights are",
            _time_a_class(first),
            f"Here are also {listed([p.name for p in others])}: --profile NAME takes one. " if others else "",
        )
        return first
    log.warning(
        "THIS STORE USES THE BUNDLED MINI MODELS. They know 44 pictograms (cat, dog, car, …) and nothing else: use "
        "them to try ovseg out, not on photographs. For photographs there is the profile sd15: a download of %s GB, "
        "which stay on the disk, and %s. Fetch it with %s, and make another store with: "
        "ovseg --profile sd15 --store DIR …",
        f"{sum(w.nbytes for w in SD15.weights) / 1e9:.1f}",
        _time_a_class(SD15),
        fetch_command(SD15.weights[0]),
    )
    return MINI


def _time_a_class(profile: Profile) -> str:
    """How long `add-class` takes here, as far as anybody has measured it: with Stable Diffusion 1.5.

    32 images of 30 steps are 1,920 walks through its UNet of 0.8 trillion operations each. An H200 was done in 30 s.
    """
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        return "hours for each class on this machine, which has no GPU that ovseg can use"
    if profile != SD15:
        walks = f"{profile.generator.walks:,} walks through its network of unmeasured time"
        return f"{walks} for each class; as many through that of sd15 take half a minute on a large GPU (an H200)"
    return "for each class half a minute on a large GPU (an H200), minutes on a small one"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else "no message"
