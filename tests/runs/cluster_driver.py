"""Runs on small clusters of Ray, in a process that may use the network's loopback; prints what came of each as JSON.

Called as `python -m tests.runs.cluster_driver FOLDER`, with the folder's `photos`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from ovseg_cli.errors import OvsegError
from ovseg_cli.profiles import get_profile
from ovseg_cli.runs.engines.options import EngineOptions
from ovseg_cli.runs.folder import crew_for
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.store import Store
from ovseg_cli.urls import place
from tests.painting import DEADLY, LENGTHY, UNLUCKY, LoadPainter
from tests.runs.conftest import paint, request
from tests.runs.test_engines import CLASSES, bytes_of, journal, spoil

remarks: list[str] = []


class Listening(logging.Handler):
    def emit(self, record):
        remarks.append(record.getMessage())


def run(
    folder: Path, out: str, *, workers: int = 2, address: str | None = None, together: int = 1, progress=None, at=""
):
    """A run on Ray, of pictures and to a folder that are named with `at` before their paths; with what it came to."""
    photos, marks = folder / "photos", folder / "marks"
    shutil.rmtree(marks, ignore_errors=True)
    marks.mkdir()
    remarks.clear()
    plan = plan_run([f"{at}{photos}"], place(f"{at}{folder / out}"), request(*CLASSES, overlay=True))
    load = LoadPainter(CLASSES, marks, together=together)
    options = EngineOptions(engine="ray", workers=workers, ray_address=address)
    begun = time.monotonic()
    with Store.open(folder / "store", profile="mini") as store:
        crew = crew_for(options, load, store, "cpu")
        summary = run_folder(plan, lambda: load("cpu"), store, get_profile("mini"), crew=crew, progress=progress)
    return {
        "counts": summary.counts(),
        "failed": [[Path(failure.path).name, failure.reason] for failure in summary.failed],
        "workers": len(list(marks.glob("loaded-*"))),
        "remarks": list(remarks),
        "seconds": time.monotonic() - begun,
        "journal": journal(folder / out),
    }


def main(folder: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    logging.getLogger("ovseg_cli").addHandler(Listening())
    photos = folder / "photos"
    came: dict[str, object] = {}
    # The same as alone, in one cluster that this process starts and leaves.
    plan = plan_run([str(photos)], folder / "alone", request(*CLASSES, overlay=True))
    load = LoadPainter(CLASSES, folder / "marks")
    (folder / "marks").mkdir()
    with Store.open(folder / "store", profile="mini") as store:
        run_folder(plan, lambda: load("cpu"), store, get_profile("mini"))
    handler = signal.getsignal(signal.SIGTERM)
    came["same"] = run(folder, "same", together=2)
    came["same bytes"] = bytes_of(folder / "same") == bytes_of(folder / "alone")
    came["at a url"] = run(folder, "url", together=2, at="shelf://")
    came["same bytes at a url"] = bytes_of(folder / "url") == bytes_of(folder / "alone")
    came["alone"] = {"journal": journal(folder / "alone")}
    came["left"] = not ray.is_initialized()
    came["handler"] = signal.getsignal(signal.SIGTERM) is handler
    came["usage"] = os.environ["RAY_USAGE_STATS_ENABLED"]
    # From here on in a cluster of three computers, one of which only keeps it together.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    print(f"at {time.monotonic()}", file=sys.stderr)
    address = cluster.address
    spoil(photos / "5.png", UNLUCKY)
    came["killed"] = run(folder, "killed", address=address, together=2)
    spoil(photos / "5.png", DEADLY)
    came["deadly"] = run(folder, "deadly", address=address)
    paint(photos / "5.png", 1, 2)
    # A computer is lost while its worker is at a picture: each takes a while.
    for number in range(1, 10):
        paint(photos / f"{number}.png", number % 3)
        spoil(photos / f"{number}.png", LENGTHY)

    def lose(step):
        if step.done == 2:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    came["lost"] = run(folder, "lost", address=address, together=2, progress=lose)
    cluster.shutdown()
    print("noise of Ray ends here", flush=True)
    try:
        run(folder, "nowhere", address="127.0.0.1:1")
    except OvsegError as error:
        came["nowhere"] = [type(error).__name__, str(error)]
    print(json.dumps(came))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
