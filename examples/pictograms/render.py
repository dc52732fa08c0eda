"""Render a folder of example pictures with exact labels.

    python examples/pictograms/render.py --out my-pictures --count 1000 --seed 7

writes `images/*.jpg`, `labels/*.png` (palette PNG, one label id per pixel) and `labels/labelmap.txt`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that this file runs as a script

from examples.mini_pack.glyphs import FontError, GlyphSet
from examples.mini_pack.vocabulary import LABEL_NAMES
from examples.pictograms.scenes import Picture, render_set
from ovseg_cli.errors import OvsegError
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap

FOCUS: Final = (
    "chocolate glazed donut",
    "cat",
    "dog",
    "car",
    "tree",
    "house",
    "apple",
    "penguin",
    "soccer ball",
    "lion",
)
"""Classes that the bundled pictures are about: those that the bundled models draw recognisably."""

_LABEL_NAMES: Final = {"doughnut": "chocolate glazed donut"}
"""Names in the label map that differ from the vocabulary's: the glyph shows this kind of doughnut."""


class RenderError(RuntimeError):
    """The pictures cannot be written as asked."""


def label_map() -> LabelMap:
    """Return names, ids and VOC colours of everything that the pictures can contain."""
    names = tuple(_LABEL_NAMES.get(name, name) for name in LABEL_NAMES)
    return LabelMap(names=names, ids=tuple(range(len(names))))


def write_picture(folder: Path, stem: str, picture: Picture, *, quality: int = 92) -> None:
    """Write one picture as `images/STEM.jpg` and `labels/STEM.png`.

    Args:
        folder: Folder that holds `images` and `labels`.
        stem: File name without extension.
        picture: What to write.
        quality: JPEG quality.
    """
    # full chroma resolution: halved, it bleeds the saturated glyphs over their exact outlines
    Image.fromarray(picture.image).save(
        folder / "images" / f"{stem}.jpg", quality=quality, subsampling=0, optimize=True
    )
    write_label(folder / "labels" / f"{stem}.png", picture.labels, label_map())


def render_folder(
    out: Path,
    *,
    count: int,
    seed: int,
    size: tuple[int, int] = (256, 192),
    focus: Sequence[str] = FOCUS,
    font: Path | None = None,
    quality: int = 92,
) -> Counter[str]:
    """Render a set of pictures into a folder.

    Args:
        out: Folder to write to; its `images` and `labels` must be absent or empty.
        count: Number of pictures.
        seed: Decides the whole set.
        size: Width and height in pixels.
        focus: Names or aliases of the classes that the set is about.
        font: Path of NotoColorEmoji.ttf; None looks it up.
        quality: JPEG quality.

    Returns:
        For each label name the number of pictures in which it can be seen.

    Raises:
        RenderError: If there are files in the way.
        FontError: If the font is missing.
        ValueError: If a name is unknown or the size too small.
    """
    glyphs = GlyphSet(font)
    for name in ("images", "labels"):
        target = out / name
        # mixed sets would pair old pictures with new labels
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise RenderError(f"{target} already exists and is not an empty folder; remove it or choose another")
        target.mkdir(parents=True, exist_ok=True)
    labels = label_map()
    write_labelmap(out / "labels" / "labelmap.txt", labels)
    digits = max(3, len(str(count - 1)))
    seen: Counter[str] = Counter()
    pictures = render_set(glyphs, count, seed, focus=focus, width=size[0], height=size[1])
    for index, picture in enumerate(pictures):
        write_picture(out, f"scene_{index:0{digits}d}", picture, quality=quality)
        seen.update(labels.names[i] for i in set(picture.labels.ravel().tolist()))
        _progress(index + 1, count)
    return seen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    try:
        seen = render_folder(
            options.out,
            count=options.count,
            seed=options.seed,
            size=options.size,
            focus=options.classes,
            font=options.font,
            quality=options.quality,
        )
    except (RenderError, FontError, OvsegError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.count} pictures in {options.out}")
    for name, pictures in seen.most_common():
        print(f"{pictures:6d}  {name}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Render example pictures with exact labels.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write images/ and labels/ to")
    parser.add_argument("--count", type=_count, default=20, help="number of pictures (default: 20)")
    parser.add_argument("--seed", type=_count, default=0, help="decides the whole set (default: 0)")
    parser.add_argument("--size", type=_size, default=(256, 192), help="WIDTHxHEIGHT (default: 256x192)")
    parser.add_argument(
        "--classes",
        type=_names,
        default=FOCUS,
        help="four or more classes that the pictures are about, comma-separated (default: ten)",
    )
    parser.add_argument("--font", type=Path, help="path of NotoColorEmoji.ttf (default: found by fontconfig)")
    parser.add_argument("--quality", type=int, default=92, help="JPEG quality (default: 92)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 0, got {text!r}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"needs WIDTHxHEIGHT such as 256x192, got {text!r}")
    return int(width), int(height)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
