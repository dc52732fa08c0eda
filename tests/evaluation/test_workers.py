from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from ovseg_cli.errors import LabelError
from ovseg_cli.evaluation import workers
from ovseg_cli.evaluation.folder import evaluate_folders
from ovseg_cli.evaluation.pictures import PictureCounts, Pictures
from ovseg_cli.evaluation.scoring import count_pair, score_pairs
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap

LABELS = LabelMap.from_classes(["cat", "dog"])


@dataclass
class Numbers:
    """Counts the pictures of numbers; some are odd in one way or another."""

    seen: list[int] = field(default_factory=list)

    def count(self, pair: int) -> PictureCounts:
        self.seen.append(pair)
        if pair == 77:
            raise LabelError("no label map for 77")
        if pair == 30:
            logging.getLogger("ovseg_cli").warning("30 is odd")
        return count_pair(np.array([pair % 3]), np.array([pair % 2]), num_classes=3, key=str(pair))

    def absorb(self, other: Numbers) -> None:
        self.seen += other.seen


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 63, 64, 70, 200])
def test_several_processes_give_what_one_gives(monkeypatch, number):
    monkeypatch.setattr(workers, "CHUNK", 20)
    pairs = [i + 100 for i in range(number)]
    found = []
    for processes in (1, 3):
        pictures, counter, told = Pictures(["a", "b", "c"]), Numbers(), []
        score_pairs(
            pairs, counter, pictures, workers=processes, listener=lambda p, told=told: told.append(p.key), progress=None
        )
        found.append((pictures.to_dict(), sorted(counter.seen), told))
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_first_error_is_raised_and_messages_are_logged(monkeypatch, caplog):
    monkeypatch.setattr(workers, "CHUNK", 20)
    pictures = Pictures(["a", "b", "c"])
    with pytest.raises(LabelError, match="no label map for 77"):
        score_pairs(range(500), Numbers(), pictures, workers=2)
    assert pictures.keys == [str(i) for i in range(77)]
    assert [record.getMessage() for record in caplog.records] == ["30 is odd"]


def test_progress_of_each_pair():
    told = []
    score_pairs(range(5), Numbers(), Pictures(["a", "b", "c"]), workers=2, progress=lambda *step: told.append(step))
    assert told == [(i, 5) for i in range(1, 6)]


@pytest.mark.slow
def test_the_scripts_of_callers_are_left_alone(tmp_path):
    """A script without a guard at its end must not be run once more by each process."""
    for side in ("gt", "pred"):
        for i in range(3):
            write_label(tmp_path / side / f"{i}.png", np.array([[0, 1, 2]]), LABELS)
        write_labelmap(tmp_path / side / "labelmap.txt", LABELS)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from ovseg_cli.evaluation.folder import evaluate_folders\n"
        "from ovseg_cli.files.labels import read_labelmap\n"
        "root = Path(__file__).parent\n"
        "labels = read_labelmap(root / 'pred/labelmap.txt')\n"
        "print(evaluate_folders(root / 'gt', root / 'pred', prediction_labels=labels, workers=2).miou)\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert result.stdout == "1.0\n"


@pytest.mark.slow
def test_oddities_of_all_processes_are_in_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "CHUNK", 2)
    for i in range(7):
        write_label(tmp_path / "gt" / f"{i}.png", np.array([[0, 1, 2, 255]]), LABELS)
        write_label(tmp_path / "pred" / f"{i}.png", np.array([[0, 1, 2, 255]]), LABELS)
    write_labelmap(tmp_path / "gt" / "labelmap.txt", LABELS)
    reports = [
        evaluate_folders(
            tmp_path / "gt", tmp_path / "pred", prediction_labels=LABELS, requested=["cat"], workers=n, boundary=True
        )
        for n in (1, 3)
    ]
    assert reports[0] == reports[1]
    assert reports[0].unasked[0].pixels == 7
    assert any("7 predicted pixel(s) have the value 255" in warning for warning in reports[0].warnings)
    assert reports[0].pictures.to_dict() == reports[1].pictures.to_dict()


def test_few_pairs_are_counted_in_this_process():
    assert workers.sensible_workers(64) == workers.sensible_workers(0) == 1
    assert workers.sensible_workers(10**6) >= 1
