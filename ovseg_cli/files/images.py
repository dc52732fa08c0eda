"""Decoding a picture into the one form that the rest of the program works on: upright 8-bit RGB."""

from __future__ import annotations

import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ovseg_cli.errors import ImageError
from ovseg_cli.files.discovery import InputImage, discover
from ovseg_cli.files.formats import FORMAT_NAMES, FORMATS, IMAGE_SUFFIXES

__all__ = ["IMAGE_SUFFIXES", "InputImage", "decoding", "discover", "open_image", "upright"]

_logger = logging.getLogger("ovseg_cli")

_BAND_PIXELS = 2**20

# What Pillow raises on damaged files, depending on the format and on the place of the damage.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# warnings.catch_warnings swaps global state; two threads inside it at once could leave it swapped.
_warnings_lock = threading.Lock()


def open_image(path: str | Path) -> Image.Image:
    """Read an image as upright 8-bit RGB.

    - The EXIF orientation is applied, so that width and height are those that a viewer shows.
    - Transparent pixels are laid on white.
    - 16-bit grey is scaled from 0..65535 to 0..255, except that values which all fit in 8 bits are kept
      (8-bit data in a 16-bit file). The scale never depends on the picture otherwise, so that equal pixels
      stay equal across a folder. 32-bit integers follow the same rule; floats must lie in 0..1 or 0..255.
    - CMYK, YCbCr, grey, palette and 1-bit pictures are converted; colour profiles are not applied.
    - Of an animation or a multi-page file the first picture is taken.

    Besides the decoder's own needs this takes two pictures' memory at its peak, 8 bytes for each pixel, and then one
    (at its peak three for a picture that is turned and also converted from a mode with four channels).

    Args:
        path: The file. Its content decides about the format, not its name.

    Returns:
        A loaded `PIL.Image.Image` of mode ``RGB``, independent of the file.

    Raises:
        ImageError: The file is missing, empty, damaged, truncated, of another format, or larger than
            Pillow's limit against decompression bombs.
    """
    path = Path(path)
    with decoding(path) as image:
        return to_rgb(image, path)


@contextmanager
def decoding(path: Path) -> Iterator[Image.Image]:
    """Open an image for decoding in the block; whatever damage shows up there becomes an `ImageError`.

    Args:
        path: The file.

    Yields:
        The image as Pillow opened it, not yet loaded.

    Raises:
        ImageError: As `open_image`.
    """
    try:
        with _pillow_warnings(path):
            image = Image.open(path, formats=FORMATS)
        with image:
            yield image
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to be opened safely: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(_why_unidentified(path)) from error
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist.") from error
    except (PermissionError, IsADirectoryError) as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from error
    except MemoryError as error:
        raise ImageError(f"{path} does not fit into memory.") from error
    except _DECODE_ERRORS as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ImageError(f"{path} is damaged or incomplete: {reason}.") from error


@contextmanager
def _pillow_warnings(path: Path) -> Iterator[None]:
    """Log what Pillow warns about in the block, with the name of the file, instead of Python's way."""
    with _warnings_lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Large but legal pictures (100 megapixels and more) are wanted: only the hard limit counts.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
    for warning in caught:
        _logger.warning("%s: %s", path, warning.message)


def _why_unidentified(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        return f"{path} is empty (0 bytes)."
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
        return f"{path} is a HEIC picture; convert it to JPEG or PNG first."
    return f"{path} is damaged or not an image that can be read (its content is none of {FORMAT_NAMES})."


def to_rgb(image: Image.Image, path: Path = Path("the image")) -> Image.Image:
    """Convert any mode that Pillow decodes to upright RGB, as `open_image` does.

    Args:
        image: A Pillow image.
        path: The file, for messages.

    Raises:
        ImageError: Grey values of more than 8 bits whose range does not tell how to scale them.
    """
    turned = upright(image, path)
    if turned.mode == "F" or turned.mode.startswith("I"):
        factor = _deep_grey_factor(turned, path)
        rgb = Image.new("RGB", turned.size)
        for top, band in _bands(turned):
            rgb.paste(Image.fromarray(np.rint(np.asarray(band) * factor).astype(np.uint8)).convert("RGB"), (0, top))
        return rgb
    if turned.has_transparency_data:
        rgb = Image.new("RGB", turned.size)
        for top, band in _bands(turned):
            white = Image.new("RGBA", band.size, "white")
            rgb.paste(Image.alpha_composite(white, band.convert("RGBA")).convert("RGB"), (0, top))
        return rgb
    # A picture that was turned is a copy already; any other is still the file's.
    return turned if turned.mode == "RGB" and turned is not image else turned.convert("RGB")


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image cut into bands of whole rows, each with its top: wider types are needed for one band at a time only."""
    height = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def upright(image: Image.Image, path: Path) -> Image.Image:
    """Load an image and apply its EXIF orientation.

    `PIL.ImageOps.exif_transpose` would do, but it also rewrites the EXIF data, which fails on data that
    are a little damaged. For TIFF and AVIF, Pillow has turned the picture and dropped the tag while loading.

    Args:
        image: An image straight from `PIL.Image.open`.
        path: The file, for warnings.

    Returns:
        The loaded image as a viewer shows it.
    """
    # Only the TIFF decoder warns while it loads; the others need not wait for the lock.
    with _pillow_warnings(path) if image.format == "TIFF" else nullcontext():
        image.load()
    try:
        with _pillow_warnings(path):
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODE_ERRORS as error:
        _logger.warning("%s: unreadable EXIF data (%s); taken as upright", path, error)
        return image
    transpose = _TRANSPOSE.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _deep_grey_factor(grey: Image.Image, path: Path) -> np.float64:
    """What takes grey values of more than 8 bits to 0..255, by a fixed rule (see `open_image`).

    Args:
        grey: Integers or floats.
        path: The file, for the message.

    Raises:
        ImageError: The range of the values does not tell how to scale them.
    """
    low, high = np.float64(np.inf), np.float64(-np.inf)
    for _, band in _bands(grey):
        values = np.asarray(band)
        # Unlike Python's min and max, these keep a NaN, which fits no scale.
        low, high = np.minimum(low, values.min()), np.maximum(high, values.max())
    limits = ((1.0, 255.0), (255.0, 1.0)) if grey.mode == "F" else ((255.0, 1.0), (65535.0, 1 / 257))
    for limit, factor in limits:
        if low >= 0 and high <= limit:
            return np.float64(factor)  # of 64 bits, so that products with float32 pixels are rounded once
    raise ImageError(
        f"{path} has grey values from {low:g} to {high:g}, which fit no known scale; save it as 8- or 16-bit."
    )
