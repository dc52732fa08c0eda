from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.drawing.difference import CONFUSED, INVENTED, MISSED, difference, shrunk
from ovseg_cli.drawing.matrix import matrix_svg, row_shares
from ovseg_cli.evaluation import page as module
from ovseg_cli.evaluation.bootstrap import with_intervals
from ovseg_cli.evaluation.folder import LEFT_OUT
from ovseg_cli.evaluation.page import as_html, confusion_csv
from ovseg_cli.evaluation.page_content import page_of
from ovseg_cli.evaluation.per_picture import as_csv, as_jsonl, figures_of
from ovseg_cli.evaluation.pictures import Pictures
from ovseg_cli.evaluation.reliability import reliability
from ovseg_cli.evaluation.report import Report, build_report
from ovseg_cli.evaluation.scoring import count_pair
from ovseg_cli.pages.frame import digest
from tests.browser import CHROMIUM, WITHOUT
from tests.pages.reading import HOSTILE, Reader

_RNG = np.random.default_rng(5)


def report_of(maps, names) -> Report:
    pictures = Pictures(names)
    for key, (truth, found) in maps.items():
        pictures.append(count_pair(truth, found, num_classes=len(names), key=key, ignore=LEFT_OUT))
    return build_report(
        names,
        pictures.matrix(),
        images=len(pictures),
        ignored_pixels=pictures.ignored,
        pictures=pictures,
        convention="as it is",
    )


def random_maps(count, names, size=(12, 16)):
    return {
        f"sub/{number:04d}": (_RNG.integers(-1, len(names), size), _RNG.integers(0, len(names), size))
        for number in range(count)
    }


def html_of(maps, names, *, image=None, scores=None, worst=3, facts=None) -> str:
    page = page_of(
        with_intervals(report_of(maps, names), draws=50),
        title=f"Evaluation of {names[-1]}",
        summary=[f"Classes: {', '.join(names)}"],
        maps=lambda key: tuple(np.asarray(ids, dtype=np.int32) for ids in maps[key]),
        image_of=lambda key: f"no picture of {key}" if image is None else image,
        scores=scores or {},
        facts=facts or {"command": "ovseg eval"},
        worst=worst,
    )
    return as_html(page)


@pytest.fixture(scope="module")
def hostile():
    names = ["background", *HOSTILE]
    maps = {f"sub/{name}": maps for name, maps in zip(HOSTILE, random_maps(3, names).values(), strict=True)}
    return html_of(maps, names, image=Image.new("RGB", (16, 12), (90, 20, 30)), facts={HOSTILE[0]: HOSTILE[1]})


