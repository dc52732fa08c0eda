"""Where the store of a user is, and a glance into it for shells that complete names: no library is imported for it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ovseg_cli.errors import NoDefaultStoreError

DATABASE_NAME = "ovseg.db"


def default_store_path() -> Path:
    """Give the store that is used when none is named.

    Returns:
        `OVSEG_STORE` when it is set and not empty, else the platform's folder for user data.

    Raises:
        NoDefaultStoreError: If that folder would be in a home that this user does not have.
    """
    import platformdirs

    named = os.environ.get("OVSEG_STORE")
    if named:
        return Path(os.path.expanduser(named))
    home = Path(os.path.expanduser("~"))
    try:
        default = Path(platformdirs.user_data_dir("ovseg", appauthor=False))
    except RuntimeError:  # neither HOME nor an entry for this user, as in many containers
        default = home / "ovseg"
    if home in default.parents and not home.is_dir():
        raise NoDefaultStoreError(
            "This user has no home folder, so there is no default place for a store. "
            "Name one with --store DIR, or in OVSEG_STORE."
        )
    return default


def glance_at_class_names(store: Path) -> list[str]:
    """The names of the classes in a store, none where it cannot be read just now; nothing is checked or changed.

    Args:
        store: The store's folder.
    """
    try:
        with closing(sqlite3.connect(f"{(store / DATABASE_NAME).absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM category ORDER BY id")]
    except (sqlite3.Error, OSError):
        return []
