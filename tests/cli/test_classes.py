from __future__ import annotations

import json
import sqlite3

import pytest
from PIL import Image

from ovseg_cli.store import Store


def names(cli):
    return [entry["name"] for entry in cli("list-classes", "--json").data]


class TestAddClass:
    def test_says_what_was_made(self, cli):
        result = cli("add-class", "chocolate glazed donut", "--count", 3)
        assert result.exit_code == 0
        assert result.stdout.startswith("chocolate glazed donut: 3 images (1 made again), 8 prototypes, ")

    def test_json_is_a_list_with_a_dict_per_class(self, cli):
        data = cli("add-class", "cat", "crème brûlée", "--seed", 7, "--stuff", "--json").data
        assert [entry["name"] for entry in data] == ["cat", "crème brûlée"]
        assert data[0]["status"] == "added"
        assert data[0]["seed"] == 7
        assert (data[0]["kind"], data[0]["kind_source"]) == ("stuff", "user")
        assert data[0]["images"] == 2
        assert sum(group["count"] for group in data[0]["prototypes"]) == 8

    def test_quiet_prints_names(self, cli):
        assert cli("-q", "add-class", "cat", "猫").stdout == "cat\n猫\n"

    def test_settings_reach_the_builder(self, cli):
        cli("add-class", "cat", "--count", 4, "--steps", 9, "--seed", 5, "--prompt", "an icon of a {}")
        [entry] = cli("list-classes", "--json").data
        assert entry["images"] == 4
        assert entry["settings"]["steps"] == 9
        shown = cli("show-class", "cat", "--json").data
        assert [support["seed"] for support in shown["supports"]] == [5, 6, 7, 8]
        assert {support["prompt"] for support in shown["supports"]} == {"an icon of a {}"}

    def test_without_thing_or_stuff_the_default_is_marked_as_such(self, cli):
        [entry] = cli("add-class", "cat", "--json").data
        assert (entry["kind"], entry["kind_source"]) == ("thing", "default")

    def test_an_existing_class_is_an_error_unless_told_otherwise(self, cli):
        cli("add-class", "cat", "--seed", 1)
        result = cli("add-class", "dog", "cat")
        assert result.exit_code == 2
        assert "'cat'" in result.error
        assert "--if-exists skip" in result.error
        assert names(cli) == ["cat"], "nothing was made before all names were checked"

        result = cli("add-class", "dog", "cat", "--if-exists", "skip")
        assert result.exit_code == 0
        assert "cat: already there" in result.stdout
        assert names(cli) == ["cat", "dog"]

        data = cli("add-class", "cat", "--if-exists", "replace", "--seed", 2, "--json").data
        assert [entry["seed"] for entry in data] == [2]

    def test_skipped_classes_are_in_the_json(self, cli):
        cli("add-class", "cat")
        data = cli("add-class", "cat", "--if-exists", "skip", "--json").data
        assert data == [{"name": "cat", "status": "skipped"}]

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("", "must not be empty"),
            ("   ", "must not be empty"),
            ("cat,dog", "a comma"),
            ("a/b", "a slash"),
            ("a\\b", "a backslash"),
            ("..", "'..'"),
            ("bell\a", "control characters"),
            ("two\nlines", "control characters"),
            ("x" * 81, "at most 80 characters"),
            ("background", "no class"),
        ],
    )
    def test_a_bad_name_is_told_and_makes_no_store(self, cli, own_world, name, words):
        result = cli("add-class", "cat", name)
        assert result.exit_code == 2
        assert words in result.error
        assert not (own_world / "store").exists()

    def test_a_name_given_twice(self, cli):
        assert "twice" in cli("add-class", "cat", "CAT").error

    def test_names_are_tidied(self, cli):
        cli("add-class", "  glazed   donut ")
        assert names(cli) == ["glazed donut"]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["[bold]cat[red]", "-weird", "100%", "a'b\"c", ":cat:"])
    def test_odd_names_are_shown_as_they_are(self, cli, name):
        assert cli("add-class", "--", name).stdout.startswith(f"{name}: ")
        assert name in cli("list-classes").stdout
        assert name in cli("show-class", "--", name).stdout

    def test_dry_run_makes_nothing(self, cli, own_world):
        result = cli("add-class", "cat", "--count", 3, "--dry-run")
        assert result.exit_code == 0
        assert "a picture of a cat" in result.stdout
        assert not (own_world / "store").exists()
        data = cli("add-class", "cat", "--dry-run", "--json").data
        assert data[0]["status"] == "planned"
        assert data[0]["profile"] == "mini"

    def test_dry_run_checks_as_much_as_the_run_would(self, cli):
        cli("add-class", "cat")
        assert cli("add-class", "cat", "--dry-run").exit_code == 2
        assert "would stay" in cli("add-class", "cat", "--dry-run", "--if-exists", "skip").stdout

    def test_a_profile_that_nobody_knows(self, cli):
        result = cli("add-class", "cat", "--profile", "huge")
        assert result.exit_code == 2
        assert "mini" in result.error

    def test_a_store_of_another_profile(self, cli):
        cli("add-class", "cat")
        result = cli("add-class", "dog", "--profile", "sd15")
        assert result.exit_code == 2
        assert "'mini'" in result.error


