from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ovseg_cli.errors import UsageError
from ovseg_cli.runs.speed_report import (
    Report,
    Section,
    StageTime,
    about,
    check_report,
    compared,
    differences,
    markdown,
    tables,
    write_report,
)


def made(scale=1.0, **fields):
    """A report of one class of 4 pictures, in 2 seconds, and of what attribution adds."""
    stages = (
        StageTime(name="drawing", seconds=(scale * 1.0, scale * 1.5, scale * 1.2), calls=2, operations=6_000_000),
        StageTime(name="clustering", seconds=(scale * 0.5, scale * 0.5, scale * 0.5), calls=1, operations=0),
    )
    section = Section(
        name="add-class",
        pictures=4,
        seconds=(scale * 2.0, scale * 2.3, scale * 1.9),
        observed=(scale * 2.0, scale * 2.5, scale * 2.2),
        stages=stages,
        operations=8_000_000,
    )
    drawn = replace(section, name="drawing alone", seconds=(1.0,))
    attributed = replace(section, name="drawing with attribution", seconds=(1.25,))
    return Report(
        **{
            "profile": "mini",
            "weights": "bundled",
            "precision": "float32",
            "device": "cpu",
            "machine": {
                "cpu": "An old one",
                "cores": 2,
                "threads": 1,
                "memory": 8_000_000_000,
                "gpu": None,
                "platform": "Linux",
                "python": "3.12",
                "load": 0.1,
            },
            "versions": {"torch": "2"},
            "settings": {"what": ["add-class"], "count": 4},
            "peak": 1e7,
            "loading": 3.0,
            "process_bytes": None,
            "sections": (section, drawn, attributed),
            **fields,
        }
    )


def test_what_follows_from_the_figures():
    report = made()
    section = report.sections[0]
    assert (section.median, section.per_second) == (2.0, 2.0)
    assert section.unexplained == pytest.approx((0.5, 0.5, 0.5))
    assert report.attribution == pytest.approx(0.25)
    assert replace(report, sections=report.sections[:1]).attribution is None
    data = report.record()["sections"][0]
    assert data["share_of_peak"] == pytest.approx(8e6 / 2 / 1e7)
    assert data["stages"][0]["share_of_peak"] == pytest.approx(6e6 / 1.2 / 1e7)
    assert data["stages"][1]["share_of_peak"] is None


def test_tables_have_every_run_and_stage_and_what_is_left():
    (_, _, runs), (_, _, stages) = tables(made())
    assert runs[0] == ("add-class", "4", "2 ±0.2", "2", "40.0%", "–")
    assert stages[:4] == [
        ("add-class", "", "2.2 ±0.2", "", ""),
        ("  drawing", "2", "1.2 ±0.2", "54.5%", "50.0%"),
        ("  clustering", "1", "0.5 ±0", "22.7%", "–"),
        ("  (no stage)", "", "0.5 ±0", "22.7%", ""),
    ]
    assert ("attribution", "maps add 25.0% to drawing") in about(made())


def test_files_for_people_and_for_programs(tmp_path):
    write_report(made(), tmp_path / "a.json")
    assert Report.read(tmp_path / "a.json") == replace(
        made(), settings={"what": ["add-class"], "count": 4}, versions={"torch": "2"}
    )
    write_report(made(), tmp_path / "a.md")
    page = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert page == markdown(made())
    assert "| add-class | 4 | 2 ±0.2 | 2 | 40.0% | – |" in page
    assert "An old one, 1 threads of 2" in page
    with pytest.raises(UsageError, match=r"written as \.json or \.md"):
        check_report(tmp_path / "a.txt")


def test_two_machines_side_by_side():
    title, columns, rows = compared(made(), made(scale=0.5))
    assert (title, columns) == ("Seconds", ("run and stage", "A", "B", "B/A"))
    assert rows[:3] == [
        ("add-class", "2", "1", "0.50"),
        ("  drawing", "1.2", "0.6", "0.50"),
        ("  clustering", "0.5", "0.25", "0.50"),
    ]
    assert differences(made(), made(scale=0.5)) == []


def test_other_work_is_told():
    other = replace(
        made(), precision="float16", settings={"what": ["add-class"], "count": 8}, sections=made().sections[:1]
    )
    assert differences(made(), other) == [
        "precision: float32 and float16",
        "count: 4 and 8",
        "only one has: drawing alone; drawing with attribution",
    ]
    assert len(compared(made(), other)[2]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "was not written by this ovseg bench"),
        ('{"ovseg_bench": 1}', "was not written by this ovseg bench"),
        (json.dumps(made().record() | {"ovseg_bench": 0}), "was not written by this ovseg bench"),
        (json.dumps(made().record() | {"sections": [{}]}), "was not written by this ovseg bench"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        Report.read(tmp_path / "a.json")
    with pytest.raises(UsageError, match=r"b\.json does not exist"):
        Report.read(tmp_path / "b.json")
