"""Decoding a picture into the one form that the rest of the program works on: upright 8-bit RGB."""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from ovseg_cli.errors import ImageError
from ovseg_cli.files.discovery import InputImage, discover
from ovseg_cli.files.formats import FORMAT_NAMES, FORMATS, IMAGE_SUFFIXES
from ovseg_cli.files.text import special_kind
from ovseg_cli.urls import Place, Url, place

__all__ = [
    "IMAGE_SUFFIXES",
    "InputImage",
    "decoding",
    "discover",
    "open_image",
    "size_in_header",
    "upright",
    "white_is_zero",
]

_logger = logging.getLogger("ovseg_cli")

_BAND_PIXELS = 2**20

MAX_SIDE = 1_000_000
"""The longest side of a picture: each row costs memory of its own, however few pixels it has."""

MOST_OF_16_BITS = 65535
"""The value of white in 16 bits, or of black where zero is white."""

_MOST_DEFLATED = 1032  # bytes out of one, at the very best

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

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


def open_image(path: str | Place, *, least: int | None = None) -> Image.Image:
    """Read an image as upright 8-bit RGB.

    - The EXIF orientation is applied, so that width and height are those that a viewer shows.
    - Transparent pixels are laid on white.
    - 16-bit grey is scaled from 0..65535 to 0..255, except that values which all fit in 8 bits are kept
      (8-bit data in a 16-bit file). The scale never depends on the picture otherwise, so that equal pixels
      stay equal across a folder. 32-bit integers follow the same rule; floats must lie in 0..1 or 0..255.
    - CMYK, YCbCr, grey, palette and 1-bit pictures are converted; colour profiles are not applied. Greys whose zero is
      white (TIFF) are turned around, whatever their depth.
    - What a PNG holds beside its pixels is passed over where it is damaged or too large.
    - Of an animation or a multi-page file the first picture is taken.

    Besides the decoder's own needs this takes two pictures' memory at its peak, 8 bytes for each pixel, and then one
    (at its peak three for a picture that is turned and also converted from a mode with four channels).

    Args:
        path: The file; one at a URL is read as a whole. Its content decides about the format, not its name.
        least: A JPEG may come at a half, a quarter or an eighth of its size, which is read much faster, as long as its
            sides keep so many pixels. None for pictures as they are.

    Returns:
        A loaded `PIL.Image.Image` of mode ``RGB``, independent of the file.

    Raises:
        ImageError: The file is missing, no regular file, empty, damaged, truncated, of another format, or larger than
            Pillow's limit against decompression bombs or `MAX_SIDE`.
    """
    path = place(path)
    with decoding(path) as image:
        if least is not None:
            image.draft(None, (least, least))
        return to_rgb(image, path)


def size_in_header(path: str | Path) -> tuple[int, int] | None:
    """Which (width, height) a picture is going to have, by its first bytes; None where they do not say so.

    Nothing is decoded, so that a damaged picture may have a size, and its pixels another one.
    """
    path = Path(path)
    try:
        if special_kind(path) is not None:
            return None
        with _pillow_warnings(path, told=False), Image.open(path, formats=FORMATS) as image:
            # Of a TIFF, Pillow gives the size that it is going to have.
            turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except (*_DECODE_ERRORS, Image.DecompressionBombError, MemoryError):
        return None


@contextmanager
def decoding(path: Place) -> Iterator[Image.Image]:
    """Open an image for decoding in the block; whatever damage shows up there becomes an `ImageError`.

    Args:
        path: The file.

    Yields:
        The image as Pillow opened it, not yet loaded.

    Raises:
        ImageError: As `open_image`.
    """
    try:
        if (kind := special_kind(path)) is not None:
            raise ImageError(f"{path} is {kind}, not a file; save the picture as a file.")
        content = None
        source: Path | io.BytesIO
        if isinstance(path, Url):
            source = content = io.BytesIO(path.read_bytes())
        else:
            source = path
        with _pillow_warnings(path):
            image = Image.open(_without_faults(path, content) or source, formats=FORMATS)
        with image:
            _check_size(image, path, content)
            yield image
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to be opened safely: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(_why_unidentified(path, content)) from error
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist.") from error
    except MemoryError as error:
        raise ImageError(f"{path} does not fit into memory.") from error
    except _DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system speaks, not a decoder
            raise ImageError(f"{path} cannot be read: {error.strerror}.") from error
        reason = str(error).rstrip(".") or type(error).__name__
        raise ImageError(f"{path} is damaged or incomplete: {reason}.") from error


