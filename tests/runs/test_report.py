from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import OutputError, UsageError
from ovseg_cli.pages import run_page
from ovseg_cli.pages.run_page import EIGHT
from ovseg_cli.runs import report as module
from ovseg_cli.runs.journal import Entry, write_journal
from ovseg_cli.runs.report import write_report
from tests.browser import CHROMIUM, WITHOUT, browser
from tests.pages.reading import HOSTILE, Reader
from tests.runs.synthetic import add_picture, write_manifest

ODD = ("a b#c?d%20.png", "ünï 日本.png", "quote'\"&<i>.png", "sub/colon: x.png")


def halves(*ids: int) -> np.ndarray:
    """A label map of upright stripes."""
    return np.repeat(np.array(ids), 20)[None, :].repeat(30, axis=0)


@pytest.fixture
def run(tmp_path):
    """Three pictures of cats and dogs, and one that failed."""
    output, photos, classes = tmp_path / "out", tmp_path / "photos", ["cat", "dog", "bird"]
    entries = [
        add_picture(output, photos / "a.png", halves(1, 0), classes, margin=0.5),
        add_picture(output, photos / "b.png", halves(1, 2, 2, 2), classes, margin=0.125),
        add_picture(output, photos / "c.png", halves(0), classes, margin=None, unfamiliar=True),
        Entry(path=str(photos / "bad.png"), status="failed", error="bad.png is empty (0 bytes).", key=""),
    ]
    write_manifest(output, classes)
    write_journal(output, entries)
    return output


