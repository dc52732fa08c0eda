"""Profiles of the user's own: TOML files, by path or by name from the user's configuration folder.

Nothing in such a file, nor in the folders and repositories that it names, can run code: weights are safetensors, or
pickles that the file allows by name and that are read as tensors alone, and no model's own Python is ever imported
(`layouts.refuse_code`). What a file leaves open (revisions, the shapes of features) is resolved once and pinned beside
it, by `ovseg pull`; no other command runs with anything open.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from ovseg_cli.atomic import write_text
from ovseg_cli.errors import OvsegError, UsageError, WeightsError
from ovseg_cli.files.toml import KeyPath, TomlFile, read_toml, shown
from ovseg_cli.names import did_you_mean, listed
from ovseg_cli.profiles.folders import files_in, folder_revision
from ovseg_cli.profiles.layouts import Use, default_files, default_marker, feature_shape, is_pickle
from ovseg_cli.profiles.mini import MINI
from ovseg_cli.profiles.specs import ExtractorSpec, Profile, Weights
from ovseg_cli.profiles.tables import (
    FileBuilder,
    Writer,
    differences,
    hints_of,
    text_of,
    written_fields,
)

log = logging.getLogger("ovseg_cli")

SUFFIX = ".toml"
LOCK_SUFFIX = ".lock.toml"

_NO_LICENCE = "licence unknown"
_NAME = re.compile(r"\w[\w.+-]{0,63}")
_EXTRACTOR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNET_LAYER = re.compile(
    r"(mid_block\.attentions|(down|up)_blocks\.\d{1,2}\.attentions)\.\d{1,2}(\.transformer_blocks\.\d{1,2})?"
)
_BLOCK = re.compile(r"-?\d{1,3}")
_USES: Mapping[str, Use] = {"unet-query": "diffusion", "clip-key": "clip", "clip-token": "clip", "vit-key": "vit"}
_BUNDLED = {weights.bundled: weights for weights in MINI.every_weights}


# ---------------------------------------------------------------------- where they are


def own_folder() -> Path | None:
    """The folder in which profiles are found by name; None for a user without a home."""
    import platformdirs

    try:
        return Path(platformdirs.user_config_dir("ovseg", appauthor=False)) / "profiles"
    except RuntimeError:
        return None


def own_files() -> dict[str, Path]:
    """The profiles in that folder by name, whether sound or not."""
    folder = own_folder()
    try:
        names = sorted(os.listdir(folder)) if folder is not None else []
    except OSError:
        names = []
    return {
        name.removesuffix(SUFFIX): Path(folder or "", name)
        for name in names
        if name.endswith(SUFFIX) and not name.endswith(LOCK_SUFFIX) and not name.startswith(".")
    }


def file_of(name: str) -> Path | None:
    """The file that `--profile` means: what looks like a path is one, other names are looked up in the folder."""
    if os.sep in name or name.endswith(SUFFIX):
        return Path(os.path.abspath(os.path.expanduser(name)))
    return own_files().get(name)


def pull_command(path: Path) -> str:
    """The command that fetches and pins what a file names."""
    return f"ovseg pull --profile {shlex.quote(typed(path))}"


def typed(path: Path) -> str:
    """A file as `--profile` takes it: by its name where that is enough."""
    name = path.name.removesuffix(SUFFIX)
    return name if own_files().get(name) == path else str(path)


# ---------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file comes to.

    Attributes:
        profile: The profile; what is open is an empty revision, or 0.
        file: What it says, with its lines.
        unpinned: By the part of weights without a revision, what the hub is to be asked for: a branch, a tag, or None.
        lacking: What is open, each as a message with its remedy.
    """

    profile: Profile
    file: TomlFile
    unpinned: Mapping[str, str | None]
    lacking: tuple[str, ...]


def load_profile(path: Path) -> Profile:
    """The profile in a file.

    Raises:
        UsageError: The file is no sound profile, or leaves something open that is not pinned yet; one line with the
            file, and the line in it.
    """
    reading = read_profile(path)
    if reading.lacking:
        raise UsageError(reading.lacking[0])
    _seen[path] = reading.profile
    return reading.profile


_seen: dict[Path, Profile] = {}
"""The files that were loaded in this process, so that a message about weights can name the command for them."""


