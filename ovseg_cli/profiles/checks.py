"""Whether weights on this machine are what they were published as, or have changed since: every byte is read."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ovseg_cli.profiles.folders import folder_revision
from ovseg_cli.profiles.specs import Weights, bundled_revision
from ovseg_cli.profiles.weights import find_weights

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT = re.compile(r"[0-9a-f]{40}")
_PIECE = 2**20


def damaged_files(weights: Weights) -> tuple[Path, ...]:
    """The files of a set of weights that have changed on this machine; reads them piece by piece.

    What is bundled is compared with the revision that the profile names. The hub's cache calls each file by its digest:
    SHA-256 for large files, git's SHA-1 for small ones. Where it cannot make links (on some Windows machines) its files
    have no such names, and are not checked.

    Args:
        weights: The weights; they may be absent, and nothing is damaged then.

    Returns:
        The files themselves, not the links to them; for bundled weights, which have one digest for all their tensors,
        their folder.
    """
    folder = find_weights(weights)
    if folder is None:
        return ()
    if weights.bundled is not None:
        return () if bundled_revision(folder) == weights.revision else (folder,)
    if weights.folder is not None:
        return () if folder_revision(folder, weights.files) == weights.revision else (folder,)
    blobs = [path.resolve() for path in sorted(folder.rglob("*")) if path.is_symlink() and path.is_file()]
    return tuple(blob for blob in dict.fromkeys(blobs) if not _is_as_named(blob))


def _is_as_named(blob: Path) -> bool:
    """Whether a file of the hub's cache has the digest that it is named by."""
    if _SHA256.fullmatch(blob.name):
        digest = hashlib.sha256()
    elif _GIT.fullmatch(blob.name):
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
    else:
        return True
    with blob.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest() == blob.name
