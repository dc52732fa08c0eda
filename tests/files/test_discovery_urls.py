"""What lies at a URL is found as what lies in a folder is: the same names, in the same order."""

from __future__ import annotations

import pytest

from ovseg_cli.errors import NoInputError
from ovseg_cli.files.discovery import _Search, discover, picture_id
from ovseg_cli.urls import place
from tests.runs.conftest import paint
from tests.shelf import Shelf

NAMES = (
    "img10.png",
    "img2.png",
    "IMG3.PNG",
    "a.jpg",
    "a.png",
    "a/x.png",
    "a/b/y 1.png",
    "a/b/ü.png",
    "b[1].png",
    ".hidden.png",
    ".secret/z.png",
    "notes.md",
    "old.heic",
    "earlier/run.json",
    "earlier/SegmentationClass/q.png",
    "z/odd'\"#?.png",
)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    Shelf.clear()
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        paint(tmp_path / "photos" / "tmp.png", 1)
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "tmp.png").rename(path)
    for name in ("notes.md", "old.heic"):
        (tmp_path / "photos" / name).write_text("no picture")
    return tmp_path / "photos"


def found(*inputs, exclude=None):
    return [(str(image.key), image.path.name) for image in discover(list(inputs), exclude=exclude)]


@pytest.mark.parametrize(
    "inputs",
    [
        ["."],
        ["a"],
        ["a", "img2.png"],
        ["img2.png", "."],
        ["**/*.png"],
        ["*"],
        ["a/**"],
        ["a/*/*.png"],
        ["img?.png"],
        ["b[1].png"],
        ["z/odd'\"#?.png"],
        ["[ab]*"],
        [".hidden.png"],
    ],
)
def test_as_in_a_folder(tree, inputs):
    near = [str(tree / each) if each != "." else str(tree) for each in inputs]
    here = found(*near)
    there = found(*(f"shelf://{each}" for each in near))
    assert there == here
    assert here


def test_a_folder_costs_one_listing(tree):
    Shelf.clear()
    discover([f"shelf://{tree}"])
    assert Shelf.asked == {"list": 1}


def test_what_is_told_is_the_same(tree, caplog):
    discover([str(tree)])
    here = caplog.messages.copy()
    caplog.clear()
    discover([f"shelf://{tree}"])
    assert [message.replace("shelf://", "") for message in caplog.messages] == here


def test_the_output_folder_is_none(tree):
    url = f"shelf://{tree}"
    assert found(url, exclude=place(f"{url}/a")) == [pair for pair in found(url) if not pair[0].startswith("a/")]


def test_a_list_may_name_urls_and_names_beside_it(tree):
    (tree / "list.txt").write_text(f"shelf://{tree}/img2.png\na/x.png\n")
    assert found(f"shelf://{tree}/list.txt") == [("img2", "img2.png"), ("a/x", "x.png")]
    keys = [key for key, _ in found(str(tree / "list.txt"))]
    assert keys == [f"shelf/{str(tree)[1:]}/img2", f"{str(tree)[1:]}/a/x"], "the one is far, the other near"
    (tree / "gone.txt").write_text(f"\nshelf://{tree}/nope.png\n")
    with pytest.raises(NoInputError, match=r"gone.txt, line 2: shelf://.*nope.png does not exist"):
        discover([str(tree / "gone.txt")])


def test_many_lines_of_one_folder_cost_one_listing(tree):
    for i in range(40):
        (tree / "a" / f"m{i}.png").write_bytes(b"")
    (tree / "list.txt").write_text("".join(f"shelf://{tree}/a/m{i}.png\n" for i in range(40)))
    Shelf.clear()
    assert len(discover([str(tree / "list.txt")])) == 40
    assert Shelf.asked == {"list": 1}


def test_near_and_far_together(tree):
    keys = [key for key, _ in found(str(tree / "a"), f"shelf://{tree}/z")]
    assert all(key.startswith((str(tree)[1:], "shelf")) for key in keys)
    assert len({*keys}) == len(keys)


def test_what_is_not_there_is_told(tree):
    with pytest.raises(NoInputError, match=r"shelf://.*/nope does not exist. Name an image"):
        discover([f"shelf://{tree}/nope"])
    with pytest.raises(NoInputError, match="No file matches the pattern"):
        discover([f"shelf://{tree}/*.bmp"])
    Shelf.faults["list", 0] = PermissionError("403")
    with pytest.raises(NoInputError, match=r"Cannot read shelf://.*: no rights \(403\)"):
        discover([f"shelf://{tree}"])


def test_pictures_of_the_web_are_named_and_not_asked_for():
    images = discover(["https://host/a/cat.jpg?sig=1", "https://host/a/b/dog.png"])
    assert [str(image.key) for image in images] == ["cat", "b/dog"]
    assert [picture_id(image.path) for image in images] == ["https://host/a/cat.jpg", "https://host/a/b/dog.png"]
    assert images[0].path.query == "?sig=1"


@pytest.mark.parametrize("given", ["https://host/photos/", "https://host/*.jpg"])
def test_folders_of_the_web_are_refused(given):
    with pytest.raises(NoInputError, match=r"Folders at https:// cannot be listed"):
        discover([given])


def test_two_that_differ_in_secrets_are_refused_and_the_same_twice_is_not():
    assert len(discover(["https://host/a?id=1"] * 2)) == 1
    with pytest.raises(NoInputError, match=r"https://host/a is named twice"):
        discover(["https://host/a?id=1", "https://host/a?id=2"])


def test_a_stamp_changes_with_the_content(tree):
    def stamps():
        return [image.stamp for image in discover([f"shelf://{tree}"])]

    before = stamps()
    assert stamps() == before
    paint(tree / "img2.png", 2, 2)
    assert sum(a != b for a, b in zip(stamps(), before, strict=True)) == 1
    assert [image.stamp for image in discover([str(tree)])] == [None] * len(before)


def test_names_that_no_path_can_have_are_left_out(caplog):
    import fsspec

    from ovseg_cli.urls import Url

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name in ("a.png", "x/../b.png"):
        Url("memory", f"box/{name}").put_bytes(b"")
    memory.store["/box//c.png"] = memory.store["/box/a.png"]
    assert [path.name for path in place("memory://box").listed().files()] == ["a.png"]
    assert "no file can have such a name" in caplog.text


@pytest.mark.parametrize("line", ["/etc/hostname", "file:///etc/hostname"])
def test_a_list_of_the_web_names_no_file_of_this_computer(line):
    search = _Search(exclude=None)
    with pytest.raises(NoInputError, match=r"line 1: .* list of the web"):
        search._add_list(line.encode(), "https://h/list.txt", place("https://h"))
