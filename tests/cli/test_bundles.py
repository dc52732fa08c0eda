from __future__ import annotations

import pytest

from ovseg_cli.profiles import get_profile
from ovseg_cli.store import Store
from tests.store.test_transfer import CHANGED, bundle_of, real_class

MINI, SD15 = get_profile("mini"), get_profile("sd15")


@pytest.fixture
def filled(own_world):
    """The default store, with two classes."""
    with Store.open(own_world / "store", profile="mini") as store:
        store.add_class(real_class("cat"))
        store.add_class(real_class("glazed donut"))
    return own_world / "store"


@pytest.fixture
def files(filled, cli, here):
    """Both classes, a file each."""
    cli("export-class", "cat", "-o", "cat.ovclass")
    cli("export-class", "glazed donut", "-o", "donut.ovclass")
    return here / "cat.ovclass", here / "donut.ovclass"


def names(path):
    with Store.open(path) as store:
        return store.class_names()


class TestExport:
    def test_says_what_was_written(self, cli, filled, here):
        result = cli("export-class", "CAT", "glazed donut", "-o", "out/x.ovclass")
        assert result.exit_code == 0
        assert result.stdout.startswith("Wrote cat, glazed donut to out/x.ovclass (")
        assert (here / "out" / "x.ovclass").stat().st_size > 1000

    def test_json_and_quiet(self, cli, filled, here):
        data = cli("export-class", "cat", "-o", "x", "--json").data
        assert data == {
            "file": "x",
            "status": "written",
            "bytes": (here / "x").stat().st_size,
            "classes": ["cat"],
        }
        assert cli("export-class", "cat", "-o", "x", "-q").stdout == "x\n"

    def test_dry_run_writes_nothing(self, cli, filled, here):
        assert "Would write cat to x." in cli("export-class", "cat", "-o", "x", "--dry-run").stdout
        assert cli("export-class", "cat", "-o", "x", "--dry-run", "--json").data["status"] == "planned"
        assert list(here.iterdir()) == []

    @pytest.mark.parametrize(
        ("args", "code", "words"),
        [
            (["zebra", "-o", "x"], 2, "no class 'zebra'"),
            (["cat", "CAT", "-o", "x"], 2, "given twice"),
            (["cat", "-o", "."], 1, "folder of that name"),
        ],
    )
    def test_errors(self, cli, filled, here, args, code, words):
        result = cli("export-class", *args)
        assert result.exit_code == code
        assert words in result.error
        assert list(here.iterdir()) == []

    def test_needs_a_file(self, cli, filled):
        result = cli("export-class", "cat")
        assert result.exit_code == 2
        assert "--output" in result.stderr

    def test_without_a_store(self, cli, own_world):
        assert "no store" in cli("export-class", "cat", "-o", "x").error
        assert not (own_world / "store").exists()


