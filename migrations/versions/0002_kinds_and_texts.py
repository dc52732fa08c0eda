"""More sources of a class's kind, and a cache of text embeddings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _rebuild_category(before="'user', 'default'", after="'user', 'list', 'clip', 'default'")
    op.create_table(
        "text_embedding",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_text_embedding")),
        sa.UniqueConstraint("model", "text", name=op.f("uq_text_embedding_model_text")),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("text_embedding")
    op.execute("UPDATE category SET kind_source = 'default' WHERE kind_source IN ('list', 'clip')")
    _rebuild_category(before="'user', 'list', 'clip', 'default'", after="'user', 'default'")


def _rebuild_category(*, before: str, after: str) -> None:
    """Change which values `kind_source` may have."""
    connection = op.get_bind()
    if connection.execute(sa.text("PRAGMA foreign_keys")).scalar():
        # Batch mode drops the old table, which would take all support images and prototypes with it.
        raise RuntimeError("this migration must run with foreign keys off")
    last_id = connection.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'category'")).scalar()
    # The table is written out, as reflection sees neither its checks nor AUTOINCREMENT.
    with op.batch_alter_table("category", copy_from=_category(before)) as batch:
        batch.drop_constraint(op.f("ck_category_kind_source"), type_="check")
        batch.create_check_constraint(op.f("ck_category_kind_source"), f"kind_source IN ({after})")
    if last_id is not None:  # the copy counts on from the classes that are there, not from those that ever were
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = 'category'"))
        connection.execute(
            sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('category', :seq)"), {"seq": last_id}
        )


def _category(sources: str) -> sa.Table:
    """The table of classes as revision 0001 made it, with these sources of a kind."""
    return sa.Table(
        "category",
        sa.MetaData(),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("generation", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("kind_source", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("file_bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_category")),
        sa.CheckConstraint("kind IN ('thing', 'stuff')", name=op.f("ck_category_kind")),
        sa.CheckConstraint(f"kind_source IN ({sources})", name=op.f("ck_category_kind_source")),
        sa.UniqueConstraint("key", name=op.f("uq_category_key")),
        sa.UniqueConstraint("slug", name=op.f("uq_category_slug")),
        sa.UniqueConstraint("generation", name=op.f("uq_category_generation")),
        sqlite_autoincrement=True,
    )
