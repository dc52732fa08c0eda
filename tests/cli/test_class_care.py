from __future__ import annotations

import shutil

import pytest

from ovseg_cli.store import Store


def names(cli):
    return cli("list-classes", "-q").stdout.split()


class TestRename:
    def test_keeps_all_but_the_name(self, cli, own_world):
        cli("add-class", "cat", "dog", "bird")
        before = cli("show-class", "dog", "--json").data
        data = cli("rename-class", "DOG", "hound", "--json").data
        assert (data["from"], data["name"], data["status"]) == ("dog", "hound", "renamed")
        assert names(cli) == ["cat", "hound", "bird"], "its place in the order stays"
        after = cli("show-class", "hound", "--json").data
        for same in ("created_at", "seed", "settings", "prototypes", "nearest"):
            assert after[same] == before[same]
        with Store.open(own_world / "store") as store:
            health = store.health()
            assert health.ok
            assert health.orphans == ()
            assert {index.status for index in health.indexes} == {"fresh"}
        cli("add-class", "dog")
        assert names(cli) == ["cat", "hound", "bird", "dog"]

    def test_another_spelling_of_the_same(self, cli):
        cli("add-class", "cat")
        assert cli("rename-class", "cat", "Cat", "-q").stdout == "Cat\n"
        assert names(cli) == ["Cat"]

    def test_what_is_there_is_not_overwritten(self, cli):
        cli("add-class", "cat", "dog")
        result = cli("rename-class", "cat", "Dog")
        assert result.exit_code == 2
        assert "merge-class" in result.error
        assert cli("rename-class", "cow", "x").exit_code == 2
        assert cli("rename-class", "cat", "a;b").exit_code == 2
        assert cli("rename-class", "cat", "lion", "--dry-run").stdout == "Would rename cat to lion.\n"
        assert names(cli) == ["cat", "dog"]


class TestMerge:
    @pytest.mark.slow
    @pytest.mark.parametrize("into", ["pet", "dog"])
    def test_all_images_and_one_class(self, cli, own_world, into):
        cli("add-class", "cat", "dog", "bird")
        data = cli("merge-class", "cat", "dog", "--into", into, "--json").data
        assert (data["name"], data["status"], data["images"]) == (into, "merged", 4)
        assert sorted(names(cli)) == sorted(["bird", into])
        shown = cli("show-class", into)
        assert "merged from" in shown.stdout
        assert "cat, dog" in shown.stdout
        positions = [support["position"] for support in cli("show-class", into, "--json").data["supports"]]
        assert positions == [0, 1, 2, 3]
        with Store.open(own_world / "store") as store:
            assert store.health().ok
            assert store.health().orphans == ()

    def test_refusals_change_nothing(self, cli):
        cli("add-class", "cat", "dog", "bird")
        cli("add-class", "sky", "--stuff")
        for arguments, says in (
            (("cat", "dog", "--into", "bird"), "already has a class 'bird'"),
            (("cat", "--into", "pet"), "rename-class"),
            (("cat", "sky", "--into", "pet"), "--thing or --stuff"),
            (("cat", "cow", "--into", "pet"), "no class 'cow'"),
        ):
            result = cli("merge-class", *arguments)
            assert result.exit_code == 2
            assert says in result.error
        dry = cli("merge-class", "cat", "dog", "--into", "pet", "--dry-run", "--json").data
        assert (dry["status"], dry["merged"]) == ("planned", ["cat", "dog"])
        assert names(cli) == ["cat", "dog", "bird", "sky"]


class TestEdit:
    def test_takes_images_out_by_their_numbers(self, cli, own_world):
        cli("add-class", "cat", "--count", 5)
        before = cli("show-class", "cat", "--json").data
        data = cli("edit-class", "cat", "--drop", "3, 1", "--json").data
        assert (data["status"], data["images"]) == ("edited", 3)
        after = cli("show-class", "cat", "--json").data
        assert [support["position"] for support in after["supports"]] == [0, 2, 4]
        assert [support["seed"] for support in after["supports"]] == [
            support["seed"] for support in before["supports"] if support["position"] in (0, 2, 4)
        ]
        assert "2 images (1, 3)" in cli("show-class", "cat").stdout
        assert cli("edit-class", "cat", "--drop", "4", "--json").data["images"] == 2
        with Store.open(own_world / "store") as store:
            assert store.health().ok
            assert store.health().orphans == ()

    @pytest.mark.parametrize(
        ("drop", "says"),
        [
            ("7", "has no support image 7: its images are 0, 1"),
            ("0,1", "No support image of 'cat' would be left"),
            ("a", "takes numbers with commas"),
            ("", "takes numbers with commas"),
        ],
    )
    def test_bad_numbers(self, cli, drop, says):
        cli("add-class", "cat")
        result = cli("edit-class", "cat", "--drop", drop)
        assert result.exit_code == 2
        assert says in result.error
        assert (
            cli("edit-class", "cat", "--drop", "1", "--dry-run").stdout
            == "Would take 1 image out of cat, and leave 1.\n"
        )
        assert cli("list-classes", "--json").data[0]["images"] == 2