class TestImport:
    def test_into_a_new_store(self, cli, files, here):
        result = cli("--store", "new", "import-class", *files)
        assert result.exit_code == 0
        assert result.stdout.splitlines() == ["cat: 2 images, 8 prototypes", "glazed donut: 2 images, 8 prototypes"]
        assert f"2 classes imported into {here / 'new'} (profile mini)" in result.stderr
        assert names("new") == ["cat", "glazed donut"]

    def test_show_class_tells_where_it_comes_from(self, cli, files):
        cli("--store", "new", "import-class", files[0])
        text = cli("--store", "new", "show-class", "cat").stdout
        assert "imported" in text
        assert "cat.ovclass" in text
        [note] = cli("--store", "new", "show-class", "cat", "--json").data["settings"]["imported"]
        assert note["profile"] == "mini"

    def test_json_and_quiet(self, cli, files):
        data = cli("--store", "new", "import-class", files[0], "--json").data
        assert [(entry["name"], entry["status"], entry["images"]) for entry in data] == [("cat", "imported", 2)]
        assert cli("--store", "newer", "import-class", *files, "-q").stdout == "cat\nglazed donut\n"

    def test_a_class_that_is_there(self, cli, files, filled):
        result = cli("import-class", *files)
        assert result.exit_code == 2
        assert "'cat', 'glazed donut'" in result.error
        cli("remove-class", "cat", "-y")
        result = cli("import-class", *files, "--if-exists", "skip")
        assert result.stdout.splitlines() == [
            "glazed donut: already there, left as it is",
            "cat: 2 images, 8 prototypes",
        ]
        data = cli("import-class", *files, "--if-exists", "skip", "--json").data
        assert data == [{"name": "cat", "status": "skipped"}, {"name": "glazed donut", "status": "skipped"}]
        assert cli("import-class", *files, "--if-exists", "replace", "-q").stdout == "cat\nglazed donut\n"
        assert names(filled) == ["glazed donut", "cat"]

    def test_dry_run_makes_no_store(self, cli, files, here):
        result = cli("--store", "new", "import-class", *files, "--dry-run")
        assert "cat: 2 images, 8 prototypes, would be imported from" in result.stdout
        data = cli("--store", "new", "import-class", files[0], "--dry-run", "--json").data
        assert data == [
            {"name": "cat", "status": "planned", "file": str(files[0]), "images": 2, "prototypes": 8},
        ]
        assert not (here / "new").exists()
        assert cli("import-class", files[0], "--dry-run").exit_code == 2

    def test_a_damaged_file_stores_nothing(self, cli, files, here):
        data = bytearray(files[1].read_bytes())
        data[len(data) // 2] ^= 1
        files[1].write_bytes(data)
        for command in (["--store", "new", "import-class"], ["--store", "new", "import-class", "--dry-run"]):
            result = cli(*command, *files)
            assert result.exit_code == 1
            assert "donut.ovclass cannot be imported" in result.error
            assert not (here / "new").exists()

    def test_a_file_that_is_none(self, cli, here):
        (here / "x").write_text("hello" * 100)
        assert "no zip archive" in cli("import-class", "x").error
        assert "No such file" in cli("import-class", "y").error

    def test_the_same_file_twice_counts_once(self, cli, files):
        assert cli("--store", "new", "import-class", files[0], files[0], "-q").stdout == "cat\n"


class TestProfiles:
    def test_a_new_store_takes_the_profile_of_the_file(self, cli, here, own_world, monkeypatch):
        monkeypatch.delenv("OVSEG_PROFILE")
        bundle_of(here / "x", real_class("cat", extractors=SD15.extractors[1:2]), profile="sd15")
        assert "(profile sd15)" in cli("import-class", "x", "--dry-run").stdout
        assert cli("import-class", "x").exit_code == 0
        assert Store.open(own_world / "store").profile_name == "sd15"

    def test_so_does_one_without_classes(self, cli, here, own_world, monkeypatch):
        monkeypatch.delenv("OVSEG_PROFILE")
        Store.open(own_world / "store", profile="mini")
        bundle_of(here / "x", real_class("cat", extractors=SD15.extractors[1:2]), profile="sd15")
        cli("import-class", "x", "--dry-run")
        assert Store.open(own_world / "store").profile_name == "mini", "a dry run changes nothing"
        cli("import-class", "x")
        assert Store.open(own_world / "store").profile_name == "sd15"

    def test_a_store_with_classes_does_not(self, cli, here, filled):
        bundle_of(here / "x", real_class("dog", extractors=SD15.extractors[1:2]), profile="sd15")
        result = cli("import-class", "x")
        assert result.exit_code == 2
        assert "'sd15'" in result.error
        result = cli("import-class", "x", "--profile", "sd15")
        assert result.exit_code == 2
        assert "made with profile 'mini', not 'sd15'" in result.error
        assert names(filled) == ["cat", "glazed donut"]

    def test_another_version_of_the_extractors(self, cli, here, own_world):
        bundle_of(here / "x", real_class("dog", extractors=(CHANGED,)))
        result = cli("import-class", "x")
        assert result.exit_code == 2
        assert "another version" in result.error
        assert not (own_world / "store").exists()
