"""What every method promises (`ovseg_cli.testing`), and how other packages add methods."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from ovseg_cli.api import compare
from ovseg_cli.errors import MethodError
from ovseg_cli.methods import catalogue
from ovseg_cli.methods.catalogue import METHODS, Catalogue, Method, word_methods
from ovseg_cli.segmentation.recipe import make_recipe
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from ovseg_cli.testing import check_method, check_record
from tests.mini import example_scene, mini_models

PICTURES = [example_scene(8)[60:124, 100:196], example_scene(3)[:64, :96]]


@pytest.mark.slow
@pytest.mark.parametrize("name", word_methods())
def test_every_method_keeps_the_promises(name):
    check_method(name, models=mini_models(), images=PICTURES)


@pytest.mark.parametrize("name", METHODS)
def test_every_record_says_what_people_need(name):
    check_record(name, METHODS[name])


def test_a_record_that_reads_words_names_a_scorer_and_settings():
    with pytest.raises(ValueError, match="Wide NACLIP"):
        Method(title="Wide NACLIP", source="ours", gist="a wider neighbourhood")


# --------------------------------------------------------------------------- methods of other packages

WIDE = """
    from ovseg_cli.methods.catalogue import METHODS, Method
    from ovseg_cli.methods.last_layer import naclip_tokens
    from ovseg_cli.scorers.tokens import TokenScorer, patches


    class WideNaclip(TokenScorer):
        def tokens(self, trace, crops):
            return patches(naclip_tokens(self.blocks(trace)[-1], trace.grid, std=10.0), trace)


    METHOD = Method(
        title="Wide NACLIP",
        source="a test",
        gist="key-key attention that favours a wide neighbourhood",
        scorer="wide_naclip:WideNaclip",
        settings=METHODS["naclip"].settings,
        explained=True,
    )
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one method, as if it were installed; in this process and in those that it starts."""

    def install(code=WIDE, entry="wide-naclip = wide_naclip:METHOD"):
        (tmp_path / "wide_naclip.py").write_text(textwrap.dedent(code))
        folder = tmp_path / "wide_naclip-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: wide-naclip\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text(f"[ovseg.methods]\n{entry}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{'.'}")
        fresh = Catalogue(catalogue._OWN)
        monkeypatch.setattr(METHODS, "_others", None)
        return fresh

    yield install
    METHODS._others = None
    sys.modules.pop("wide_naclip", None)


@pytest.mark.slow
def test_one_file_and_one_record_are_a_method(package):
    package()
    assert list(METHODS)[-1] == "wide-naclip"
    assert METHODS.origin("wide-naclip") == "wide-naclip 1.2"
    assert METHODS.origin("naclip") is None
    check_method("wide-naclip", models=mini_models(), images=PICTURES)


def test_the_version_of_the_package_is_part_of_the_answer(package, tmp_path, monkeypatch):
    package()
    with Store.open(tmp_path / "store", profile="mini") as store:
        profile = mini_models().profile
        before = make_recipe(store, profile, ["cat"], method="wide-naclip").digest
        metadata = tmp_path / "wide_naclip-1.2.dist-info" / "METADATA"
        metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
        monkeypatch.setattr(METHODS, "_others", None)
        assert make_recipe(store, profile, ["cat"], method="wide-naclip").digest != before


@pytest.mark.slow
def test_the_command_line_knows_it(package, tmp_path):
    package()
    command = [sys.executable, "-m", "ovseg_cli", "methods", "--quiet"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert names == list(METHODS)


@pytest.mark.parametrize(
    ("code", "entry", "reason"),
    [
        ("raise SystemExit(5)", "wide-naclip = wide_naclip:METHOD", "SystemExit: 5"),
        (WIDE, "Wide Naclip = wide_naclip:METHOD", "lower case"),
        (WIDE.replace('title="Wide', 'title="Wide\\n'), "wide-naclip = wide_naclip:METHOD", "lines of text"),
        (WIDE.replace("explained=True", "reads='banana'"), "wide-naclip = wide_naclip:METHOD", "reads is one of"),
        ("raise RuntimeError('broken on purpose')", "wide-naclip = wide_naclip:METHOD", "broken on purpose"),
        ("METHOD = 'no record'", "wide-naclip = wide_naclip:METHOD", "is no ovseg_cli.methods.catalogue.Method"),
        (WIDE, "gem = wide_naclip:METHOD", "another method of this name"),
    ],
)
def test_what_cannot_be_taken_is_left_out_and_told(package, caplog, code, entry, reason):
    fresh = package(code, entry)
    assert list(fresh) == list(catalogue._OWN)
    assert reason in caplog.text
    assert "wide-naclip 1.2" in caplog.text


@pytest.mark.slow
def test_what_a_package_prints_is_no_data(package):
    package("print('hello')\n" + textwrap.dedent(WIDE))
    command = [sys.executable, "-m", "ovseg_cli", "methods", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)[-1]["package"] == "wide-naclip 1.2"
    assert result.stderr == "hello\n"


UNLUCKY = WIDE.replace(
    "        def tokens",
    """        def __init__(self, *_, **__):
            raise RuntimeError("no luck")

        def tokens""",
)


def test_a_scorer_that_cannot_be_made_names_its_package(package, tmp_path):
    package(UNLUCKY)
    with (
        Store.open(tmp_path / "store", profile="mini") as store,
        pytest.raises(MethodError, match=r"'wide-naclip' of wide-naclip 1\.2.*RuntimeError: no luck"),
    ):
        Segmenter(mini_models(), store, ["cat"], method="wide-naclip")


@pytest.mark.slow
def test_comparing_all_methods_does_without_one_that_cannot_be_run(package, tmp_path, monkeypatch, caplog):
    package(UNLUCKY)
    monkeypatch.setattr(METHODS, "_own", {name: METHODS[name] for name in ("maskclip", "naclip")})
    with Store.open(tmp_path / "store", profile="mini") as store:
        assert list(compare(store, PICTURES[0], ["cat"], device="cpu")) == ["maskclip", "naclip"]
        assert "'wide-naclip' of wide-naclip 1.2" in caplog.text
        with pytest.raises(MethodError, match="no luck"):
            compare(store, PICTURES[0], ["cat"], ["naclip", "wide-naclip"], device="cpu")


FAMILY = """
    from ovseg_cli.methods.catalogue import METHODS, Method
    from ovseg_cli.methods.last_layer import naclip_tokens
    from ovseg_cli.scorers.tokens import TokenScorer, patches


    class Wide(TokenScorer):
        std = 10.0

        def tokens(self, trace, crops):
            return patches(naclip_tokens(self.blocks(trace)[-1], trace.grid, std=self.std), trace)


    class Narrow(Wide):
        std = 0.1


    SETTINGS = METHODS["naclip"].settings
    WIDE = Method(title="Wide", source="a test", gist="wide", scorer="wide_naclip:Wide", settings=SETTINGS)
    NARROW = Method(title="Narrow", source="a test", gist="narrow", scorer="wide_naclip:Narrow", settings=SETTINGS)
"""


@pytest.mark.slow
def test_a_method_that_is_made_from_another_sees_with_its_own_eyes(package):
    """It changes what its parent's tokens use, and shares a call with it."""
    package(FAMILY, "wide = wide_naclip:WIDE\nnarrow = wide_naclip:NARROW")
    check_method("narrow", models=mini_models(), images=PICTURES)
