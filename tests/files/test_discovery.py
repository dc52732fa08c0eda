from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg_cli.atomic import make_folder
from ovseg_cli.errors import ImageError, NoInputError
from ovseg_cli.files.discovery import InputImage, _unique_keys, discover, natural_key
from ovseg_cli.files.images import open_image


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make files (empty; images are known by their suffix) below the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path, format="PNG")


def keys(*inputs: str | Path, exclude: Path | None = None) -> list[str]:
    return [str(item.key) for item in discover(inputs, exclude=exclude)]


def test_folder_is_searched_in_natural_order_and_mirrored(tree):
    tree("in/img10.png", "in/img2.PNG", "in/B/x.jpg", "in/a/y.webp", "in/a/b/z.tiff", "in/notes.md")
    found = discover(["in"])
    assert [str(i.key) for i in found] == ["a/b/z", "a/y", "B/x", "img2", "img10"]
    assert found[0].path == Path("in/a/b/z.tiff")


def test_hidden_files_and_other_kinds_are_passed_over(tree):
    tree("in/.x.png", "in/.git/x.png", "in/.ovseg-1234.png", "in/a.png", "in/b.json", "in/c")
    assert keys("in") == ["a"]


def test_content_counts_when_the_name_does_not_tell(tree):
    tree("in/text.dat", "in/empty")
    for name in ("in/scan", "in/photo.data"):
        picture(Path(name))
    Path("in/BMW.info").write_text("BM is how a bitmap begins, and this text")
    assert keys("in") == ["photo.data", "scan"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_every_format_is_known_by_its_content(tree, kind):
    tree("in/other.xyz")
    Image.new("RGB", (8, 8)).save(Path("in/x.unknown"), format=kind)
    assert keys("in") == ["x.unknown"]


def test_explicit_file_is_always_taken(tree):
    tree("text.jpg", ".hidden.png", "x.dat")
    Path("text.jpg").write_text("no picture")
    assert keys("text.jpg", ".hidden.png", "x.dat") == ["text", ".hidden", "x.dat"]
    with pytest.raises(ImageError, match=r"text\.jpg"):
        open_image(discover(["text.jpg"])[0].path)


def test_picture_named_txt_is_a_picture(tree):
    tree()
    picture(Path("really.txt"))
    (found,) = discover(["really.txt"])
    assert found == InputImage(Path("really.txt"), PurePosixPath("really.txt"))
    assert open_image(found.path).size == (2, 2)


@pytest.mark.parametrize("name", ["猫 und Hund.png", "crème brûlée.png", "cre\u0300me.png", "a'b\"c.png", "-x.png"])
def test_names_are_kept_as_they_are(tree, name):
    tree(f"in/{name}")
    (found,) = discover(["in"])
    assert found.path.exists()
    assert str(found.key) == name.removesuffix(".png")


def test_undecodable_name(tree):
    folder = tree("in/a.png")
    path = os.fsencode(folder / "in") + b"/caf\xe9.png"
    with open(path, "wb"):
        pass
    assert sorted(os.fsencode(str(i.key)) for i in discover(["in"])) == [b"a", b"caf\xe9"]


class TestKeys:
    def test_one_file(self, tree):
        tree("deep/er/a.v2.jpg")
        assert keys("deep/er/a.v2.jpg") == ["a.v2"]

    def test_same_stem_keeps_the_suffix(self, tree):
        tree("in/x.jpg", "in/x.png", "in/y.png", "in/sub/x.png")
        assert sorted(keys("in")) == ["sub/x", "x.jpg", "x.png", "y"]

    def test_suffix_kept_meets_a_stem(self, tree):
        tree("in/x.jpg", "in/x.png", "in/x.jpg.png")
        assert sorted(keys("in")) == ["x.jpg", "x.jpg.png", "x.png"]

    def test_case_counts_as_equal(self, tree):
        tree("in/A.jpg", "in/a.png")
        assert keys("in") == ["A.jpg", "a.png"]

    def test_same_name_in_several_folders(self, tree):
        tree("in/train/x.png", "in/val/x.png", "in/other/x.png")
        assert keys("in/val", "in/train") == ["val/x", "train/x"]
        assert keys("in/val/x.png", "in/train/x.png") == ["val/x", "train/x"]

    def test_keys_do_not_depend_on_the_current_folder(self, tree, monkeypatch):
        folder = tree("in/a/x.png", "in/b/y.png")
        expected = keys("in")
        monkeypatch.chdir(folder / "in" / "a")
        assert keys("..") == expected
        assert keys(folder / "in") == expected
        assert keys("../../in/b/../") == expected

    @given(st.lists(st.text("aAbß.x", min_size=1, max_size=6).filter(lambda s: s.strip(".")), unique=True, max_size=12))
    def test_keys_are_unique_and_relative(self, names):
        result = _unique_keys([PurePosixPath("d") / name for name in names])
        assert len(set(result)) == len(names)
        for name, key in zip(names, result, strict=True):
            assert name.startswith(key.name)
            assert not key.is_absolute()


class TestRepetitions:
    def test_each_file_once(self, tree):
        tree("in/a.png", "in/sub/b.png")
        assert keys("in", "in/a.png", "in/sub", "./in/../in/a.png", "in/*.png") == ["a", "sub/b"]

    def test_order_of_the_inputs(self, tree):
        tree("z.png", "a.png")
        assert keys("z.png", "a.png") == ["z", "a"]


class TestPatterns:
    def test_star(self, tree):
        tree("in/a1.png", "in/a2.jpg", "in/b.png", "in/.a.png", "in/sub/a3.png")
        assert keys("in/a*") == ["a1", "a2"]
        assert keys("in/?1.png") == ["a1"]
        assert keys("in/[ab].png") == ["b"]

    def test_double_star(self, tree):
        tree("in/a.png", "in/s/b.png", "in/s/t/c.png", "in/s/t/d.jpg", "in/.h/e.png")
        assert keys("in/**/*.png") == ["a", "s/b", "s/t/c"]
        assert keys("in/**/t/*") == ["s/t/c", "s/t/d"]
        assert keys("in/**") == ["a", "s/b", "s/t/c", "s/t/d"]

    def test_folder_that_matches_is_searched(self, tree):
        tree("in/day1/a.png", "in/day2/sub/b.png", "in/night/c.png")
        assert keys("in/day*") == ["day1/a", "day2/sub/b"]
        assert keys("in/*/sub") == ["day2/sub/b"]

    def test_other_kinds_that_match_are_passed_over(self, tree):
        tree("in/a.png", "in/a.txt", "in/a.json")
        assert keys("in/a.*") == ["a"]

    def test_agrees_with_glob(self, tree):
        folder = tree("x/a.png", "x/y/b.png", "x/y/z/c.jpg", "x/yy/d.png", "e.png")
        for pattern in ("*.png", "**/*.png", "x/*/*", "x/y*/*.png", "*/**/*.jpg", "x/y/[a-c].png"):
            expected = {p.resolve() for p in folder.glob(pattern) if p.is_file()}
            found = {item.path.resolve() for item in discover([pattern])}
            assert expected <= found
            assert all(any(f == e or e in f.parents for e in map(Path.resolve, folder.glob(pattern))) for f in found)

    def test_file_of_that_very_name_comes_first(self, tree):
        tree("img[1].png", "img1.png")
        assert keys("img[1].png") == ["img[1]"]

    def test_no_match(self, tree):
        tree("in/a.png")
        with pytest.raises(NoInputError, match=r"No file matches the pattern 'in/\*\.jpg'"):
            discover(["in/*.jpg"])
        with pytest.raises(NoInputError, match="No file matches"):
            discover(["absent/**/*.jpg"])

    def test_loop(self, tree):
        folder = tree("in/s/b.png")
        (folder / "in/s/up").symlink_to("..")
        assert keys("in/**/*.png") == ["s/b"]


class TestLinks:
    def test_loops_end(self, tree):
        folder = tree("in/a.png", "in/sub/b.png")
        (folder / "in/sub/up").symlink_to("..")
        (folder / "in/self").symlink_to(".")
        (folder / "in/dead").symlink_to("nowhere")
        (folder / "in/dead.png").symlink_to("nowhere.png")
        assert sorted(keys("in")) == ["a", "sub/b"]

    def test_two_folders_that_link_to_each_other_give_each_picture_once(self, tree):
        folder = tree("in/a/x.png", "in/b/y.png")
        (folder / "in/a/b").symlink_to("../b")
        (folder / "in/b/a").symlink_to("../a")
        assert sorted(keys("in")) == ["a/b/y", "a/x"]

    def test_links_to_elsewhere_are_followed(self, tree):
        folder = tree("in/a.png", "elsewhere/b.png")
        (folder / "in/more").symlink_to(folder / "elsewhere")
        (folder / "in/c.png").symlink_to(folder / "elsewhere/b.png")
        assert sorted(keys("in")) == ["a", "c", "more/b"]


class TestLists:
    def test_lines(self, tree):
        tree("data/a.png", "data/sub/b.png", "data/x y.png", "data/猫.png")
        Path("data/list.txt").write_bytes("\ufeff# what to do\r\na.png\r\n\r\n  sub/b.png  \nx y.png\n猫.png".encode())
        assert keys("data/list.txt") == ["a", "sub/b", "x y", "猫"]

    def test_relative_to_the_list_then_to_the_current_folder(self, tree):
        tree("lists/a.png", "a.png", "b.png")
        Path("lists/l.txt").write_text("a.png\nb.png\n")
        assert [i.path for i in discover(["lists/l.txt"])] == [Path("lists/a.png"), Path("b.png")]

    def test_folders_and_patterns_in_a_list(self, tree):
        tree("d/in/a.png", "d/p/b1.png", "d/p/c.png")
        Path("d/l.txt").write_text("in\np/b*.png\n")
        assert keys("d/l.txt") == ["in/a", "p/b1"]

    def test_missing_line(self, tree):
        tree("a.png")
        Path("l.txt").write_text("a.png\n\nabsent.png\n")
        with pytest.raises(NoInputError, match=r"l\.txt, line 3: 'absent\.png' does not exist"):
            discover(["l.txt"])

    def test_text_file_in_a_folder_is_no_list(self, tree):
        tree("in/a.png", "b.png")
        Path("in/l.txt").write_text("../b.png\n")
        assert keys("in") == ["a"]

    @pytest.mark.parametrize("separator", [b"\n", b"\0", b"\r\n"])
    def test_standard_input(self, tree, monkeypatch, separator):
        tree("in/a.png", "in/b c.png")
        data = separator.join([b"in/a.png", b"in/b c.png", b""])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert keys("-") == ["a", "b c"]

    def test_empty_list(self, tree):
        tree("l.txt")
        with pytest.raises(NoInputError, match=r"No image found in l\.txt"):
            discover(["l.txt"])

    def test_names_separated_by_nul_are_literal(self, tree):
        tree("# a.png", " b.png", "c.png ")
        Path("l.txt").write_bytes(b"# a.png\0 b.png\0c.png \0")
        assert [str(item.path) for item in discover(["l.txt"])] == ["# a.png", " b.png", "c.png "]

    def test_utf_16(self, tree):
        tree("ä.png")
        for encoding in ("utf-16", "utf-8-sig"):
            Path("l.txt").write_bytes("ä.png\r\n".encode(encoding))
            assert keys("l.txt") == ["ä"]
        Path("l.txt").write_bytes("a.png\n".encode("utf-16-le"))
        with pytest.raises(NoInputError, match=r"list l\.txt is not UTF-8 text; save it as UTF-8"):
            discover(["l.txt"])


def test_a_suffix_is_one_of_pictures(tree):
    tree("in/shot.2024-05-01", "in/x.v2.jpg")
    picture(Path("in/shot.2024-05-01"))
    assert keys("in") == ["shot.2024-05-01", "x.v2"]


@pytest.mark.slow
def test_many_folders_in_each_other(tree):
    folder = tree()
    deep = folder.joinpath("in", *["d"] * 1500)
    try:
        make_folder(deep)
        (deep / "z.png").touch()
        for item in ("in", "in/**/*.png"):
            assert len(discover([item], exclude=folder / "out")) == 1
    finally:
        subprocess.run(["rm", "-rf", str(folder / "in")], check=True)  # too deep for the one who tidies up


class TestExclude:
    def test_output_folder_inside_the_input(self, tree):
        folder = tree("a.png", "ovseg-out/SegmentationClass/a.png", "ovseg-out2/b.png")
        assert keys(".", exclude=Path("ovseg-out")) == ["a", "ovseg-out2/b"]
        assert keys("**/*.png", exclude=folder / "ovseg-out") == ["a", "ovseg-out2/b"]

    def test_through_a_link(self, tree):
        folder = tree("in/a.png", "out/b.png")
        (folder / "in/link").symlink_to(folder / "out")
        assert keys("in", exclude=folder / "out") == ["a"]

    def test_named_file_is_left_out_with_a_notice(self, tree, caplog):
        tree("a.png", "out/a.png")
        with caplog.at_level(logging.WARNING, "ovseg_cli"):
            assert keys("a.png", "out/a.png", exclude=Path("out")) == ["a"]
        assert "left out 1 named file" in caplog.text

    def test_everything_lies_in_the_output_folder(self, tree):
        tree("out/overlay/a.png")
        with pytest.raises(NoInputError, match=r"inside the output folder .*choose another --output"):
            discover(["out/overlay"], exclude=Path("out"))

    def test_absent_output_folder(self, tree):
        tree("a.png")
        assert keys(".", exclude=Path("ovseg-out")) == ["a"]


class TestNothing:
    def test_empty_folder(self, tree):
        tree("in/.keep")
        with pytest.raises(NoInputError, match=r"No image found in in \(readable formats: PNG, JPEG, WebP"):
            discover(["in"])

    def test_other_files_are_counted(self, tree):
        tree(*(f"in/{i}.heic" for i in range(12)), "in/movie.mp4")
        with pytest.raises(NoInputError, match=r"Other files there: 12 \.heic, 1 \.mp4"):
            discover(["in"])

    def test_missing(self, tree):
        tree("a.png")
        with pytest.raises(NoInputError, match=r"b\.png does not exist"):
            discover(["a.png", "b.png"])
        with pytest.raises(NoInputError, match="does not exist"):
            discover(["x" * 5000])

    def test_no_input(self):
        with pytest.raises(NoInputError, match="No input was given"):
            discover([])

    def test_special_file_fails_alone(self, tree):
        tree("a.png")
        os.mkfifo("pipe.png")
        assert keys("pipe.png", "a.png") == ["pipe", "a"]
        with pytest.raises(ImageError, match=r"pipe\.png is a pipe"):
            open_image("pipe.png")

    def test_special_file_in_a_folder_is_told(self, tree, caplog):
        tree("in/a.png")
        os.mkfifo("in/pipe.png")
        assert keys("in") == ["a"]
        assert keys("in/**/*") == ["a"]
        assert caplog.text.count("passed over in/pipe.png, which is a pipe") == 2, "once for each search"

    def test_one_empty_folder_among_others_is_told(self, tree, caplog):
        tree("in/a.png", "empty/.keep")
        with caplog.at_level(logging.WARNING, "ovseg_cli"):
            assert keys("in", "empty") == ["a"]
        assert "empty" in caplog.text

    def test_unreadable_folder(self, tree, monkeypatch, caplog):
        tree("in/a.png", "in/locked/b.png")
        scandir = os.scandir

        def locked(path):
            if Path(path).name == "locked":
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", locked)
        with caplog.at_level(logging.WARNING, "ovseg_cli"):
            assert keys("in") == ["a"]
        assert "in/locked: Permission denied" in caplog.text
        with pytest.raises(NoInputError, match="Cannot read the folder"):
            discover(["in/locked"])


def test_entries_that_may_not_be_looked_at(tree, monkeypatch, caplog):
    """Links into a folder without permission, or to themselves: what is called like a picture fails on opening."""

    class Locked:
        def __init__(self, name):
            self.name = name

        def is_dir(self):
            raise PermissionError(13, "Permission denied", self.name)

    folder = tree("in/a.png")
    (folder / "in/self.png").symlink_to("self.png")
    (folder / "in/self").symlink_to("self")
    scandir = os.scandir

    @contextlib.contextmanager
    def with_locked(path):
        with scandir(path) as entries:
            yield [*entries, Locked("locked.jpg"), Locked("locked")]

    monkeypatch.setattr(os, "scandir", with_locked)
    for pattern in ("in/*", "in/**/*"):
        assert keys(pattern) == ["a", "locked", "self"]
    assert "passed over in/locked: Permission denied" in caplog.text
    assert "passed over in/self: Too many levels of symbolic links" in caplog.text
    with pytest.raises(ImageError, match=r"self\.png cannot be read: Too many levels"):
        open_image(folder / "in/self.png")


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "img"]), st.integers(0, 10**6)), max_size=20))
def test_natural_order_is_numeric(items):
    names = [f"{word}{number}.png" for word, number in items]
    assert sorted(names, key=natural_key) == [f"{word}{number}.png" for word, number in sorted(items)]


def test_natural_order_of_mixed_names():
    names = ["b", "10", "a10", "A2", "9", "a02", "²", "٣x", ""]
    assert sorted(names, key=natural_key) == ["", "٣x", "9", "10", "A2", "a02", "a10", "b", "²"]


def test_no_result_is_called_as_the_folder_of_another(tmp_path):
    (tmp_path / "a.png").mkdir()
    for name in ("a.jpg", "b.jpg", "a.png/x.jpg"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    assert sorted(str(image.key) for image in discover([str(tmp_path)])) == ["a.jpg", "a.png/x", "b"]
