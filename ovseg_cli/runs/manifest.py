"""`run.json`: what made the label maps of an output folder, and which id means which class there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from ovseg_cli.atomic import write_json
from ovseg_cli.errors import OutputError
from ovseg_cli.files.layout import MANIFEST_NAME
from ovseg_cli.urls import Place

FORMAT = 1

_LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow", "scikit-image")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contents of `run.json`.

    Attributes:
        format: version of this file's layout.
        ovseg: version of ovseg.
        id: the run's id, as in the store.
        status: `running`, `finished` or `interrupted`.
        started_at: ISO 8601 time with zone.
        finished_at: likewise, None while running.
        argv: the command line, without secrets in URLs.
        configured: the options that come from a file with defaults, each with its `value` and `from` where.
        inputs: the inputs as typed, likewise.
        classes: one mapping per class with `id`, `name` and `colour` `[r, g, b]`; the ids are those in the masks.
        background: whether id 0 is background (otherwise each pixel has a class).
        threshold: the score below which a pixel is background, None for the method's own.
        prefilter: whether classes were ruled out per picture first; `settings` says how, `predictions.jsonl` which.
        method: `asked`, `used` and `reason` (why the one became the other).
        digest: digest of everything that decides a label map, except the picture.
        options: what was asked for beside classes and method, as `SegmentOptions.record` has it.
        image_classes: the file that said which classes each picture shows: `path`, `digest` (SHA-256), `pictures` (how
            many of the run it names) and `others` (what decided for the rest: `prefilter`, or `all classes`); empty
            without one. `predictions.jsonl` says what it says.
        settings: what that came to (windows, extractors, words ...).
        profile: the model set, with ids and revisions.
        profile_digest: its digest.
        device: where it ran.
        precision: what the networks computed in (`float16`, `float32`).
        batch: how many pictures of one size might go through the models together, at most; None when none did yet.
        eased: what went through the models at once since memory did not suffice: each a mapping with the `size` of the
            picture that did not fit, and how many `images`, or `crops` of one, go together from then on.
        libraries: versions of the libraries below.
        store: `path` and `vector_revision` of the store.
        counts: images by outcome.
        relabelled: the run whose scores these label maps were made of, without the models: its `folder` and `id`, the
            `threshold` and the `classes` that were kept (empty: all); empty where models made them.
        unfamiliar: how many of the label maps are of pictures that look like nothing that the models were trained on;
            None where they know photographs, and until the run is over. `predictions.jsonl` says which.
    """

    format: int = FORMAT
    ovseg: str
    id: str
    status: Literal["running", "finished", "interrupted"]
    started_at: str
    finished_at: str | None = None
    argv: tuple[str, ...]
    configured: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...]
    classes: tuple[Mapping[str, Any], ...]
    background: bool
    threshold: float | None
    prefilter: bool = False
    method: Mapping[str, str]
    digest: str
    options: Mapping[str, Any] = field(default_factory=dict)
    image_classes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any]
    profile_digest: str
    device: str | None = None
    precision: str | None = None
    batch: int | None = None
    eased: tuple[Mapping[str, Any], ...] = ()
    libraries: Mapping[str, str]
    store: Mapping[str, Any]
    counts: Mapping[str, int] = field(default_factory=dict)
    relabelled: Mapping[str, Any] = field(default_factory=dict)
    unfamiliar: int | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their ids."""
        return tuple(str(entry["name"]) for entry in self.classes)

    def write(self, output: Place) -> None:
        """Put the manifest into `output`, in one step."""
        write_json(output / MANIFEST_NAME, asdict(self))


def read_manifest(output: Place) -> Manifest | None:
    """The manifest of an output folder, None when it has none.

    Raises:
        OutputError: it is damaged, or was written by a newer ovseg.
    """
    path = output / MANIFEST_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] > FORMAT:
            raise OutputError(f"{path} was written by ovseg {data.get('ovseg', '?')}, which is newer. Update ovseg.")
        known = {f.name for f in fields(Manifest)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in known
        }
        manifest = Manifest(**values)
        _check(manifest)
        return manifest
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(
            f"{path} is damaged ({error}). Choose another folder with -o, or start this one afresh with --overwrite."
        ) from error


def _check(manifest: Manifest) -> None:
    """Raise `ValueError` where a value is of another type than it is used as."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "digest": str,
        "background": bool,
        "argv": tuple,
        "inputs": tuple,
        "classes": tuple,
        "eased": tuple,
        "device": (str, type(None)),
        "precision": (str, type(None)),
        "batch": (int, type(None)),
        "unfamiliar": (int, type(None)),
    }
    kinds |= dict.fromkeys(
        ("configured", "method", "options", "image_classes", "settings", "profile", "libraries", "store", "relabelled"),
        dict,
    )
    for name, kind in kinds.items():
        if not isinstance(getattr(manifest, name), kind):
            raise ValueError(f"{name} cannot be {str(getattr(manifest, name))[:60]!r}")
    if not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in manifest.classes):
        raise ValueError("a class has no name")


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that can change a result, without importing them."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
