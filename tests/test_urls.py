from __future__ import annotations

import pickle
import sys
from pathlib import Path

import fsspec
import pytest

from ovseg_cli import urls
from ovseg_cli.atomic import atomic_folder, write_text
from ovseg_cli.errors import OutputError, UsageError
from ovseg_cli.urls import Url, folder_of_all, is_url, place, redacted, redacted_argument, same_or_inside, way
from tests.shelf import Shelf


@pytest.fixture(autouse=True)
def empty(tmp_path):
    Shelf.clear()
    fsspec.filesystem("memory").store.clear()
    fsspec.filesystem("memory").pseudo_dirs[:] = [""]
    return tmp_path


class TestNames:
    @pytest.mark.parametrize(
        "text", ["photos", "/a/b", "C:/photos", r"C:\photos", "C://photos", "a:b", "s3:/bucket", "-", "x?y://z"]
    )
    def test_a_path_is_one_as_before(self, text):
        assert place(text) == Path(text)

    def test_a_url_has_the_parts_of_a_path(self):
        url = place("s3://bucket/photos/sub/a.b.jpg")
        assert (url.name, url.stem, url.suffix) == ("a.b.jpg", "a.b", ".jpg")
        assert str(url.parent) == "s3://bucket/photos/sub"
        assert [str(folder) for folder in url.parents] == [
            "s3://bucket/photos/sub",
            "s3://bucket/photos",
            "s3://bucket",
        ]
        assert str(place("s3://bucket/").parent) == "s3://bucket"
        assert str(url.with_name("c")) == "s3://bucket/photos/sub/c"
        assert str(place("S3://bucket/x//") / "a" / "b") == "s3://bucket/x/a/b"

    def test_letters_mean_nothing_in_it(self):
        assert str(place("s3://bucket/a%20b?c#d::[1].jpg")) == "s3://bucket/a%20b?c#d::[1].jpg"

    def test_a_file_url_is_a_path(self, tmp_path):
        spaced = tmp_path / "a b"
        spaced.touch()
        assert place(spaced.as_uri()) == spaced
        assert place(f"file://{spaced}") == spaced
        assert place(f"file://localhost{spaced}") == spaced

    def test_a_folder_of_that_name_comes_before_a_scheme_that_nobody_knows(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert isinstance(place("odd://folder"), Url)
        (tmp_path / "odd:" / "folder").mkdir(parents=True)
        assert place("odd://folder") == Path("odd:/folder")

    @pytest.mark.parametrize("text", ["s3://", "s3:///", "s3://b/../c", "s3://b/./c"])
    def test_what_names_nothing_is_refused(self, text):
        with pytest.raises(UsageError):
            place(text)

    def test_ways(self):
        outer, inner = place("s3://b/x"), place("s3://b/x/y/z")
        assert same_or_inside(inner, outer)
        assert same_or_inside(outer, outer)
        assert not same_or_inside(place("s3://b/xy"), outer)
        assert not same_or_inside(Path("/b/x/y"), outer)
        assert way(outer, inner) == "y/z"
        assert way(place("s3://b/q"), inner) == "../x/y/z"
        with pytest.raises(ValueError, match="no way"):
            way(place("s3://other/x"), inner)
        assert folder_of_all([inner, place("s3://b/x/q")]) == outer
        assert folder_of_all([inner, Path("/b")]) is None
        assert folder_of_all([Path("/a/b"), Path("/a/c")]) == Path("/a")


class TestSecrets:
    SIGNED = "https://me:word@host/a.jpg?X-Amz-Signature=abc"

    def test_are_not_shown_and_yet_sent(self):
        url = place(self.SIGNED)
        for shown in (str(url), repr(url), str(url.parent)):
            assert "abc" not in shown
            assert "word" not in shown
        assert (url.user, url.query) == ("me:word@", "?X-Amz-Signature=abc")
        copy = pickle.loads(pickle.dumps(url))
        assert (copy, copy.user, copy.query) == (url, url.user, url.query)
        assert (url / "x").query == ""

    def test_the_name_of_a_container_is_none(self):
        assert str(place("abfs://box@account.example/x")) == "abfs://box@account.example/x"
        assert str(place("ftp://me:word@host/x")) == "ftp://host/x"

    @pytest.mark.parametrize(
        ("text", "left"),
        [
            (SIGNED, "https://host/a.jpg"),
            ("--from=https://t0ken@host/a?sig=1", "--from=https://host/a"),
            ("cannot open 'http://h/x?q=1', really", "cannot open 'http://h/x', really"),
            ("s3://bucket/img?.jpg", "s3://bucket/img?.jpg"),
            ("no url: a?b@c:d", "no url: a?b@c:d"),
        ],
    )
    def test_are_taken_out_of_texts(self, text, left):
        assert redacted(text) == left

    def test_are_not_in_errors(self):
        class Web(type(fsspec.filesystem("memory"))):
            protocol = "https"

            def open(self, path, mode="rb", **more):
                raise OSError(f"403, message='Forbidden', url='{path}'")

        fsspec.register_implementation("https", Web, clobber=True)
        try:
            with pytest.raises(OSError, match="Forbidden") as raised:
                place(self.SIGNED).read_bytes()
        finally:
            known().pop("https")
        assert raised.value.__cause__ is None
        for secret in ("abc", "word"):
            assert secret not in str(raised.value)


class TestReading:
    def test_one_listing_answers_everything(self, tmp_path):
        for name in ("a.png", "sub/b.png", "sub/deep/c.png"):
            place(f"shelf://{tmp_path}/{name}").put_bytes(name.encode())
        Shelf.clear()
        root = place(f"shelf://{tmp_path}").listed()
        assert (root / "a.png").is_file()
        assert (root / "sub").is_dir()
        assert not (root / "sub").is_file()
        assert not (root / "gone").exists()
        assert (root / "sub/b.png").facts().size == 9
        assert {path.name: kind for path, kind in (root / "sub").entries()} == {"b.png": "file", "deep": "folder"}
        assert sorted(path.name for path in root.files()) == ["a.png", "b.png", "c.png"]
        assert Shelf.asked == {"list": 1}

    def test_what_listings_and_questions_say_of_a_file_is_the_same(self, tmp_path):
        for url in (place(f"shelf://{tmp_path}/a"), place("memory://box/a")):
            url.put_bytes(b"one")
            before = url.facts()
            assert (url.parent.listed() / "a").facts() == before
            url.put_bytes(b"two")
            assert url.facts() != before

    def test_nothing_is_an_empty_folder(self, tmp_path):
        for url in (place(f"shelf://{tmp_path}/x"), place("memory://x")):
            root = url.listed()
            assert not root.exists()
            assert [*root.files()] == []
            assert not url.exists()

    def test_a_listing_that_fails_is_no_empty_folder(self, tmp_path):
        Shelf.faults["list", 1] = PermissionError("not yours")
        with pytest.raises(PermissionError, match="no rights"):
            place(f"shelf://{tmp_path}").listed()

    def test_a_sent_url_asks_the_store(self, tmp_path):
        place(f"shelf://{tmp_path}/a").put_bytes(b"")
        sent = pickle.loads(pickle.dumps(place(f"shelf://{tmp_path}").listed()))
        assert sent.tree is None
        assert (sent / "a").is_file()


class TestErrors:
    def test_a_scheme_that_nobody_knows(self):
        with pytest.raises(UsageError, match=r"Nothing is known of nothing://, so nothing://x/y cannot be reached"):
            place("nothing://x/y").read_bytes()

    def test_a_package_that_is_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "s3fs", None)
        known().pop("s3", None)
        with pytest.raises(UsageError, match=r"s3:// needs the package s3fs, which is not installed: pip install s3fs"):
            place("s3://bucket/a").read_bytes()

    def test_what_the_library_says_is_one_line(self, tmp_path):
        url = place(f"shelf://{tmp_path}/a")
        for fault, kind, says in (
            (RuntimeError("no\nroute"), OSError, "RuntimeError: no"),
            (FileNotFoundError("The specified bucket does not exist"), FileNotFoundError, "there is no such bucket"),
            (TimeoutError(), OSError, "TimeoutError"),
        ):
            Shelf.faults["get", 0] = fault
            with pytest.raises(kind) as raised:
                url.read_bytes()
            assert raised.value.strerror == says
            assert raised.value.filename == str(url)

    def test_what_cannot_be_written_says_what_to_do(self, tmp_path):
        Shelf.faults["put", 0] = OSError("connection reset")
        with pytest.raises(OutputError, match=r"connection reset\. Check the network, then run the same command again"):
            write_text(f"shelf://{tmp_path}/a", "x")
        with pytest.raises(OutputError, match="nothing can be written there"):
            write_text("https://host/a", "x")