class TestPage:
    def test_is_valid_and_needs_nothing_else(self, hostile):
        read = Reader(hostile)
        identifiers = read.values("id")
        assert max(Counter(identifiers).values()) == 1
        assert all(target[1:] in identifiers for target in read.values("href") if target.startswith("#"))
        for attribute in ("src", "href", "action", "data", "poster", "srcset"):
            assert all(value.startswith(("data:", "#")) for value in read.values(attribute))
        assert [tag for tag, _ in read.tags if tag in ("link", "iframe", "object", "embed", "base", "form")] == []
        assert "@import" not in hostile
        assert not re.search(r"url\((?!#)", hostile)

    def test_hostile_names_are_text(self, hostile):
        read = Reader(hostile)
        assert [tag for tag, _ in read.tags].count("script") == 1
        assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
        for name in HOSTILE:
            assert name in read.text
            assert name in {row[0] for table in read.tables for row in table}

    def test_scripts_of_others_would_not_run(self, hostile):
        (policy,) = [
            a["content"] for tag, a in Reader(hostile).tags if a.get("http-equiv") == "Content-Security-Policy"
        ]
        assert policy.startswith("default-src 'none'; img-src data:;")
        script = hostile[hostile.index("<script>") + 8 : hostile.index("</script>")]
        assert f"'sha256-{digest(script)}'" in policy
        assert "'unsafe-inline'" not in policy.split("script-src")[1]

    def test_what_is_seen_has_words_too(self, hostile):
        read = Reader(hostile)
        for tag, attributes in read.tags:
            if tag == "img":
                assert attributes["alt"]
            if tag == "svg":
                assert attributes["role"] == "img"
                assert attributes["aria-label"]
            if attributes.get("role") == "region":
                assert attributes["aria-label"]
                assert attributes["tabindex"] == "0", "what scrolls is reached by the keyboard"
        assert [attributes["lang"] for tag, attributes in read.tags if tag == "html"] == ["en"]

    def test_figures_stand_with_their_convention_and_interval(self):
        names = ["background", "cat", "dog"]
        maps = random_maps(6, names)
        report = with_intervals(report_of(maps, names), draws=50)
        text = Reader(html_of(maps, names)).text
        interval = report.figure("miou").interval
        assert f"{report.miou:.3f} 95 % in {interval.low:.3f} to {interval.high:.3f}" in text
        assert report.figure("miou").convention in text
        for score in report.classes:
            assert f"{score.iou:.3f}" in text

    def test_the_worst_pictures_come_first(self):
        names = ["background", "cat"]
        truth = np.ones((8, 8), int)
        maps = {f"p{wrong}": (truth, np.where(np.arange(64).reshape(8, 8) < wrong, 0, 1)) for wrong in (0, 40, 8, 64)}
        read = Reader(html_of(maps, names, image=Image.new("RGB", (8, 8)), worst=2))
        (table,) = [table for table in read.tables if table[0][0] == "picture"]
        assert [row[0] for row in table[1:]] == ["p64", "p40", "p8", "p0"]
        assert table[1][4] == "cat found as background (100.0 % of the pixels)"
        assert [a["alt"] for tag, a in read.tags if tag == "img"] == [
            f"{part} of {key}" for key in ("p64", "p40") for part in ("picture", "truth", "found", "difference")
        ]

    def test_without_a_picture_its_labels_are_shown_and_why(self):
        names = ["background", "cat"]
        read = Reader(html_of(random_maps(1, names), names))
        assert "no picture of sub/0000" in read.text
        assert [a["alt"].split()[0] for tag, a in read.tags if tag == "img"] == ["truth", "found", "difference"]

    def test_a_picture_of_another_size_is_told(self):
        names = ["background", "cat"]
        assert "The picture is 5x5" in html_of(random_maps(1, names), names, image=Image.new("RGB", (5, 5)))

    @pytest.mark.slow
    def test_its_size_is_bounded(self):
        names = ["background", *(f"class {number}" for number in range(1, 150))]
        maps = random_maps(3000, names, size=(6, 6))
        page = html_of(maps, names, image=Image.new("RGB", (6, 6)), worst=12)
        read = Reader(page)
        (table,) = [table for table in read.tables if table[0][0] == "picture"]
        assert len(table) == 1 + module.PICTURES_LISTED
        assert f"The worst {module.PICTURES_LISTED:,} of 3,000 pictures" in read.text
        assert sum(tag == "img" for tag, _ in read.tags) == 48
        assert len(page) < 1_500_000

    def test_the_matrix_comes_as_csv(self):
        names = ["background", 'a "cat", two']
        report = report_of(random_maps(2, names), names)
        (link,) = [a["href"] for tag, a in Reader(html_of(random_maps(2, names), names)).tags if "download" in a]
        assert base64.b64decode(link.split(",", 1)[1]).decode().startswith("true \\ found,background,")
        table = list(csv.reader(io.StringIO(confusion_csv(names, report.pictures.matrix()))))
        assert table[0][1:] == names
        assert [[int(cell) for cell in row[1:]] for row in table[1:]] == report.pictures.matrix().tolist()

    def test_scores_are_spoken_of_only_where_they_are_kept(self):
        names = ["background", "cat"]
        maps = {"a": (np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 0]]))}
        assert "No scores are kept" in html_of(maps, names)
        page = html_of(maps, names, scores={"a": {"background": 0.75, "cat": 0.5}})
        assert "No scores are kept" not in page
        # Three background pixels of score 0.75, of which two are right, and one of a cat, of score 0.5, which is.
        error = (3 * abs(0.75 - 2 / 3) + abs(0.5 - 1)) / 4
        assert f"Expected calibration error: {error:.3f}" in Reader(page).text


class TestReliability:
    def test_bins_and_error(self):
        found = reliability([(0.95, 10, 9), (0.91, 30, 21), (1.0, 0, 0), (-0.2, 5, 0), (1.0, 5, 5)])
        low, high = found.bins
        assert (low.low, low.pixels, low.right, low.score) == (0.0, 5, 0.0, 0.0)
        assert (high.regions, high.pixels, high.right) == (3, 45, pytest.approx(35 / 45))
        assert found.error == pytest.approx((45 * abs((9.5 + 27.3 + 5) / 45 - 35 / 45)) / 50)

    def test_nothing_to_tell(self):
        assert reliability([]) is None
        assert reliability([(0.5, 0, 0)]) is None


