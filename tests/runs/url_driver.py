"""A run at a URL in a process of its own that is going to be killed: its pictures take a while."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from ovseg_cli.profiles import get_profile
from ovseg_cli.runs import journal
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.store import Store
from ovseg_cli.urls import place
from tests.painting import LoadPainter
from tests.runs.conftest import request


def main(photos: str, output: str) -> None:
    journal.PART_SECONDS = 0.0
    with Store.open(tempfile.mkdtemp(), profile="mini") as store:
        load = LoadPainter(("cat", "dog"), Path(tempfile.mkdtemp()))
        plan = plan_run([photos], place(output), request("cat", "dog", overlay=True))
        run_folder(plan, lambda: load("cpu"), store, get_profile("mini"), progress=lambda step: time.sleep(0.2))