def seen_profiles() -> Iterator[tuple[str, Profile]]:
    """What `--profile` takes for each profile of the user's own that this process has met, and the profile."""
    for path, profile in _seen.items():
        yield shlex.quote(typed(path)), profile


def read_profile(path: Path) -> Reading:
    """Read a file, and say what it leaves open.

    Raises:
        UsageError: It is no sound profile.
    """
    from ovseg_cli.profiles.registry import PROFILES

    file = read_toml(path, what="profile")
    name = path.name.removesuffix(SUFFIX)
    if name in PROFILES:
        raise UsageError(f"{path} has the name of a profile of ovseg's own, {name!r}. Give the file another name.")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{path} has a name that no profile can have. Take letters, digits, '-', '_' and '.' only.")
    builder = FileBuilder(file)
    data = dict(file.data)
    if not data:
        raise UsageError(f"The profile {path} is empty. Write one to start from: ovseg profiles new OTHER.toml")
    # What is left out there is told by its own line, not as a table that is unknown.
    builder.refuse_unknown(data, ["weights", *written_fields(Profile)], ())
    tables = data.pop("weights", {})
    if not isinstance(tables, dict):
        builder.fail(("weights",), "must be tables of weights, each under a header like [weights.clip]")
    reader = _WeightsReader(builder, path)
    known = {part: reader.read(part, tables[part], use) for part, use in _uses(builder, data, tables).items()}
    builder.known = known
    data.setdefault("summary", "")
    profile = cast("Profile", builder.build(Profile, data, (), hidden={"name": name, "source": str(path)}))
    _check(builder, profile)
    profile, unknown = _with_shapes(builder, profile)
    return Reading(profile, file, reader.unpinned, (*reader.lacking, *unknown))


def own_profiles() -> tuple[list[Reading], dict[Path, str]]:
    """What the user's configuration folder holds: the sound profiles, open or not, and why the others are not."""
    sound, broken = [], {}
    for path in own_files().values():
        try:
            reading = read_profile(path)
        except OvsegError as error:
            broken[path] = str(error)
            continue
        _seen[path] = reading.profile
        sound.append(reading)
    return sound, broken


def _uses(builder: FileBuilder, data: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Use]:
    """What each table of weights is loaded as, by who names it; a table that nobody names is not looked at."""
    found: dict[str, Use] = {}

    def note(value: Any, at: KeyPath, use: Use) -> None:
        if not isinstance(value, str) or value not in tables:
            return  # told when it is read
        if found.setdefault(value, use) != use:
            builder.fail(
                at, f"names the weights {value!r} as a model of kind {use}, and elsewhere they are {found[value]}"
            )

    places: list[tuple[str, str, Use]] = [
        ("generator", "weights", "diffusion"),
        ("clip", "weights", "clip"),
        ("regions", "sam", "sam"),
        ("domain", "weights", "domain"),
    ]
    for table, key, use in places:
        if isinstance(data.get(table), dict):
            note(data[table].get(key), (table, key), use)
    for table in ("extractors", "extra-extractors"):
        for number, item in enumerate(data[table] if isinstance(data.get(table), list) else ()):
            kind = item.get("kind") if isinstance(item, dict) else None
            if isinstance(kind, str) and kind in _USES:
                note(item.get("weights"), (table, number, "weights"), _USES[kind])
    return found


