from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg_cli.store import ClassRecord, ExtractorRecord, PrototypeRecord, RunItem, RunRecord
from tests.store.helpers import CLIP, make_class, make_support


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": np.zeros((4, 4), np.uint8)}, r"image must be uint8 of shape \(4, 4, 3\)"),
        ({"image": np.zeros((4, 5, 3), np.uint8)}, r"attribution must be float32 of shape \(4, 5\)"),
        ({"image": np.zeros((9, 12, 3), np.float32)}, "got float32"),
        ({"image": np.zeros((0, 12, 3), np.uint8)}, "got shape"),
        ({"attribution": np.full((9, 12), 1.5, np.float32)}, r"in \[0, 1\]; got values from 1.5"),
        ({"attribution": np.full((9, 12), np.nan, np.float32)}, r"in \[0, 1\]"),
        ({"foreground": np.ones((9, 12), np.uint8)}, "foreground must be bool"),
        ({"foreground": np.ones((9, 12), np.bool_)}, "overlap"),
        ({"position": -1}, "position must be at least 0; got -1"),
        ({"seed": 2**63}, "64 bits"),
    ],
)
def test_support_checks_itself(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(make_support(0, 0), **change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vector": np.zeros(4, np.float32)}, "not zero"),
        ({"vector": np.array([1, np.inf], np.float32)}, "finite"),
        ({"vector": np.ones((2, 2), np.float32)}, r"shape \(D,\); got shape \(2, 2\)"),
        ({"vector": np.ones(4, np.float64)}, "got float64"),
        ({"role": "front"}, "role must be one of fg, bg; got 'front'"),
        ({"kind": "median"}, "kind must be one of"),
        ({"pixels": 0}, "pixels must be at least 1"),
    ],
)
def test_prototype_checks_itself(change: dict[str, Any], says: str) -> None:
    good = PrototypeRecord(extractor=CLIP, role="fg", kind="mean", vector=np.ones(4, np.float32), pixels=1)
    with pytest.raises(ValueError, match=says):
        replace(good, **change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"extractors": ()}, "not listed"),
        ({"supports": ()}, "support image 0, which is not there"),
        ({"extractors": (ExtractorRecord(name="clip", digest=CLIP, dim=3),)}, r"shape \(3,\)"),
        ({"supports": (make_support(0, 0), make_support(0, 1))}, "0 twice"),
        ({"settings": {"array": np.ones(2)}}, "settings must be plain JSON"),
        ({"settings": {"score": float("nan")}}, "settings must be plain JSON"),
        ({"kind": "animal"}, "kind must be one of thing, stuff"),
        ({"seed": 2**64}, "64 bits"),
    ],
)
def test_class_checks_that_its_parts_fit(change: dict[str, Any], says: str) -> None:
    record = make_class(extractors=(CLIP,))
    with pytest.raises(ValueError, match=says):
        replace(record, **change)


@pytest.mark.parametrize("digest", ["", "abc", "C" * 64, "g" * 64])
def test_extractor_wants_a_digest(digest: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        ExtractorRecord(name="clip", digest=digest, dim=3)


def test_run_wants_an_absolute_output_and_an_aware_time() -> None:
    given: dict[str, Any] = {
        "id": "a" * 32,
        "argv": (),
        "method": "gem",
        "classes": ("cat",),
        "background": True,
        "inputs": ("x",),
    }
    with pytest.raises(ValueError, match="must be absolute; got 'ovseg-out'"):
        RunRecord(output=Path("ovseg-out"), **given)
    with pytest.raises(ValueError, match="aware"):
        RunRecord(output=Path("/out"), started_at=datetime(2026, 1, 1), **given)
    with pytest.raises(ValueError, match="status must be one of"):
        RunItem(source="x", output=None, status="lost")  # type: ignore[arg-type]


def test_class_without_prototypes_is_allowed() -> None:
    assert ClassRecord(name="cat", kind="stuff", kind_source="user", seed=1).prototypes == ()
