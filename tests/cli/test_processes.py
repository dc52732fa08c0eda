"""What only a process of its own can show: signals, exit codes, two at a time, read-only folders."""

from __future__ import annotations

import json
import os

import pytest

from ovseg_cli.store import Store
from tests.cli.conftest import Process
from tests.runs.conftest import paint


@pytest.fixture
def paused(tmp_path):
    """The environment in which the stand-in waits at a place, and the file that says it is there."""

    def at(place):
        ready = tmp_path / "ready"
        return {"OVSEG_TEST_PAUSE_AT": place, "OVSEG_TEST_PAUSE_FILE": str(ready)}, ready

    return at


def temporary(folder):
    return [p for p in folder.rglob("*") if p.name.startswith(".ovseg-") or p.suffix == ".tmp"]


class TestExitCodes:
    @pytest.mark.slow
    def test_1(self, here, own_world):
        (own_world / "store").mkdir()
        (own_world / "store" / "ovseg.db").write_text("no database" * 99)
        result = Process("list-classes").result()
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1

    @pytest.mark.slow
    def test_2(self, here):
        result = Process("segment", "nowhere", "-c", "cat").result()
        assert result.exit_code == 2
        assert result.error.startswith("nowhere does not exist")
        assert len(result.stderr.splitlines()) == 1, "one line, wherever it goes"

    @pytest.mark.slow
    def test_3(self, photos):
        (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
        assert Process("segment", "photos", "-c", "cat").result().exit_code == 3

    @pytest.mark.slow
    def test_4(self, cli, photos, here):
        cli("segment", "photos", "-c", "cat,dog")
        paint(here / "labels" / "a.png", 2, 2)
        (here / "names.txt").write_text("background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n")
        result = Process("eval", "--gt", "labels", "--label-map", "names.txt", "--fail-under", "0.5", "--json").result()
        assert result.exit_code == 4, result.stderr
        assert result.data["miou"] < 0.5


class TestCtrlC:
    @pytest.mark.slow
    def test_in_segment_nothing_is_half_written_and_the_next_run_goes_on(self, cli, here, paused):
        for i in range(4):
            paint(here / "photos" / f"{i}.png", 1)
        environment, ready = paused("segment:3")
        result = Process("segment", "photos", "-c", "cat", env=environment).interrupt_when(ready)
        assert result.exit_code == 130
        assert result.error == "interrupted"
        assert "run the same command to go on" in result.stderr
        assert "Traceback" not in result.stderr
        out = here / "ovseg-out"
        assert sorted(p.name for p in (out / "SegmentationClass").iterdir()) == ["0.png", "1.png"]
        assert temporary(out) == []
        assert [json.loads(line)["output"] for line in (out / "predictions.jsonl").read_text().splitlines()] == [
            "SegmentationClass/0.png",
            "SegmentationClass/1.png",
        ]
        again = cli("segment", "photos", "-c", "cat", "--json")
        assert again.exit_code == 0
        assert (again.data["skipped"], again.data["done"]) == (2, 2)

    @pytest.mark.slow
    def test_in_add_class_finished_classes_stay_and_nothing_of_the_other(self, cli, here, own_world, paused):
        environment, ready = paused("build:dog")
        result = Process("add-class", "cat", "dog", "bird", env=environment).interrupt_when(ready)
        assert result.exit_code == 130
        assert "nothing was kept of 'dog'" in result.stderr
        assert "--if-exists skip" in result.stderr
        with Store.open(own_world / "store") as store:
            assert store.class_names() == ["cat"]
            assert store.health().ok
            assert store.health().orphans == ()
        assert temporary(own_world) == []
        again = cli("add-class", "cat", "dog", "bird", "--if-exists", "skip", "-q")
        assert again.exit_code == 0
        assert again.stdout == "dog\nbird\n"

    @pytest.mark.slow
    def test_killed_in_segment_the_next_run_goes_on_too(self, cli, here, paused):
        for i in range(4):
            paint(here / "photos" / f"{i}.png", 1)
        environment, ready = paused("segment:3")
        process = Process("segment", "photos", "-c", "cat", env=environment)
        while not ready.exists():
            assert process.popen.poll() is None
        process.popen.kill()
        process.result()
        again = cli("segment", "photos", "-c", "cat", "--json")
        assert (again.exit_code, again.data["skipped"], again.data["done"]) == (0, 2, 2)

    @pytest.mark.slow
    def test_killed_in_add_class_the_store_is_as_before(self, cli, paused):
        cli("add-class", "cat")
        environment, ready = paused("build:dog")
        process = Process("add-class", "dog", env=environment)
        while not ready.exists():
            assert process.popen.poll() is None
        process.popen.kill()
        process.result()
        assert cli("list-classes", "-q").stdout == "cat\n"


@pytest.mark.slow
def test_two_at_a_time_both_add_their_classes(cli, own_world):
    cli("add-class", "first")
    both = [Process("add-class", *(f"{name} {i}" for i in range(4))) for name in ("left", "right")]
    assert [process.result().exit_code for process in both] == [0, 0]
    with Store.open(own_world / "store") as store:
        assert len(store.class_names()) == 9
        assert store.health().ok


@pytest.mark.slow
def test_two_runs_into_one_folder_do_not_mix(cli, photos, paused):
    environment, ready = paused("segment:1")
    first = Process("segment", "photos", "-c", "cat", env=environment)
    while not ready.exists():
        assert first.popen.poll() is None
    second = cli("segment", "photos", "-c", "cat")
    assert second.exit_code == 1
    assert "Another ovseg process" in second.error
    first.interrupt_when(ready)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
class TestReadOnly:
    @pytest.fixture
    def sealed(self, photos, own_world):
        Process("add-class", "cat").result()
        store = own_world / "store"
        files = [store, *store.rglob("*")]
        for path in files:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield store
        for path in files:
            path.chmod(0o755 if path.is_dir() else 0o644)

    def test_reading_works_and_writing_is_told(self, sealed):
        assert Process("list-classes", "-q").result().stdout == "cat\n"
        result = Process("add-class", "dog").result()
        assert result.exit_code == 1
        assert "read-only" in result.error or "cannot be written" in result.error

    def test_segmenting_works_and_says_that_it_is_not_recorded(self, sealed):
        result = Process("segment", "photos", "-c", "cat").result()
        assert result.exit_code == 0
        assert "--pred" in result.stderr


def test_an_output_folder_that_cannot_be_written(cli, photos):
    result = cli("segment", "photos", "-c", "cat", "-o", "/proc/ovseg-out")
    assert result.exit_code == 1
    assert "/proc/ovseg-out" in result.error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_a_report(cli, photos, here):
    cli("segment", "photos", "-c", "cat,dog")
    result = cli("eval", "--gt", "ovseg-out", "--pred", "ovseg-out", "-o", "/dev/full")
    assert result.exit_code == 1
    assert "No space left" in result.error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(cli, photos):
    with open("/dev/full", "w") as full:
        result = Process("profiles", "--json", stdout=full).result()
    assert result.exit_code == 1
    assert "No space left" in result.error