class TestDrawings:
    def test_each_way_to_be_wrong_has_its_colour(self):
        truth = np.array([[0, 1, 1, 1, LEFT_OUT]])
        found = np.array([[2, 0, 2, 1, 1]])
        image = Image.new("RGB", (5, 1), (100, 150, 200))
        pixels = np.asarray(difference(image, truth, found, rest=0, left_out=LEFT_OUT))[0]
        assert [tuple(pixel) for pixel in pixels[:3].tolist()] == [INVENTED, MISSED, CONFUSED]
        assert len(set(pixels[3].tolist())) == 1, "what is right is grey"
        without = np.asarray(difference(image, truth, found, rest=None, left_out=LEFT_OUT))[0]
        assert [tuple(pixel) for pixel in without[:3].tolist()] == [CONFUSED] * 3

    def test_small_copies_keep_their_labels(self):
        image = Image.new("RGB", (400, 200))
        ids = np.repeat(np.arange(4), 100)[None, :].repeat(200, axis=0)
        small, (labels,) = shrunk(image, [ids], 40)
        assert small.size == (40, 20)
        assert labels.tolist() == np.repeat(np.arange(4), 10)[None, :].repeat(20, axis=0).tolist()

    @pytest.mark.parametrize("number", [1, 24, 25, 171])
    def test_the_matrix_has_a_square_for_every_pair(self, number):
        counts = _RNG.integers(0, 50, (number, number))
        counts[0] = 0
        names = [f"name <{i}>" for i in range(number)]
        svg = matrix_svg(names, counts)
        read = Reader(svg)
        assert all(name in read.text for name in names)
        data = next(a["href"] for tag, a in read.tags if tag == "image").split(",", 1)[1]
        grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        np.testing.assert_array_equal(grey, np.rint(255 * np.sqrt(row_shares(counts))))
        assert not grey[0].any(), "a class that does not occur has an empty row"


class TestPerPicture:
    def test_figures(self):
        names = ["background", "cat", "dog"]
        maps = {"a": (np.array([[0, 0, 1, -1]]), np.array([[0, 2, 1, 1]])), "b": (np.array([[-1]]), np.array([[0]]))}
        pictures = report_of(maps, names).pictures
        first, second = figures_of(pictures)
        assert (first.miou, first.miou_present) == (pytest.approx((0.5 + 1 + 0) / 3), pytest.approx(0.75))
        assert first.accuracy == pytest.approx(2 / 3)
        assert first.mistake == ("background", "dog", 1)
        assert (second.miou, second.accuracy, second.mistake, second.pixels) == (None, None, None, 0)
        rows = list(csv.DictReader(io.StringIO(as_csv(pictures))))
        assert [row["picture"] for row in rows] == ["a", "b"]
        assert rows[0]["mistake_found"] == "dog"
        assert rows[1]["miou"] == ""
        lines = [json.loads(line) for line in as_jsonl(pictures).splitlines()]
        assert lines[0]["classes"]["cat"] == {"iou": 1.0, "true_pixels": 1, "predicted_pixels": 1, "right_pixels": 1}
        assert lines[1]["miou"] is None


@pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
class TestBrowser:
    def opened(self, tmp_path, page: str, *options: str) -> str:
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8")
        switches = "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
        done = subprocess.run(
            [
                CHROMIUM,
                "--headless",
                *(f"--{switch}" for switch in (*switches.split(), "disable-quic", "disable-sync")),
                f"--user-data-dir={tmp_path / 'profile'}",
                *options,
                file.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout

    @pytest.mark.slow
    def test_tables_are_sorted_by_a_click(self, tmp_path, hostile):
        click = (
            "const heads = document.querySelectorAll('#pictures thead button');"
            "heads[1].click();"
            "document.title = [...document.querySelectorAll('#pictures tbody td:nth-child(2)')]"
            ".map(c => c.textContent).join(' ') + '|' + heads[1].parentNode.getAttribute('aria-sort');"
        )
        allowed = hostile.replace("script-src 'sha256-", f"script-src 'sha256-{digest(click)}' 'sha256-")
        page = allowed.replace("</body>", f"<script>{click}</script></body>")
        title = re.search("<title>(.*?)</title>", self.opened(tmp_path, page, "--dump-dom"))[1]
        figures, direction = title.split("|")
        assert direction == "descending"
        assert len(figures.split()) == 3
        assert figures.split() == sorted(figures.split(), reverse=True)

    def test_hostile_names_run_nothing(self, tmp_path, hostile):
        dom = self.opened(tmp_path, hostile.replace("alert(1)", "document.title=0"), "--dump-dom")
        assert "<title>0</title>" not in dom
        assert dom.count("<button") >= 10

    @pytest.mark.slow
    @pytest.mark.parametrize("width", [1280, 500])
    def test_nothing_sticks_out_of_the_window(self, tmp_path, width):
        names = ["background", *(f"a class with a long name {number}" for number in range(40))]
        page = html_of(random_maps(2, names), names, image=Image.new("RGB", (16, 12)))
        told = "document.title = document.documentElement.scrollWidth + ' ' + window.innerWidth;"
        page = page.replace("script-src 'sha256-", f"script-src 'sha256-{digest(told)}' 'sha256-")
        page = page.replace("</body>", f"<script>{told}</script></body>")
        dom = self.opened(tmp_path, page, "--dump-dom", f"--window-size={width},900")
        needed, there = map(int, re.search("<title>(.*?)</title>", dom)[1].split())
        assert needed <= there
