"""Names of regions that have none. No torch here."""

from __future__ import annotations

REGION_NAMES = tuple(f"region {number}" for number in range(1, 255))
"""What regions without names are called, the largest first: as many as a palette has places beside those of nothing and
of the ignore value. DiffSeg begins with 256 and ends with a few."""