class TestStore:
    def test_path(self, cli, own_world):
        assert cli("store", "path", "-q").stdout == f"{own_world / 'store'}\n"
        assert cli("store").stdout == f"{own_world / 'store'}\n"
        assert not (own_world / "store").exists(), "asking makes no store"

    def test_check_names_damage_with_its_class(self, cli, own_world):
        cli("add-class", "cat", "dog")
        assert cli("store", "check", "-q").stdout == "ok\n"
        (mask,) = (own_world / "store" / "support" / "dog").glob("*/001.mask.png")
        mask.write_bytes(mask.read_bytes()[:-1])
        result = cli("store", "check")
        assert result.exit_code == 1
        assert "class 'dog'" in result.error
        assert "001.mask.png is not what was stored" in result.error
        doctor = cli("doctor", "--json").data["store"]
        assert doctor == cli("store", "check", "--json").data

    def test_repair(self, cli, own_world):
        cli("add-class", "cat")
        orphan = own_world / "store" / "support" / "cat" / ("0" * 32)
        orphan.mkdir()
        (orphan / "000.png").write_bytes(b"half")
        shutil.rmtree(own_world / "store" / "index")
        report = cli("store", "check", "--json").data
        assert report["leftovers"] == [str(orphan)]
        assert "ovseg store check --repair" in cli("store", "check").stdout
        repaired = cli("store", "check", "--repair", "--json").data
        assert repaired["repaired"]["removed"] == [str(orphan)]
        assert repaired["repaired"]["indexes"]
        assert repaired["leftovers"] == []
        assert {index["status"] for index in repaired["indexes"]} == {"fresh"}
        assert not orphan.exists()

    def test_backup_is_a_store(self, cli, own_world, here):
        cli("add-class", "cat", "dog")
        data = cli("store", "backup", "copies/one", "--json").data
        assert (data["path"], data["classes"]) == (str(here / "copies" / "one"), 2)
        assert cli("--store", "copies/one", "store", "check", "-q").stdout == "ok\n"
        assert cli("--store", "copies/one", "list-classes", "-q").stdout == "cat\ndog\n"
        assert [path.name for path in (here / "copies").iterdir()] == ["one"]
        for target, says in (("copies/one", "overwrites nothing"), (own_world / "store" / "x", "in the store itself")):
            result = cli("store", "backup", target)
            assert result.exit_code == 1
            assert says in result.error

    def test_a_damaged_store_gives_no_backup(self, cli, own_world, here):
        cli("add-class", "cat")
        next((own_world / "store" / "support" / "cat").glob("*/000.png")).unlink()
        result = cli("store", "backup", "copy")
        assert result.exit_code == 1
        assert "store check" in result.error
        assert list(here.iterdir()) == []

    @pytest.mark.slow
    def test_reindex_vacuum_upgrade(self, cli, own_world):
        cli("add-class", "cat", *(f"class {number}" for number in range(12)))
        made = cli("store", "reindex", "--json").data
        assert {entry["vectors"] for entry in made} == {13 * 4}
        assert "compared one by one" in cli("store", "reindex").stdout
        cli("remove-class", *(f"class {number}" for number in range(12)), "--yes")
        sizes = cli("store", "vacuum", "--json").data
        assert sizes["after"] < sizes["before"]
        assert cli("store", "check", "-q").stdout == "ok\n"
        assert "is up to date" in cli("store", "upgrade").stdout

    def test_without_a_store(self, cli):
        for step in ("backup x", "reindex", "upgrade", "vacuum", "check --repair"):
            result = cli("store", *step.split())
            assert result.exit_code == 1, step
            assert result.error.startswith("There is no store at")
        assert "not made yet" in cli("store", "check").stdout

    @pytest.mark.parametrize(
        "line",
        [
            "store check",
            "store check --repair",
            "store backup x",
            "store reindex",
            "store upgrade",
            "store vacuum",
            "rename-class cat dog",
            "merge-class cat dog --into pet",
            "edit-class cat --drop 1",
            "remove-class cat --yes",
            "show-class cat",
            "export-class cat -o cat.ovclass",
            "list-classes",
        ],
    )
    def test_a_store_that_is_typed_has_to_be_there(self, cli, here, line):
        """Or a slip of the pen would be told that all is well."""
        result = cli(*line.split(), "--store", here / "nowhere")
        assert result.exit_code == 1, result.stdout
        assert result.error.startswith(f"There is no store at {here / 'nowhere'}")
        assert result.stdout == ""
        assert not (here / "nowhere").exists()