class TestWriting:
    def test_what_fails_leaves_nothing(self, tmp_path):
        with pytest.raises(ZeroDivisionError):
            write_text_and_fail(f"shelf://{tmp_path}/a")
        assert [*tmp_path.iterdir()] == []

    def test_only_one_can_create(self, tmp_path):
        for url in (place(f"shelf://{tmp_path}/a"), place("memory://box/a")):
            assert url.create(b"1")
            assert not url.create(b"2")
            assert url.read_bytes() == b"1"

    def test_a_folder_takes_the_place_of_another(self, tmp_path):
        root = place(f"shelf://{tmp_path}/out")
        for name in ("old", "sub/old[1]", "sub/kept"):
            (root / name).put_bytes(b"")
        with atomic_folder(root) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "kept").write_text("new")
            (folder / "mark").touch()
        assert sorted(str(path.relative_to(root)) for path in root.listed().files()) == ["mark", "sub/kept"]
        assert (root / "sub/kept").read_text() == "new"

    def test_names_are_no_patterns(self, tmp_path):
        root = place(f"shelf://{tmp_path}")
        for name in ("a[1]", "a1", "b", "c"):
            (root / name).put_bytes(b"")
        root.remove(["a[1]", "b", "gone"])
        assert sorted(path.name for path in root.listed().files()) == ["a1", "c"]