def picture_bytes(picture: Url) -> bytes:
    """All of a picture at a URL, as it lies there.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        return picture.read_bytes()
    except OSError as error:
        raise ImageError(f"{picture} cannot be read: {error.strerror}.") from error


def _check_size(image: Image.Image, path: Place, content: io.BytesIO | None) -> None:
    """Refuse a size that is no picture's before memory is taken for it.

    Raises:
        ImageError: A side is longer than `MAX_SIDE`, or a PNG is too short for its pixels.
    """
    if max(image.size) > MAX_SIDE:
        raise ImageError(f"{path} has {image.width} x {image.height} pixels; a side may have {MAX_SIDE} at most.")
    bits = image.width * image.height  # one for each pixel, the fewest there are
    if image.format == "PNG" and _nbytes(path, content) * _MOST_DEFLATED < bits / 8:
        raise ImageError(
            f"{path} is damaged or incomplete: it is too short for the {image.width} x {image.height} pixels that it "
            "declares."
        )


def _nbytes(path: Place, content: io.BytesIO | None) -> int:
    if content is not None:
        return content.getbuffer().nbytes
    return path.stat().st_size if isinstance(path, Path) else 0


def _opened(path: Place, content: io.BytesIO | None) -> IO[bytes]:
    """A file from its beginning: from the disk, or as it was read from a URL."""
    return path.open("rb") if content is None else io.BytesIO(content.getbuffer())


def _without_faults(path: Place, content: io.BytesIO | None) -> io.BytesIO | None:
    """A PNG without those of its chunks that would keep Pillow from decoding it and that are no pixels.

    Texts and profiles beyond Pillow's limits, and whatever is not needed and has a wrong checksum, are left out, as
    other decoders do.

    Returns:
        None if it has no such chunk, or is no PNG; it can be opened as it is.
    """
    with _opened(path, content) as file:
        if file.read(len(_PNG_SIGNATURE)) != _PNG_SIGNATURE:
            return None
        end = file.seek(0, io.SEEK_END)
        start, texts, good, faulty = len(_PNG_SIGNATURE), 0, [(0, len(_PNG_SIGNATURE))], False
        while start + 12 <= end:
            file.seek(start)
            length, kind = struct.unpack(">I4s", file.read(8))
            size, sound = length + 12, True
            if kind[:1].islower() and kind != b"fdAT" and start + size <= end:  # a small letter: can be done without
                data, checksum = file.read(length), file.read(4)
                found = _text_size(kind, data)
                sound = checksum == struct.pack(">I", zlib.crc32(kind + data)) and (
                    found <= PngImagePlugin.MAX_TEXT_CHUNK and texts + found <= PngImagePlugin.MAX_TEXT_MEMORY
                )
                texts += found if sound else 0
            if sound:
                good.append((start, size))
            faulty = faulty or not sound
            start += size
        if not faulty:
            return None
        _logger.info("%s: passed over damaged or very large data that are not pixels", path)
        sound_content = io.BytesIO()
        for start, size in good:
            file.seek(start)
            sound_content.write(file.read(size))
    sound_content.seek(0)
    return sound_content


def _text_size(kind: bytes, data: bytes) -> int:
    """How many bytes of text or colour profile a chunk of a PNG holds, counted no further than to say "too many"."""
    _, _, rest = data.partition(b"\0")
    if kind == b"iTXt" and rest[:1] == b"\1":
        rest = rest[2:].split(b"\0", 2)[-1]
    elif kind in (b"zTXt", b"iCCP"):
        rest = rest[1:]
    else:
        return len(rest) if kind in (b"tEXt", b"iTXt") else 0
    try:
        return len(zlib.decompressobj().decompress(rest, PngImagePlugin.MAX_TEXT_CHUNK + 1))
    except zlib.error:
        return PngImagePlugin.MAX_TEXT_CHUNK + 1


@contextmanager
def _pillow_warnings(path: Place, *, told: bool = True) -> Iterator[None]:
    """Log what Pillow warns about in the block, with the name of the file, instead of Python's way; or nothing."""
    with _warnings_lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Large but legal pictures (100 megapixels and more) are wanted: only the hard limit counts.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
    for warning in caught if told else ():
        _logger.warning("%s: %s", path, warning.message)


