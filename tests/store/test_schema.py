from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

import ovseg_cli
from ovseg_cli.errors import StoreCorruptError, StoreError, StoreReadOnlyError, StoreVersionError
from ovseg_cli.store import Store, schema
from ovseg_cli.store.tables import Base
from tests.store.helpers import FakeProfile, assert_whole, make_class


def statements(file: Path) -> dict[str, str]:
    """Name to definition of everything in a database, with white space evened out."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    # A table that a migration has rebuilt has its name in quotes.
    tidy = {name: re.sub(r'^(CREATE TABLE) "(\w+)"', r"\1 \2", re.sub(r"\s+", " ", sql)) for name, sql in rows}
    return {name: sql.replace(" ,", ",") for name, sql in tidy.items() if name != "alembic_version"}


@contextmanager
def connected(file: Path) -> Iterator[Connection]:
    """A transaction on a database file, whatever characters its path has."""
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(file), poolclass=NullPool)
    with engine.begin() as connection:
        yield connection


def execute(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()


def parts(definition: str) -> tuple[str, list[str]]:
    """Split a CREATE statement into its head and its parts, whose order among constraints has no meaning."""
    head, _, body = definition.partition("(")
    return head, sorted(part.rstrip(") ") for part in re.split(r", (?=CONSTRAINT|\"?\w+\"? [A-Z])", body))


class TestMigrationsAndTablesAgree:
    def test_alembic_finds_no_difference(self, store: Store) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        with connected(store.path / "ovseg.db") as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, Base.metadata) == []

    def test_definitions_are_the_same(self, store: Store, tmp_path: Path) -> None:
        """Also what Alembic does not compare: checks, cascades, AUTOINCREMENT."""
        with connected(tmp_path / "direct.db") as connection:
            Base.metadata.create_all(connection)
        migrated, direct = statements(store.path / "ovseg.db"), statements(tmp_path / "direct.db")
        assert migrated.keys() == direct.keys()
        for name in direct:
            assert parts(migrated[name]) == parts(direct[name]), name

    def test_revisions_are_all_listed(self) -> None:
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(schema.migrations_path()).replace("%", "%%"))
        scripts = ScriptDirectory.from_config(config)
        assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == schema.REVISIONS

    def test_downgrade_takes_everything_away(self, store: Store) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(schema.migrations_path()).replace("%", "%%"))
        with connected(store.path / "ovseg.db") as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, "base")
            left = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
        assert set(left) <= {"alembic_version", "sqlite_sequence"}


class TestWhereMigrationsAre:
    def test_checkout(self) -> None:
        assert schema.migrations_path() == Path(ovseg_cli.__file__).resolve().parent.parent / "migrations"

    def test_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "100% site-packages" / "ovseg_cli"
        shutil.copytree(schema.migrations_path(), package / "_migrations")
        monkeypatch.setattr(schema, "__file__", str(package / "store" / "schema.py"))
        assert schema.migrations_path() == package / "_migrations"
        store = Store.open(tmp_path / "store", profile=FakeProfile())
        store.add_class(make_class("cat", 0))
        assert_whole(store, make_class("cat", 0))

    def test_wheel_is_told_to_carry_them(self) -> None:
        import tomllib

        pyproject = Path(ovseg_cli.__file__).resolve().parent.parent / "pyproject.toml"
        wheel = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
        assert wheel["force-include"]["migrations"] == "ovseg_cli/_migrations"

    def test_neither(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(schema, "__file__", str(tmp_path / "ovseg_cli" / "store" / "schema.py"))
        with pytest.raises(StoreError, match="install ovseg again"):
            schema.migrations_path()


class TestOtherSchemas:
    def test_newer(self, store_path: Path) -> None:
        execute(store_path / "ovseg.db", "UPDATE alembic_version SET version_num = '0042'")
        with pytest.raises(StoreVersionError, match=r"made by a newer ovseg \(schema 0042.*update ovseg"):
            Store.open(store_path)

    @pytest.mark.parametrize("rows", [0, 2])
    def test_no_single_revision(self, store_path: Path, rows: int) -> None:
        change = "DELETE FROM alembic_version" if rows == 0 else "INSERT INTO alembic_version VALUES ('0001')"
        execute(store_path / "ovseg.db", change)
        with pytest.raises(StoreCorruptError, match=f"{rows} schema revisions"):
            Store.open(store_path)

    def test_some_other_database(self, tmp_path: Path) -> None:
        execute(tmp_path / "ovseg.db", "CREATE TABLE recipes (id INTEGER)")
        with pytest.raises(StoreCorruptError, match="not an ovseg store"):
            Store.open(tmp_path, profile=FakeProfile())


@pytest.fixture
def future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A later version of ovseg, with one more migration."""
    package = tmp_path / "future" / "ovseg_cli"
    versions = Path(shutil.copytree(schema.migrations_path(), package / "_migrations")) / "versions"
    (versions / "9999_more.py").write_text(
        "from alembic import op\nimport sqlalchemy as sa\n"
        f"revision, down_revision = '9999', '{schema.REVISIONS[-1]}'\n"
        "def upgrade():\n"
        "    with op.batch_alter_table('category') as batch:\n"
        "        batch.add_column(sa.Column('colour', sa.String(), nullable=True))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(schema, "__file__", str(package / "store" / "schema.py"))
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9999"))
    return versions


@pytest.mark.usefixtures("future")
class TestUpgrade:
    def test_older_store_is_upgraded_and_its_backup_kept(
        self, store_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = Store.open(store_path)
        assert_whole(store, make_class("cat", 0))
        assert "colour" in statements(store_path / "ovseg.db")["category"]
        (backup,) = store_path.glob(f"ovseg-{schema.REVISIONS[-2]}-*.db")
        assert "colour" not in statements(backup)["category"]
        (notice,) = caplog.messages
        assert f"from schema {schema.REVISIONS[-2]} to 9999" in notice
        assert backup.name in notice
        Store.open(store_path)
        assert len(caplog.messages) == 1

    def test_read_only_store_cannot_be_upgraded(self, store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ovseg_cli.store.store.is_writable", lambda *paths: False)
        with pytest.raises(StoreReadOnlyError, match="has to be upgraded"):
            Store.open(store_path)

    def test_failed_upgrade_changes_nothing(self, store_path: Path, future: Path) -> None:
        script = future / "9999_more.py"
        script.write_text(script.read_text() + "    op.execute('SELECT * FROM nothing_of_this_name')\n")
        before = statements(store_path / "ovseg.db")
        with pytest.raises(StoreCorruptError, match="lacks what a store has"):
            Store.open(store_path)
        assert statements(store_path / "ovseg.db") == before
