"""Packages to carry to a machine with a GPU and without a network.

    python -m examples.mini_pack.wheels build/wheels --python 3.12

fetches the wheels that the training needs beside torch, torchvision, transformers, timm, scikit-image and scikit-learn,
which images for machine learning bring along, in the versions of ``constraints.txt``. There,

    python3 -m pip install --no-index --no-deps --target build/site build/wheels/*.whl
    PYTHONPATH=build/site python3 -m examples.mini_pack --hardware gpu ...

needs nothing else. `--also` names more, and `--most` fails when the folder grows beyond what can be carried.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

NEEDED: Final = ("diffusers", "open_clip_torch", "ftfy", "wcwidth", "importlib_metadata", "lazy-importer", "zipp")
"""Importing diffusers and open_clip needs these; all are pure Python."""
CONSTRAINTS: Final = Path(__file__).resolve().parents[2] / "constraints.txt"


def pinned(names: Sequence[str], constraints: str) -> list[str]:
    """Requirements of packages, with their versions where the constraints name one.

    Args:
        names: Names of packages, or requirements with a version of their own.
        constraints: Lines such as ``diffusers==0.42.1``.
    """
    lines = (line.split(";")[0].strip() for line in constraints.splitlines())
    versions = {_plain(line.split("==")[0]): line for line in lines if "==" in line}
    return [name if "=" in name else versions.get(_plain(name), name) for name in names]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Fetch the wheels that a training without a network needs.")
    parser.add_argument("out", type=Path, help="folder of the wheels")
    parser.add_argument("--python", default="3.12", help="version of Python there (default: %(default)s)")
    parser.add_argument("--also", nargs="+", default=[], metavar="NAME", help="more packages, which may have code")
    parser.add_argument("--most", type=float, default=64.0, help="largest size in MiB (default: %(default)s)")
    options = parser.parse_args(argv)
    wanted = pinned((*NEEDED, *options.also), CONSTRAINTS.read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", options.python, "--implementation", "cp"]
    for tag in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
        command += ["--platform", tag]
    code = subprocess.run([*command, "--dest", str(options.out), *wanted], check=False).returncode
    if code:
        print(f"error: pip could not fetch {' '.join(wanted)}", file=sys.stderr)
        return 1
    files = sorted(options.out.glob("*.whl"))
    size = sum(file.stat().st_size for file in files) / 2**20
    for file in files:
        print(f"{file.stat().st_size / 2**20:6.1f} MiB  {file.name}")
    print(f"{size:6.1f} MiB in {options.out}")
    if size > options.most:
        print(f"error: that is more than {options.most:g} MiB; name fewer with --also", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
