from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile

import pytest
import sqlalchemy
import typer.testing

from ovseg_cli.store import schema

# Some libraries read these once, when they are imported, so they are set before any test module is.
_NOWHERE = tempfile.mkdtemp(prefix="ovseg-tests-")
atexit.register(shutil.rmtree, _NOWHERE, ignore_errors=True)
os.environ.update(
    HF_HOME=os.path.join(_NOWHERE, "hf"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
    # Threads that spin at every barrier starve each other when the machine has other work.
    GOMP_SPINCOUNT=os.environ.get("GOMP_SPINCOUNT", "10000"),
)

# Typer's runner builds all commands anew at each call, which takes longer than what most of them do.
typer.testing._get_command = functools.cache(typer.testing._get_command)


@functools.cache
def empty_store() -> tuple[str, ...]:
    """What SQLite is told to make the tables of a store, as the migrations make them."""
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.begin() as connection:
        schema.upgrade(connection)
        lines = tuple(connection.connection.driver_connection.iterdump())
    engine.dispose()
    return lines[1:-1]  # without the transaction's beginning and end


@pytest.fixture(autouse=True)
def ready_made_schema(monkeypatch):
    """Make new stores in one step, not by all migrations since the first; tests/store has them made as users do."""
    upgrade = schema.upgrade
    lines = empty_store()

    def upgrade_or_make(connection: sqlalchemy.Connection) -> None:
        if sqlalchemy.inspect(connection).get_table_names():
            upgrade(connection)
        else:
            for line in lines:
                connection.exec_driver_sql(line)

    monkeypatch.setattr(schema, "upgrade", upgrade_or_make)


_LOADED: dict[tuple[object, ...], object] = {}


@pytest.fixture(autouse=True)
def models_loaded_once(monkeypatch):
    """Load each of the bundled models once in a process: it is the same in every test, and takes up to a second."""
    models = sys.modules.get("ovseg_cli.models")
    if models is None:  # a test without models shall not load torch for this
        return
    get = models.Models._get

    def get_or_share(self, kind, weights):
        place = (kind, weights)
        if weights.bundled and place not in self._loaded:
            key = (*place, self.device, self.dtype)
            if key in _LOADED:
                self._loaded[place] = _LOADED[key]
            else:
                _LOADED[key] = get(self, kind, weights)
        return get(self, kind, weights)

    monkeypatch.setattr(models.Models, "_get", get_or_share)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Do without waiting for the disk: no test can cut the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def own_world(tmp_path_factory, monkeypatch):
    """Give every test a home, caches and a default store of its own; subprocesses inherit them."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("OVSEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("OVSEG_STORE", str(home / "store"))
    # A terminal's width and colours would otherwise leak into what the commands print.
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return home