def known():
    """What fsspec has imported, by scheme."""
    return sys.modules["fsspec.registry"]._registry


def write_text_and_fail(target):
    from ovseg_cli.atomic import atomic_path

    with atomic_path(target) as path:
        path.write_text("half")
        raise ZeroDivisionError


def test_schemes_are_two_letters_at_least():
    assert is_url("s3://x")
    assert not is_url("c://x")


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("http://h/a b.jpg?sig=SECRET", "http://h/a b.jpg"),
        ("http://me:SECRET@h/it's.jpg?sig=SECRET", "http://h/it's.jpg"),
        ("https://u:SE'CRET@h/x.png?sig=SECRET", "https://h/x.png"),
        ("https://user:SE@CRET@h/x.png", "https://h/x.png"),
        ("--output=s3://KEY:SECRET@bucket/a b", "--output=s3://bucket/a b"),
        ("s3://KEY:SE/CR/ET@bucket/a", "s3://bucket/a"),
        ("az://container@account/a", "az://container@account/a"),
        ("http://[::1]:80/a@2x.png", "http://[::1]:80/a@2x.png"),
        ("http://h:8080/a@2x.png", "http://h:8080/a@2x.png"),
        ("no url", "no url"),
    ],
)
def test_what_was_typed_is_kept_without_secrets(typed, kept):
    assert redacted_argument(typed) == kept
    if "://" in typed and not typed.startswith("-"):
        assert str(place(typed)) == kept
        assert "SE" not in repr(place(typed))


def test_joined_urls_are_refused():
    with pytest.raises(UsageError, match="joined by ::"):
        place("blockcache::https://u:SECRET@h/a.png")


def test_more_than_fits_into_memory_is_not_read(monkeypatch):
    monkeypatch.setattr(urls, "MOST_BYTES", 3)
    at = place("memory://large/a.png")
    at.put_bytes(b"1234")
    folder = place("memory://large").listed()
    for one in (folder / "a.png", pickle.loads(pickle.dumps(folder / "a.png"))):
        with pytest.raises(OSError, match="copy it to this computer"):
            one.read_bytes()