def _why_unidentified(path: Place, content: io.BytesIO | None) -> str:
    with _opened(path, content) as file:
        head = file.read(16)
    if not head:
        return f"{path} is empty (0 bytes)."
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
        return f"{path} is a HEIC picture; convert it to JPEG or PNG first."
    return f"{path} is damaged or not an image that can be read (its content is none of {FORMAT_NAMES})."


def to_rgb(image: Image.Image, path: Place = Path("the image")) -> Image.Image:
    """Convert any mode that Pillow decodes to upright RGB, as `open_image` does.

    Args:
        image: A Pillow image.
        path: The file, for messages.

    Raises:
        ImageError: Grey values of more than 8 bits whose range does not tell how to scale them.
    """
    turned = upright(image, path)
    if turned.mode == "F" or turned.mode.startswith("I"):
        turn = white_is_zero(image)
        factor = _deep_grey_factor(turned, path, turn)
        rgb = Image.new("RGB", turned.size)
        for top, band in _bands(turned):
            values = np.rint(_black_is_zero(band, turn) * factor).astype(np.uint8)
            if turn and turned.mode == "F":
                values = 255 - values
            rgb.paste(Image.fromarray(values).convert("RGB"), (0, top))
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


def upright(image: Image.Image, path: Place) -> Image.Image:
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


def white_is_zero(image: Image.Image) -> bool:
    """Whether the values of an image are to be turned around still: Pillow does so for greys of 8 bits and fewer only.

    Args:
        image: An image straight from `PIL.Image.open`.
    """
    tags = getattr(image, "tag_v2", {})
    deep = image.mode == "F" or image.mode.startswith("I")
    return deep and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def _black_is_zero(band: Image.Image, turn: bool) -> npt.NDArray[Any]:
    """The values of deep grey, those of 16 bits turned around if need be; floats wait for their scale."""
    values = np.asarray(band)
    return np.uint16(MOST_OF_16_BITS) - values if turn and band.mode != "F" else values


def _deep_grey_factor(grey: Image.Image, path: Place, turn: bool) -> np.float64:
    """What takes grey values of more than 8 bits to 0..255, by a fixed rule (see `open_image`).

    Args:
        grey: Integers or floats.
        path: The file, for the message.
        turn: Whether zero is white.

    Raises:
        ImageError: The range of the values does not tell how to scale them.
    """
    low, high = np.float64(np.inf), np.float64(-np.inf)
    for _, band in _bands(grey):
        values = _black_is_zero(band, turn)
        # Unlike Python's min and max, these keep a NaN, which fits no scale.
        low, high = np.minimum(low, values.min()), np.maximum(high, values.max())
    limits = ((1.0, 255.0), (255.0, 1.0)) if grey.mode == "F" else ((255.0, 1.0), (65535.0, 1 / 257))
    for limit, factor in limits:
        if low >= 0 and high <= limit:
            return np.float64(factor)  # of 64 bits, so that products with float32 pixels are rounded once
    raise ImageError(
        f"{path} has grey values from {low:g} to {high:g}, which fit no known scale; save it as 8- or 16-bit."
    )
