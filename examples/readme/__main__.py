"""The README's first picture: four of the bundled pictures, and what `ovseg segment --overlay` made of them.

ovseg demo
ovseg --store ovseg-demo/store segment examples/pictograms/images --limit 20 --refine pamr --overlay -o with-pamr
python -m examples.readme with-pamr
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

SCENES = ("scene_002", "scene_003", "scene_007", "scene_017")
PICTURES = Path(__file__).parents[1] / "pictograms" / "images"
GAP = 6


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m examples.readme", description=__doc__)
    parser.add_argument("result", type=Path, help="output folder of ovseg segment --overlay")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "overlays.jpg")
    options = parser.parse_args(argv)
    columns = [
        [
            Image.open(PICTURES / f"{scene}.jpg").convert("RGB"),
            Image.open(options.result / "overlay" / f"{scene}.png").convert("RGB"),
        ]
        for scene in SCENES
    ]
    pasted(columns).save(options.output, quality=88)
    return 0


def pasted(columns: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Columns of pictures side by side, on white."""
    widths = [max(picture.width for picture in column) for column in columns]
    height = max(sum(picture.height for picture in column) + GAP * (len(column) - 1) for column in columns)
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(columns) - 1), height), "white")
    left = 0
    for column, width in zip(columns, widths, strict=True):
        top = 0
        for picture in column:
            sheet.paste(picture, (left, top))
            top += picture.height + GAP
        left += width + GAP
    return sheet


if __name__ == "__main__":
    raise SystemExit(main())
