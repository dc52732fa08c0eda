"""First schema: classes, their support images and prototypes, runs and evaluations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "store_meta",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("profile_name", sa.String(), nullable=False),
        sa.Column("profile_digest", sa.String(), nullable=False),
        sa.Column("profile_record", sa.JSON(), nullable=False),
        sa.Column("vector_revision", sa.Integer(), nullable=False),
        sa.Column("vector_token", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_store_meta")),
        sa.CheckConstraint("id = 1", name=op.f("ck_store_meta_single_row")),
    )
    op.create_table(
        "category",
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
        sa.CheckConstraint("kind_source IN ('user', 'default')", name=op.f("ck_category_kind_source")),
        sa.UniqueConstraint("key", name=op.f("uq_category_key")),
        sa.UniqueConstraint("slug", name=op.f("uq_category_slug")),
        sa.UniqueConstraint("generation", name=op.f("uq_category_generation")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "support_image",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("category_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=True),
        sa.Column("prompt", sa.String(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_support_image")),
        sa.UniqueConstraint("category_id", "position", name=op.f("uq_support_image_category_id_position")),
        sa.ForeignKeyConstraint(
            ["category_id"],
            ["category.id"],
            name=op.f("fk_support_image_category_id_category"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "extractor",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_extractor")),
        sa.UniqueConstraint("digest", name=op.f("uq_extractor_digest")),
    )
    op.create_table(
        "prototype",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("category_id", sa.Integer(), nullable=False),
        sa.Column("extractor_id", sa.Integer(), nullable=False),
        sa.Column("support_id", sa.Integer(), nullable=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("norm", sa.Double(), nullable=False),
        sa.Column("pixels", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prototype")),
        sa.CheckConstraint("role IN ('fg', 'bg')", name=op.f("ck_prototype_role")),
        sa.CheckConstraint("kind IN ('mean', 'instance', 'part')", name=op.f("ck_prototype_kind")),
        sa.ForeignKeyConstraint(
            ["category_id"], ["category.id"], name=op.f("fk_prototype_category_id_category"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["extractor_id"], ["extractor.id"], name=op.f("fk_prototype_extractor_id_extractor")),
        sa.ForeignKeyConstraint(
            ["support_id"],
            ["support_image.id"],
            name=op.f("fk_prototype_support_id_support_image"),
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_prototype_category_id_extractor_id"), "prototype", ["category_id", "extractor_id"])
    op.create_index(op.f("ix_prototype_extractor_id"), "prototype", ["extractor_id"])
    op.create_index(op.f("ix_prototype_support_id"), "prototype", ["support_id"])
    op.create_table(
        "run",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("command", sa.String(), nullable=False),
        sa.Column("argv", sa.JSON(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("classes", sa.JSON(), nullable=False),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.Column("output", sa.String(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_run")),
        sa.CheckConstraint("status IN ('running', 'finished', 'interrupted')", name=op.f("ck_run_status")),
        sa.UniqueConstraint("id", name=op.f("uq_run_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "run_item",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_number", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("output", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_item")),
        sa.CheckConstraint("status IN ('done', 'skipped', 'failed')", name=op.f("ck_run_item_status")),
        sa.ForeignKeyConstraint(
            ["run_number"], ["run.number"], name=op.f("fk_run_item_run_number_run"), ondelete="CASCADE"
        ),
    )
    op.create_index(op.f("ix_run_item_run_number_status"), "run_item", ["run_number", "status"])
    op.create_table(
        "evaluation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_number", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation")),
        sa.ForeignKeyConstraint(
            ["run_number"], ["run.number"], name=op.f("fk_evaluation_run_number_run"), ondelete="SET NULL"
        ),
    )
    op.create_index(op.f("ix_evaluation_run_number"), "evaluation", ["run_number"])


def downgrade() -> None:
    for table in (
        "evaluation",
        "run_item",
        "run",
        "prototype",
        "extractor",
        "support_image",
        "category",
        "store_meta",
    ):
        op.drop_table(table)
