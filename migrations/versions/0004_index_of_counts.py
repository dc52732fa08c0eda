"""An index that counts the prototypes of all classes without reading one of their vectors."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OLD = ["category_id", "extractor_id"]
NEW = [*OLD, "role", "kind"]


def upgrade() -> None:
    # The old one is the beginning of the new one. No row changes, so the digests of the classes stay true.
    op.drop_index(op.f("ix_prototype_category_id_extractor_id"), "prototype")
    op.create_index(op.f("ix_prototype_category_id_extractor_id_role_kind"), "prototype", NEW)


def downgrade() -> None:
    op.drop_index(op.f("ix_prototype_category_id_extractor_id_role_kind"), "prototype")
    op.create_index(op.f("ix_prototype_category_id_extractor_id"), "prototype", OLD)
