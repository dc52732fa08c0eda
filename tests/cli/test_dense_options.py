"""`ovseg segment` without prototypes, or with some: methods, words and windows on the command line."""

from __future__ import annotations

import json

import pytest

from ovseg_cli.methods.catalogue import naming_methods
from ovseg_cli.profiles import get_profile
from tests import doubles

MINI = get_profile("mini")
MANIFEST = "ovseg-out/run.json"


def manifest(here):
    return json.loads((here / MANIFEST).read_text(encoding="utf-8"))


def notes(result):
    return [line for line in result.stderr.splitlines() if line.startswith("note:")]


def one_line(result):
    """The message of a command that was typed wrongly."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "\n" not in result.error
    return result.error


@pytest.fixture
def class_file(here):
    path = here / "classes.txt"
    path.write_text("background; sky; wall\ncat; kitten; puss\ndog\n", encoding="utf-8")
    return path


class TestAuto:
    def test_no_class_has_prototypes(self, cli, photos, here):
        result = cli("segment", "photos", "-c", "cat,dog")
        [note] = notes(result)
        assert "no prototypes for cat, dog: all classes are segmented with GEM, which needs none" in note
        assert "ovseg add-class cat dog" in note
        assert manifest(here)["method"] == {
            "asked": "auto",
            "used": MINI.clip.best,
            "reason": "no prototypes for cat, dog",
        }

    def test_some_classes_have_prototypes(self, cli, photos, here):
        cli("add-class", "cat")
        result = cli("segment", "photos", "-c", "dog,cat,fox")
        [note] = notes(result)
        assert "no prototypes for dog, fox: they are found by their names, with GEM beside the others' proto" in note
        assert "ovseg add-class dog fox" in note
        method = manifest(here)["method"]
        assert (method["asked"], method["used"]) == ("auto", "hybrid")
        lines = (here / "ovseg-out/predictions.jsonl").read_text(encoding="utf-8").splitlines()
        assert {json.loads(line)["method"] for line in lines} == {"hybrid"}
        assert [name for name, _ in manifest(here)["settings"]["prototypes"]] == ["cat"]

    def test_all_classes_have_prototypes(self, cli, photos, here):
        cli("add-class", "cat", "dog")
        assert notes(cli("segment", "photos", "-c", "dog,cat")) == []
        assert manifest(here)["method"]["used"] == "prototype"

    def test_a_name_that_is_nearly_that_of_a_class_is_asked_about(self, cli, photos):
        cli("add-class", "donut")
        [note] = notes(cli("segment", "photos", "-c", "donut,donat"))
        assert "Did you mean 'donut' (for 'donat')?" in note

    def test_many_missing_classes_are_not_all_named(self, cli, photos):
        names = [f"class {i}" for i in range(60)]
        [note] = notes(cli("segment", "photos", "-c", ",".join(names)))
        assert "'class 4'" in note
        assert "class 5" not in note

    def test_a_method_that_was_asked_for_has_nothing_to_say(self, cli, photos):
        cli("add-class", "cat")
        for method in [name for name in naming_methods() if name != "prototype"]:
            result = cli("segment", "photos", "-c", "cat,dog", "--method", method, "--dry-run", "--json")
            assert result.exit_code == 0
            assert result.data["method"] == method
            assert notes(result) == []


OPTIONS = {
    "synonym": (["--synonym", "cat=kitten, puss"], {"synonyms": [["cat", ["kitten", "puss"]]]}),
    "templates": (["--templates", "short"], {"templates": "short"}),
    "scale": (["--logit-scale", "12.5"], {"logit_scale": 12.5}),
    "side": (["--short-side", "96"], {"short_side": 96}),
    "whole": (["--windows", "whole"], {"windows": [[0, 0]]}),
    "windows": (["--windows", "64/32,whole", "--windows", "96/48"], {"windows": [[64, 32], [0, 0], [96, 48]]}),
    "threshold": (["--threshold", "0.25"], {"threshold": 0.25}),
    "prefilter": (["--prefilter"], {"prefilter": True}),
    "refine": (["--refine", "pamr"], {"refine": "pamr"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "method"), [*((given, "gem") for given in OPTIONS), ("synonym", "cliper"), ("side", "hybrid")]
)
def test_what_is_asked_for_is_in_the_record_and_makes_other_label_maps(cli, photos, here, given, method):
    args, recorded = OPTIONS[given]
    command = ("segment", "photos", "-c", "cat,dog", "--method", method)
    cli(*command)
    plain = manifest(here)
    assert plain["settings"]["method"] == method
    result = cli(*command, *args)
    assert result.exit_code == 0
    assert "2 label maps in ovseg-out came from other pictures or settings; made again" in result.stderr
    made = manifest(here)
    assert made["digest"] != plain["digest"]
    changed = {key for key, value in made["options"].items() if value != plain["options"][key]}
    assert changed == set(recorded)
    for key, value in recorded.items():
        assert made["options"][key] == value
    assert "2 already done" in cli(*command, *args).stdout


def test_the_settings_are_what_the_options_came_to(cli, photos, here):
    method = ("--method", "gem", "-c", "cat,dog")
    cli("segment", "photos", *method, "--short-side", 96, "--windows", "64/32", "--logit-scale", 12.5)
    dense = manifest(here)["settings"]["dense"]
    assert (dense["method"], dense["short_side"], dense["windows"]) == ("gem", 96, [[64, 32]])
    assert (dense["whole_image"], dense["logit_scale"]) == (False, 12.5)
    assert dense["squash"] == MINI.clip.dense.squash
    cli("segment", "photos", *method, "--windows", "whole")
    dense = manifest(here)["settings"]["dense"]
    assert (dense["windows"], dense["whole_image"]) == ([], True)
    assert dense["short_side"] == MINI.clip.dense.short_side


def test_what_is_the_default_anyway_is_no_change(cli, photos):
    command = ("segment", "photos", "-c", "cat,dog", "--method", "gem")
    cli(*command)
    scale = MINI.clip.dense.logit_scale
    assert "2 already done" in cli(*command, "--logit-scale", scale, "--no-prefilter", "--background").stdout


def test_prototypes_are_cut_up_as_asked_too(cli, photos, here):
    cli("add-class", "cat")
    cli("segment", "photos", "-c", "cat", "--short-side", 96, "--windows", "64/32")
    inference = manifest(here)["settings"]["inference"]
    assert (inference["short_side"], inference["windows"], inference["whole_image"]) == (96, [[64, 32]], False)


class TestClassFile:
    def test_classes_synonyms_and_the_background_come_from_it(self, cli, photos, here, class_file):
        result = cli("segment", "photos", "--class-file", class_file, "--json")
        assert [c["name"] for c in result.data["classes"]] == ["cat", "dog"]
        made = manifest(here)
        assert made["options"]["synonyms"] == [["cat", ["kitten", "puss"]]]
        assert made["options"]["background_words"] == ["sky", "wall"]
        assert made["settings"]["words"] == {
            "classes": ["cat", "dog"],
            "words": ["cat", "kitten", "puss", "dog", "sky", "wall"],
            "owner": [1, 1, 1, 2, 0, 0],
        }

    def test_without_a_line_for_the_background_the_profiles_words_stay(self, cli, photos, here):
        (here / "c.txt").write_text("cat\ndog\n", encoding="utf-8")
        cli("segment", "photos", "--class-file", "c.txt")
        made = manifest(here)
        assert made["options"]["background_words"] is None
        assert made["settings"]["words"]["words"] == ["cat", "dog", *MINI.clip.background_words]

    def test_synonyms_of_the_command_line_join_those_of_the_file(self, cli, photos, here, class_file):
        cli("segment", "photos", "--class-file", class_file, "--synonym", "CAT=tom", "--synonym", "dog=hound")
        words = manifest(here)["settings"]["words"]
        assert words["words"] == ["cat", "kitten", "puss", "tom", "dog", "hound", "sky", "wall"]

    def test_without_background_its_words_do_not_compete(self, cli, photos, here, class_file):
        cli("segment", "photos", "--class-file", class_file, "--no-background")
        assert manifest(here)["settings"]["words"]["words"] == ["cat", "kitten", "puss", "dog"]

    def test_a_change_of_its_words_makes_other_label_maps(self, cli, photos, class_file):
        cli("segment", "photos", "--class-file", class_file)
        assert "2 already done" in cli("segment", "photos", "--class-file", class_file).stdout
        class_file.write_text(class_file.read_text(encoding="utf-8").replace("wall", "tree"), encoding="utf-8")
        assert "made again" in cli("segment", "photos", "--class-file", class_file).stderr

    def test_classes_are_named_in_one_place(self, cli, photos, here, class_file):
        result = cli("segment", "photos", "--class-file", class_file, "-c", "cat")
        assert "--class-file and --classes exclude each other" in one_line(result)
        assert not (here / "ovseg-out").exists()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (None, "does not exist"),
            ("", "names no class"),
            ("background; sky\n", "names no class"),
            ("cat\n; puss\n", "line 2"),
            ("background\ncat\nbackground; sky\n", "line 3: the background has a line already"),
            ("cat\n" + "very " * 2_001 + "long\n", "line 2: A class name has at most 10000 characters"),
        ],
    )
    def test_a_bad_file_is_told_with_its_line(self, cli, photos, here, text, words):
        if text is not None:
            (here / "bad.txt").write_text(text, encoding="utf-8")
        message = one_line(cli("segment", "photos", "--class-file", "bad.txt"))
        assert "bad.txt" in message
        assert words in message
        assert not (here / "ovseg-out").exists()

    def test_it_can_name_classes_that_have_prototypes(self, cli, photos, here):
        cli("add-class", "cat", "dog")
        (here / "c.txt").write_text("cat\ndog\n", encoding="utf-8")
        assert cli("segment", "photos", "--class-file", "c.txt", "--json").data["method"] == "prototype"

    def test_its_synonyms_are_not_passed_over_when_every_class_has_prototypes(self, cli, photos, class_file):
        cli("add-class", "cat", "dog")
        message = one_line(cli("segment", "photos", "--class-file", class_file))
        assert "Prototypes are matched without" in message
        assert "--method" in message


BAD = {
    "no such method": (["--method", "magic"], "Unknown method 'magic'"),
    "scale 0": (["--logit-scale", "0"], "--logit-scale must be above 0"),
    "scale below 0": (["--logit-scale", "-1"], "--logit-scale must be above 0"),
    "scale nan": (["--logit-scale", "nan"], "--logit-scale must be above 0"),
    "scale inf": (["--logit-scale", "inf"], "--logit-scale must be above 0"),
    "side": (["--short-side", "4"], "--short-side must be between 16 and 4096"),
    "side too large": (["--short-side", "5000"], "--short-side must be between 16 and 4096"),
    "window": (["--windows", "64"], "SIZE/STRIDE"),
    "window of words": (["--windows", "a/b"], "SIZE/STRIDE"),
    "empty window": (["--windows", ""], "SIZE/STRIDE"),
    "zero window": (["--windows", "0/0"], "1 <= STRIDE <= SIZE"),
    "no stride": (["--windows", "64/0"], "1 <= STRIDE <= SIZE"),
    "gaps": (["--windows", "32/64"], "1 <= STRIDE <= SIZE"),
    "synonym": (["--synonym", "cat"], "CLASS=WORD"),
    "no word": (["--synonym", "cat="], "CLASS=WORD"),
    "no class": (["--synonym", "=puss"], "CLASS=WORD"),
    "empty word": (["--synonym", "cat=puss,,tom"], "CLASS=WORD"),
    "synonym of another": (["--synonym", "fox=reynard"], "'fox' has synonyms but is not among the classes: cat, dog"),
    "threshold without background": (["--threshold", "0.5", "--no-background"], "--threshold needs the background"),
    "extractors": (["--extractors", "clip"], "--extractors works on prototypes"),
    "prototypes": (["--prototypes", "mean"], "--prototypes works on prototypes"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_told_in_one_line_and_nothing_is_made(cli, photos, here, what):
    args, words = BAD[what]
    before = doubles.FakeModels.loaded
    message = one_line(cli("segment", "photos", "-c", "cat,dog", *args))
    assert words in message
    assert not (here / "ovseg-out").exists()
    assert doubles.FakeModels.loaded == before


@pytest.mark.parametrize(
    ("option", "value"),
    [("--templates", "many"), ("--logit-scale", "high"), ("--short-side", "large"), ("--threshold", "1.5")],
)
def test_what_the_parser_refuses_is_told_with_its_option(cli, photos, here, option, value):
    result = cli("segment", "photos", "-c", "cat", option, value)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr
    assert not (here / "ovseg-out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("args", [["--synonym", "cat=puss"], ["--templates", "short"], ["--logit-scale", "10"]])
def test_what_only_words_have_is_refused_where_prototypes_are_taken(cli, photos, here, args):
    cli("add-class", "cat")
    message = one_line(cli("segment", "photos", "-c", "cat", *args))
    assert args[0] in message
    assert "every class has prototypes" in message
    assert not (here / "ovseg-out").exists()
    assert cli("segment", "photos", "-c", "cat", "--method", "hybrid", *args).exit_code == 0


class TestNames:
    def test_names_in_other_scripts(self, cli, photos, here):
        names = ["猫", "كلب", "crème brûlée", "🐈"]
        assert cli("segment", "photos", "-c", ",".join(names)).exit_code == 0
        assert manifest(here)["settings"]["words"]["words"][:4] == names
        assert [entry["name"] for entry in manifest(here)["classes"]] == names

    def test_one_class_and_sixty(self, cli, photos, here):
        assert cli("segment", "photos", "-c", "cat", "--method", "sclip", "-o", "one").exit_code == 0
        names = [f"class {i}" for i in range(60)]
        data = cli("segment", "photos", "-c", ",".join(names), "--method", "sclip", "--json").data
        assert [entry["name"] for entry in data["classes"]] == names

    def test_one_class_that_nothing_competes_with_is_told(self, cli, photos):
        result = cli("segment", "photos", "-c", "cat", "--method", "gem", "--no-background")
        assert "Nothing competes with 'cat'" in result.stderr

    def test_a_synonym_that_another_class_has_is_told(self, cli, photos):
        result = cli("segment", "photos", "-c", "cat,dog", "--method", "gem", "--synonym", "cat=dog")
        assert "The synonym 'dog' of 'cat' is left out: it belongs to 'dog'." in result.stderr


class TestExplain:
    @pytest.mark.parametrize("method", ["hybrid", "cliper", "cliper-coarse", "agggem", "aggsd"])
    def test_what_cannot_be_taken_apart_is_refused(self, cli, photos, here, method):
        message = one_line(cli("explain", "photos/a.png", "-c", "cat,dog", "--method", method))
        assert f"The scores of {method} cannot be taken apart" in message
        assert "prototype, maskclip" in message
        assert "--method" in message
        assert not list(here.glob("*-explain.png"))

    def test_what_auto_comes_to_is_said_too(self, cli, photos):
        cli("add-class", "cat")
        result = cli("explain", "photos/a.png", "-c", "cat,dog")
        assert "no prototypes for dog" in result.stderr
        assert "hybrid, which was taken because of no prototypes for dog, cannot be taken apart" in one_line(result)

    @pytest.mark.parametrize(
        "args", [["--method", "hybrid"], ["--method", "cliper"], []], ids=["hybrid", "cliper", "auto"]
    )
    def test_a_run_is_refused_before_anything_is_made(self, cli, photos, here, args):
        cli("add-class", "cat")
        message = one_line(cli("segment", "photos", "-c", "cat,dog", "--explain", *args))
        assert "cannot be taken apart" in message
        assert not (here / "ovseg-out").exists()


class TestTheSameOptionsEverywhere:
    """`segment`, `explain` and `eval --images` take what decides a label map by the same names."""

    def test_explain_and_eval_have_what_segment_has(self):
        from inspect import signature

        from ovseg_cli.cli import evaluate, explain, segment
        from ovseg_cli.cli.options import _query

        for command in (segment.segment, explain.explain, evaluate.evaluate):
            assert set(signature(_query).parameters) <= set(signature(command).parameters)

    def test_eval_scores_a_method_with_options_of_its_own(self, cli, photos, gt, here, class_file):
        result = cli("eval", "--gt", gt, "--images", "photos", "--method", "gem", "--class-file", class_file, "--json")
        assert result.exit_code == 0
        assert [each["name"] for each in result.data["classes"]] == ["background", "cat", "dog"]
        refused = cli("eval", "--gt", gt, "--images", "photos", "-c", "cat", "--method", "aggsd", "--templates", "car")
        assert "would have no effect" in one_line(refused)

    @pytest.mark.parametrize(
        ("typed", "told"),
        [
            (("--method", "gem"), "--method would"),
            (("--no-prefilter", "--windows", "whole"), "--no-prefilter, --windows would"),
            (("--image-classes", "classes.txt"), "--image-classes would"),
        ],
    )
    def test_what_segments_is_refused_where_nothing_is_segmented(self, cli, photos, gt, here, class_file, typed, told):
        cli("segment", "photos", "-c", "cat")
        for pred in ((), ("--pred", "ovseg-out")):
            assert told in one_line(cli("eval", "--gt", gt, *pred, *typed))

    def test_explain_takes_no_options_beside_a_run(self, cli, photos):
        cli("segment", "photos", "-c", "cat")
        result = cli("explain", "photos/a.png", "--run", "ovseg-out", "--logit-scale", "3", "--no-background")
        assert "leave out --no-background, --logit-scale, or --run" in one_line(result)


@pytest.mark.parametrize(
    "typed",
    [
        ("-c", "cat,,dog"),
        ("-c", "cat,CAT"),
        ("-c", "background"),
        ("-c", "cat", "--method", "gem", "--no-stuff-filter"),
        ("-c", "cat", "--method", "gem", "--settings", "voc21"),
        ("-c", "cat", "--method", "gem", "--synonym", "dog=puss"),
        ("-c", "cat", "--method", "prototype"),
        (),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["segment", "explain", "eval"])
def test_what_is_wrong_with_a_request_is_told_before_a_store_is_made(cli, photos, gt, own_world, command, typed):
    what = {
        "segment": ("segment", "photos"),
        "explain": ("explain", "photos/a.png"),
        "eval": ("eval", "--gt", gt, "--images", "photos"),
    }
    one_line(cli(*what[command], *typed))
    assert not (own_world / "store").exists()
