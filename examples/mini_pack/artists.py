"""Glyphs by other artists, for measuring: from an installed npm package to a folder that `GlyphSet` reads.

    npm install --prefix build/npm emojione-assets@4.5.0 openmoji@17.0.0 @resvg/resvg-js@2.6.2
    python -m examples.mini_pack.artists build/npm --out build/glyphs

writes ``build/glyphs/emojione`` and ``build/glyphs/openmoji``, one PNG file per object of the vocabulary. Nothing is
trained on them, and they are no part of the repository: some of their licences do not allow it.
`examples.mini_pack.evaluate --what styles --glyphs build/glyphs/*` measures a pack on them.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.mini_pack.glyphs import FontError, GlyphSet
from examples.mini_pack.vocabulary import THINGS

_SIDE: Final = 128
"""Pixels to which vector graphics are drawn."""
_RENDER: Final = """
const { Resvg } = require("@resvg/resvg-js"), fs = require("fs");
for (const [from, to] of JSON.parse(fs.readFileSync(0)))
  fs.writeFileSync(to, new Resvg(fs.readFileSync(from), { fitTo: { mode: "width", value: SIDE } }).render().asPng());
"""


@dataclass(frozen=True, slots=True)
class Artist:
    """Where a package keeps its glyphs.

    Attributes:
        package: Its name on npm.
        folder: Folder of PNG or SVG files that are named by code point.
    """

    package: str
    folder: str


ARTISTS: Final = {
    "emojione": Artist("emojione-assets", "png/128"),
    "openmoji": Artist("openmoji", "color/svg"),
    "facebook": Artist("emoji-datasource-facebook", "img/facebook/64"),
    "apple": Artist("emoji-datasource-apple", "img/apple/64"),
    "fluent": Artist("@lobehub/fluent-emoji-flat", "assets"),
}
"""The artists by the name of their folder."""


def glyph_files(folder: Path) -> dict[str, Path]:
    """The file of each object of the vocabulary that a folder has, by the object's name.

    Args:
        folder: Holds files such as ``1f431.png`` or ``2708-FE0F.svg``.
    """
    files = {re.sub(r"-fe0f\b", "", file.stem.lower()): file for file in sorted(folder.glob("*.[ps][nv]g"))}
    points = {thing.name: f"{ord(thing.glyph):x}" for thing in THINGS}
    return {name: files[point] for name, point in points.items() if point in files}


def take(install: Path, artist: Artist, out: Path) -> list[str]:
    """Write an artist's glyphs of the vocabulary as PNG files.

    Args:
        install: Folder that holds ``node_modules``.
        artist: Whose.
        out: Where they go; replaced as a whole.

    Returns:
        Names of the objects that the package has no glyph for.

    Raises:
        FontError: If the package is not there, or holds no such glyphs.
        subprocess.CalledProcessError: If vector graphics cannot be drawn.
    """
    folder = install / "node_modules" / artist.package / artist.folder
    found = glyph_files(folder)
    if not found:
        raise FontError(f"{folder} holds no glyphs; install them: npm install --prefix {install} {artist.package}")
    part = out.with_name(f".{out.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    drawn = []
    for thing in THINGS:
        if thing.name in found:
            source, target = found[thing.name], part / f"{ord(thing.glyph):x}.png"
            if source.suffix == ".png":
                shutil.copyfile(source, target)
            else:
                drawn.append((str(source.resolve()), str(target.resolve())))
    if drawn:
        script = _RENDER.replace("SIDE", str(_SIDE))
        subprocess.run(["node", "-e", script], input=json.dumps(drawn), text=True, cwd=install, check=True)
    GlyphSet(part)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return [thing.name for thing in THINGS if thing.name not in found]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Take other artists' glyphs from installed npm packages.")
    parser.add_argument("install", type=Path, help="folder that holds node_modules")
    parser.add_argument("--out", type=Path, required=True, help="folder of one folder per artist")
    parser.add_argument("--artists", nargs="+", choices=list(ARTISTS), metavar="NAME", help=", ".join(ARTISTS))
    options = parser.parse_args(argv)
    there = [name for name, one in ARTISTS.items() if (options.install / "node_modules" / one.package).is_dir()]
    names = options.artists or there
    if not names:
        packages = ", ".join(artist.package for artist in ARTISTS.values())
        print(f"error: {options.install}/node_modules holds none of: {packages}", file=sys.stderr)
        return 1
    for name in names:
        try:
            missing = take(options.install, ARTISTS[name], options.out / name)
        except (FontError, OSError, subprocess.CalledProcessError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 1
        lacks = f", without {', '.join(missing)}" if missing else ""
        print(f"{options.out / name}: {len(THINGS) - len(missing)} glyphs{lacks}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