class _WeightsReader:
    """Reads tables of weights.

    Args:
        builder: Of the file.
        path: The file.

    Attributes:
        unpinned: See `Reading`.
        lacking: Likewise.
    """

    def __init__(self, builder: FileBuilder, path: Path) -> None:
        self._builder = builder
        self._path = path
        self._lock = _read_lock(path)
        self.unpinned: dict[str, str | None] = {}
        self.lacking: list[str] = []

    def read(self, part: str, table: Any, use: Use) -> Weights:
        """One table, as the weights that it names."""
        at: KeyPath = ("weights", part)
        fail = self._builder.fail
        known = written_fields(Weights)
        if not isinstance(table, dict):
            fail(at, f"must be a table of fields, got {shown(table)}")
        self._builder.refuse_unknown(table, [*known, "open-clip"], at)
        hints = hints_of(Weights)
        values = {
            known[key].name: self._builder.value(hints[known[key].name], item, (*at, key), known[key])
            for key, item in table.items()
            if key in known
        }
        sources = [key for key in ("repo", "folder", "bundled", "open-clip") if key in table]
        if len(sources) != 1:
            got = " and ".join(sources) or "none of them"
            fail(at, f"must name one of repo, folder, bundled and open-clip, got {got}")
        if "bundled" in table:
            return self._bundled(part, table, at)
        pickles = values.get("allow_pickle", ())
        for number, name in enumerate(pickles):
            if not is_pickle(name) or "*" in name:
                fail(
                    (*at, "allow-pickle", number),
                    f'must be the name of one pickle, like "pytorch_model.bin"; got {name!r}',
                )
        values = self._with_source(values, table, at)
        marker = values.setdefault("marker", default_marker(use, values.get("variant"), pickles))
        values.setdefault("files", default_files(use, values.get("variant"), marker))
        for key in ("marker", "files"):
            names = [values[key]] if key == "marker" else values[key]
            for name in names:
                if is_pickle(name) and name not in pickles:
                    fail((*at, key), f'names a pickle, which could run code: allow it with allow-pickle = ["{name}"]')
                if name.startswith("/") or ".." in name.split("/"):
                    fail((*at, key), f"must be names inside the model's folder, got {name!r}")
        values = {"licence": _NO_LICENCE, "nbytes": 0, **values}
        weights = Weights(part=part, **({"revision": ""} | values))
        return self._of_folder(weights, at) if weights.folder else self._of_hub(weights, table, at)

    def _bundled(self, part: str, table: Mapping[str, Any], at: KeyPath) -> Weights:
        if table["bundled"] not in _BUNDLED:
            self._builder.fail(
                (*at, "bundled"), f"must be one of {', '.join(map(str, _BUNDLED))}; got {shown(table['bundled'])}"
            )
        others = [key for key in table if key != "bundled"]
        if others:
            self._builder.fail((*at, others[0]), "cannot be said of bundled weights, which are what they are")
        return replace(_BUNDLED[table["bundled"]], part=part)

    def _with_source(self, values: dict[str, Any], table: Mapping[str, Any], at: KeyPath) -> dict[str, Any]:
        """Where the weights come from, in one way of saying it: a repository, or a folder."""
        fail = self._builder.fail
        values = dict(values)
        if "open-clip" in table:
            named = table["open-clip"]
            if not isinstance(named, list) or len(named) != 2 or not all(isinstance(item, str) for item in named):
                fail(
                    (*at, "open-clip"),
                    f'must be a model and its weights, like ["ViT-B-16", "openai"]; got {shown(named)}',
                )
            kept = self._lock.get(at[-1], {})
            # open_clip takes seconds to import: what it once said is in the lock.
            values["repo"] = kept["repo"] if kept.get("open-clip") == named else self._of_open_clip(named, at)
        repo = values.get("repo")
        if repo is not None and repo.startswith("local-dir:"):
            values["folder"], values["repo"] = repo.removeprefix("local-dir:"), None
        elif repo is not None:
            values["repo"] = repo = repo.removeprefix("hf-hub:")
            if not _REPOSITORY.fullmatch(repo) or ".." in repo or "--" in repo:
                fail((*at, "repo"), f'must be a model of the hub, like "facebook/dinov2-base"; got {shown(repo)}')
        if values.get("folder") is not None:
            folder = os.path.expanduser(values["folder"])
            values["folder"] = os.path.abspath(self._path.parent / folder)
            if not os.path.isdir(values["folder"]):
                key = "folder" if "folder" in table else "repo"
                fail((*at, key), f"names no folder: {values['folder']} is not there")
        return values

    def _of_open_clip(self, named: list[str], at: KeyPath) -> str:
        """The repository that open_clip's own table has; nothing is asked over the network."""
        import open_clip
        from open_clip.pretrained import get_pretrained_cfg

        model, tag = named
        at = (*at, "open-clip")
        tags = open_clip.list_pretrained_tags_by_model(model)
        if not tags:
            models = {name for name, _ in open_clip.list_pretrained()}
            self._builder.fail(at, f"names no model of open_clip, {model!r}.{did_you_mean(model, models)}")
        if tag not in tags:
            self._builder.fail(at, f"names no weights of {model}, {tag!r}. There are: {listed(tags, most=20)}")
        repo = "/".join(get_pretrained_cfg(model, tag).get("hf_hub", "").split("/")[:2])
        if not _REPOSITORY.fullmatch(repo):
            self._builder.fail(at, f"names weights that are not on the model hub, {model} {tag}. Take others")
        return repo

    def _of_folder(self, weights: Weights, at: KeyPath) -> Weights:
        folder = Path(cast("str", weights.folder))
        if not (folder / weights.marker).is_file():
            present = [path.name for path in files_in(folder, ["*"]) if is_pickle(path.name)]
            hint = (
                f' There is {present[0]}, a pickle: convert it, or say allow-pickle = ["{present[0]}"]'
                if present
                else ""
            )
            self._builder.fail(at, f"names the folder {folder}, which has no {weights.marker}.{hint}")
        found = folder_revision(folder, weights.files)
        if weights.revision and weights.revision != found:
            self._builder.fail(
                (*at, "revision"),
                f"is not that of the folder {folder}, whose files have changed: they are {found} now",
            )
        return replace(weights, revision=found)

    def _of_hub(self, weights: Weights, table: Mapping[str, Any], at: KeyPath) -> Weights:
        if _COMMIT.fullmatch(weights.revision):
            return weights
        asked = weights.revision or None
        kept = self._lock.get(weights.part, {})
        same = kept.get("repo") == weights.repo and kept.get("asked") == asked
        if same and _COMMIT.fullmatch(str(kept.get("revision"))):
            size = (
                kept.get("nbytes", 0) if not weights.nbytes and isinstance(kept.get("nbytes"), int) else weights.nbytes
            )
            return replace(weights, revision=str(kept["revision"]), nbytes=size)
        self.unpinned[weights.part] = asked
        self.lacking.append(
            f"{self._builder.file.where(*at)}: the weights {weights.part!r} have no pinned revision yet, so that they "
            f"could change any day. Fetch and pin them: {pull_command(self._path)}"
        )
        return replace(weights, revision="")


