from __future__ import annotations

import numpy as np
import pytest

from examples.heads.__main__ import BASE_NAMES, _parser, request_of
from examples.heads.data import BASE, NOVEL, labelmap, render
from examples.heads.table import Outcome, bootstrap, figures, markdown
from ovseg_cli.files.labels import IGNORE, read_label


def test_the_split():
    assert len(BASE) == 39
    assert len(NOVEL) == 13
    assert len(BASE_NAMES) == 39
    assert not set(NOVEL) & set(BASE_NAMES)


def test_novel_names_do_not_occur(tmp_path):
    folder = render(tmp_path / "train", 8, size=32)
    names = labelmap()
    found = {names.name_of(int(i)) for path in (folder / "labels").glob("*.png") for i in np.unique(read_label(path))}
    assert found
    assert not found & set(NOVEL)
    assert render(folder, 8, size=32) == folder  # nothing is rendered twice


def test_novel_names_without_a_label(tmp_path):
    folder = render(tmp_path / "ignore", 12, size=32, novel="ignore")
    ids = np.concatenate([np.unique(read_label(path, labelmap())) for path in (folder / "labels").glob("*.png")])
    assert IGNORE in ids
    assert not {labelmap().name_of(int(i)) for i in ids} & set(NOVEL)


@pytest.mark.parametrize("row", ["C", "I", "V-image", "V-ignore"])
def test_requests_of_rows(row, tmp_path):
    options = _parser().parse_args(["--folder", str(tmp_path), "--minutes", "3"])
    request = request_of(row, 2, options)
    assert request.kind == ("catseg" if row == "C" else "dedos")
    assert request.plan == {"seed": 2, "minutes": 3.0}
    assert request.images.parent.name == ("ignore" if row == "V-ignore" else "train")
    assert request.output.name == {"V-image": "V-2.safetensors"}.get(row, f"{row}-2.safetensors")


def outcome(row, seed, hits, count=12):
    random = np.random.default_rng(seed)
    counts = []
    for _ in range(count):
        matrix = np.zeros((3, 3), np.int64)
        for name in (1, 2):
            right = int(100 * hits + random.integers(-5, 6))
            matrix[name, name], matrix[name, 3 - name] = right, 100 - right
        counts.append(matrix)
    return Outcome(row, seed, "bundled", counts, 1.0, 10)


def test_a_clear_difference_is_outside_its_interval():
    base = np.array([True, False])
    better, worse = [outcome("V", 0, 0.9), outcome("V", 1, 0.9)], [outcome("C", 0, 0.6)]
    low, high = bootstrap(better, worse, base, which=2)
    assert 0.2 < low < high < 0.6
    low, high = bootstrap(worse, worse, base, which=2)
    assert low == high == 0
    first, second, mean = figures(sum(worse[0].counts), base)
    assert min(first, second) <= mean <= max(first, second)


def test_the_table():
    text = markdown(
        [outcome("C", 0, 0.6), outcome("V", 0, 0.9), outcome("V", 1, 0.9)], ("a", "b"), ("a",), references={"V": "C"}
    )
    assert "**bundled**, 12 pictures" in text
    assert "| V | " in text
    assert "±" in text
    assert "| C | +" in text
