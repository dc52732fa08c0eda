"""A run of two processes, in a process of its own that is going to be killed."""

from __future__ import annotations

from pathlib import Path

from ovseg_cli.profiles import get_profile
from ovseg_cli.runs.engines.options import EngineOptions
from ovseg_cli.runs.folder import crew_for
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.store import Store
from tests.painting import LoadPainter
from tests.runs.conftest import request


def main(store: str, photos: str, output: str, engine: str = "local") -> None:
    load = LoadPainter(("cat", "dog"), Path(photos).parent / "marks")
    with Store.open(store) as opened:
        plan = plan_run([photos], Path(output), request())
        crew = crew_for(EngineOptions(workers=2, engine=engine), load, opened, "cpu")
        run_folder(plan, lambda: load("cpu"), opened, get_profile("mini"), crew=crew)