# ---------------------------------------------------------------------- what does not follow from types


def _check(builder: FileBuilder, profile: Profile) -> None:
    """Whether the parts fit together.

    Raises:
        UsageError: Two of them do not.
    """
    from ovseg_cli.methods.catalogue import word_methods

    fail = builder.fail
    _check_extractors(builder, profile)
    layers = (
        ("generator", "refine-layers", profile.generator.refine_layers),
        ("regions", "layers", profile.regions.layers),
    )
    for table, key, named in layers:
        for number, layer in enumerate(named):
            _check_layer(builder, layer, (table, key, number))
    methods = word_methods()
    if profile.clip.best not in methods:
        fail(
            ("clip", "best"),
            f"names no method that reads words, {profile.clip.best!r}.{did_you_mean(profile.clip.best, methods)}",
        )
    kinds = {extractor.name: extractor.kind for extractor in profile.known_extractors}
    lent: list[tuple[KeyPath, str]] = [] if profile.proxy is None else [(("proxy",), profile.proxy)]
    lent += [
        (("inference", "sight", "unsquashed", n), name) for n, name in enumerate(profile.inference.sight.unsquashed)
    ]
    for at, name in lent:
        if kinds.get(name) != "vit-key":
            fits = [known for known, kind in kinds.items() if kind == "vit-key"]
            fail(
                at,
                f"must name an extractor of kind vit-key ({', '.join(fits) or 'there is none'}), got {name!r}",
            )
    if profile.clip.best == "proxyclip" and profile.proxy is None:
        fail(
            ("clip", "best"),
            "is proxyclip, which needs the features of an extractor: name it in proxy, before the first table",
        )
    geometries: list[tuple[KeyPath, tuple[tuple[int, int], ...]]] = [(("inference",), profile.inference.windows)]
    if profile.clip.dense is not None:
        geometries.append((("clip", "dense"), profile.clip.dense.windows))
    for place, windows in geometries:
        for number, (size, stride) in enumerate(windows):
            if stride > size:
                fail((*place, "windows", number), f"would leave gaps: the stride {stride} is more than the size {size}")
    _check_tuning(builder, profile)


