"""The file of a trained head, as far as it can be read without torch: its header, its digest, and who it is for.

One safetensors file holds everything: the head's parameters, the difference to CLIP where CLIP was tuned, and, as JSON
in the header, what was trained, on what, and how. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ovseg_cli.errors import ProfileMismatchError, UsageError, WeightsError
from ovseg_cli.heads.sizes import HeadSpec
from ovseg_cli.profiles.specs import DenseDefaults, Profile, Weights, digest_of

FORMAT = 1
"""Raised when the meaning of a file's contents changes."""

KEY = "ovseg_head"
"""Under which the record stands in the header."""

_MOST_HEADER = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecord:
    """What a head's file says of itself.

    Attributes:
        name: What the head is called.
        spec: What it is built from.
        base: The names that it was trained on.
        novel: Names that it was kept from.
        clip: The CLIP below it: its digest (`clip_digest`), its name for people, its licence.
        profile: The profile that it was trained with.
        data: What it was trained on: its digest, how many pictures.
        training: Seed, steps, seconds, settings; whether the training came to its end.
        templates: Prompt templates that names are read in.
        geometry: How pictures are cut up and what stands for the background: fields of `DenseDefaults`.
        tiles: (side, window, stride) where a picture is looked at as CAT-Seg's published code does it; None for crops.
        version: The version of ovseg.
        tensors: SHA-256 (hex) of the tensors.
    """

    name: str
    spec: HeadSpec
    base: tuple[str, ...]
    novel: tuple[str, ...]
    clip: Mapping[str, str]
    profile: str
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    templates: tuple[str, ...]
    geometry: Mapping[str, Any]
    tiles: tuple[int, int, int] | None = None
    version: str = ""
    tensors: str = ""

    def to_json(self) -> str:
        """As it stands in the header."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({"format": FORMAT, **data, "spec": self.spec.record()}, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, path: Path) -> HeadRecord:
        """Read `to_json` back.

        Raises:
            UsageError: It is no such record, or of a newer version.
        """
        try:
            data = _parsed(text)
            version = data.pop("format")
            if type(version) is not int or version < 1:
                raise ValueError(version)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(f"{path} is no head of ovseg: what its header says is damaged.") from error
        if version > FORMAT:
            raise UsageError(f"{path} was written by a newer version of ovseg (format {version}). Update ovseg.")
        try:
            tuples = {name: tuple(data[name]) for name in ("base", "novel", "templates")}
            tiles = data.get("tiles")
            spec = HeadSpec.from_record(data["spec"])
            return cls(**{**data, **tuples, "spec": spec, "tiles": None if tiles is None else tuple(tiles)})
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"{path} is no head of ovseg: its header lacks something, or has what no head has. Take another copy."
            ) from error

    @property
    def settings(self) -> DenseDefaults:
        """How pictures are cut up and what stands for the background.

        Raises:
            UsageError: They are of another version.
        """
        frozen = {name: _frozen(value) for name, value in self.geometry.items()}
        try:
            return DenseDefaults(**frozen)
        except (TypeError, ValueError) as error:
            raise UsageError(f"The head {self.name!r} was made by another version of ovseg: {error}.") from error

    def check_profile(self, profile: Profile, path: Path) -> None:
        """Refuse another CLIP than the head was trained on.

        Raises:
            ProfileMismatchError: It is one.
        """
        if self.clip["digest"] != clip_digest(profile.clip.weights):
            raise ProfileMismatchError(
                f"The head {path} was trained on the CLIP {self.clip['name']} of the profile {self.profile!r}, and the "
                f"profile {profile.name!r} has {profile.clip.weights.model_id}, whose features mean something else. "
                f"Take a store of --profile {self.profile}, or train a head with this one: ovseg train-head."
            )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list | tuple) else value


def clip_digest(weights: Weights) -> str:
    """Which CLIP it is: SHA-256 (hex) of its identity and pinned revision, as for embeddings of words."""
    return digest_of({"model": weights.identity, "revision": weights.revision, "variant": weights.variant})


def read_record(path: Path) -> HeadRecord:
    """The record of a head's file; nothing else of the file is read.

    Raises:
        UsageError: There is no such file, or it is no head.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MOST_HEADER:
                raise UsageError(f"{path} is no head of ovseg: it is no safetensors file.")
            header = _parsed(file.read(length))
            whole = 8 + length + _tensor_bytes(header)
            if os.fstat(file.fileno()).st_size != whole:
                raise UsageError(f"The head {path} is damaged: it has not the {whole} bytes that its header says.")
    except FileNotFoundError:
        raise UsageError(f"There is no head {path}. Train one with ovseg train-head, or see ovseg heads.") from None
    except OSError as error:
        raise UsageError(f"The head {path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no head of ovseg: it is no safetensors file.") from error
    text = header.get("__metadata__", {}).get(KEY) if isinstance(header, dict) else None
    if text is None:
        raise UsageError(f"{path} is no head of ovseg: its header does not say what was trained.")
    return HeadRecord.from_json(text, path)


def _tensor_bytes(header: Mapping[str, Any]) -> int:
    """How many bytes of tensors follow a header."""
    return max((int(value["data_offsets"][1]) for name, value in header.items() if name != "__metadata__"), default=0)


def _parsed(text: str | bytes) -> Any:
    """What JSON says, with nothing in it but what `HeadRecord.to_json` can write.

    Raises:
        ValueError: It is no JSON, has a number that is none, or is nested beyond reason.
    """
    try:
        data = json.loads(text)
        json.dumps(data, allow_nan=False)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return data


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file; computed once for as long as its size and time stay the same.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        stat = os.stat(path)
        return _digest(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    except OSError as error:
        raise WeightsError(f"The head {path} cannot be read: {error.strerror}.") from error


@lru_cache(maxsize=64)
def _digest(path: str, _size: int, _time: int, _inode: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
