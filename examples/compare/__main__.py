"""Compare all methods on the pictures of a folder.

python -m examples.compare FOLDER --classes cat,dog -o comparison
python -m examples.compare FOLDER --classes cat,dog --methods gem,sclip --gt LABELS --speed -o comparison
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from examples.compare.measure import compare, enter
from examples.compare.sheet import comparison_sheet
from examples.compare.table import markdown
from examples.compare.truth import Truth
from ovseg_cli.atomic import make_folder, write_image, write_json, write_text
from ovseg_cli.errors import LabelError, NoInputError, OvsegError, UsageError
from ovseg_cli.evaluation.report import convention
from ovseg_cli.files.images import discover
from ovseg_cli.files.labels import LabelMap
from ovseg_cli.models import load_models
from ovseg_cli.profiles import profile_of
from ovseg_cli.runs.classes import stored_names
from ovseg_cli.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    try:
        with _opened(options.store, options.profile) as store:
            print(_run(options, store))
    except (OvsegError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _opened(path: Path | None, profile: str | None) -> Iterator[Store]:
    """The store that was named, or an empty one for the time being."""
    if path is not None:
        with Store.open(path, profile=profile, create=False) as store:
            yield store
        return
    with (
        tempfile.TemporaryDirectory(prefix="ovseg-compare-") as folder,
        Store.open(Path(folder) / "store", profile=profile or "mini") as store,
    ):
        yield store


def _run(options: argparse.Namespace, store: Store) -> str:
    """Segment, draw and write; the table."""
    names = stored_names(store, split(options.classes))
    labels = LabelMap.from_classes(names)
    pictures = discover([options.folder], exclude=options.output)[: options.limit]
    truth = None if options.gt is None else Truth(options.gt, names)
    if truth is None and options.known:
        raise UsageError("--known reads the ground truth: name it with --gt.")
    if truth is not None and not any(str(picture.key) in truth for picture in pictures):
        raise LabelError(
            f"No picture in {options.folder} has the name of a label image in {options.gt}: "
            "both folders must have the same names, apart from the suffixes."
        )
    models = load_models(profile_of(store), device=options.device)
    methods = None if options.methods is None else split(options.methods)
    contestants = enter(models, store, names, methods, _tell)
    make_folder(options.output)
    done = 0
    start = time.perf_counter()
    for compared in compare(contestants, pictures, truth, _tell, timed=options.speed, known=options.known):
        target = options.output / f"{compared.source.key}.png"
        make_folder(target.parent)
        write_image(target, comparison_sheet(compared, labels))
        done += 1
        _tell(f"{done} of {len(pictures)}: {target}")
    if done == 0:
        raise NoInputError(f"None of the pictures in {options.folder} could be read.")
    notes = [
        f"Pictures: {done}; classes: {len(names)}; profile {store.profile_name}; {models.device}; "
        f"threads: {torch.get_num_threads()}.",
    ]
    if options.speed:
        notes.append(
            "Times are those of segmenting alone, in one process, method by method on each picture, each method on "
            "its own (no walk through a network is shared), after a first picture that is not timed."
        )
    else:
        seconds = time.perf_counter() - start
        notes.append(
            f"All methods together, which share their walks through the networks: {seconds / done:.2f} s a picture, "
            "with loading the models and drawing."
        )
    if options.known:
        notes.append("Each method was told which of the classes are in each picture, by the ground truth.")
    if truth is not None:
        notes.append(f"mIoU in percent: {convention(background=True, ignore=255, unasked=True)}.")
    text = markdown(contestants, notes)
    write_text(options.output / "table.md", text)
    record = {
        "folder": str(options.folder),
        "ground_truth": None if options.gt is None else str(options.gt),
        "classes": list(names),
        "profile": store.profile_name,
        "device": models.device,
        "threads": torch.get_num_threads(),
        "pictures": done,
        "notes": notes,
        "methods": [contestant.record() for contestant in contestants],
    }
    write_json(options.output / "table.json", record)
    return text


def split(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.compare", description="Compare all methods on the pictures of a folder."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="pictures, in subfolders too")
    parser.add_argument("--classes", required=True, metavar="A,B,...", help="what to look for, with commas between")
    parser.add_argument(
        "--methods",
        metavar="M,N,...",
        help="which methods (default: all that read words, and prototype and hybrid where the store has the classes)",
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="where prototypes are (default: none are used)")
    parser.add_argument("--profile", help="which models (default: those of the store, or mini)")
    parser.add_argument("--gt", type=Path, metavar="DIR", help="ground-truth labels; adds mIoU")
    parser.add_argument("--known", action="store_true", help="tell methods which classes each picture has, by --gt")
    parser.add_argument("--speed", action="store_true", help="time each method by itself, which shares nothing")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where the pictures go")
    return parser


def positive(text: str) -> int:
    """A whole number of at least 1, as an argument."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