class TestListClasses:
    def test_without_a_store_says_how_to_begin(self, cli, own_world):
        result = cli("list-classes")
        assert result.exit_code == 0
        assert "ovseg add-class" in result.stdout
        assert cli("list-classes", "--json").data == []
        assert cli("list-classes", "-q").stdout == ""
        assert not (own_world / "store").exists()

    def test_without_classes_says_so_too(self, cli):
        cli("add-class", "cat")
        cli("remove-class", "cat", "-y")
        assert "No classes yet" in cli("list-classes").stdout

    def test_in_the_order_of_making(self, cli):
        cli("add-class", "zebra", "ant")
        assert cli("list-classes", "-q").stdout == "zebra\nant\n"
        lines = cli("list-classes").stdout.splitlines()
        assert lines[0].split() == ["class", "kind", "images", "prototypes", "size", "made"]
        assert lines[1].split()[:4] == ["zebra", "thing", "2", "8"]

    def test_where_is_on_stderr(self, cli, own_world):
        cli("add-class", "cat")
        assert f"1 class in {own_world / 'store'} (profile mini)" in cli("list-classes").stderr


class TestShowClass:
    def test_tells_what_is_stored(self, cli):
        cli("add-class", "cat", "--seed", 3)
        text = cli("show-class", "CAT").stdout
        assert text.splitlines()[0] == "cat"
        for words in ("thing (by default)", "2, 1 made again", "3, 4", "a picture of a cat", "kB", "instance"):
            assert words in text
        assert "looks like" not in text

    def test_names_the_classes_that_look_alike(self, cli):
        cli("add-class", "cat", "dog", "bird", "fish", "ant")
        alike = cli("show-class", "cat", "--json").data["nearest"]
        assert len(alike) == 3
        scores = [other["similarity"] for other in alike]
        assert scores == sorted(scores, reverse=True)
        assert "cat" not in [other["name"] for other in alike]
        assert f"{alike[0]['name']} (" in cli("show-class", "cat").stdout

    def test_likeness_is_the_cosine_of_the_nearest_prototype(self, cli, own_world):
        cli("add-class", "cat", "dog")
        with Store.open(own_world / "store") as store:
            expected = []
            for extractor in store.get_class("cat").extractors:
                block = store.prototypes(["cat", "dog"], extractor)
                mean = [i for i, kind in enumerate(block.kind) if kind == "mean" and block.role_is_fg[i]]
                cat = block.vectors[next(i for i in mean if block.class_index[i] == 0)]
                dogs = block.vectors[(block.class_index == 1) & block.role_is_fg]
                expected.append(float((dogs @ cat).max()))
        [alike] = cli("show-class", "cat", "--json").data["nearest"]
        assert alike["similarity"] == pytest.approx(sum(expected) / len(expected), abs=2e-3)

    def test_draws_a_contact_sheet(self, cli, here):
        cli("add-class", "cat")
        result = cli("show-class", "cat", "--contact-sheet", "sheets/cat.png")
        assert result.exit_code == 0
        assert "sheets/cat.png" in result.stdout
        with Image.open(here / "sheets" / "cat.png") as sheet:
            assert sheet.width >= 256
            assert sheet.height >= 256
        data = cli("show-class", "cat", "--contact-sheet", "cat.png", "--json").data
        assert data["contact_sheet"] == "cat.png"

    def test_an_unknown_class_brings_a_suggestion(self, cli):
        cli("add-class", "donut")
        result = cli("show-class", "donat")
        assert result.exit_code == 2
        assert "'donut'" in result.error

    def test_without_a_store(self, cli):
        result = cli("show-class", "cat")
        assert result.exit_code == 1
        assert "ovseg add-class" in result.error