def _check_extractors(builder: FileBuilder, profile: Profile) -> None:
    first: dict[str, KeyPath] = {}
    places: list[tuple[KeyPath, ExtractorSpec]] = [
        ((table, number), item)
        for table, items in (("extractors", profile.extractors), ("extra-extractors", profile.extra_extractors))
        for number, item in enumerate(items)
    ]
    for at, item in places:
        if not _EXTRACTOR_NAME.fullmatch(item.name):
            builder.fail((*at, "name"), f"must be a short word without blanks and commas, got {item.name!r}")
        if item.name in first:
            line = builder.file.line(*first[item.name])
            builder.fail((*at, "name"), f"is {item.name!r}, as that of the extractor in line {line}: give it another")
        first[item.name] = (*at, "name")
        drawn = item.kind == "unet-query"
        for key, value in (("timestep", item.timestep), ("noise-seed", item.noise_seed)):
            if drawn and value is None:
                builder.fail(at, f"{key} is missing: an extractor of kind unet-query needs it")
            if not drawn and value is not None:
                builder.fail((*at, key), f"belongs to extractors of kind unet-query, and this one is {item.kind}")
        if not drawn and (len(item.layers) != 1 or not _BLOCK.fullmatch(item.layers[0])):
            builder.fail(
                (*at, "layers"), f'must be one block of the network, like ["-1"] for its last; got {shown(item.layers)}'
            )
        for number, layer in enumerate(item.layers if drawn else ()):
            _check_layer(builder, layer, (*at, "layers", number))


def _check_layer(builder: FileBuilder, layer: str, at: KeyPath) -> None:
    if not _UNET_LAYER.fullmatch(layer):
        builder.fail(
            at, f'must be a layer of a UNet, like "up_blocks.1.attentions.0" or "mid_block.attentions.0"; got {layer!r}'
        )


def _check_tuning(builder: FileBuilder, profile: Profile) -> None:
    from ovseg_cli.methods.catalogue import METHODS

    for number, tuning in enumerate(profile.clip.tuned):
        at: KeyPath = ("clip", "tuned", number)
        for place, method in enumerate(tuning.methods):
            if method not in METHODS:
                builder.fail((*at, "methods", place), f"names no method, {method!r}.{did_you_mean(method, METHODS)}")
            settings = METHODS[method].settings
            known = [f.name for kind in settings.values() for f in fields(cast("Any", kind))] if settings else []
            for row, (name, _) in enumerate(tuning.values):
                if name not in known:
                    builder.fail(
                        (*at, "values", row), f"names no number of {method}, {name!r}.{did_you_mean(name, known)}"
                    )


def _with_shapes(builder: FileBuilder, profile: Profile) -> tuple[Profile, list[str]]:
    """The shapes of features that the file leaves out, from the models' own configurations; and what is not known."""
    from ovseg_cli.profiles.weights import find_weights

    lacking = []
    found: dict[str, Any] = {}
    for name in ("extractors", "extra_extractors"):
        items = list(getattr(profile, name))
        for number, item in enumerate(items):
            if item.dim and item.grid:
                continue
            where = builder.file.where(name.replace("_", "-"), number)
            folder = find_weights(item.weights)
            shape = None
            if folder is not None:
                shape = feature_shape(folder, _USES[item.kind], item.layers, item.input_size)
            if shape is not None and all(shape):
                items[number] = replace(item, dim=item.dim or shape[0], grid=item.grid or shape[1])
            elif folder is not None:
                raise UsageError(
                    f"{where}: the extractor {item.name!r} needs dim and grid, as the configuration in {folder} does "
                    "not tell the length of its features and the cells along their side."
                )
            elif item.weights.revision:
                lacking.append(
                    f"{where}: the extractor {item.name!r} has no dim and grid, and its model is not on this machine "
                    f"to read them from. Fetch it: {pull_command(builder.file.path)}"
                )
        found[name] = tuple(items)
    return replace(profile, **found), lacking


# ---------------------------------------------------------------------- pinning


def lock_of(path: Path) -> Path:
    """The file in which `ovseg pull` pins what a profile leaves open: beside it."""
    return path.with_name(path.name.removesuffix(SUFFIX) + LOCK_SUFFIX)


