"""A run on small clusters of Ray leaves what a run on one computer leaves, whatever becomes of workers and computers.

All runs are in one process of their own (see `cluster_driver`): Ray needs the network's loopback, and seconds to begin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovseg_cli.errors import UsageError
from ovseg_cli.runs.engines import cluster
from ovseg_cli.runs.engines.options import EngineOptions, make_crew
from tests.runs.conftest import paint


@pytest.fixture(scope="module")
def came(tmp_path_factory):
    """What came of all runs."""
    pytest.importorskip("ray")
    folder = tmp_path_factory.mktemp("cluster")
    for i in range(1, 10):
        paint(folder / "photos" / f"{i}.png", *((1, 2) if i in (6, 7, 8) else (i % 3,)))
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(root), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.runs.cluster_driver", str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"printed": done.stdout.splitlines()[:-1]}


ALL_DONE = {"done": 9, "skipped": 0, "failed": 0, "remaining": 0}


@pytest.mark.slow
class TestOnACluster:
    def test_files_and_journal_are_those_of_one_process(self, came):
        assert came["same"]["counts"] == ALL_DONE
        assert came["same"]["workers"] == 2
        assert came["same bytes"]
        assert came["same"]["journal"] == came["alone"]["journal"]

    def test_at_a_url_too(self, came):
        assert came["at a url"]["counts"] == ALL_DONE
        assert came["at a url"]["workers"] == 2
        assert came["same bytes at a url"]

    def test_ray_leaves_no_trace_in_this_process(self, came):
        assert came["left"], "a cluster that was begun for the run ends with it"
        assert came["handler"], "SIGTERM ends a run as before"
        assert came["usage"] == "0", "nobody is told of the run"
        assert [line for line in came["printed"] if "ray" in line.lower()] == ["noise of Ray ends here"]

    def test_a_killed_worker_loses_nothing(self, came):
        assert came["killed"]["counts"] == ALL_DONE
        assert any("a worker has died (its process ended)" in remark for remark in came["killed"]["remarks"])

    def test_a_picture_that_kills_workers_fails_by_name(self, came):
        ((name, reason),) = came["deadly"]["failed"]
        assert name == "5.png"
        assert "2 workers have died over it" in reason
        assert came["deadly"]["counts"]["done"] == 8

    def test_a_lost_computer_loses_nothing_and_delays_little(self, came):
        assert came["lost"]["counts"] == ALL_DONE
        assert any("a worker has died" in remark for remark in came["lost"]["remarks"])
        assert came["lost"]["seconds"] < 120

    def test_where_nobody_answers_that_is_told_soon(self, came):
        kind, text = came["nowhere"]
        assert kind == "EngineError"
        assert text.startswith("No Ray cluster answers at 127.0.0.1:1: Connection refused. Name it as `ray start")


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r'pip install "ovseg\[ray\]"'):
        make_crew(EngineOptions(engine="ray"), "auto")
