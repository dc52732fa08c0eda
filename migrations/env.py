"""Alembic environment: runs inside ovseg, on the connection that the store hands over.

There is no alembic.ini. A new revision is written by hand (see 0001); `tests/store/test_schema.py`
fails when the migrations and the tables in `ovseg_cli/store/tables.py` differ, and prints how.
"""

from __future__ import annotations

from alembic import context

from ovseg_cli.store.tables import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("these migrations run on a connection that ovseg opens: call ovseg_cli.store.schema.upgrade")

# `render_as_batch`: SQLite cannot alter a table in place, Alembic's batch mode copies it instead.
# The store has begun the transaction, so a migration happens as a whole or not at all.
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
context.run_migrations()
