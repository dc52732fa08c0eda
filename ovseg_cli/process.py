"""Whose this process is."""

from __future__ import annotations

OWN = False
"""Whether it is ovseg's own, a command or a worker: nobody else in it misses what libraries are loaded without."""
