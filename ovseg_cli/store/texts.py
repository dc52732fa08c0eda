"""Embeddings of texts, kept so that a class list of thousands is embedded once and not in every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from ovseg_cli.store.digests import rows_digest
from ovseg_cli.store.tables import TextEmbedding

MOST_TEXTS = 20_000
"""How many embeddings a store keeps, of all models together; the oldest go first. One of 512 to 900 numbers (CLIP's
ViT-B and ViT-L) fills a database page of 4 kB, so all of them take about 85 MB."""

_DTYPE = np.dtype("<f4")
_CHUNK = 5_000  # values in one statement; SQLite takes 32766


def load(session: Session, model: str, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Read embeddings, as far as they are kept.

    Args:
        session: Reading session.
        model: What made them.
        texts: The texts.

    Returns:
        Text to float32 (E,). A damaged value counts as not kept.
    """
    wanted = [text for text in dict.fromkeys(texts) if _is_storable(text)]
    found: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(wanted), _CHUNK):
        rows = session.execute(
            select(TextEmbedding.text, TextEmbedding.vector, TextEmbedding.digest).where(
                TextEmbedding.model == model, TextEmbedding.text.in_(wanted[start : start + _CHUNK])
            )
        )
        for text, blob, digest in rows:
            if digest == _digest(model, text, blob):
                found[text] = np.frombuffer(blob, _DTYPE).astype(np.float32)
    return found


def keep(session: Session, model: str, vectors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write embeddings, and drop the oldest ones beyond `MOST_TEXTS`.

    Args:
        session: Writing session.
        model: What made them.
        vectors: Text to float32 (E,). They take the place of what is kept of the same texts: that is damaged, or the
            same.
    """
    blobs = {text: vector.astype(_DTYPE).tobytes() for text, vector in vectors.items() if _is_storable(text)}
    rows = [
        {"model": model, "text": text, "vector": blob, "digest": _digest(model, text, blob)}
        for text, blob in blobs.items()
    ]
    if not rows:
        return
    statement = insert(TextEmbedding)
    new = {"vector": statement.excluded.vector, "digest": statement.excluded.digest}
    session.execute(statement.on_conflict_do_update(index_elements=["model", "text"], set_=new), rows[-MOST_TEXTS:])
    newest_too_many = session.scalar(
        select(TextEmbedding.id).order_by(TextEmbedding.id.desc()).offset(MOST_TEXTS).limit(1)
    )
    if newest_too_many is not None:
        session.execute(delete(TextEmbedding).where(TextEmbedding.id <= newest_too_many))


def _digest(model: str, text: str, blob: bytes) -> str:
    return rows_digest([(("model", "text", "vector"), [(model, text, blob)])])


def _is_storable(text: str) -> bool:
    """Whether a text is Unicode; bytes of a command line that are none come as half characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
