"""The table of all methods on the bundled models: python -m examples.compare.study.

Two sets of pictures (the bundled ones, and more of the same kind that are rendered), each twice: all classes compete,
and each picture's classes are known from its ground truth. Beside them the figures that the papers have for PASCAL VOC.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch

from examples.compare.__main__ import positive, split
from examples.compare.measure import Contestant, compare, enter
from examples.compare.truth import Truth
from examples.pictograms.render import FOCUS, PRESETS, render_folder
from examples.pictograms.scenes import Part
from ovseg_cli.atomic import write_json, write_text
from ovseg_cli.errors import OvsegError
from ovseg_cli.files.images import InputImage, discover
from ovseg_cli.models import Models, load_models
from ovseg_cli.profiles import get_profile
from ovseg_cli.prototypes.build import SupportSettings
from ovseg_cli.runs.classes import add_classes, plan_classes
from ovseg_cli.store import Store

BUNDLED: Final = Path(__file__).resolve().parents[1] / "pictograms"

RENDERED: Final = 96
"""Pictures of the rendered set, which begins as the set of 1,000 does."""

TIMED: Final = 8
"""Bundled pictures on which each method is timed by itself."""

PUBLISHED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "prototype": "66.3 (VOC21)",
        "maskclip": "38.8 (VOC21, B/16)",
        "clipsurgery": "41.2 (VOC21, B/16)",
        "sclip": "59.6 (VOC21, B/16)",
        "clearclip": "51.8 (VOC21, B/16)",
        "naclip": "64.1 (VOC21, B/16, with PAMR)",
        "gem": "46.2 (VOC21, B/16); 55.7 [1]",
        "proxyclip": "61.3 (VOC21, B/16)",
        "cliper-coarse": "62.5 (VOC21, L/14)",
        "cliper": "66.4 (VOC21, B/16); 71.6 (L/14)",
        "agggem": "56.7 [1]",
        "diffsegclust": "56.0 [1]",
        "specclust": "57.1 [1]",
        "aggsd": "58.3, classes known [1]",
        "diffsegmenter": "60.1 (VOC21)",
    }
)
"""mIoU in percent, as the papers and their repositories have them."""

NOTE: Final = (
    "[1] Le, EPFL 2023, table 4: VOC with background, MetaCLIP ViT-B/16 and Stable Diffusion 1.5; its own GEM. "
    "The others are from the papers and their repositories, by protocols that differ."
)


@dataclass(frozen=True, slots=True)
class Column:
    """One run over one set.

    Attributes:
        title: Its heading.
        miou: By method, in [0, 1]; None for one that failed on a picture, so that its figure would be of others.
        pictures: How many.
        seconds: For each picture, all methods together.
    """

    title: str
    miou: Mapping[str, float | None]
    pictures: int
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="ovseg-study-") as folder:
            text, record = _study(options, Path(folder))
        print(text)
        if options.out is not None:
            write_text(options.out, text)
        if options.json is not None:
            write_json(options.json, record)
    except (OvsegError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _study(options: argparse.Namespace, folder: Path) -> tuple[str, dict[str, object]]:
    models = load_models(get_profile("mini"), device=options.device)
    render_folder(folder, [Part(options.rendered, FOCUS)], seed=PRESETS["large"].seed)
    sets = {"bundled": BUNDLED, "rendered": folder}
    columns = []
    with Store.open(options.store or folder / "store", profile="mini") as store:
        _tell(f"prototypes of {len(FOCUS)} classes")
        for added in add_classes(store, models, plan_classes(store, FOCUS, "skip"), SupportSettings()):
            _tell(f"  {added.info.name}")
        for (name, where), known in itertools.product(sets.items(), (False, True)):
            truth = Truth(where / "labels", FOCUS)
            pictures = discover([where / "images"], exclude=None)[: options.limit]
            title = f"{name}, {'classes known' if known else 'all classes'}"
            column = _run(models, store, options.methods, pictures, truth, title, known=known)
            columns.append(column)
            _tell(f"{title}: {column}")
        contestants = enter(models, store, FOCUS, options.methods, _tell)
        pictures = discover([BUNDLED / "images"], exclude=None)[: min(TIMED, options.limit or TIMED)]
        for _ in compare(contestants, pictures, None, _tell, timed=True):
            pass
        speeds = {contestant.segmenter.method: contestant.speed for contestant in contestants}
    text = _markdown(columns, speeds, models.device)
    record: dict[str, object] = {
        "columns": [
            {"title": c.title, "miou": dict(c.miou), "pictures": c.pictures, "seconds": c.seconds} for c in columns
        ],
        "images_per_second": speeds,
        "threads": torch.get_num_threads(),
    }
    return text, record


def _run(
    models: Models,
    store: Store,
    methods: Sequence[str] | None,
    pictures: Sequence[InputImage],
    truth: Truth,
    title: str,
    *,
    known: bool,
) -> Column:
    contestants = enter(models, store, FOCUS, methods, _tell)
    start = time.perf_counter()
    for done, _ in enumerate(compare(contestants, pictures, truth, _tell, known=known), start=1):
        if done % 16 == 0:
            _tell(f"{title}: {done} of {len(pictures)}, {(time.perf_counter() - start) / done:.1f} s each")
    seconds = (time.perf_counter() - start) / len(pictures)
    return Column(title, {c.segmenter.method: _miou(c) for c in contestants}, len(pictures), seconds)


def _miou(contestant: Contestant) -> float | None:
    report = contestant.report()
    return None if report is None or contestant.failures else report.miou


def _markdown(columns: Sequence[Column], speeds: Mapping[str, float | None], device: str) -> str:
    methods = sorted(columns[0].miou, key=lambda method: -(columns[0].miou[method] or 0.0))
    lines = [
        "| method | " + " | ".join(column.title for column in columns) + " | images/s | published |",
        "|---|" + "---:|" * (len(columns) + 1) + "---|",
    ]
    for method in methods:
        shares = [column.miou[method] for column in columns]
        cells = ["–" if share is None else f"{100 * share:.1f}" for share in shares]
        speed = speeds.get(method)
        cells += ["–" if speed is None else f"{speed:.2f}", PUBLISHED.get(method, "–")]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    together = [column.seconds for column in columns]
    notes = [
        f"mIoU in percent of {len(FOCUS)} classes and background; {columns[0].pictures} bundled and "
        f"{columns[-1].pictures} rendered pictures, profile mini, {device}, {torch.get_num_threads()} thread(s). "
        f"Images per second: each method by itself on {TIMED} bundled pictures, all classes. All {len(methods)} "
        f"methods together, which share their walks: {min(together):.1f} to {max(together):.1f} s a picture. "
        "–: the method fails on a picture (AggSD where more classes are left than a prompt holds).",
        NOTE,
    ]
    return "\n".join([*lines, "", *notes, ""])


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.compare.study", description="The table of all methods on the bundled models."
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep the prototypes here (default: they are not)")
    parser.add_argument("--methods", type=split, metavar="M,N,...", help="which methods (default: all)")
    parser.add_argument("--rendered", type=positive, default=RENDERED, help="rendered pictures (default: %(default)s)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N pictures of each set")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file too")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
