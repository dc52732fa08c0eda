"""Which files are images: by their name, and by their first bytes when the name does not tell."""

from __future__ import annotations

from ovseg_cli.urls import Place, Url

__all__ = ["FORMATS", "FORMAT_NAMES", "IMAGE_SUFFIXES", "OTHER_PICTURES", "is_image_content", "is_image_file"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF")
"""Pillow's names of the formats that we decode. A closed list: Pillow knows others that start programs."""

FORMAT_NAMES = "PNG, JPEG, WebP, BMP, TIFF, GIF, PPM, AVIF"
"""The same list for people."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
)
"""Suffixes (lower case) that mark a file as an image without a look inside."""

OTHER_PICTURES = frozenset(
    {".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".jpm", ".jxl", ".jxr", ".tga", ".psd", ".exr", ".hdr"}
    | {".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dcm", ".mpo", ".ico", ".pcx", ".svg"}
)
"""Suffixes (lower case) of pictures in formats that we do not decode, as far as content does not say otherwise."""

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_image_content(path: Place) -> bool:
    """Whether the first bytes of `path` are those of a format in `FORMATS`; False when it is unreadable."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    if head.startswith(_MAGIC):
        return True
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head.startswith(b"BM"):
        # Two letters would match many texts; the four reserved bytes of a bitmap are zero.
        return len(head) >= 14 and head[6:10] == b"\0\0\0\0"
    return head[4:12] in (b"ftypavif", b"ftypavis")


def is_image_file(path: Place) -> bool:
    """Whether `path` is to be taken as an image: by its suffix, else by its content, which at a URL is not read."""
    return path.suffix.lower() in IMAGE_SUFFIXES or (not isinstance(path, Url) and is_image_content(path))
