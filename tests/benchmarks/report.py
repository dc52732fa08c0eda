"""The page of a run: what writing it takes, and how fast it is in a headless Chromium.

``python -m tests.benchmarks.report [COUNT ...]`` prints one line for each number of pictures (default: 1000).
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from ovseg_cli.runs.report import write_report
from tests.browser import Browser, browser
from tests.runs.synthetic import large_run

# Until two frames after it, the answer to a click is on the screen.
PAINTED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
DRAWN = "[...document.querySelectorAll('#gallery img.labels')].every(image => image.complete && image.naturalWidth)"

TIMED = """(async () => {
  const begun = performance.now();
  %s;
  await PAINTED;
  while (!(DRAWN)) await PAINTED;
  return performance.now() - begun;
})()""".replace("PAINTED", PAINTED).replace("DRAWN", DRAWN)

SCROLLED = """(async () => {
  const frames = [];
  let before = performance.now();
  for (let y = 0; y < 12000; y += 60) {
    window.scrollTo(0, y);
    await new Promise(requestAnimationFrame);
    frames.push(performance.now() - before);
    before = performance.now();
  }
  frames.sort((a, b) => a - b);
  return [frames[Math.floor(frames.length / 2)], frames[Math.floor(frames.length * .95)], frames.at(-1)];
})()"""

CHOOSE = (
    "document.getElementById('%s').value = '%s';"
    " document.getElementById('%s').dispatchEvent(new Event('change', {bubbles: true}))"
)


def peak_of(work) -> tuple[float, float]:
    """Seconds, and by how many MB the process grew at most meanwhile."""
    process, peak, over = psutil.Process(), [0], threading.Event()
    start = process.memory_info().rss

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return time.perf_counter() - begun, (peak[0] - start) / 1e6


def timed(tab: Browser, action: str) -> float:
    """Milliseconds until an action is seen."""
    return tab.ask(TIMED % action)


def measure(count: int, folder: Path) -> dict[str, str]:
    write_report(large_run(folder / "few", 50, different=50))  # what is imported and allocated once does not count
    output = large_run(folder / "run", count)
    page = output / "report.html"
    seconds, memory = peak_of(lambda: write_report(output))
    found = {
        "pictures": f"{count:,}",
        "written in": f"{seconds:.1f} s",
        "memory": f"{memory:.0f} MB",
        "file": f"{page.stat().st_size / 1e6:.1f} MB",
    }
    with browser() as tab:
        begun = time.perf_counter()
        tab.open(page)
        tab.wait(f"document.querySelectorAll('#gallery img.labels').length > 0 && {DRAWN}", 300)
        found["open"] = f"{1000 * (time.perf_counter() - begun):.0f} ms"
        box = "document.querySelector('#totals input[data-class]').click()"
        found["class"] = f"{min(timed(tab, box) for _ in range(3)):.0f} ms"
        found["order"] = f"{timed(tab, CHOOSE % ('sort', 'margin', 'sort')):.0f} ms"
        found["filter"] = f"{timed(tab, CHOOSE % ('filter', '3', 'filter')):.0f} ms"
        tab.ask(CHOOSE % ("filter", "all", "filter"))
        found["frame, median/95 %/worst"] = "/".join(f"{value:.0f}" for value in tab.ask(SCROLLED)) + " ms"
        found["open cards"] = str(tab.ask("document.querySelectorAll('#gallery img.labels').length"))
        assert not tab.errors, tab.errors
    return found


def main(arguments: list[str]) -> None:
    for count in map(int, arguments or ["1000"]):
        with tempfile.TemporaryDirectory(prefix="ovseg-bench-") as folder:
            found = measure(count, Path(folder))
        print("  ".join(f"{name} {value};" for name, value in found.items()).rstrip(";"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
