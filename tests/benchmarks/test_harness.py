from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.benchmarks import slopes
from tests.benchmarks.__main__ import COLUMNS, Outcome, _compare, listing, main, select, table
from tests.benchmarks.harness import (
    Case,
    DisagreementError,
    Measurement,
    measure_apart,
    measure_here,
    read_result,
    write_result,
)
from tests.benchmarks.registry import BENCHMARKS


def measurement(seconds, work, *, cuda=None):
    return Measurement(
        seconds=seconds,
        cpu_seconds=[2 * s for s in seconds],
        peak_bytes=10**9,
        work_bytes=work,
        cuda_peak_bytes=cuda,
        device="cpu",
        threads=1,
        torch="2",
    )


def equal(baseline, answer):
    if not np.array_equal(baseline, answer):
        raise DisagreementError("they differ")
    return "equal"


def case(prepare=lambda _device: lambda: np.zeros(1), **fields):
    return Case(**{"name": "new", "what": "this", "prepare": prepare, "baseline": "old", "agree": equal, **fields})


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=list(BENCHMARKS))
def test_every_baseline_is_a_case_that_comes_earlier(benchmark):
    names = [c.name for c in benchmark.cases]
    assert len(set(names)) == len(names)
    for index, one in enumerate(benchmark.cases):
        assert one.baseline is None or one.baseline in names[:index]


def test_the_starting_process_stays_small():
    code = "import sys, tests.benchmarks.__main__; print([m for m in ('torch', 'ovseg_cli') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_first_run_is_not_counted_unless_the_case_is_heavy():
    runs = []

    def prepare(_device):
        return lambda: (runs.append(1), np.arange(len(runs)))[1]

    light, answer = measure_here(case(prepare, repeats=2), "cpu")
    assert (len(light.seconds), len(light.cpu_seconds), answer.tolist()) == (2, 2, [0, 1, 2])
    runs.clear()
    heavy, answer = measure_here(case(prepare, repeats=2, heavy=True), "cpu")
    assert (len(heavy.seconds), answer.tolist()) == (1, [0])


@pytest.mark.slow
def test_memory_is_the_work_s_own_in_a_fresh_process():
    code = """
import numpy as np
from tests.benchmarks.harness import Case, measure_here

def prepare(device):
    held = np.ones(40_000_000)  # inputs are in the peak, but are not work
    return lambda: held + 1

seen, _ = measure_here(Case(name="add", what="", prepare=prepare, heavy=True), "cpu")
print(seen.work_bytes, seen.peak_bytes)
"""
    ballast = np.ones(100_000_000)  # of this process: it must not count
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    work, peak = map(int, done.stdout.split())
    assert 0.9 * 320e6 < work < 1.3 * 320e6
    assert work + 320e6 < peak < work + 320e6 + ballast.nbytes


def test_results_travel_between_processes(tmp_path):
    sent = measurement([1.5, 2.5], 7)
    write_result(tmp_path, sent, np.arange(3, dtype=np.uint16))
    got, answer = read_result(tmp_path)
    assert got == sent
    assert answer.dtype == np.uint16
    assert answer.tolist() == [0, 1, 2]


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"exit status 1: .*nothing-of-this-name"):
        measure_apart("nothing-of-this-name", "x", "cpu")


def test_ratios_are_to_the_baseline_of_the_run():
    base = (measurement([1, 2, 30], 100), np.zeros(1))
    outcome = _compare(case(), measurement([1, 1, 50], 25), np.zeros(1), base)
    assert (outcome.time_ratio, outcome.cpu_ratio, outcome.memory_ratio) == (0.5, 0.5, 0.25)
    assert outcome.agreement == "equal"
    assert len(outcome.row()) == len(COLUMNS)


def test_on_cuda_the_device_s_memory_is_compared():
    base = (measurement([1], 100, cuda=400), np.zeros(1))
    assert _compare(case(), measurement([1], 100, cuda=100), np.zeros(1), base).memory_ratio == 0.25


def test_another_answer_than_the_baseline_s_is_a_failure():
    outcome = _compare(case(), measurement([1], 1), np.ones(1), (measurement([1], 1), np.zeros(1)))
    assert outcome.error == "they differ"
    assert "FAILED" in outcome.row()[-1]


def test_a_case_without_a_measurement_still_has_its_row():
    row = Outcome(case=case(), error="killed").row()
    assert len(row) == len(COLUMNS)
    assert row[-1] == "FAILED: killed"


def test_the_command_lists_and_refuses(capsys):
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.strip() == listing()
    with pytest.raises(SystemExit, match="2"):
        main(["no-such-benchmark"])
    assert "no-such-benchmark" in capsys.readouterr().err


def test_a_case_is_chosen_with_its_baseline():
    assert [c.name for c in select("mini/segment").cases] == ["segment-singly", "segment"]
    assert [c.name for c in select("sd15-size/whole-unet").cases] == ["whole-unet"]
    assert select("mini") is BENCHMARKS["mini"]
    with pytest.raises(KeyError, match="sgment"):
        select("mini/sgment")


def test_a_table_is_aligned():
    lines = table([("a", "long heading", "z"), ("longer", "b", "c")]).splitlines()
    assert [line.rstrip().rfind(last) for line, last in zip((lines[0], lines[2]), "zc", strict=True)] == [22, 22]


def test_how_figures_grow_is_said_by_the_last_two_sizes():
    def seen(name, seconds, work):
        figures = {"cpu_seconds": seconds, "work_bytes": work}
        return {"case": name, "measurement": figures}

    cases = [seen("words-1", [2, 1, 9], 5e6), seen("words-10", [3], 5e6), seen("words-100", [30], 50e6)]
    reports = [{"benchmarks": [{"benchmark": "slopes", "cases": [case]}]} for case in cases]
    *_, row = slopes.as_markdown(reports).splitlines()
    assert row == "| words, GEM | 1: 2, 5; 10: 3, 5; 100: 30, 50 | 1.00 | 1.00 | 1 |"
