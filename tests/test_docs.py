"""The README and the pages: their commands and Python run, their links lead somewhere, their tables are true.

Each page is read from top to bottom in a folder of its own, with an empty store and the bundled models. Blocks of `sh`
are run line by line: `ovseg` in this process, other tools by bash. A comment in front of a block, which readers do not
see, says where it is otherwise: ``<!-- not run: why -->``, ``<!-- exit code: 4 -->``. To be quick, classes are made of
two images in two steps, and pictures are cut into few windows.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ovseg_cli import api
from ovseg_cli.cli.app import app
from ovseg_cli.cli.commands import ENTRIES
from ovseg_cli.cli.common import Common
from ovseg_cli.files.label_names import voc_colour
from ovseg_cli.methods.catalogue import METHODS, naming_methods
from ovseg_cli.models import Models
from ovseg_cli.profiles import Profile, registry
from ovseg_cli.prototypes import build
from tests.mini import EXAMPLES, example_labels, example_names, example_scene, mini_models

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
OTHER_PAGES = [
    REPOSITORY / "examples" / "README.md",
    REPOSITORY / "examples" / "ablation" / "README.md",
    REPOSITORY / "examples" / "mini_pack" / "README.md",
    REPOSITORY / "tests" / "parity" / "README.md",
    REPOSITORY / "ovseg_cli" / "profiles" / "mini" / "README.md",
]
SCENES = (1, 8)
REAL_BUILD = build.build_class
MINI = registry.PROFILES["mini"]
QUICK = replace(
    MINI,
    clip=replace(MINI.clip, dense=replace(MINI.clip.dense, windows=MINI.inference.windows[:1])),
    inference=replace(MINI.inference, windows=MINI.inference.windows[:1]),
)
TOOLS = {"cat", "cd", "cp", "for", "mkdir", "printf", "sed"}
"""What lines may begin with besides `ovseg`; anything else wants a mark that says why it is not run."""

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^>\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block with what its mark says."""

    language: str
    text: str
    skip: str = ""
    code: int = 0


def blocks(page: Path) -> list[Block]:
    found = []
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        kind, _, value = (match["mark"] or "").partition(": ")
        skip = value if kind == "not run" else ""
        code = int(value) if kind == "exit code" else 0
        found.append(Block(match["language"], match["text"], skip, code))
    return found


def page_name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


# --------------------------------------------------------------------------- what a page finds in its folder


