"""The tables of a store, as typed SQLAlchemy classes.

The schema itself is made by the migrations; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UnsoundValueError(ValueError):
    """A value in the database that none of ours can be."""


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time, kept as UTC: SQLite has no time zones of its own."""

    impl = DateTime
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Read what SQLite keeps as text, whose bits may have changed.

        Raises:
            UnsoundValueError: By what is returned, if a value is no time.
        """
        process = super().result_processor(dialect, coltype)

        def checked(value: Any) -> datetime | None:
            try:
                return process(value) if process is not None else value
            except (TypeError, ValueError) as error:
                raise UnsoundValueError(f"a time cannot be read: {error}") from error

        return checked

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware time into naive UTC."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn naive UTC into an aware time."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of all tables; constraints have names, so that a later migration can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy when the class is made
        datetime: UTCDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        bytes: LargeBinary,
    }


class StoreMeta(Base):
    """The single row that says what this store is."""

    __tablename__ = "store_meta"
    __table_args__ = (CheckConstraint("id = 1", name="single_row"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    profile_name: Mapped[str]
    profile_digest: Mapped[str]
    profile_record: Mapped[dict[str, Any]]
    # The revision counts changes of the vectors; the token is new with each change. Two stores (or a
    # store and its restored backup) can come to the same count with other vectors, never to the same token.
    vector_revision: Mapped[int]
    vector_token: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class Category(Base):
    """A class; `content_digest` is that of all its rows here (see `digests`)."""

    __tablename__ = "category"
    __table_args__ = (
        CheckConstraint("kind IN ('thing', 'stuff')", name="kind"),
        CheckConstraint("kind_source IN ('user', 'list', 'clip', 'default')", name="kind_source"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    key: Mapped[str] = mapped_column(unique=True)
    slug: Mapped[str] = mapped_column(unique=True)
    generation: Mapped[str] = mapped_column(String(32), unique=True)
    kind: Mapped[str]
    kind_source: Mapped[str]
    created_at: Mapped[datetime]
    seed: Mapped[int]
    settings: Mapped[dict[str, Any]]
    rejected: Mapped[int]
    file_bytes: Mapped[int]
    content_digest: Mapped[str | None] = mapped_column(String(64))


class SupportImage(Base):
    """A support image; its files lie in `support/<slug>/<generation>/`, named by the position.

    The digests are SHA-256 of these files; None where a file was lost before there were digests.
    """

    __tablename__ = "support_image"
    __table_args__ = (UniqueConstraint("category_id", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("category.id", ondelete="CASCADE"))
    position: Mapped[int]
    seed: Mapped[int | None]
    prompt: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    image_digest: Mapped[str | None] = mapped_column(String(64))
    attribution_digest: Mapped[str | None] = mapped_column(String(64))
    mask_digest: Mapped[str | None] = mapped_column(String(64))


class Extractor(Base):
    """A feature extractor; prototypes of one never meet features of another."""

    __tablename__ = "extractor"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str]
    dim: Mapped[int]
    spec: Mapped[dict[str, Any]]


class Prototype(Base):
    """A prototype; `vector` is the vector of length 1 as little-endian float16, `norm` its length before."""

    __tablename__ = "prototype"
    __table_args__ = (
        CheckConstraint("role IN ('fg', 'bg')", name="role"),
        CheckConstraint("kind IN ('mean', 'instance', 'part')", name="kind"),
        # Finds the prototypes of a class, and counts those of all classes by itself: the table is mostly vectors.
        Index(None, "category_id", "extractor_id", "role", "kind"),
        # An id is never given twice, so that an id from an older index cannot mean another prototype.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("category.id", ondelete="CASCADE"))
    extractor_id: Mapped[int] = mapped_column(ForeignKey("extractor.id"), index=True)
    support_id: Mapped[int | None] = mapped_column(ForeignKey("support_image.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]
    kind: Mapped[str]
    vector: Mapped[bytes]
    norm: Mapped[float]
    pixels: Mapped[int]


class TextEmbedding(Base):
    """A text as a CLIP model embeds it, little-endian float32: a cache that can be emptied at any time."""

    __tablename__ = "text_embedding"
    __table_args__ = (
        UniqueConstraint("model", "text"),
        # The ids tell the age, so none may be given twice.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    text: Mapped[str]
    vector: Mapped[bytes]
    digest: Mapped[str] = mapped_column(String(64))


class Run(Base):
    """A folder run; `number` is the order in which runs began."""

    __tablename__ = "run"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'finished', 'interrupted')", name="status"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    command: Mapped[str]
    argv: Mapped[list[str]]
    method: Mapped[str]
    classes: Mapped[list[str]]
    background: Mapped[bool]
    output: Mapped[str]
    inputs: Mapped[list[str]]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    status: Mapped[str]
    settings: Mapped[dict[str, Any]]


class RunItemRow(Base):
    """What became of one input of a run."""

    __tablename__ = "run_item"
    __table_args__ = (
        CheckConstraint("status IN ('done', 'skipped', 'failed')", name="status"),
        Index(None, "run_number", "status"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_number: Mapped[int] = mapped_column(ForeignKey("run.number", ondelete="CASCADE"))
    source: Mapped[str]
    output: Mapped[str | None]
    status: Mapped[str]
    method: Mapped[str | None]
    error: Mapped[str | None]
    width: Mapped[int | None]
    height: Mapped[int | None]


class Evaluation(Base):
    """A report of `eval`."""

    __tablename__ = "evaluation"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_number: Mapped[int | None] = mapped_column(ForeignKey("run.number", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime]
    report: Mapped[dict[str, Any]]
