"""`python -m ovseg_cli` is the same command as `ovseg`."""

from __future__ import annotations

from ovseg_cli.cli.main import run

if __name__ == "__main__":
    run()