def place(number: int, picture: Path, label: Path, ids: dict[str, int], *, other: int = 0) -> None:
    """A bundled picture, and its labels with these ids."""
    values = np.full(example_labels(number).shape, other, np.uint8)
    for name, value in ids.items():
        values[example_labels(number) == example_names().index(name)] = value
    for path in (picture, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(example_scene(number)).save(picture)
    image = Image.fromarray(values)
    image.putpalette([part for value in range(256) for part in voc_colour(value)])
    image.save(label)


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, labels and data sets by the names that the pages use."""
    root = tmp_path_factory.mktemp("things")
    ours = {name: position for position, name in enumerate(example_names())}
    for number in SCENES:
        scene, below = f"scene_{number:03d}", "sub/" if number == 1 else ""
        for part, suffix in (("images", ".jpg"), ("labels", ".png")):
            copy = root / "examples" / "pictograms" / part / (scene + suffix)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(EXAMPLES / part / copy.name, copy)
        place(number, root / f"photos/{below}{scene}.jpg", root / f"labels/{below}{scene}.png", ours)
        place(number, root / f"mugs/{number}.png", root / f"masks/{number}.png", {"cat": 255, "dog": 255})
        voc = f"2007_{number:06d}"
        place(
            number,
            root / f"VOC2012/JPEGImages/{voc}.jpg",
            root / f"VOC2012/SegmentationClass/{voc}.png",
            {"cat": 8, "dog": 12},
        )
        ade = f"validation/ADE_val_{number:08d}"
        place(
            number,
            root / f"ADEChallengeData2016/images/{ade}.jpg",
            root / f"ADEChallengeData2016/annotations/{ade}.png",
            {"sky": 3, "road": 7, "car": 21},
        )
        city = f"val/aachen/aachen_{number:06d}_000019"
        place(
            number,
            root / f"leftImg8bit/{city}_leftImg8bit.png",
            root / f"gtFine/{city}_gtFine_labelIds.png",
            {"road": 7, "sky": 23, "car": 26},
        )
        coco = f"val2017/{number:012d}"
        place(
            number,
            root / f"{coco}.jpg",
            root / f"stuffthingmaps/{coco}.png",
            {"cat": 16, "dog": 17, "sky": 156},
            other=255,
        )
    shutil.copy(EXAMPLES / "labels" / "labelmap.txt", root / "labels")
    shutil.copy(EXAMPLES / "labels" / "labelmap.txt", root / "examples" / "pictograms" / "labels")
    Image.fromarray(example_scene(8)).save(root / "photo.jpg")
    split = root / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    split.parent.mkdir(parents=True)
    split.write_text("2007_000008\n")
    (root / "labels.txt").write_text("0: unlabeled\n1: person\n17: cat\n18: dog\n157: sky-other\n")
    return root


@functools.cache
def quick_models(profile: Profile = QUICK) -> Models:
    """The bundled models, which look at pictures through their largest windows only, or as a file of one's own says."""
    models = Models(profile, "cpu")
    models._loaded = mini_models()._loaded  # another test may have loaded some
    return models


@functools.cache
def built(name: str, settings: Any) -> Any:
    return REAL_BUILD(quick_models(), name, settings)


def build_little(models: Any, name: str, settings: Any, progress: Any = None, **own: Any) -> Any:
    """Two images in two steps, and each class once for all pages."""
    little = replace(settings, count=2, steps=2)
    if own.get("pictures") is None and own.get("existing") is None:
        return built(name, little)
    return REAL_BUILD(models, name, little, progress, **own)


@pytest.fixture
def reader(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that somebody reads a page in."""
    folder = tmp_path / "reader"
    shutil.copytree(things, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    monkeypatch.setattr(registry, "PROFILES", {**registry.PROFILES, "mini": QUICK})
    monkeypatch.setattr(build, "build_class", build_little)
    monkeypatch.setattr(Common, "load_models", lambda _, profile, **__: quick_models(profile))
    monkeypatch.setattr(api, "_models", lambda profile, *_: quick_models(profile))
    monkeypatch.setattr("ovseg_cli.models.load_models", lambda profile, **_: quick_models(profile))
    return folder


# --------------------------------------------------------------------------- running a block


def lines(text: str) -> list[str]:
    """The commands of a block: lines that belong together are one."""
    found: list[str] = []
    open_until = ""
    for line in text.splitlines():
        if open_until or (found and found[-1].endswith("\\")):
            found[-1] += "\n" + line
            if line == open_until or line.startswith(open_until + " ") or line == "END":
                open_until = ""
            continue
        if not line.strip() or line.startswith("#"):
            continue
        found.append(line)
        if "<<'END'" in line:
            open_until = "END"
        elif re.search(r"\bdo$", line):
            open_until = "done"
    return found


def run_line(line: str, code: int, setenv: Callable[[str, str], None]) -> None:
    """One command: `ovseg` in this process, with what a shell would have done for it; the rest by bash."""
    first = line.split()[0]
    if "ovseg " not in line:
        if first == "export":
            for word in shlex.split(line)[1:]:
                setenv(*word.split("=", 1))
            return
        assert first in TOOLS, f"{line!r} would be run: mark its block with <!-- not run: why -->"
        bash(line)
        return
    before, bar, command = line.rpartition(" | ")
    words = shlex.split(command, comments=True)
    into = Path(words[-1]) if words[-2] == ">" else None
    assert words[0] == "ovseg", f"{line!r} cannot be run in this process: mark its block with <!-- not run: why -->"
    arguments = words[1:-2] if into else words[1:]
    result = CliRunner().invoke(app, arguments, input=bash(before) if bar else None, prog_name="ovseg")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, f"{line}\n{result.stdout}\n{result.stderr}"
    if into:
        into.write_text(result.stdout, encoding="utf-8")


def bash(line: str) -> str:
    """What other tools print."""
    command = ["bash", "-euo", "pipefail", "-c", line]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=20).stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_a_page_says_can_be_typed(page: Path, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope: dict[str, Any] = {}
    for block in blocks(page):
        if block.skip:
            continue
        if block.language == "sh":
            for line in lines(block.text):
                run_line(line, block.code, monkeypatch.setenv)
        elif block.language == "python":
            exec(compile(block.text, page_name(page), "exec"), scope)


def test_the_pages_are_run_at_all() -> None:
    """Most blocks of commands are run, and those that are not say why."""
    shell = [block for page in PAGES for block in blocks(page) if block.language == "sh"]
    assert sum(not block.skip for block in shell) > 2 * len(shell) / 3
    assert all(block.language for page in PAGES for block in blocks(page))
    assert not any(re.search(r"^    ovseg ", page.read_text(encoding="utf-8"), re.MULTILINE) for page in PAGES)


# --------------------------------------------------------------------------- links, sizes, tables


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes anchors of them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=page_name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert len(readme.splitlines()) < 120
    assert [line for line in readme.splitlines() if len(line) > 110] == []
    linked = set(_LINK.findall(readme))
    assert {page_name(page) for page in PAGES[1:]} <= linked


def test_every_command_and_global_option_has_its_line() -> None:
    page = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    for entry in ENTRIES:
        assert f"| `ovseg {entry.name}" in page
    for option in ("--store", "--profile", "--device", "--precision", "--offline", "--json", "-q", "-v"):
        assert f"| `{option}" in page


def test_no_sentence_stands_twice() -> None:
    seen: dict[str, str] = {}
    for page in PAGES:
        text = re.sub(r"^```.*?^```$|^\|.*$|^#.*$|<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for sentence in re.split(r"(?<=[.:])\s+|\n\n|\n- ", text):
            words = " ".join(sentence.split())
            if len(words) < 40:
                continue
            assert words not in seen, f"{words!r} is in {seen[words]} and in {page_name(page)}"
            seen[words] = page_name(page)


def catalogue_table() -> str:
    """The list of the methods as docs/methods.md has it."""
    rows = [f"| `{name}` | {method.title} | {method.gist} | {method.source} |" for name, method in METHODS.items()]
    return "\n".join(["| method | title | how | source |", "|---|---|---|---|", *rows, ""])


def test_the_list_of_methods_is_the_catalogue() -> None:
    page = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
    table = page.partition("ovseg_cli.methods.catalogue -->\n")[2].partition("<!-- end of the catalogue -->")[0]
    assert table == catalogue_table(), f"put this into docs/methods.md:\n\n{catalogue_table()}"


def test_every_method_has_a_formula() -> None:
    page = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
    formulas = page.partition("## Formulas")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", formulas, re.MULTILINE) == list(METHODS)


def test_every_method_of_the_measurements_is_one() -> None:
    page = (REPOSITORY / "docs" / "measurements.md").read_text(encoding="utf-8")
    table = page.partition("## All methods")[2]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == set(naming_methods())
