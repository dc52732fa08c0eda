"""Digests of classes, of their support files, and of cached text embeddings."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

from ovseg_cli.store.digests import class_digest, file_digest

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FILES = {"image_digest": "", "attribution_digest": ".attribution", "mask_digest": ".mask"}


def upgrade() -> None:
    # In place: rebuilding a table would copy gigabytes, and drop what hangs on its rows.
    op.execute("ALTER TABLE category ADD COLUMN content_digest VARCHAR(64)")
    for column in FILES:
        op.execute(f"ALTER TABLE support_image ADD COLUMN {column} VARCHAR(64)")
    _note_digests()
    # What is cached without a digest may be damaged already, and is soon made again.
    op.drop_table("text_embedding")
    _create_text_embedding(sa.Column("digest", sa.String(length=64), nullable=False))


def downgrade() -> None:
    op.drop_table("text_embedding")
    _create_text_embedding()
    for column in FILES:
        op.execute(f"ALTER TABLE support_image DROP COLUMN {column}")
    op.execute("ALTER TABLE category DROP COLUMN content_digest")


def _create_text_embedding(*more: sa.Column) -> None:
    op.create_table(
        "text_embedding",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        *more,
        sa.PrimaryKeyConstraint("id", name=op.f("pk_text_embedding")),
        sa.UniqueConstraint("model", "text", name=op.f("uq_text_embedding_model_text")),
        sqlite_autoincrement=True,
    )


def _digest_of(file: Path) -> str | None:
    try:
        return file_digest(file)
    except OSError:  # a file that is lost is told as such
        return None


def _note_digests() -> None:
    """Take what is there now for what was stored: nothing older says otherwise."""
    connection = op.get_bind()
    # The second column of the list of databases is a name, the third a file.
    store = Path(connection.exec_driver_sql("PRAGMA database_list").fetchone()[2]).parent
    for number, slug, generation in connection.exec_driver_sql("SELECT id, slug, generation FROM category").fetchall():
        folder = store / "support" / slug / generation
        images = connection.exec_driver_sql(
            "SELECT id, position FROM support_image WHERE category_id = ?", (number,)
        ).fetchall()
        for image, position in images:
            found = [_digest_of(folder / f"{position:03d}{part}.png") for part in FILES.values()]
            connection.exec_driver_sql(
                "UPDATE support_image SET image_digest = ?, attribution_digest = ?, mask_digest = ? WHERE id = ?",
                (*found, image),
            )
        connection.exec_driver_sql(
            "UPDATE category SET content_digest = ? WHERE id = ?", (class_digest(connection, number), number)
        )
