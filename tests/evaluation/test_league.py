from __future__ import annotations

import csv
import io
import json
import re

import pytest

from ovseg_cli.evaluation.league import FORMS, Row, Table, as_csv, as_json, as_latex, as_markdown
from ovseg_cli.methods.results import published_results

WEIGHTS = (
    {"part": "clip", "model": "a/b", "revision": "c0ffee", "licence": "MIT", "commercial": True},
    {"part": "dino", "model": "d/e", "revision": "f00", "licence": "CC-BY-NC 4.0", "commercial": False},
)
ROWS = (
    Row(
        method="sclip",
        title="SCLIP",
        source="Wang et al.",
        kind="training-free",
        miou=0.51234,
        interval=(0.48, 0.55),
        group="a",
        pictures=20,
        published=published_results("sclip", "voc21"),
        seconds=0.25,
        memory=1_250_000_000,
        code="wangf3014/SCLIP: none found",
        weights=WEIGHTS[:1],
        settings={"dense": {"method": "sclip", "short_side": 336, "windows": [[224, 112]], "logit_scale": 65.0}},
        digest="0123456789abcdef",
    ),
    Row(
        method="prototype",
        title="OVDiff",
        source="Karazija et al.",
        kind="mask-supervised",
        miou=0.62,
        interval=(0.6, 0.64),
        group="b",
        pictures=20,
        weights=WEIGHTS,
    ),
    Row(
        method="aggsd",
        title="AggSD",
        source="Le",
        kind="oracle",
        miou=None,
        pictures=18,
        failed=2,
        remark="fails on 2 of 20 pictures",
    ),
)
TABLE = Table(
    title="100% | of_mine & <others>",
    facts={"device": "cpu", "libraries": {"torch": "2"}, "classes": ["cat", "dog"], "background counts": True},
    convention="one matrix; 50 % & more",
    rows=ROWS,
    left_out={"proxyclip": "no proxy"},
    notes=("a note",),
    published_of="voc21",
)


@pytest.mark.parametrize("name", FORMS)
def test_a_table_is_the_same_byte_for_byte(name):
    assert FORMS[name](TABLE) == FORMS[name](TABLE)
    assert FORMS[name](TABLE).endswith("\n")


def test_markdown():
    lines = as_markdown(TABLE).splitlines()
    assert lines[0] == "# 100% \\| of\\_mine & \\<others>"
    table = [line for line in lines if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, "each row has all cells"
    assert [line.split("`")[1] for line in table[2:]] == ["prototype", "sclip", "aggsd"], "the best first"
    sclip = table[3]
    assert "| 51.2 | 48.0 to 55.0 | a | 59.63 \\[1], 43.5 \\[2] | 0.25 | 1.25 GB |" in sclip
    assert sclip.endswith("| commercial use free |")
    assert table[2].endswith("| no commercial use |")
    assert "| oracle | – | – | – | – | – | – | – | – |" in table[4]
    text = "\n".join(lines)
    assert "- [1] CLIP ViT-B/16; validation split" in text
    assert "README of wangf3014/SCLIP at b56bd30" in text
    assert "- dino, d/e at f00: CC-BY-NC 4.0 (no commercial use); used by prototype" in text
    assert "- clip, a/b at c0ffee: MIT; used by prototype, sclip" in text
    assert "- `sclip`: short side 336, windows 224/112" in text
    for line in ("- `proxyclip`: no proxy", "- `aggsd`: fails on 2 of 20 pictures", "- libraries: torch 2", "- a note"):
        assert line in lines


def test_latex():
    text = as_latex(TABLE)
    assert "100\\% $|$ of\\_mine \\& $<$others$>$" in text
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
    columns = re.search(r"\\begin{tabular}{(\w+)}", text)[1]
    assert len(columns) == len(re.findall(r"(?<!\\)&", rows[0])) + 1
    for kind in ("table", "tabular"):
        assert text.count(f"\\begin{{{kind}}}") == text.count(f"\\end{{{kind}}}") == 1
    assert re.findall(r"(?<!\\)[%_#]", text.split("\n", 1)[1]) == [], "marks of LaTeX are escaped"
    assert "–" not in text


def test_csv():
    rows = list(csv.DictReader(io.StringIO(as_csv(TABLE))))
    assert [row["method"] for row in rows] == ["prototype", "sclip", "aggsd"]
    assert float(rows[1]["miou"]) == 0.51234
    assert (rows[1]["miou_low"], rows[1]["published_miou"], rows[1]["published_on"]) == ("0.48", "59.63", "voc21")
    assert (rows[0]["commercial_use"], rows[1]["commercial_use"], rows[2]["commercial_use"]) == ("no", "yes", "")
    assert rows[2]["miou"] == ""


def test_json_holds_everything():
    data = json.loads(as_json(TABLE))
    assert [row["method"] for row in data["rows"]] == ["prototype", "sclip", "aggsd"]
    assert data["rows"][1]["published"][0]["protocol"]
    assert data["rows"][1]["settings"]["dense"]["windows"] == [[224, 112]]
    assert data["left_out"] == {"proxyclip": "no proxy"}
