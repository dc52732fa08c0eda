"""Probability maps as pictures: a grey PNG for each class of each picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ovseg_cli.errors import ImageError, UsageError
from ovseg_cli.exports.base import Add, Exporter, Options, opened
from ovseg_cli.exports.source import Ids, Picture, Source
from ovseg_cli.files.labels import BACKGROUND
from ovseg_cli.files.probabilities import read_scores
from ovseg_cli.names import slugify


class ProbabilityPngs(Exporter):
    """A folder for each class and one for the background, as those of `ovseg_cli.exports.masks`.

    The scores are those of the run's NPZ files, in as many bits: 255 or 65535 stands for 1. A class that did not take
    part in a picture has no file there.
    """

    target = "probability-png"

    def check(self, source: Source) -> None:
        """See `Exporter.check`.

        Raises:
            UsageError: The run has kept no scores.
        """
        if all(picture.probabilities is None for picture in source.pictures):
            raise UsageError(
                f"{source.folder} has kept no scores. Run ovseg segment again with --format probabilities; label maps "
                "stay as they are."
            )

    @contextmanager
    def open(self, place: Path, source: Source, options: Options) -> Iterator[Add]:
        """See `Exporter.open`."""
        folders = {0: BACKGROUND} | {label: slugify(name) for label, name in source.classes}
        with opened(place / "classes.json") as file:
            names = {0: BACKGROUND} | dict(source.classes)
            about = [{"folder": folders[i], "name": name, "id": i} for i, name in names.items()]
            file.write(json.dumps(about, ensure_ascii=False, indent=2) + "\n")

        def add(picture: Picture, ids: Ids) -> None:
            if picture.probabilities is None:
                raise ImageError(f"The scores of {picture.key} were not kept. Segment it with --format probabilities.")
            scores = read_scores(picture.probabilities)
            for label, values in zip(scores.ids.tolist(), scores.values, strict=True):
                if label not in folders:
                    raise ImageError(f"{picture.probabilities} has scores of other classes than the run.")
                target = place / folders[label] / f"{picture.key}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(target)

        yield add
