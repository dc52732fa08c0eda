"""Measure the ablations of the prototype method on the mini models.

python -m examples.ablation --seeds 3 --out table.md --json figures.json
python -m examples.ablation --what kmeans refine --pictures bundled
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from examples.ablation.measure import PICTURES, RENDERED, Plan, measure
from examples.ablation.rows import GROUP_NAMES
from examples.ablation.supports import RememberingModels
from examples.ablation.table import markdown
from ovseg_cli.atomic import write_json, write_text
from ovseg_cli.errors import OvsegError
from ovseg_cli.models import choose_device
from ovseg_cli.profiles import get_profile


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    plan = Plan(
        groups=tuple(dict.fromkeys(options.what)),
        pictures=tuple(dict.fromkeys(options.pictures)),
        seeds=options.seeds,
        rendered=options.count,
        supports=options.supports,
    )
    try:
        models = RememberingModels(get_profile("mini"), choose_device(options.device))
        start = time.perf_counter()
        result = measure(models, plan, tell=_tell)
        _tell(f"{(time.perf_counter() - start) / 60:.0f} minutes on {torch.get_num_threads()} threads")
        text = markdown(result)
        if options.out is not None:
            write_text(options.out, text)
        if options.json is not None:
            write_json(options.json, result.record())
    except (OvsegError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the ablations of the prototype method on the mini models.")
    parser.add_argument(
        "--what",
        nargs="+",
        choices=GROUP_NAMES,
        default=GROUP_NAMES,
        metavar="GROUP",
        help=f"which rows (default: all): {', '.join(GROUP_NAMES)}",
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        choices=PICTURES,
        default=PICTURES,
        metavar="SET",
        help=f"on which pictures (default: all): {', '.join(PICTURES)}",
    )
    parser.add_argument("--seeds", type=_positive, default=3, help="support sets (default: %(default)s)")
    parser.add_argument(
        "--count", type=_positive, default=RENDERED, help="rendered pictures for each seed (default: %(default)s)"
    )
    parser.add_argument("--supports", type=_positive, help="support images per class (default: the profile's)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file too")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
