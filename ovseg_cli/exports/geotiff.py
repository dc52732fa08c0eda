"""GeoTIFFs of label maps, which lie where their pictures lie."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_cli.errors import ImageError, UsageError
from ovseg_cli.exports.base import Add, Exporter, Options
from ovseg_cli.exports.source import Ids, Picture, Source
from ovseg_cli.files.images import decoding, picture_bytes
from ovseg_cli.files.labels import IGNORE, MAX_ID
from ovseg_cli.urls import Place

_TILE = 256
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DRIVERS = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WEBP", "BMP": "BMP", "GIF": "GIF", "PPM": "PNM"}
"""What GDAL calls Pillow's formats. It is told, as others of its formats read from the network."""
_ORIENTATION = 274
log = logging.getLogger("ovseg_cli")


class GeoTiff(Exporter):
    """A TIFF for each picture: ids of 8 or 16 bits with their colours and names, in compressed tiles.

    It has the coordinate system and the transform or the control points of the picture. Where the picture has no data,
    the label map has none either: its value for that is 255, or 65535 in 16 bits, unless this is a class.
    """

    target = "geotiff"

    def ready(self) -> None:
        """See `Exporter.ready`."""
        _rasterio()

    def check(self, source: Source) -> None:
        """See `Exporter.check`.

        Raises:
            UsageError: Nothing says where the pictures are.
        """
        if all(picture.path is None for picture in source.pictures):
            raise UsageError(
                "GeoTIFFs take their place on earth from the pictures, and these are not where the run found them. "
                "Name their folder with --images DIR."
            )

    @contextmanager
    def open(self, place: Path, source: Source, options: Options) -> Iterator[Add]:
        """See `Exporter.open`."""
        rasterio = _rasterio()
        known = {i for i, _, _ in source.labels}
        deep = source.labels.max_id >= IGNORE
        unused = MAX_ID if deep else IGNORE
        nodata = None if unused in known else unused
        placeless = 0

        def add(picture: Picture, ids: Ids) -> None:
            nonlocal placeless
            if picture.path is None:
                raise ImageError(f"The picture of {picture.label} is not known. Name its folder with --images DIR.")
            target = place / f"{picture.key}.tif"
            target.parent.mkdir(parents=True, exist_ok=True)
            values: Ids = ids.astype(np.uint16 if deep else np.uint8)
            if nodata is not None and nodata != IGNORE and IGNORE not in known:
                values[ids == IGNORE] = nodata
            with warnings.catch_warnings():  # that a picture is nowhere on earth is counted, and told once
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                try:
                    with _on_disk(picture.path) as path:
                        placeless += not _write(rasterio, path, target, values, source, nodata)
                except rasterio.errors.RasterioError as error:
                    raise ImageError(f"{picture.path} cannot be read as a map: {error}.") from error

        yield add
        if placeless:
            many = "1 picture is" if placeless == 1 else f"{placeless} pictures are"
            log.warning("%s not georeferenced; the GeoTIFFs of these are not either", many)


def _rasterio() -> Any:
    """The library.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise UsageError('GeoTIFFs need rasterio: pip install "ovseg[geo]"') from error
    return rasterio


@contextmanager
def _on_disk(picture: Place) -> Iterator[Path]:
    """A picture as a file of this computer.

    Raises:
        ImageError: One at a URL cannot be read.
    """
    if isinstance(picture, Path):
        yield picture
        return
    with tempfile.TemporaryDirectory(prefix="ovseg-") as folder:
        path = Path(folder, f"picture{picture.suffix}")
        path.write_bytes(picture_bytes(picture))
        yield path


def _write(rasterio: Any, picture: Path, target: Path, values: Ids, source: Source, nodata: int | None) -> bool:
    """Write one; says whether it has a place on earth."""
    height, width = values.shape
    with rasterio.open(picture, driver=_driver(picture)) as read:
        if (read.height, read.width) != (height, width) or _turned(picture):
            raise ImageError(
                f"{picture} has {read.width}x{read.height} pixels in its file, and its label map {width}x{height}: it "
                "is turned by its orientation tag, or has changed. Take the tag out, and segment it again."
            )
        profile: dict[str, Any] = {
            "driver": "GTiff",
            "height": height,
            "width": width,
            "count": 1,
            "dtype": values.dtype,
            "nodata": nodata,
            "compress": "deflate",
            "tiled": True,
            "blockxsize": _TILE,
            "blockysize": _TILE,
            "BIGTIFF": "IF_SAFER",
        }
        points, system = read.gcps
        placed = bool(points) or read.crs is not None or not read.transform.is_identity
        if points:
            profile |= {"gcps": points, "crs": system}
        elif placed:
            profile |= {"crs": read.crs, "transform": read.transform}
        with rasterio.open(target, "w", **profile) as written:
            for _, window in written.block_windows(1):
                rows, columns = window.toslices()
                part = values[rows, columns]
                if nodata is not None:
                    part = np.where(read.dataset_mask(window=window) == 0, values.dtype.type(nodata), part)
                written.write(part, 1, window=window)
            written.write_colormap(1, _colours(source, nodata, deep=values.dtype == np.uint16))
            written.update_tags(1, **{f"CLASS_{i}": name for i, name, _ in source.labels})
    return placed


def _driver(picture: Path) -> str:
    """What GDAL is to take a picture for; of TIFFs it reads more kinds than Pillow.

    Raises:
        ImageError: It has no name for the format, or the picture is gone or damaged.
    """
    try:
        with picture.open("rb") as file:
            if file.read(4) in _TIFFS:
                return "GTiff"
    except OSError as error:
        raise ImageError(f"{picture} cannot be read: {error.strerror}.") from error
    with decoding(picture) as image:
        kind = str(image.format)
    if kind not in _DRIVERS:
        raise ImageError(f"{picture} is a {kind}, which cannot be georeferenced. Save it as a GeoTIFF.")
    return _DRIVERS[kind]


def _turned(picture: Path) -> bool:
    """Whether a viewer shows the picture otherwise than it lies in its file."""
    try:
        with decoding(picture) as image:
            return image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except ImageError:  # more bands than Pillow reads: no camera wrote it
        return False


def _colours(source: Source, nodata: int | None, *, deep: bool) -> Mapping[int, tuple[int, int, int, int]]:
    """The colour table, transparent where there is no data."""
    colours = {i: (*colour, 255) for i, _, colour in source.labels if i < (MAX_ID + 1 if deep else IGNORE + 1)}
    return colours if nodata is None else {**colours, nodata: (0, 0, 0, 0)}