class TestRemoveClass:
    def test_takes_all_of_it_away(self, cli, own_world):
        cli("add-class", "cat", "dog")
        result = cli("remove-class", "Cat", "--yes")
        assert result.exit_code == 0
        assert "Removed cat (" in result.stdout
        assert names(cli) == ["dog"]
        assert [p.name for p in (own_world / "store" / "support").iterdir()] == ["dog"]

    def test_asks_nobody_and_so_refuses_in_a_script(self, cli):
        cli("add-class", "cat")
        result = cli("remove-class", "cat", stdin="y\n")
        assert result.exit_code == 2
        assert "--yes" in result.error
        assert names(cli) == ["cat"]

    @pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, []), ("n\n", 1, ["cat"]), ("\n", 1, ["cat"])])
    def test_asks_a_person(self, cli, monkeypatch, answer, code, left):
        cli("add-class", "cat")
        monkeypatch.setattr("ovseg_cli.cli.output.Output.interactive", True)
        result = cli("remove-class", "cat", stdin=answer)
        assert "Remove cat (" in result.stderr
        assert result.exit_code == code
        assert names(cli) == left

    def test_dry_run(self, cli):
        cli("add-class", "cat")
        assert "Would remove cat" in cli("remove-class", "cat", "--dry-run").stdout
        assert names(cli) == ["cat"]

    def test_all_or_none(self, cli):
        cli("add-class", "cat")
        assert cli("remove-class", "cat", "dog", "-y").exit_code == 2
        assert names(cli) == ["cat"]


class TestSickStores:
    def test_of_a_newer_version(self, cli, own_world, photos):
        cli("add-class", "cat")
        with sqlite3.connect(own_world / "store" / "ovseg.db") as database:
            database.execute("update alembic_version set version_num = '9999'")
        database.close()
        for args in (["list-classes"], ["add-class", "dog"], ["segment", "photos", "-c", "cat"]):
            result = cli(*args)
            assert result.exit_code == 1
            assert "newer" in result.error

    def test_that_are_no_store(self, cli, own_world):
        (own_world / "store").mkdir()
        (own_world / "store" / "ovseg.db").write_text("not a database at all, but long enough to look like one" * 9)
        result = cli("list-classes")
        assert result.exit_code == 1
        assert "ovseg.db" in result.error or "store" in result.error

    def test_with_a_damaged_index_mend_themselves_and_say_so(self, cli, own_world):
        cli("add-class", "cat", "dog")
        before = cli("show-class", "cat", "--json").data["nearest"]
        for path in (own_world / "store" / "index").glob("*.faiss"):
            path.write_bytes(b"damaged")
        result = cli("show-class", "cat", "--json")
        assert result.exit_code == 0
        assert result.data["nearest"] == before
        assert "warning: " in result.stderr
        assert cli("show-class", "cat", "--json").stderr == ""

    def test_json_stays_json_when_there_are_warnings(self, cli, own_world):
        cli("add-class", "cat", "dog")
        cli("show-class", "cat")
        for path in (own_world / "store" / "index").glob("*.faiss"):
            path.unlink()
        json.loads(cli("show-class", "cat", "--json").stdout)
