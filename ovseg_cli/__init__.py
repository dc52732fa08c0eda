"""Open-vocabulary segmentation with generated prototypes.

The command line's three steps as functions:

    >>> from ovseg_cli import Store, add_class, evaluate, segment
    >>> store = Store.open("my-store", profile="mini")
    >>> add_class(store, "cat")
    >>> result = segment(store, image, classes=["cat"])
    >>> report = evaluate([result.ids], [truth], names=["background", "cat"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovseg_cli.api import (
        add_class,
        compare,
        evaluate,
        evaluate_folder,
        explain,
        export_run,
        relabel_run,
        report_folder,
        segment,
        segment_folder,
    )
    from ovseg_cli.segmentation.options import SegmentOptions
    from ovseg_cli.segmentation.segmenter import Segmentation, Segmenter
    from ovseg_cli.store import Store

__all__ = [
    "SegmentOptions",
    "Segmentation",
    "Segmenter",
    "Store",
    "add_class",
    "compare",
    "evaluate",
    "evaluate_folder",
    "explain",
    "export_run",
    "relabel_run",
    "report_folder",
    "segment",
    "segment_folder",
    "train_head",
]

_HOMES = {
    "SegmentOptions": "ovseg_cli.segmentation.options",
    "Segmentation": "ovseg_cli.segmentation.segmenter",
    "Segmenter": "ovseg_cli.segmentation.segmenter",
    "Store": "ovseg_cli.store",
    "add_class": "ovseg_cli.api",
    "compare": "ovseg_cli.api",
    "evaluate": "ovseg_cli.api",
    "evaluate_folder": "ovseg_cli.api",
    "explain": "ovseg_cli.api",
    "report_folder": "ovseg_cli.api",
    "export_run": "ovseg_cli.api",
    "relabel_run": "ovseg_cli.api",
    "segment": "ovseg_cli.api",
    "segment_folder": "ovseg_cli.api",
    "train_head": "ovseg_cli.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``ovseg --help`` loads none of the model libraries."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
