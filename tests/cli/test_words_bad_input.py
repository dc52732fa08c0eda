"""Names and pictures that are not what the methods are made for, through `ovseg segment` with the bundled models."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.cli.app import app
from ovseg_cli.files.labels import read_label, read_labelmap
from ovseg_cli.store import Store
from tests.cli.conftest import Result
from tests.mini import example_scene, mini_class, mini_models

SCENE = 8  # a cat, an apple and a soccer ball
LONG = " ".join(["a small grey tabby cat on a wooden table"] * 40)
assert len(LONG.split()) > 300
SCRIPTS = ("猫", "قطة", "बिल्ली", "кошка", "고양이", "\U0001f408\u200d\u2b1b", "z\u0336a\u0336", "xxxxxx" * 30)
WORD_METHODS = ("gem", "sclip", "proxyclip", "cliper-coarse", "cliper", "agggem", "hybrid")
NAME_METHODS = ("aggsd", "diffsegmenter")
METHODS = (*WORD_METHODS, *NAME_METHODS, "prototype")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store with two classes."""
    folder = tmp_path_factory.mktemp("bad-input") / "store"
    with Store.open(folder, profile="mini") as store:
        store.add_class(mini_class("cat"))
        store.add_class(mini_class("apple"))
    return folder


@pytest.fixture
def segment(tmp_path, stored, monkeypatch, shared_models):
    """Runs `ovseg segment`."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(example_scene(SCENE)).resize((96, 64)).save(tmp_path / "scene.png")

    def run(*args, names=None, pictures="scene.png"):
        arguments = ["--store", str(stored), "segment", pictures, "-o", "out", "--overwrite", "--short-side", "64"]
        arguments += ["--windows", "whole"]
        if names is not None:
            (tmp_path / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
            arguments += ["--class-file", "classes.txt"]
        result = CliRunner().invoke(app, [*arguments, *map(str, args)], prog_name="ovseg")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def manifest(out):
    return json.loads((out / "run.json").read_text(encoding="utf-8"))


def labels(out, name="scene"):
    return read_label(out / "SegmentationClass" / f"{name}.png")


def one_line(result):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.error) < 400
    return result.error


class TestLongNames:
    @pytest.mark.slow
    @pytest.mark.parametrize("method", WORD_METHODS)
    def test_only_the_beginning_counts_and_is_told_and_recorded(self, segment, out, method):
        result = segment("--method", method, "--overlay", names=[LONG, "apple"])
        assert result.exit_code == 0
        [warning] = [line for line in result.stderr.splitlines() if "reads at most" in line]
        assert warning.startswith("warning: CLIP reads at most 24 tokens of a prompt. With these words prompts are")
        assert "only their beginning counts: a small grey tabby cat" in warning
        assert len(warning) < 210
        cut = manifest(out)["settings"]["words"]["cut"]
        assert (cut["words"], cut["tokens"]) == ([LONG], 24)
        assert cut["rule"].startswith("the first 23 tokens of each prompt")
        assert [entry["name"] for entry in manifest(out)["classes"]] == [LONG, "apple"]
        assert read_labelmap(out / "labelmap.txt").names == ("background", LONG, "apple")
        with Image.open(out / "overlay" / "scene.png") as overlay:
            assert overlay.width < 300
        assert max(map(len, result.stdout.splitlines())) <= 100

    def test_the_end_of_a_name_makes_no_difference(self, segment, out):
        segment("--method", "gem", names=[f"{LONG} asleep", "apple"])
        first = labels(out)
        segment("--method", "gem", names=[f"{LONG} awake", "apple"])
        np.testing.assert_array_equal(labels(out), first)

    def test_names_that_begin_alike_are_told(self, segment):
        result = segment("--method", "gem", names=[f"{LONG} asleep", f"{LONG} awake", "apple"])
        assert "warning: CLIP cannot tell these apart, as they begin alike: a small" in result.stderr

    def test_names_that_fit_are_not_told_and_not_recorded(self, segment, out):
        result = segment("--method", "gem", names=["cat", "apple"])
        assert result.stderr == ""
        assert "cut" not in manifest(out)["settings"]["words"]

    def test_done_pictures_are_skipped_and_the_record_stays(self, segment, out, tmp_path):
        segment("--method", "gem", names=[LONG, "apple"])
        (tmp_path / "classes.txt").write_text(f"{LONG}\napple\n", encoding="utf-8")
        before = manifest(out)
        assert segment("--method", "gem", "--dry-run", names=[LONG, "apple"]).exit_code == 0
        assert manifest(out) == before

    def test_auto_says_so_in_few_words_and_no_impossible_command(self, segment):
        result = segment(names=[LONG, "tree"])
        [note] = [line for line in result.stderr.splitlines() if line.startswith("note: no prototypes")]
        assert len(note) < 300
        assert note.endswith("ovseg add-class tree")
        assert "ovseg add-class" not in segment(names=[LONG]).stderr

    def test_prototypes_cannot_have_such_a_name(self, segment):
        message = one_line(segment("--method", "prototype", names=[LONG]))
        assert "such a name is too long" in message
        assert "add-class" not in message

    @pytest.mark.parametrize("method", NAME_METHODS)
    def test_who_needs_whole_names_refuses_before_any_picture(self, segment, out, method):
        message = one_line(segment("--method", method, names=[LONG, "apple"]))
        assert "wants class names whole" in message
        assert "a small grey tabby" in message
        assert "apple" not in message
        assert "such as gem" in message
        assert not list(out.glob("SegmentationClass/*"))

    def test_a_stored_class_has_a_shorter_name_and_the_message_says_why(self, stored):
        result = CliRunner().invoke(app, ["--store", str(stored), "add-class", LONG], prog_name="ovseg")
        assert result.exit_code == 2
        assert "at most 80 characters" in result.stderr
        assert "the image generator must read all of it" in result.stderr
        assert "--prompt" in result.stderr

    def test_what_is_no_name_at_all_is_refused(self, segment):
        assert "at most 10000 characters; got 11000" in one_line(segment("--method", "gem", names=["x" * 11_000]))


class TestManyClasses:
    def test_more_classes_than_a_prompt_holds_are_told_for_the_picture(self, segment, out):
        names = [f"thing number {i}" for i in range(40)]
        result = segment("--method", "aggsd", "--no-prefilter", names=names)
        assert result.exit_code == 3
        assert "AggSD: The prompt is longer than the text encoder's" in result.stderr
        assert "Give fewer class names at once" in result.stderr
        assert "--image-classes" in result.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["gem", "cliper-coarse", "hybrid"])
    def test_four_hundred(self, segment, out, method):
        names = ["cat", *(f"thing number {i}" for i in range(399))]
        result = segment("--method", method, "--overlay", "--templates", "single", names=names)
        assert result.exit_code == 0
        assert read_labelmap(out / "labelmap.txt").names == ("background", *names)
        with Image.open(out / "SegmentationClass" / "scene.png") as picture:
            assert picture.mode == "I;16"
        assert len(result.stdout.splitlines()) < 400
        assert "that no picture shows" in result.stdout or "No picture shows any of the 400 classes" in result.stdout

    @pytest.mark.slow
    def test_reading_them_is_told_and_kept_when_it_is_interrupted(self, segment, monkeypatch):
        names = ["cat", LONG, *(f"kind {i}" for i in range(18))]
        monkeypatch.setattr("ovseg_cli.text.embedding.TEXTS_AT_ONCE", 240)  # three words
        arguments = ("--method", "gem", "--templates", "imagenet", "--no-background")
        embed, read = ClipBackbone.embed_names, []

        def interrupted(self, words, prompts):
            if len(read) >= 12:
                raise KeyboardInterrupt
            read.extend(words)
            return embed(self, words, prompts)

        with monkeypatch.context() as patch:
            patch.setattr(ClipBackbone, "embed_names", interrupted)
            result = segment(*arguments, names=names)
        assert result.exit_code == 130
        assert f"{len(read)} of 20 words (60.0 %) after" in result.stderr
        assert "run the same command to go on" in result.stderr
        monkeypatch.setattr(mini_models().clip, "_text_cache", {})  # as in another process

        def counted(self, words, prompts):
            read.extend(words)
            return embed(self, words, prompts)

        monkeypatch.setattr(ClipBackbone, "embed_names", counted)
        assert segment(*arguments, names=names).exit_code == 0
        assert read == names


class TestOneClass:
    @pytest.mark.slow
    @pytest.mark.parametrize("method", METHODS)
    def test_with_background(self, segment, out, method):
        assert segment("--method", method, names=["cat"]).exit_code == 0
        assert set(np.unique(labels(out))) <= {0, 1}

    @pytest.mark.slow
    @pytest.mark.parametrize("method", METHODS)
    def test_without_background_it_is_everything_and_that_is_told(self, segment, out, method):
        result = segment("--method", method, "--no-background", names=["cat"])
        assert "note: Nothing competes with 'cat', so all of a picture becomes it" in result.stderr
        assert (labels(out) == 1).all()


class TestScripts:
    @pytest.mark.slow
    @pytest.mark.parametrize("method", WORD_METHODS)
    def test_names_come_back_as_they_were_given(self, segment, out, method):
        result = segment("--method", method, "--overlay", names=SCRIPTS)
        assert result.exit_code == 0
        names = read_labelmap(out / "labelmap.txt").names[1:]
        assert names == tuple(entry["name"] for entry in manifest(out)["classes"]) == SCRIPTS
        assert "猫" in result.stdout
        assert (out / "overlay" / "scene.png").is_file()

    @pytest.mark.slow
    @pytest.mark.parametrize("method", NAME_METHODS)
    def test_prompts_take_them_too(self, segment, method):
        assert segment("--method", method, names=SCRIPTS[:2]).exit_code == 0

    def test_they_are_different_words(self, segment):
        assert "begin alike" not in segment("--method", "gem", names=SCRIPTS).stderr


class TestClassFileLines:
    FILE = ("background; grass; wall", "cat", "apple")

    @pytest.mark.slow
    @pytest.mark.parametrize("method", [*NAME_METHODS, "prototype", "auto"])
    def test_background_words_that_are_not_used_are_told(self, segment, method):
        result = segment("--method", method, names=self.FILE)
        assert result.exit_code == 0
        assert "note: The class file's words for the background are not used" in result.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["gem", "hybrid"])
    def test_those_that_are_used_are_not(self, segment, out, method):
        assert segment("--method", method, names=self.FILE).stderr == ""
        assert manifest(out)["settings"]["words"]["words"] == ["cat", "apple", "grass", "wall"]

    def test_nor_can_they_be_without_a_background(self, segment):
        result = segment("--method", "gem", "--no-background", names=self.FILE)
        assert "no pixel may belong to it (--no-background)" in result.stderr

    @pytest.mark.parametrize("method", [*NAME_METHODS, "prototype", "auto"])
    def test_synonyms_that_have_no_effect_are_refused_with_the_file_named(self, segment, method):
        message = one_line(segment("--method", method, names=["cat; kitten; puss", "apple"]))
        assert "synonyms ('cat': kitten, puss) would have no effect: take them out of the class file" in message


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_pictures_thinner_than_a_patch(segment, out, tmp_path, method):
    random = np.random.default_rng(0)
    sizes = {"dot": (1, 1), "thin": (3, 200), "flat": (200, 3), "line": (1, 60)}
    (tmp_path / "thin").mkdir()
    for name, (width, height) in sizes.items():
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "thin" / f"{name}.png")
    result = segment("--method", method, "--overlay", names=["cat", "apple"], pictures="thin")
    assert result.exit_code == 0, result.stderr
    for name, (width, height) in sizes.items():
        assert labels(out, name).shape == (height, width)
        assert (out / "overlay" / f"{name}.png").is_file()
