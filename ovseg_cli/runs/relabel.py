"""Label maps from the scores that a run has kept, without the models: another threshold, or fewer classes."""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from ovseg_cli.atomic import make_folder, staged
from ovseg_cli.errors import ImageError, NoInputError, OutputError, UnknownClassError, UsageError
from ovseg_cli.files.discovery import expanded
from ovseg_cli.files.labels import BACKGROUND, LABELMAP_NAME, LabelMap, write_label, write_labelmap
from ovseg_cli.files.layout import MASK_FOLDER
from ovseg_cli.files.probabilities import Scores, read_scores
from ovseg_cli.names import ClassList, listed, shown_name
from ovseg_cli.runs.journal import Entry, Journal, is_intact, read_journal, standing_in, write_journal, written
from ovseg_cli.runs.ledger import Failure, RunSummary, add_shares, only_writer, remove_inside, write_list
from ovseg_cli.runs.manifest import Manifest, read_manifest
from ovseg_cli.runs.plan import check_output
from ovseg_cli.urls import Place, absolute, is_folder, is_there, place, redacted_argument, same_or_inside

__all__ = ["relabel_folder"]

_CELLS_AT_ONCE = 2**22


def relabel_folder(
    run: Place,
    output: Place,
    *,
    threshold: float | None = None,
    classes: Sequence[str] = (),
    overwrite: bool = False,
    argv: tuple[str, ...] = (),
    progress: Callable[[int, int], None] | None = None,
) -> RunSummary:
    """Make the label maps of a run again, from its scores.

    They are those that `segment` gives with this threshold, up to the rounding of the scores: two that lie within
    1/65535 of each other (1/255 in 8 bits) may be taken for equal, and then the one with the lower id wins. What is
    done is skipped the next time.

    Args:
        run: An output folder of ``segment --format probabilities``.
        output: Where the new label maps go, a run like any other.
        threshold: A class whose score is below this gives way to the background; None for no such rule.
        classes: Those that may win, in any case; none for all. The others' pixels go to the best of these, or to the
            background.
        overwrite: Whether label maps that stand there and were made in another way may be replaced.
        argv: The command line, for the record.
        progress: Told how many pictures of how many are done.

    Raises:
        UsageError: The run has kept no scores, or knows no background; the output is the run or holds other label maps.
        UnknownClassError: The run did not look for one of the classes.
        NoInputError: The run has no label map.
        OutputError: A folder cannot be read or written.
        DiskFullError: There is no space left.
    """
    source, target = absolute(expanded(run)), absolute(expanded(output))
    manifest, entries = _read_run(source)
    kept = _wanted(manifest, classes)
    if threshold is not None and not math.isfinite(threshold):
        raise UsageError(f"--threshold must be a number, got {threshold}.")
    _check_place(source, target, entries)
    made = _manifest(manifest, source, kept, threshold, argv)
    begun = time.perf_counter()
    with only_writer(target):
        before = _standing(target, made, output, overwrite=overwrite)
        names = made.class_names
        summary = RunSummary(output=target, method=str(made.method.get("used")), classes=names, images=len(entries))
        painter = _Painter(
            source, target, standing_in(target), made, threshold, frozenset(names.index(name) + 1 for name in kept)
        )
        make_folder(target / MASK_FOLDER)
        write_labelmap(target / LABELMAP_NAME, painter.labels)
        made.write(target)
        planned = {entry.path for entry in entries}
        done: list[Entry] = []
        with Journal(target, [entry for entry in before.values() if entry.path in planned]) as journal:
            for number, entry in enumerate(entries, start=1):
                old = before.get(entry.path)
                found = painter.entry(entry, old)
                if found is old:
                    summary.skipped += 1
                else:
                    journal.add(found)
                    if found.error is None:
                        summary.done += 1
                    else:
                        summary.failed.append(Failure(found.path, found.error))
                done.append(found)
                if progress is not None:
                    progress(number, len(entries))
        add_shares(summary, done)
        summary.seconds = time.perf_counter() - begun
        ordered = sorted(done, key=lambda entry: (entry.output or "", entry.path))
        write_journal(target, ordered)
        write_list(target, ordered)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        replace(made, status="finished", finished_at=now, counts=summary.counts()).write(target)
    return summary


def _read_run(folder: Place) -> tuple[Manifest, list[Entry]]:
    """The run, and its pictures that have scores."""
    manifest = read_manifest(folder) if is_folder(folder) else None
    if manifest is None:
        raise UsageError(f"{folder} is no output folder of ovseg segment: it has no run.json.")
    done = [entry for entry in read_journal(folder).values() if entry.status == "done" and entry.output is not None]
    if not done:
        raise NoInputError(f"{folder} holds no label map yet; run ovseg segment first.")
    if origin := manifest.relabelled.get("folder"):
        raise UsageError(f"{folder} was made of the scores of {origin} and has none itself; name that folder.")
    without = [entry.path for entry in done if entry.probabilities is None]
    if without:
        raise UsageError(
            f"{folder} has kept no scores of {listed(without, most=1)}. Run ovseg segment again with --format "
            "probabilities; label maps stay as they are."
        )
    if not manifest.background:
        raise UsageError(
            f"{folder} was made without background, so no threshold can give a pixel to it. Segment with background."
        )
    return manifest, done


