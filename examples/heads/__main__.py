"""Trains rows of heads with several seeds, and writes the table: python -m examples.heads (`make heads`).

A row that is trained is not trained again: files lie in --folder, and what is interrupted goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import numpy as np

from examples.heads.data import NOVEL, PICTOGRAMS, labelmap, render
from examples.heads.table import Outcome, markdown
from examples.pictograms.render import FOCUS, PRESETS, render_folder
from examples.pictograms.scenes import Part
from ovseg_cli.atomic import write_text
from ovseg_cli.errors import OvsegError
from ovseg_cli.heads.artefact import load_head, save_head
from ovseg_cli.heads.data import read_data
from ovseg_cli.heads.sizes import DedosSizes
from ovseg_cli.models import Models, load_models
from ovseg_cli.names import ClassList
from ovseg_cli.profiles import get_profile
from ovseg_cli.runs.head_report import score_head
from ovseg_cli.runs.heads import HeadRequest, TrainedHead, train_head
from ovseg_cli.store import Store

ROWS: Final = ("C", "I", "II", "III", "IV", "V", "V-mean", "V-image", "V-free", "V-ignore")
REFERENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{"C": "gem", "I": "C", "II": "I", "III": "II", "IV": "III", "V": "IV"},
        **{"V-mean": "V", "V-image": "V", "V-free": "V", "V-ignore": "V"},
    }
)
READINGS: Final[Mapping[str, Literal["mean", "image"]]] = MappingProxyType({"V-mean": "mean", "V-image": "image"})
"""Rows that are V, read otherwise."""

FREE: Final = ("gem", "clearclip", "maskclip")
INTRODUCTION: Final = """# Trained heads on the pictogram world

`make heads` (`python -m examples.heads`) trains CAT-Seg (row C) and DEDOS (rows I to V of its table 3 and controls) on
rendered scenes, and scores them with all 52 names as vocabulary, without background.

- 39 names are trained (33 objects, 6 textures); 13 are novel: {novel}. Novel objects do not occur in the training
  scenes; in row V-ignore they do, without a label. Most have a look-alike among the trained ones.
- **What leaks**: the bundled CLIP has read all 52 names, and the attention of the bundled diffusion model was trained
  with masks of all classes (weight 0.05). "Novel" means novel to the head, not to the networks below it.
- Rows are trained by the clock, {minutes:g} minutes each on {threads} thread(s), batch 16; the machine's speed is in
  the steps.
- base, novel: mean IoU over the names of that kind that the pictures show; harmonic: their harmonic mean. Percent; mean
  and standard deviation over the seeds. In brackets, 95 % intervals of a paired bootstrap over pictures.

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    try:
        _run(options)
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    import torch

    folder: Path = options.folder
    models = load_models(get_profile("mini"), device=options.device, precision="float32")
    render(folder / "train", options.scenes)
    if "V-ignore" in options.rows:
        render(folder / "ignore", options.scenes, novel="ignore")
    sets = {"bundled": PICTOGRAMS}
    if options.transfer:
        transfer = folder / "transfer"
        if not (transfer / "labels").is_dir():
            render_folder(transfer, [Part(options.transfer, FOCUS)], seed=PRESETS["large"].seed)
        sets["rendered"] = transfer
    names = ClassList.distinct(labelmap().names).names[1:]
    outcomes: list[Outcome] = []
    with Store.open(folder / "store", profile="mini") as store:
        for row in options.rows:
            for seed in range(options.seeds):
                outcomes += _train_and_score(row, seed, options, models, store, sets, free=not outcomes)
                text = INTRODUCTION.format(
                    novel=", ".join(NOVEL), minutes=options.minutes, threads=torch.get_num_threads()
                )
                order = [*FREE, *options.rows]
                ordered = sorted(outcomes, key=lambda outcome: order.index(outcome.row))
                write_text(options.out, text + markdown(ordered, names, BASE_NAMES, references=REFERENCES))


BASE_NAMES: Final = tuple(name for name in labelmap().names[1:] if name not in NOVEL)
"""As the label map spells them: one is longer than in the world."""


def _train_and_score(
    row: str,
    seed: int,
    options: argparse.Namespace,
    models: Models,
    store: Store,
    sets: Mapping[str, Path],
    *,
    free: bool,
) -> list[Outcome]:
    """One training, and its figures on every set of pictures; those of methods without training with the first."""
    request = request_of(row, seed, options)
    _tell(f"{row}, seed {seed}")
    trained = train_head(request, models)
    if row in READINGS:
        trained = _read_otherwise(trained, READINGS[row], options.folder / f"{row}-{seed}.safetensors")
    outcomes = []
    for name, where in sets.items():
        kept = options.folder / "scores" / f"{row}-{seed}-{name}.npz"
        data = read_data(where / "images", where / "labels", hold_out=False)
        samples = data.samples[: options.limit]
        methods = FREE if free else ("gem",)
        if not kept.is_file() or free:
            report = score_head(trained.path, trained.record, samples, data.truth, store, models, methods=methods)
            kept.parent.mkdir(exist_ok=True)
            for score in report.rows if free else report.rows[:1]:
                own = row if score is report.head else score.method
                counts, speed = report.counts[score.method], score.seconds
                steps = trained.record.training["steps"] if own == row else 0
                outcomes.append(Outcome(own, seed if own == row else -1, name, counts, speed, steps))
            np.savez_compressed(kept, counts=np.stack(outcomes[-len(methods) - 1 if free else -1].counts))
            continue
        with np.load(kept) as archive:
            outcomes.append(Outcome(row, seed, name, list(archive["counts"]), 0.0, trained.record.training["steps"]))
    return outcomes


def _read_otherwise(trained: TrainedHead, reading: Literal["mean", "image"], path: Path) -> TrainedHead:
    """The same weights with another reading of inference without diffusion: training knows none of them."""
    head, record = load_head(trained.path)
    sizes = replace(cast(DedosSizes, record.spec.dedos), at_inference=reading)
    changed = replace(record, spec=replace(record.spec, dedos=sizes))
    save_head(path, head.state_dict(), changed)
    return replace(trained, path=path, record=changed)


def request_of(row: str, seed: int, options: argparse.Namespace) -> HeadRequest:
    """What a row trains."""
    where = options.folder / ("ignore" if row == "V-ignore" else "train")
    trained = "V" if row in READINGS else row
    plan: dict[str, Any] = {"seed": seed, "minutes": options.minutes}
    if options.steps is not None:
        plan = {"seed": seed, "steps": options.steps}
    return HeadRequest(
        name=f"{trained}-{seed}",
        kind="catseg" if row == "C" else "dedos",
        images=where / "images",
        labels=where / "labels",
        output=options.folder / f"{trained}-{seed}.safetensors",
        novel=NOVEL,
        test_images=PICTOGRAMS / "images",
        test_labels=PICTOGRAMS / "labels",
        row=None if row == "C" else "V" if row == "V-ignore" else trained,
        plan=plan,
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.heads", description="Train heads, and write the table.")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=25.0, help="of each training (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of each training, in the place of minutes")
    parser.add_argument("--scenes", type=int, default=4000, help="of the training folder (default: %(default)s)")
    parser.add_argument("--transfer", type=int, default=48, help="rendered pictures, 0 for none (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first pictures of each set")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("heads-work"), help="where everything lies that is made")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "README.md", help="the table")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
