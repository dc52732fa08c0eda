from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest

from ovseg_cli.errors import ClassNameError, UsageError
from ovseg_cli.files.discovery import discover
from ovseg_cli.files.image_classes import read_image_classes


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "labels.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return read_image_classes(path)

    return write


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Empty pictures below `photos`, as a run finds them."""
    monkeypatch.chdir(tmp_path)

    def make(*names, inputs=("photos",)):
        for name in names:
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return discover(inputs)

    return make


def said(found):
    return [(line.picture, line.classes) for line in found.lines]


def matched(found, images):
    """For each picture (from its input folder on) the number of its line."""
    numbers = [None if line is None else line.number for line in found.match(images).lines]
    return {image.path.relative_to("photos").as_posix(): n for image, n in zip(images, numbers, strict=True)}


def test_a_line_is_a_picture_with_its_classes(write):
    found = write("street/1.jpg: person; car ;  traffic   light\n2.jpg:dog, cat\n3.jpg :\n4:cat;;\n")
    assert said(found) == [
        ("street/1.jpg", ("person", "car", "traffic light")),
        ("2.jpg", ("dog", "cat")),
        ("3.jpg", ()),
        ("4", ("cat",)),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_marks_line_ends_blank_lines_and_comments_do_not_matter(write, end, mark):
    lines = ["", "# tags", "a.jpg: cat", "  ", "  # more", "b.jpg: d\u00f6ner", ""]
    found = write(mark + end.join(lines).encode())
    assert said(found) == [("a.jpg", ("cat",)), ("b.jpg", ("d\u00f6ner",))]
    assert [line.number for line in found.lines] == [3, 6]
    assert found.digest == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_colons_of_times_and_drives_belong_to_the_picture(write):
    found = write("2026-01-02T03:04:05.jpg: cat\nC:\\photos\\a.jpg: dog")
    assert [line.picture for line in found.lines] == ["2026-01-02T03:04:05.jpg", "C:\\photos\\a.jpg"]


def test_a_class_counts_once_whatever_its_case(write):
    assert said(write("a: Cat; cat; CAT"))[0][1] == ("Cat",)


@pytest.mark.parametrize("text", ["a: zebra; class 10\nb: Cat; class 9", "b: class 9; Cat\na: class 10; zebra; cat"])
def test_all_classes_are_in_natural_order_whatever_that_of_the_lines(write, text):
    assert write(text).classes == ("Cat", "class 9", "class 10", "zebra")


def test_classes_take_spelling_and_order_of_the_run(write):
    found = write("a: dog; CAT\nb:\nc: dog").among(["Cat", "bird", "Dog"])
    assert [line.classes for line in found.lines] == [("Cat", "Dog"), (), ("Dog",)]


def test_a_class_that_is_not_looked_for_is_named_by_its_line(write):
    with pytest.raises(UsageError, match=r"labels\.txt, line 3: 'bird' is not among .*\(cat, dog\).*--classes"):
        write("a: dog\n\nb: cat; bird").among(["cat", "dog"])
    with pytest.raises(UsageError, match=r"\(cat, dog\)\. Did you mean 'cat'\?"):
        write("a: dog; cats").among(["cat", "dog"])


def test_a_class_may_have_a_longer_name_than_the_store_takes(write):
    long = "a photograph of a very " + "old " * 30 + "dog"
    found = write(f"1.jpg: cat; {long}\n")
    assert found.classes == (long, "cat")
    with pytest.raises(UsageError, match=r"line 1: 'a photograph of a very old .*…' is not among"):
        found.among(["cat"])


def test_the_first_line_of_a_class(write):
    assert write("a: dog\n\nb: dog; bird\nc: Bird").line_of("bird") == 3


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", UsageError, "names no picture"),
        ("# a: cat", UsageError, "names no picture"),
        ("a.jpg cat", UsageError, "line 1: 'a.jpg cat' is not written PICTURE: CLASS"),
        ("a: cat\n : cat", UsageError, "line 2: ': cat' is not written PICTURE: CLASS"),
        ("a: cat\nb: a/b", ClassNameError, "line 2: .*slash"),
        ("a: background", ClassNameError, "line 1: 'background' is the name of the pixels"),
        (b"a: \xff\xfe", UsageError, "is not UTF-8 text"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(write, text, kind, message):
    with pytest.raises(kind, match=f"labels.txt.*{message}") as caught:
        write(text)
    assert type(caught.value) is kind


def test_a_missing_file_and_a_folder_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_image_classes(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="cannot be read"):
        read_image_classes(tmp_path)


class TestMatch:
    @pytest.mark.parametrize(
        "name", ["sub/b.jpg", "sub/b", "./sub/b.jpg", "sub\\b.jpg", "b.jpg", "b", "photos/sub/b.jpg", "photos/sub/b"]
    )
    def test_the_end_of_a_path_names_a_picture(self, write, images, name):
        assert matched(write(f"{name}: cat"), images("a.jpg", "sub/b.jpg")) == {"a.jpg": None, "sub/b.jpg": 1}

    def test_so_does_the_whole_path(self, write, images, tmp_path):
        found = images("a.jpg", "sub/b.jpg")
        assert matched(write(f"{tmp_path / 'photos/sub/b.jpg'}: cat"), found)["sub/b.jpg"] == 1

    def test_the_path_below_the_input_folder_comes_first(self, write, images):
        found = images("a.jpg", "sub/a.jpg", "sub/sub/a.jpg")
        assert matched(write("a.jpg: cat\nsub/a: dog"), found) == {
            "a.jpg": 1,
            "sub/a.jpg": 2,
            "sub/sub/a.jpg": None,
        }

    def test_a_picture_whose_name_is_the_start_of_another_is_no_riddle(self, write, images):
        assert matched(write("a: cat\na.b: dog"), images("a.jpg", "a.b.jpg")) == {"a.b.jpg": 2, "a.jpg": 1}

    def test_pictures_that_differ_in_suffix_need_theirs(self, write, images):
        found = images("a.jpg", "a.png")
        assert matched(write("a.png: cat\na.jpg: dog"), found) == {"a.jpg": 2, "a.png": 1}
        with pytest.raises(UsageError, match=r"line 1: 'a' may be photos/a\.jpg, photos/a\.png\. .*the suffix"):
            write("a: cat").match(found)

    def test_a_file_name_that_several_pictures_have_is_refused(self, write, images):
        found = images("x/a.jpg", "y/a.jpg")
        with pytest.raises(UsageError, match=r"line 2: 'a\.jpg' may be photos/x/a\.jpg, photos/y/a\.jpg"):
            write("x/a.jpg: cat\na.jpg: cat").match(found)

    def test_half_a_file_name_is_no_name(self, write, images):
        found = write("bb.jpg: cat\na.jpg: cat").match(images("a.jpg", "sub/b.jpg", "suub/bbb.jpg"))
        assert [line.picture for line in found.strays] == ["bb.jpg"]

    def test_two_lines_for_one_picture_are_refused(self, write, images):
        with pytest.raises(UsageError, match=r"line 3: photos/sub/b\.jpg is in line 1 already; join"):
            write("sub/b.jpg: cat\na.jpg: cat\nb: dog").match(images("a.jpg", "sub/b.jpg"))

    def test_lines_without_a_picture_are_kept_apart(self, write, images):
        found = write("z.jpg: cat\na.jpg: cat\nother/a.jpg: dog").match(images("a.jpg"))
        assert [line.number for line in found.strays] == [1, 3]

    def test_a_file_that_names_no_picture_at_all_is_the_wrong_one(self, write, images):
        with pytest.raises(UsageError, match=r"names no picture of this run.*such as sub/b\.jpg: cat; dog"):
            write("z.jpg: cat").match(images("sub/b.jpg"))

    def test_of_several_folders(self, write, images):
        found = images("x/a.jpg", "y/a.jpg", "y/b.jpg", inputs=["photos/y", "photos/x"])
        assert matched(write("x/a.jpg: cat\nb: dog"), found) == {"y/a.jpg": None, "y/b.jpg": 2, "x/a.jpg": 1}

    def test_composed_and_decomposed_letters_are_the_same(self, write, images):
        name = "caf\u00e9.jpg"
        found = images(unicodedata.normalize("NFD", name))
        assert list(matched(write(f"{name}: cat"), found).values()) == [1]

    def test_a_name_without_suffix(self, write, images):
        (folder := Path("photos")).mkdir()
        (folder / "scan").touch()
        assert matched(write("scan: cat"), images(inputs=["photos/scan"])) == {"scan": 1}

    def test_many_pictures_of_the_same_names(self, write, images):
        names = [f"v{i:02}/frame_{j:02}.jpg" for i in range(20) for j in range(20)]
        found = images(*names)
        for start in ("", "photos/"):
            assert matched(write("\n".join(f"{start}{name}: cat" for name in names)), found) == {
                name: number for number, name in enumerate(names, start=1)
            }