def _wanted(manifest: Manifest, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes that may win, in the order of the run."""
    known = ClassList(manifest.class_names)
    if unknown := known.lacking(classes):
        names = listed([*map(shown_name, unknown)])
        raise UnknownClassError(f"The run did not look for {names}; it knows {known.listed()}.")
    places = {known.place(name) for name in classes}
    return tuple(name for place, name in enumerate(known) if not classes or place in places)


def _check_place(source: Place, target: Place, entries: Sequence[Entry]) -> None:
    """Refuse to write over what is read, or beside the pictures."""
    if same_or_inside(source, target):
        raise UsageError(f"{target} is, or holds, the run whose scores are read. Choose another folder with -o.")
    if is_there(target) and not is_folder(target):
        raise UsageError(f"The output {target} is a file. Choose a folder with -o.")
    check_output(sorted({str(place(entry.path).parent) for entry in entries}), target)


def _manifest(
    run: Manifest, source: Place, kept: tuple[str, ...], threshold: float | None, argv: tuple[str, ...]
) -> Manifest:
    """The record of the new label maps: the run's, with what is different now."""
    digest = hashlib.sha256(repr((run.digest, kept, threshold)).encode()).hexdigest()
    classes = kept if len(kept) < len(run.classes) else ()
    return replace(
        run,
        ovseg=version("ovseg"),
        id=uuid.uuid4().hex,
        status="running",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        finished_at=None,
        argv=tuple(map(redacted_argument, argv)),
        configured={},
        threshold=threshold,
        digest=digest,
        options={**run.options, "threshold": threshold},
        settings={**run.settings, "threshold": threshold} if run.settings else {},
        relabelled={"folder": str(source), "id": run.id, "threshold": threshold, "classes": list(classes)},
        counts={},
    )


def _standing(target: Place, made: Manifest, output: Place, *, overwrite: bool) -> dict[str, Entry]:
    """The journal of what stands there; other label maps are refused, or taken away from those who overwrite."""
    try:
        previous, entries = read_manifest(target), read_journal(target)
    except OutputError:
        if overwrite:
            return {}
        raise
    if previous is None or previous.digest == made.digest:
        return entries
    if not overwrite:
        raise UsageError(
            f"{output} holds label maps that were made in another way. Add --overwrite to replace them, or choose "
            "another folder with -o."
        )
    names = [name for entry in entries.values() for name in (entry.output, *entry.drawings) if name is not None]
    remove_inside(target, names)
    return {}


@dataclass(frozen=True, slots=True)
class _Painter:
    """Makes label maps of scores.

    Attributes:
        source: The run.
        target: The new one.
        standing: The same as it stood before, with what was listed of a URL.
        made: Its record.
        threshold: A class whose score is below this gives way to the background.
        allowed: Ids of classes that may win.
    """

    source: Place
    target: Place
    standing: Place
    made: Manifest
    threshold: float | None
    allowed: frozenset[int]

    @property
    def labels(self) -> LabelMap:
        """What the ids mean."""
        return LabelMap.from_classes(self.made.class_names)

    def entry(self, entry: Entry, before: Entry | None) -> Entry:
        """The label map of one picture, unless it is there.

        Args:
            entry: What the run noted.
            before: What the new one has noted, which is the answer where it still holds.
        """
        key = hashlib.sha256(f"{entry.key} {self.made.digest}".encode()).hexdigest()
        if before is not None and before.status == "done" and before.key == key and is_intact(before, self.standing):
            return before
        path = self.source / str(entry.probabilities)
        titles = (BACKGROUND, *self.made.class_names)
        try:
            scores = read_scores(path)
            if int(scores.ids.max()) >= len(titles):
                raise ImageError(f"{path} has scores of other classes than the run.")
            ids, shares, means = decide_again(scores, self.threshold, self.allowed)
        except ImageError as error:
            return Entry(path=entry.path, status="failed", error=str(error), key=key)
        with staged(self.target) as folder:
            write_label(folder / str(entry.output), ids, self.labels)
            nbytes, digest = written(folder / str(entry.output))
        return replace(
            entry,
            overlay=None,
            explain=None,
            probabilities=None,
            shares={titles[i]: round(share, 6) for i, share in shares.items()},
            scores={titles[i]: round(mean, 6) for i, mean in means.items()},
            ms=None,
            key=key,
            nbytes=nbytes,
            digest=digest,
        )


def decide_again(
    scores: Scores, threshold: float | None, allowed: Collection[int]
) -> tuple[npt.NDArray[np.uint16], dict[int, float], dict[int, float]]:
    """The best label of every pixel, by the rule of `ovseg_cli.labeling.decide.decide` with background.

    Args:
        scores: Of a picture.
        threshold: A class whose score is below this gives way to the background.
        allowed: Ids of classes that may win.

    Returns:
        The label map, (H, W), and by id the share of the pixels and the mean score.
    """
    channels = [i for i, label in enumerate(scores.ids.tolist()) if i == 0 or label in allowed]
    labels = scores.ids[channels]
    _, height, width = scores.values.shape
    ids = np.zeros((height, width), dtype=np.uint16)
    counts, sums = np.zeros(len(channels)), np.zeros(len(channels))
    rows = max(1, _CELLS_AT_ONCE // (len(channels) * max(1, width)))
    for top in range(0, height, rows):
        part = scores.values[channels, top : top + rows]
        best = part.argmax(axis=0)
        highest = part.max(axis=0).astype(np.float32) / np.float32(scores.top)
        if threshold is not None:
            best[highest < np.float32(threshold)] = 0
        ids[top : top + rows] = labels[best]
        flat = best.ravel()
        counts += np.bincount(flat, minlength=len(channels))
        sums += np.bincount(flat, weights=highest.ravel(), minlength=len(channels))
    present = np.flatnonzero(counts)
    shares = {int(labels[i]): float(counts[i] / ids.size) for i in present}
    return ids, shares, {int(labels[i]): float(sums[i] / counts[i]) for i in present}
