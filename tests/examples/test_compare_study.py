"""The table of all methods: what goes in, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.compare import study
from ovseg_cli.errors import ImageError
from ovseg_cli.methods.catalogue import METHODS
from ovseg_cli.scorers.phrases import PhraseScorer
from ovseg_cli.store import Store
from tests.mini import mini_class, mini_models

CLASSES = ("cat", "apple", "dog", "car")


@pytest.mark.slow
def test_both_sets_with_and_without_known_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(study, "FOCUS", CLASSES)
    monkeypatch.setattr(study, "load_models", lambda *_, **__: mini_models())
    with Store.open(tmp_path / "store", profile="mini") as store:
        for name in CLASSES:
            store.add_class(mini_class(name))
    files = ["--out", str(tmp_path / "table.md"), "--json", str(tmp_path / "table.json")]
    small = ["--methods", "prototype,sclip", "--limit", "1", "--rendered", "1", "--store", str(tmp_path / "store")]
    assert study.main([*small, *files]) == 0
    record = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    titles = [column["title"] for column in record["columns"]]
    assert titles == [
        "bundled, all classes",
        "bundled, classes known",
        "rendered, all classes",
        "rendered, classes known",
    ]
    for column in record["columns"]:
        assert set(column["miou"]) == {"prototype", "sclip"}
        assert column["pictures"] == 1
    assert record["columns"][1]["miou"]["sclip"] > record["columns"][0]["miou"]["sclip"]
    assert all(speed > 0 for speed in record["images_per_second"].values())
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out[:-1]
    assert "| `sclip` |" in text
    assert "59.6 (VOC21, B/16)" in text


def test_every_published_figure_belongs_to_a_method():
    assert set(study.PUBLISHED) <= set(METHODS)


def test_an_unknown_method_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(study, "add_classes", lambda *_: [])
    assert study.main(["--methods", "clipp", "--rendered", "1"]) == 1
    assert "Unknown method 'clipp'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_method_that_fails_on_a_picture_has_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(*_: object) -> None:
        raise ImageError("The prompt is too long.")

    monkeypatch.setattr(study, "FOCUS", CLASSES)
    monkeypatch.setattr(study, "load_models", lambda *_, **__: mini_models())
    monkeypatch.setattr(study, "add_classes", lambda *_: [])
    monkeypatch.setattr(PhraseScorer, "compare", refuse)
    quick = ["--methods", "aggsd,sclip", "--limit", "1", "--rendered", "1"]
    assert study.main([*quick, "--json", str(tmp_path / "table.json")]) == 0
    record = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert [column["miou"]["aggsd"] for column in record["columns"]] == [None] * 4
    assert record["images_per_second"]["aggsd"] is None
    out, err = capsys.readouterr()
    assert [line.split("|")[1].strip() for line in out.splitlines()[2:4]] == ["`sclip`", "`aggsd`"]
    assert "the methods go one by one here: The prompt is too long." in err


@pytest.mark.parametrize("option", ["--limit", "--rendered"])
def test_numbers_are_at_least_one(option: str):
    with pytest.raises(SystemExit):
        study.main([option, "0"])
