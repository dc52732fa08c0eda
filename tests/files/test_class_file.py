from __future__ import annotations

import pytest

from ovseg_cli.errors import ClassNameError, UsageError
from ovseg_cli.files.class_file import read_class_file
from ovseg_cli.text.vocabulary import make_vocabulary
from tests.files import published_classes as published


@pytest.fixture
def write(tmp_path):
    def write(text, **options):
        path = tmp_path / "classes.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return read_class_file(path, **options)

    return write


@pytest.mark.parametrize(
    ("text", "separator", "first"),
    [
        (published.sclip_voc21(), ", ", True),
        (published.proxyclip_voc21(), "; ", True),
        (published.clearclip_voc21(), ", ", False),
        (published.clearclip_voc21(), "; ", True),
    ],
    ids=["sclip", "proxyclip", "clearclip", "clearclip-told"],
)
def test_published_files_give_the_published_query_words(write, text, separator, first):
    found = write(text, first_is_background=first)
    vocabulary = make_vocabulary(found.classes, synonyms=found.synonyms, background=found.background)
    words, owner = published.published_queries(text, separator)
    assert dict(zip(vocabulary.words, vocabulary.owner, strict=True)) == dict(zip(words, owner, strict=True))
    assert len(vocabulary.words) == len(words)
    assert vocabulary.channels == 21
    assert (vocabulary.left_out, vocabulary.notes) == ((), ())


def test_published_facts():
    assert (len(published.BACKGROUND), len(published.OBJECT_BACKGROUND), len(published.VOC)) == (26, 17, 20)
    words, owner = published.published_queries(published.sclip_voc21(), ", ")
    assert (len(words), owner.count(15), owner.count(20)) == (26 + 18 + 7 + 5, 7, 5)


def test_a_line_is_a_class_with_its_synonyms(write):
    found = write("ship; boat ;  sailing   boat\nsofa\nperson;man, woman\n")
    assert found.classes == ("ship", "sofa", "person")
    assert found.synonyms == {"ship": ("boat", "sailing boat"), "person": ("man, woman",)}
    assert found.background is None


def test_commas_separate_where_no_line_has_a_semicolon(write):
    found = write("building, edifice\n# not; here\nsky\n")
    assert found.classes == ("building", "sky")
    assert found.synonyms == {"building": ("edifice",)}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_marks_line_ends_blank_lines_and_comments_do_not_matter(write, end, mark):
    lines = ["", "# pets", "cat; kitten;", "   ", "  # the rest", "d\u00f6ner; \u732b", ""]
    found = write(mark + end.join(lines).encode("utf-8"))
    assert found.classes == ("cat", "d\u00f6ner")
    assert found.synonyms == {"cat": ("kitten",), "d\u00f6ner": ("\u732b",)}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("background", ("background",)),
        ("Background; sky; wall", ("sky", "wall")),
        ("_background_; sky", ("sky",)),
        ("background;", ("background",)),
    ],
)
def test_a_background_line_may_stand_anywhere(write, line, words):
    for text in (f"{line}\ncat; kitten", f"cat; kitten\n{line}\n"):
        found = write(text)
        assert found.classes == ("cat",)
        assert found.background == words


def test_a_long_first_line_is_told_and_read_as_a_class(write, caplog):
    found = write(published.sclip_voc21())
    assert found.classes[0] == "sky"
    assert found.background is None
    (record,) = caplog.records
    assert "line 1 is read as the class 'sky' with 25 synonyms" in record.getMessage()
    assert record.levelname == "WARNING"
    caplog.clear()
    write("person, person in shirt, person in jeans\ncat")
    assert not caplog.records


def test_lines_that_repeat_a_class_add_their_synonyms_and_are_told(write, caplog):
    found = write("cat; puss\ndog\n\nCAT; kitten\ncaf\u00e9\ncafe\u0301\n")
    assert found.classes == ("cat", "dog", "caf\u00e9")
    assert found.synonyms == {"cat": ("puss", "kitten")}
    (record,) = caplog.records
    assert "2 line(s) repeat a class" in record.getMessage()
    assert "line 4 (CAT, as line 1), line 6 (caf\u00e9, as line 5)" in record.getMessage()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", UsageError, "names no class"),
        ("# cat\n\n", UsageError, "names no class"),
        ("background; sky", UsageError, "names no class"),
        ("background\ncat\nbackground; sky", UsageError, "line 3: the background has a line already"),
        ("cat\n; kitten", UsageError, "line 2: '; kitten' begins with ';'"),
        ("cat\n;", UsageError, "line 2: ';' begins with ';'"),
        ("cat\n???", ClassNameError, r"line 2: .*mere punctuation"),
        ("cat; kitten\nbuilding, edifice", ClassNameError, "line 2: .*comma"),
        ("cat\na/b", ClassNameError, "line 2: .*slash"),
        (b"cat\n\xff\xfe", UsageError, "is not UTF-8 text"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(write, text, kind, message):
    with pytest.raises(kind, match=f"classes.txt.*{message}") as caught:
        write(text)
    assert type(caught.value) is kind


def test_a_background_line_and_a_first_line_that_is_told_to_be_one_are_two(write):
    with pytest.raises(UsageError, match="line 2: the background has a line already"):
        write("sky; wall\nbackground; tree\ncat", first_is_background=True)


def test_a_missing_file_and_a_folder_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_class_file(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="cannot be read"):
        read_class_file(tmp_path)


def test_hundreds_of_classes(write):
    found = write("\n".join(f"class {i}; word {i}" for i in range(400)))
    assert len(found.classes) == len(found.synonyms) == 400
