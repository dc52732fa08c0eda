"""The names and values that output folders and support sets are made of, each in one place."""

from __future__ import annotations

from typing import Final

MASK_FOLDER: Final = "SegmentationClass"
"""Folder of label maps, in output folders and in PASCAL VOC's layout (and so in CVAT's exports)."""

OVERLAY_FOLDER: Final = "overlay"
EXPLAIN_FOLDER: Final = "explain"
PROBABILITY_FOLDER: Final = "probabilities"
SMALL_PROBABILITY_FOLDER: Final = "probabilities-8"
PICTURE_FOLDERS: Final = (MASK_FOLDER, OVERLAY_FOLDER, EXPLAIN_FOLDER, PROBABILITY_FOLDER, SMALL_PROBABILITY_FOLDER)
"""All folders with files of single pictures."""

LIST_NAME: Final = "ImageSets/Segmentation/default.txt"
"""VOC's list of the images that have a label map."""

MANIFEST_NAME: Final = "run.json"
JOURNAL_NAME: Final = "predictions.jsonl"
JOURNAL_PARTS: Final = "predictions.parts"
"""Folder of what a run at a URL has noted since it began; a run on a disk appends to the journal itself."""
REPORT_NAME: Final = "report.html"

LOCK_NAME: Final = ".ovseg.lock"
"""Whoever writes to an output folder holds this file's lock."""

MARKED_FOREGROUND: Final = 1
MARKED_BACKGROUND: Final = 2
"""Values of a support image's mask; 0 is neither."""
