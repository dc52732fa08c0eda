"""What sharing a run costs: `python -m tests.benchmarks.engines [PICTURES]`.

Pictures are labelled by a stand-in that takes no time, so that the rate is that of everything else: reading, writing,
the journal, and messages. Then the memory of one worker with the bundled models.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ovseg_cli.profiles import get_profile
from ovseg_cli.runs.engines.options import EngineOptions
from ovseg_cli.runs.folder import crew_for
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.store import Store
from tests.painting import LoadPainter
from tests.runs.conftest import paint, request

_ENGINES = {
    "this process": EngineOptions(),
    "2 processes": EngineOptions(workers=2),
    "ray, 2 workers": EngineOptions(engine="ray", workers=2),
}
_WORKER = (
    "from ovseg_cli.models import load_models; from ovseg_cli.profiles import get_profile; "
    "models = load_models(get_profile('mini'), device='cpu'); models.clip; models.generator; "
    "[models.vit(e.weights) for e in models.profile.extractors if e.kind == 'vit-key']; "
    "print(open('/proc/self/smaps_rollup').read())"
)


def rates(count: int) -> None:
    """Pictures a second of each engine, from the first picture to the last."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "marks").mkdir()
        for number in range(count):
            paint(folder / "photos" / f"{number}.png", 1, 2, size=128)
        with Store.open(folder / "store", profile="mini") as store:
            for title, options in _ENGINES.items():
                load = LoadPainter(("cat", "dog"), folder / "marks")
                wanted = request()
                begun = time.monotonic()
                plan = plan_run([str(folder / "photos")], folder / title, wanted)
                planned = time.monotonic() - begun
                crew = crew_for(options, load, store, "cpu")
                times: list[float] = []
                run_folder(
                    plan,
                    lambda load=load: load("cpu"),
                    store,
                    get_profile("mini"),
                    crew=crew,
                    progress=lambda _, times=times: times.append(time.monotonic()),
                )
                rate = (count - 1) / (times[-1] - times[0])
                start = times[0] - begun - planned
                print(f"{title}: {rate:.0f} pictures a second; planned in {planned:.2f} s, begun after {start:.1f} s")


def memory() -> None:
    """Of one worker with the bundled models: all of it, and what it shares with other processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(
        [sys.executable, "-c", _WORKER], env=environment, capture_output=True, text=True, check=True
    ).stdout
    kilobytes = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", said, re.MULTILINE)}
    shared = kilobytes["Shared_Clean"] + kilobytes["Private_Clean"]
    print(f"a worker of mini: {kilobytes['Rss'] / 1000:.0f} MB, of which {shared / 1000:.0f} MB are files' pages")


if __name__ == "__main__":
    rates(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
    memory()