def changed(output: Path, change) -> None:
    """Rewrite the journal, line by line."""
    path = output / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def index_of(page: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="index">(.*?)</script>', page.read_text())[1])


def blocks_of(page: Path) -> list[list[str]]:
    return [
        found.split(" ")
        for found in re.findall(r'<script type="text/plain" id="p\d+">(.*?)</script>', page.read_text())
    ]


class TestContent:
    def test_it_is_one_page_in_the_runs_folder(self, run):
        written = write_report(run)
        assert written.path == run / "report.html"
        assert (written.pictures, written.left_out, written.failed) == (3, 0, 1)
        assert written.nbytes == written.path.stat().st_size
        read = Reader(written.path.read_text())
        identifiers = read.values("id")
        assert len(set(identifiers)) == len(identifiers)
        assert [tag for tag, _ in read.tags if tag in ("link", "iframe", "object", "embed", "base", "form")] == []
        assert read.values("src") == []
        assert all(link.startswith("#") for link in read.values("href"))

    def test_no_address_of_the_network_is_allowed(self, run):
        page = write_report(run).path.read_text()
        (policy,) = [a["content"] for _, a in Reader(page).tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; img-src 'self' data: blob: file:;")
        assert "'unsafe-inline'" not in policy.split("script-src")[1]

    def test_totals_are_those_of_pictures_and_of_pixels(self, run):
        (table,) = [t for t in Reader(write_report(run).path.read_text()).tables if t[0][:1] == ["class"]]
        # Of 40, 80 and 20 columns: a cat on 20 + 20, a dog on 60.
        assert [row[:3] for row in table[1:]] == [
            ["dog", "1", f"{100 * 60 / 140:.1f} %"],
            ["cat", "2", f"{100 * 40 / 140:.1f} %"],
            ["background", "2", f"{100 * 40 / 140:.1f} %"],
        ]
        assert "1 of 3 classes are in no picture" in Reader((run / "report.html").read_text()).text

    def test_a_picture_has_its_copies_its_shares_and_its_files(self, run):
        page = write_report(run).path
        found = index_of(page)
        first, second, third = found["pictures"]
        assert [picture[0] for picture in found["pictures"]] == ["a.png", "b.png", "c.png"]
        assert first[2:5] == [40, 30, 0.5]
        assert first[5] == ["./SegmentationClass/a.png", None, None]
        assert second[6] == [[2, 0.75, 0.5], [1, 0.25, 0.5]]
        assert third[4] is None
        assert "looks like nothing" in third[7]
        jpeg, png, classes = blocks_of(page)[1]
        assert classes == "2,1"
        assert base64.b64decode(jpeg).startswith(b"\xff\xd8")
        assert base64.b64decode(png).startswith(b"\x89PNG")

    def test_failures_notes_and_settings_are_told(self, run):
        write_manifest(run, ["cat", "dog", "bird"], status="interrupted", settings={"threshold": "<0.4>"})
        read = Reader(write_report(run).path.read_text())
        assert [run.parent.joinpath("photos/bad.png").as_posix(), "bad.png is empty (0 bytes)."] in [
            row for table in read.tables for row in table
        ]
        assert "The run is interrupted" in read.text
        assert "1 of 3 pictures look like nothing" in read.text
        assert '"threshold": "<0.4>"' in read.text
        assert "ovseg segment photos" in read.text

    def test_runs_of_earlier_versions_say_that_nothing_tells_how_certain_they_are(self, run):
        changed(run, lambda line: line.pop("margin"))
        read = Reader(write_report(run).path.read_text())
        assert "Nothing says how certain" in read.text
        assert [a for _, a in read.tags if a.get("value") == "margin"] == [{"value": "margin", "disabled": None}]

    def test_some_pictures_without_a_margin_come_last(self, run):
        text = Reader(write_report(run).path.read_text()).text
        assert "Pictures without it come last; they are 1." in text

    def test_hostile_names_are_text(self, tmp_path):
        classes = list(HOSTILE)
        entries = [
            add_picture(
                tmp_path / "out", tmp_path / "in" / name.replace("/", "|"), halves(0, 1, 2, 3), classes, key=f"p{i}"
            )
            for i, name in enumerate(f"{name}.png" for name in HOSTILE)
        ]
        write_manifest(tmp_path / "out", classes)
        write_journal(tmp_path / "out", [*entries, Entry(path=HOSTILE[0], status="failed", error=HOSTILE[1], key="")])
        page = write_report(tmp_path / "out").path
        read = Reader(page.read_text())
        assert [a.get("type") for tag, a in read.tags if tag == "script"] == [
            *["text/plain"] * 3,
            "application/json",
            None,
        ]
        assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
        assert all(name in read.text for name in HOSTILE)
        assert [one["name"] for one in index_of(page)["classes"]] == ["background", *classes]

    def test_addresses_lead_to_the_files_from_the_page_and_from_the_root(self, tmp_path):
        output = tmp_path / "out #1"
        entries = [
            add_picture(output, tmp_path / "my photos" / name, halves(0, 1), ["cat"], key=name.removesuffix(".png"))
            for name in ODD
        ]
        write_manifest(output, ["cat"])
        write_journal(output, entries)
        for page in (write_report(output).path, write_report(output, tmp_path / "else where" / "p.html").path):
            found = index_of(page)
            near, far = found["bases"]
            assert far.startswith("file:///")
            for picture in found["pictures"]:
                there = tmp_path / "my photos" / picture[0]
                assert Path(unquote(urlparse(far + picture[1]).path)) == there
                beside = unquote(urlparse(near + picture[1]).path)
                assert os.path.samefile(page.parent / beside, there)
                assert os.path.isfile(page.parent / unquote(urlparse(picture[5][0]).path))

    def test_names_that_are_no_text_are_shown(self, tmp_path):
        name = os.fsdecode(b"caf\xe9.png")
        try:
            entry = add_picture(tmp_path / "out", tmp_path / "in" / name, halves(1), ["cat"], key="cafe")
        except OSError:
            pytest.skip("this file system takes no such name")
        write_manifest(tmp_path / "out", ["cat"])
        write_journal(tmp_path / "out", [entry])
        found = index_of(write_report(tmp_path / "out").path)
        assert found["pictures"][0][0] == name
        assert found["pictures"][0][1] == "caf%E9.png"

    def test_what_is_gone_is_told_and_the_rest_is_shown(self, run):
        photos = run.parent / "photos"
        (photos / "a.png").unlink()
        (run / "SegmentationClass" / "b.png").unlink()
        Image.new("RGB", (9, 90)).save(photos / "c.png")
        page = write_report(run).path
        first, second, third = index_of(page)["pictures"]
        assert "does not exist" in first[7]
        assert "Its label map cannot be shown" in second[7]
        assert "The picture is another now" in third[7]
        assert [[part == "-" for part in block[:2]] for block in blocks_of(page)] == [
            [True, False],
            [False, True],
            [True, False],
        ]

    def test_large_pictures_are_turned_upright_and_fit_their_label_maps(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        (tmp_path / "in").mkdir()
        Image.new("RGB", (1601, 1200), (200, 40, 90)).save(tmp_path / "in/a.jpg", exif=exif)
        entry = add_picture(tmp_path, tmp_path / "in/a.jpg", np.ones((1601, 1200), int), ["cat"])
        write_manifest(tmp_path, ["cat"])
        write_journal(tmp_path, [entry])
        (block,) = blocks_of(write_report(tmp_path).path)
        sizes = [Image.open(io.BytesIO(base64.b64decode(part))).size for part in block[:2]]
        assert sizes == [(192, 256), (384, 512)]

    def test_ids_of_16_bits(self, tmp_path):
        classes = [f"class {number}" for number in range(1, 401)]
        entry = add_picture(tmp_path / "out", tmp_path / "a.png", halves(400, 255, 7), classes)
        write_manifest(tmp_path / "out", classes)
        write_journal(tmp_path / "out", [entry])
        page = write_report(tmp_path / "out").path
        assert blocks_of(page)[0][2] == "7,255,400"
        assert sum(one["share"] for one in index_of(page)["classes"]) == pytest.approx(1, abs=1e-4)

    @pytest.mark.parametrize("failed", [0, 2])
    def test_nothing_to_show(self, tmp_path, failed):
        write_manifest(tmp_path, ["cat"])
        write_journal(tmp_path, [Entry(path=f"/p/{i}", status="failed", error="why", key="") for i in range(failed)])
        written = write_report(tmp_path)
        assert (written.pictures, written.failed) == (0, failed)
        text = Reader(written.path.read_text()).text
        assert "No picture has a label map." in text
        assert "No class was found." in text

    def test_of_too_many_pictures_the_least_certain_are_shown(self, run, monkeypatch):
        changed(run, lambda line: line.update(margin=line.get("margin") or 0.75))
        monkeypatch.setattr(module, "MOST_PICTURES", 2)
        written = write_report(run)
        assert (written.pictures, written.left_out) == (2, 1)
        assert [picture[0] for picture in index_of(written.path)["pictures"]] == ["a.png", "b.png"]
        read = Reader(written.path.read_text())
        assert "The 2 least certain of 3 pictures are shown" in read.text
        assert "1 of 3 classes are in no picture" in read.text

    def test_of_many_pictures_the_copies_are_smaller(self, tmp_path, monkeypatch):
        ids = np.ones((300, 600), int)
        write_manifest(tmp_path, ["cat"])
        write_journal(tmp_path, [add_picture(tmp_path, tmp_path / "in/a.png", ids, ["cat"])])
        sizes = []
        for many in (1, 0):
            monkeypatch.setattr(module, "MANY_PICTURES", many)
            (block,) = blocks_of(write_report(tmp_path).path)
            sizes.append([Image.open(io.BytesIO(base64.b64decode(part))).size for part in block[:2]])
        assert sizes == [[(256, 128), (512, 256)], [(160, 80), (320, 160)]]

    def test_no_more_than_one_picture_is_held(self, run, monkeypatch):
        """What is written of a picture is written before the next is opened."""
        seen = []
        real = module._copy
        monkeypatch.setattr(module, "_copy", lambda entry, *rest: seen.append(entry.path) or real(entry, *rest))
        pieces = module.as_html(module._page_of(run, module.read_manifest(run), run, None)[0])
        for piece in pieces:
            if (found := re.match(r'<script type="text/plain" id="p(\d+)"', piece)) is not None:
                assert len(seen) == int(found[1]) + 1

    def test_progress_is_told(self, run):
        told = []
        write_report(run, progress=lambda done, total: told.append((done, total)))
        assert told == [(1, 3), (2, 3), (3, 3)]

    def test_a_write_that_fails_leaves_the_old_page(self, run, monkeypatch):
        page = write_report(run).path
        before = page.read_bytes()

        def broken(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "_copy", broken)
        with pytest.raises(KeyboardInterrupt):
            write_report(run)
        assert page.read_bytes() == before
        assert sorted(file.name for file in run.iterdir() if file.name.startswith(".ovseg-")) == []

    def test_what_is_no_run_is_refused(self, tmp_path, run):
        with pytest.raises(UsageError, match=r"holds no run \(run.json is missing\)"):
            write_report(tmp_path)
        with pytest.raises(UsageError, match=r"written as \.html"):
            write_report(run, tmp_path / "page.pdf")
        (run / "run.json").write_text("{")
        with pytest.raises(OutputError, match="damaged"):
            write_report(run)


# What is drawn: the colour of a pixel of an image, 0..255 with its transparency.
PIXEL = """(async (selector, x, y) => {
  const image = document.querySelector(selector);
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const pen = canvas.getContext('2d');
  pen.drawImage(image, 0, 0);
  return [...pen.getImageData(x, y, 1, 1).data];
})"""


def choose(tab, name: str, value: object) -> None:
    tab.ask(
        f"document.getElementById('{name}').value = {json.dumps(value)};"
        f"for (const kind of ['input', 'change']) document.getElementById('{name}').dispatchEvent(new Event(kind))"
    )


def listed(tab) -> list[str]:
    return tab.ask("[...document.querySelectorAll('#gallery .name')].map(one => one.textContent)")


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


@pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
class TestBrowser:
    def opened(self, tab, page: Path) -> None:
        tab.errors.clear()
        tab.requests.clear()
        tab.open(page)
        tab.wait("document.querySelector('#gallery') && document.getElementById('count').textContent !== ''")

    def test_it_opens_from_the_disk_and_asks_for_nothing(self, tab, run):
        self.opened(tab, write_report(run).path)
        tab.wait("document.querySelectorAll('#gallery img.labels').length === 3")
        assert tab.errors == []
        assert [url for url in tab.requests if not url.startswith(("data:", "blob:"))] == [
            (run / "report.html").as_uri()
        ]

    def test_classes_are_switched_by_their_palette(self, tab, run):
        from ovseg_cli.drawing.palettes import class_colour

        self.opened(tab, write_report(run).path)
        tab.wait("document.querySelectorAll('#gallery img.labels').length === 3")
        cat, dog = (
            f"{PIXEL}('#gallery li:nth-child(2) .labels', 8, 15)",
            f"{PIXEL}('#gallery li:nth-child(2) .labels', 50, 15)",
        )
        assert tab.ask(cat) == [*class_colour("cat"), 255]
        assert tab.ask(dog) == [*class_colour("dog"), 255]
        tab.ask("document.querySelector('#totals input[data-class=\"1\"]').click()")
        assert tab.ask(cat)[3] == 0
        assert tab.ask(dog) == [*class_colour("dog"), 255]
        tab.ask("document.querySelector('#totals button[data-only=\"1\"]').click()")
        assert tab.ask(cat) == [*class_colour("cat"), 255], "whether it is ticked or not"
        assert tab.ask(dog) == [0, 0, 0, 200], "all else is darker"
        assert tab.ask("document.getElementById('only').textContent") == "Only cat is drawn."
        tab.ask("document.querySelector('#totals button[data-only=\"1\"]').click()")
        tab.ask("document.getElementById('tick-all').click()")
        choose(tab, "colours", "eight")
        assert tab.ask(dog) == [*EIGHT[0], 255], "the largest class has the first"
        assert tab.ask(cat) == [*EIGHT[1], 255]
        choose(tab, "opacity", "20")
        assert tab.ask("getComputedStyle(document.querySelector('#gallery .labels')).opacity") == "0.2"
        assert tab.errors == []

    def test_pictures_are_found_filtered_and_sorted(self, tab, run):
        self.opened(tab, write_report(run).path)
        assert listed(tab) == ["a.png", "b.png", "c.png"]
        choose(tab, "sort", "margin")
        assert listed(tab) == ["b.png", "a.png", "c.png"], "without a margin comes last"
        choose(tab, "sort", "share")
        assert listed(tab) == ["b.png", "a.png", "c.png"]
        choose(tab, "filter", "1")
        assert listed(tab) == ["a.png", "b.png"], "by the share of cats"
        choose(tab, "filter", "none")
        assert listed(tab) == ["c.png"]
        choose(tab, "filter", "all")
        choose(tab, "search", "B.")
        tab.wait("document.getElementById('count').textContent === '1 of 3 pictures'")
        assert listed(tab) == ["b.png"]

    def test_the_large_view_by_the_keyboard(self, tab, run):
        self.opened(tab, write_report(run).path)
        tab.ask("document.querySelector('#gallery button').focus()")
        tab.press("ArrowRight")
        assert tab.ask("document.activeElement.querySelector('.name').textContent") == "b.png"
        tab.press("Enter")
        tab.wait("document.getElementById('view').open")
        assert tab.ask("document.getElementById('view-name').textContent") == "b.png"
        tab.wait("document.getElementById('view-picture').src.endsWith('/photos/b.png')")
        assert tab.ask("document.getElementById('view-picture').naturalWidth") == 80
        tab.press("ArrowLeft")
        assert tab.ask("document.getElementById('view-name').textContent") == "a.png"
        tab.press("ArrowRight")
        tab.press("ArrowRight")
        tab.press("ArrowRight")
        assert tab.ask("document.getElementById('view-name').textContent") == "c.png"
        tab.press("Escape")
        assert not tab.ask("document.getElementById('view').open")
        tab.wait("document.activeElement.querySelector('.name').textContent === 'c.png'")

    def test_the_class_under_the_pointer_is_named(self, tab, run):
        self.opened(tab, write_report(run).path)
        tab.ask("document.querySelector('#gallery li:nth-child(2) button').click()")
        box = tab.ask(
            "(b => [b.left, b.top, b.width, b.height])(document.getElementById('stage').getBoundingClientRect())"
        )
        for share, name in ((0.1, "cat"), (0.6, "dog")):
            for _ in range(100):  # the map is made ready in the background
                x, y = box[0] + share * box[2], box[1] + box[3] / 2
                tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
                if (found := tab.ask("document.getElementById('under').textContent")) != "":
                    break
            assert found == name
        tab.press("Escape")

    def test_a_run_that_moved_alone_finds_its_pictures_where_they_were(self, tab, run, tmp_path):
        write_report(run)
        shutil.move(run, tmp_path / "far" / "away")
        self.opened(tab, tmp_path / "far" / "away" / "report.html")
        tab.ask("document.querySelector('#gallery button').click()")
        tab.wait("document.getElementById('view-picture').src.endsWith('/photos/a.png')")
        tab.press("Escape")
        shutil.rmtree(tmp_path / "photos")
        self.opened(tab, tmp_path / "far" / "away" / "report.html")
        tab.ask("document.querySelector('#gallery button').click()")
        tab.wait("document.getElementById('view-note').textContent.startsWith('This is a small copy')")
        assert tab.ask("document.getElementById('view-picture').src").startswith("data:image/jpeg")
        tab.press("Escape")

    def test_pictures_are_decoded_when_they_come_near_and_let_go_afterwards(self, tab, tmp_path):
        entries = [
            add_picture(tmp_path, tmp_path / f"in/{number:03d}.png", halves(0, 1), ["cat"]) for number in range(150)
        ]
        write_manifest(tmp_path, ["cat"])
        write_journal(tmp_path, entries)
        self.opened(tab, write_report(tmp_path).path)
        filled = "[...document.querySelectorAll('#gallery li')].map(one => one.querySelectorAll('img').length)"
        tab.wait("document.querySelectorAll('#gallery img').length > 0")
        assert tab.ask(filled)[-1] == 0
        tab.ask("window.scrollTo(0, document.body.scrollHeight)")
        tab.wait("document.querySelector('#gallery li:last-child img')")
        tab.wait("!document.querySelector('#gallery li:first-child img')")
        assert sum(tab.ask(filled)) < 150

    def test_of_many_pictures_some_are_added_at_a_time(self, tab, tmp_path, monkeypatch):
        own = tmp_path / "pages"
        own.mkdir()
        for name in ("run.css", "run.js"):
            text = run_page._HERE.with_name(name).read_text()
            (own / name).write_text(text.replace("const AT_ONCE = 1000;", "const AT_ONCE = 20;"))
        monkeypatch.setattr(run_page, "_HERE", own / "run_page.py")
        entries = [
            add_picture(tmp_path, tmp_path / f"in/{number:03d}.png", halves(0, 1), ["cat"], margin=number / 100)
            for number in range(50)
        ]
        write_manifest(tmp_path, ["cat"])
        write_journal(tmp_path, entries)
        self.opened(tab, write_report(tmp_path).path)
        count = "document.getElementById('count').textContent"
        assert len(listed(tab)) == 20
        assert tab.ask(count) == "50 of 50 pictures; the first 20 are below"
        tab.ask("document.getElementById('more').click()")
        assert len(listed(tab)) == 40
        assert tab.ask("document.activeElement.querySelector('.name').textContent") == "020.png"
        assert tab.ask("document.getElementById('more').textContent") == "Show 10 more"
        choose(tab, "sort", "margin")
        assert len(listed(tab)) == 20
        tab.ask("document.querySelector('#gallery li:last-child button').click()")
        tab.press("ArrowRight")
        tab.press("Escape")
        tab.wait("document.activeElement.querySelector('.name')?.textContent === '020.png'")
        assert len(listed(tab)) == 40, "what was looked at is there"
        tab.press("End")
        assert tab.ask("document.activeElement.querySelector('.name').textContent") == "049.png"
        assert tab.ask("document.getElementById('more').hidden")
        assert tab.ask(count) == "50 of 50 pictures"
        assert tab.errors == []

    def test_hostile_names_run_nothing_and_stay_readable(self, tab, tmp_path):
        classes = list(HOSTILE)
        entry = add_picture(
            tmp_path, tmp_path / "in" / f"{HOSTILE[2]}.png".replace("/", "|"), halves(0, 1, 2, 3), classes, key="p"
        )
        write_manifest(tmp_path, classes)
        write_journal(tmp_path, [entry])
        page = write_report(tmp_path).path
        page.write_text(page.read_text().replace("alert(1)", "document.title=0"))
        self.opened(tab, page)
        tab.ask("document.querySelector('#gallery button').click()")
        text = tab.ask("document.getElementById('view-classes').textContent")
        assert all(name.replace("alert(1)", "document.title=0") in text for name in classes)
        assert tab.ask("document.title") != "0"
        assert tab.ask("document.querySelectorAll('#view i, #gallery i, #view script').length") == 0
        tab.press("Escape")

    def test_odd_names_are_opened(self, tab, tmp_path):
        for number, name in enumerate(ODD):
            folder = tmp_path / str(number)
            entry = add_picture(folder / "out", folder / "in" / name, halves(0, 1), ["cat"], key="p")
            write_manifest(folder / "out", ["cat"])
            write_journal(folder / "out", [entry])
            self.opened(tab, write_report(folder / "out").path)
            tab.ask("document.querySelector('#gallery button').click()")
            tab.wait("!document.getElementById('view-picture').src.startsWith('data:')")
            assert tab.ask("document.getElementById('view-note').textContent") == ""
            tab.press("Escape")

    @pytest.mark.parametrize("width", [360, 800, 1500])
    def test_nothing_sticks_out_of_the_window(self, tab, tmp_path, width):
        classes = [f"a class with a rather long name {number} {'x' * 40}" for number in range(30)]
        ids = np.arange(30).repeat(10)[None, :].repeat(40, axis=0) + 1
        write_manifest(tmp_path, classes)
        write_journal(tmp_path, [add_picture(tmp_path, tmp_path / "in" / ("n" * 200 + ".png"), ids, classes, key="p")])
        tab.resize(width, 800)
        self.opened(tab, write_report(tmp_path).path)
        needed = "document.documentElement.scrollWidth"
        assert tab.ask(needed) <= width
        tab.ask("document.querySelector('#gallery button').click()")
        assert tab.ask("document.getElementById('view').scrollWidth <= document.getElementById('view').clientWidth")
        tab.press("Escape")
        tab.resize(1280, 900)

    def test_what_is_seen_has_words_too(self, tab, run):
        self.opened(tab, write_report(run).path)
        tab.ask("document.querySelector('#gallery button').click()")
        nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
        roles = ("button", "checkbox", "slider", "combobox", "searchbox", "link", "dialog", "image")
        nameless = [
            node["role"]["value"]
            for node in nodes
            if not node["ignored"] and node["role"]["value"] in roles and not node.get("name", {}).get("value")
        ]
        assert nameless == []
        assert any(node.get("role", {}).get("value") == "dialog" for node in nodes)
        tab.press("Escape")

    def test_a_page_without_pictures_raises_no_error(self, tab, tmp_path):
        write_manifest(tmp_path, ["cat"])
        write_journal(tmp_path, [])
        self.opened(tab, write_report(tmp_path).path)
        assert tab.errors == []
        assert tab.ask("document.getElementById('count').textContent") == "0 of 0 pictures"
