"""Render a folder of example pictures with exact labels.

    python examples/pictograms/render.py --out held --preset large
    python examples/pictograms/render.py --out my-pictures --count 40 --seed 7 --classes cat,dog,bus,train

writes `images/*.jpg`, `labels/*.png` (palette PNG, one label id per pixel) and `labels/labelmap.txt`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that this file runs as a script

from examples.mini_pack.glyphs import TWEMOJI, FontError, GlyphSet
from examples.mini_pack.vocabulary import LABEL_NAMES
from examples.pictograms.scenes import Part, Picture, render_set
from ovseg_cli.errors import OvsegError
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap

DEMO: Final = (
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
"""Classes of `ovseg demo`, which the first twenty bundled pictures are about."""

FOCUS: Final = (
    *DEMO,
    "bus",
    "horse",
    "banana",
    "bicycle",
    "airplane",
    "boat",
    "elephant",
    "frog",
    "mushroom",
    "strawberry",
)
"""Classes that the sets are about."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A set that is rendered by name.

    Attributes:
        parts: How many pictures of which classes.
        seed: Decides the whole set.
        font: Path of the font or folder; None takes the bundled glyphs of Noto Color Emoji.
    """

    parts: tuple[Part, ...]
    seed: int
    font: Path | None = None

    @property
    def count(self) -> int:
        """Number of pictures."""
        return sum(part.count for part in self.parts)


PRESETS: Final = {
    "bundled": Preset(parts=(Part(20, DEMO), Part(44, FOCUS)), seed=18_566),
    "large": Preset(parts=(Part(1000, FOCUS),), seed=10_007),
    "transfer": Preset(parts=(Part(200, FOCUS),), seed=20_011, font=TWEMOJI),
}
"""The pictures of this folder; a set of the same kind for measurements; one with the glyphs of another font."""

_PLAIN: Final = Preset(parts=(Part(20, FOCUS),), seed=0)
"""What is rendered when nothing else is asked."""

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
    parts: Sequence[Part],
    *,
    seed: int,
    size: tuple[int, int] = (256, 192),
    font: Path | None = None,
    quality: int = 92,
) -> Counter[str]:
    """Render a set of pictures into a folder.

    Args:
        out: Folder to write to; its `images` and `labels` must be absent or empty.
        parts: How many pictures of which classes, in order.
        seed: Decides the whole set.
        size: Width and height in pixels.
        font: Path of NotoColorEmoji.ttf, or of a folder of PNG files named by code point; None takes the
            bundled glyphs.
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
    labels, count = label_map(), sum(part.count for part in parts)
    write_labelmap(out / "labels" / "labelmap.txt", labels)
    digits = max(3, len(str(count - 1)))
    seen: Counter[str] = Counter()
    pictures = render_set(glyphs, parts, seed, width=size[0], height=size[1])
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
    preset = _PLAIN if options.preset is None else PRESETS[options.preset]
    parts = preset.parts
    if options.count is not None or options.classes is not None:
        count = preset.count if options.count is None else options.count
        parts = (Part(count, options.classes or FOCUS),)
    try:
        seen = render_folder(
            options.out,
            parts,
            seed=preset.seed if options.seed is None else options.seed,
            size=options.size,
            font=options.font or preset.font,
            quality=options.quality,
        )
    except (RenderError, FontError, OvsegError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{sum(part.count for part in parts)} pictures in {options.out}")
    for name, pictures in seen.most_common():
        print(f"{pictures:6d}  {name}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Render example pictures with exact labels.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write images/ and labels/ to")
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="a set by name, whose count, seed, classes and font the options below replace one by one: the "
        f"{PRESETS['bundled'].count} bundled pictures; {PRESETS['large'].count} of the same kind (large); "
        f"{PRESETS['transfer'].count} with the glyphs of another font, Twemoji (transfer)",
    )
    parser.add_argument("--count", type=_count, help=f"number of pictures (default: {_PLAIN.count})")
    parser.add_argument("--seed", type=_count, help=f"decides the whole set (default: {_PLAIN.seed})")
    parser.add_argument("--size", type=_size, default=(256, 192), help="WIDTHxHEIGHT (default: 256x192)")
    parser.add_argument(
        "--classes",
        type=_names,
        help=f"four or more classes that the pictures are about, comma-separated (default: {len(FOCUS)} of them)",
    )
    parser.add_argument(
        "--font",
        type=Path,
        help="other artwork for the glyphs: a font such as NotoColorEmoji.ttf, or a folder of PNG files named by code "
        "point, such as 1f431.png",
    )
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