def _read_lock(path: Path) -> dict[Any, dict[str, Any]]:
    lock = lock_of(path)
    if not os.path.lexists(lock):
        return {}
    tables = read_toml(lock, what="lock").data.get("weights", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError(f"{lock} is not what ovseg pull writes. Delete it, and pin again: {pull_command(path)}")
    return tables


def pin_profile(path: Path, *, offline: bool = False) -> Path | None:
    """Ask the hub for the revisions that a file leaves open, and write them beside it.

    A repository that lacks the files which are wanted is told before anything large is fetched.

    Args:
        path: The profile.
        offline: Whether the hub may not be asked.

    Returns:
        The lock; None where nothing was open.

    Raises:
        UsageError: The profile is not sound.
        WeightsError: The hub cannot be asked, or a repository has not what is wanted.
        OutputError: The lock cannot be written.
    """
    reading = read_profile(path)
    if not reading.unpinned:
        return None
    if offline:
        raise WeightsError(f"{reading.lacking[0]} without --offline.")
    kept = _read_lock(path)
    tables = dict(kept)
    for weights in reading.profile.every_weights:
        if weights.part not in reading.unpinned:
            continue
        asked = reading.unpinned[weights.part]
        sha, sizes = look_up(weights, asked)
        named = reading.file.data["weights"][weights.part].get("open-clip")
        tables[weights.part] = {
            "repo": weights.repo,
            **({} if named is None else {"open-clip": named}),
            **({} if asked is None else {"asked": asked}),
            "revision": sha,
            "nbytes": sum(sizes.values()),
        }
    writer = Writer()
    writer.comment(
        f"Pinned by ovseg pull for {path.name}: keep it beside that file. Without a table its revision is asked for "
        "anew."
    )
    wanted = {weights.part for weights in reading.profile.every_weights}
    for part, table in tables.items():
        if part in wanted:
            writer.header(f"[weights.{part}]")
            for key, value in table.items():
                writer.pair(key, value)
    write_text(lock_of(path), "\n".join(writer.lines) + "\n")
    return lock_of(path)


def look_up(weights: Weights, asked: str | None) -> tuple[str, dict[str, int]]:
    """What the hub says of a repository: the commit, and the sizes of the files that would be fetched.

    Args:
        weights: The repository and the files.
        asked: A commit, a branch or a tag; None for the default branch.

    Raises:
        WeightsError: The hub does not answer, has no such repository, or that one lacks the weights.
    """
    import fnmatch

    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(cast("str", weights.repo), revision=asked, files_metadata=True)
        sha, siblings = str(info.sha), {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    except Exception as error:  # the hub client raises a dozen unrelated types; each means "no answer"
        told = (str(error).strip().splitlines() or ["no message"])[0][:200]
        raise WeightsError(
            f"The model hub does not tell about {weights.repo} ({type(error).__name__}: {told}). Check the name, the "
            "network, and whether the model wants you to accept its licence and to log in."
        ) from error
    if weights.marker not in siblings:
        pickles = [name for name in siblings if is_pickle(name) and "/" not in name]
        others = [name for name in siblings if name.endswith(".safetensors")]
        if others:
            hint = f"It has {listed(others, most=3)}: name the one to load as marker."
        elif pickles:
            hint = (
                f"It has no safetensors at all, only {listed(pickles, most=3)}, which are pickles: take another "
                f'repository, or say allow-pickle = ["{pickles[0]}"].'
            )
        else:
            hint = "It has no weights that ovseg could load."
        raise WeightsError(f"{weights.repo} has no {weights.marker}, and nothing was fetched of it. {hint}")
    wanted = {n: s for n, s in siblings.items() if any(fnmatch.fnmatchcase(n, p) for p in weights.files)}
    return sha, wanted


def look_up_missing(path: Path, *, offline: bool = False) -> Profile:
    """The pinned profile of a file; where weights are missing here, the hub is asked whether it has them.

    Args:
        path: The profile.
        offline: Whether the hub may not be asked.

    Returns:
        The profile; shapes of features that only its models can tell are 0.

    Raises:
        WeightsError: The hub has not what is wanted.
    """
    from ovseg_cli.profiles.weights import find_weights

    reading = read_profile(path)
    _seen[path] = reading.profile
    for weights in reading.profile.weights:
        if weights.repo is not None and not offline and find_weights(weights) is None:
            look_up(weights, weights.revision)
    return reading.profile


# ---------------------------------------------------------------------- what a store has kept


@lru_cache(maxsize=16)
def _tell_once(message: str) -> None:
    log.warning("%s", message)


def current_profile(kept: Profile) -> Profile:
    """The profile that a store has kept, or its file where that says the same, which knows where weights lie now.

    A file that has changed is told, and the store goes on with what its prototypes were made with.

    Args:
        kept: As the store has it.
    """
    path = Path(kept.source or "")
    _seen.setdefault(path, kept)
    if not path.is_file():
        return kept
    try:
        now = load_profile(path)
    except OvsegError as error:
        _tell_once(f"{error} This store goes on with what it has kept of {path.name}.")
        return kept
    changed = differences(kept, now)
    if not changed:
        return now
    _seen[path] = kept
    _tell_once(
        f"The file {path} has changed since this store was made with it ({listed(changed, most=3, between='; ')}). The "
        f"store goes on with what its prototypes were made with. For the new values make another store: "
        f"ovseg --profile {shlex.quote(typed(path))} --store DIR …"
    )
    return kept


# ---------------------------------------------------------------------- writing


def profile_text(profile: Profile, name: str) -> str:
    """A file to start from.

    Args:
        profile: The profile whose models and numbers it has.
        name: How the file is to be called.
    """
    intro = (
        f"A profile of your own: ovseg --profile {name} … It begins as {profile.name}; change what you like. Fields "
        "that have a default may be left out, and so may dim and grid of an extractor, which its model tells.",
        "Weights come from one place each: repo = a model of the hub, with revision = a commit (left out: "
        "ovseg pull pins the latest); folder = a folder of yours, relative to this file; or "
        'open-clip = ["ViT-B-16", "openai"]. Only safetensors are read; a pickle has to be named in allow-pickle, and '
        "then its tensors are read and nothing else.",
    )
    return text_of(profile, intro=intro, weights=[_weights_table(profile, part) for part in profile.every_weights])


def _weights_table(profile: Profile, weights: Weights) -> dict[str, Any]:
    if weights.bundled is not None:
        return {"bundled": weights.bundled}
    if weights.folder is not None:
        weights = replace(weights, revision="")
    use = _use_in(profile, weights)
    marker = default_marker(use, weights.variant, weights.allow_pickle)
    usual = {
        "marker": marker,
        "files": default_files(use, weights.variant, weights.marker),
        "licence": _NO_LICENCE,
        "nbytes": 0,
        "revision": "",
    }
    return {
        key: value
        for key, field in written_fields(Weights).items()
        if (value := getattr(weights, field.name)) not in (None, ()) and usual.get(key) != value
    }


def _use_in(profile: Profile, weights: Weights) -> Use:
    if weights == profile.generator.weights:
        return "diffusion"
    if weights == profile.clip.weights:
        return "clip"
    if weights == profile.regions.sam:
        return "sam"
    return next((_USES[e.kind] for e in profile.known_extractors if e.weights == weights), "domain")


def write_profile(path: Path, profile: Profile, *, overwrite: bool = False) -> None:
    """Write a file to start from.

    Args:
        path: The file.
        profile: The profile whose models and numbers it has.
        overwrite: Whether a file that is there is replaced.

    Raises:
        UsageError: The file is there, or no profile can be called so.
        OutputError: It cannot be written.
    """
    from ovseg_cli.profiles.registry import PROFILES

    name = path.name.removesuffix(SUFFIX)
    if not path.name.endswith(SUFFIX) or path.name.endswith(LOCK_SUFFIX) or not _NAME.fullmatch(name):
        raise UsageError(f"A profile's file is called NAME.toml, with letters, digits, '-' and '_'; got {path.name!r}.")
    if name in PROFILES:
        raise UsageError(f"{name!r} is a profile of ovseg's own. Give the file another name.")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path} is there already. Name another file, or delete it first.")
    write_text(path, profile_text(profile, typed(path) if path.is_absolute() else str(path)))
