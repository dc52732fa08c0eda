from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from ovseg_cli.errors import ImageError
from ovseg_cli.files import images
from ovseg_cli.files.images import open_image

RNG = np.random.default_rng(7)
PHOTO = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def pixels(path: Path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp", "ü 猫.png"])
def test_lossless_formats_give_the_exact_pixels(tmp_path, name):
    Image.fromarray(PHOTO).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    np.testing.assert_array_equal(pixels(tmp_path / name), PHOTO)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(tmp_path, compression):
    Image.fromarray(PHOTO).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), PHOTO)


def test_jpeg_is_close(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (32, 1, 3))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - smooth).max() <= 6


def test_a_jpeg_may_come_smaller_and_still_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (801, 600), (200, 40, 90)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg", least=100).size == (150, 201)
    assert open_image(tmp_path / "a.jpg", least=400).size == (600, 801)
    assert open_image(tmp_path / "a.jpg").size == (600, 801)
    Image.new("RGB", (801, 600)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", least=100).size == (801, 600)


def test_content_decides_not_the_name(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), PHOTO)


# The EXIF standard: where the 0th row and the 0th column of the stored picture are seen.
# Written as index arithmetic, independent of Pillow's transposes.
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = np.zeros((16, 32, 3), dtype=np.uint8)
    stored[:8, :8] = 200  # blocks of 8, so that JPEG keeps them
    stored[:8, 8:16] = 100
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100}}.get(suffix, {})
    Image.fromarray(stored).save(tmp_path / f"a{suffix}", exif=exif, **options)
    result = pixels(tmp_path / f"a{suffix}")
    expected = SHOWN[orientation](stored)
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).max() <= (3 if suffix == ".jpg" else 0)


def test_orientation_of_other_modes(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    deep = RNG.integers(0, 65536, (3, 5), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif)
    expected = np.rint(deep / 257).astype(np.uint8)
    np.testing.assert_array_equal(pixels(tmp_path / "deep.png")[..., 0], SHOWN[6](expected))
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png", exif=exif)
    assert pixels(tmp_path / "p.png").tolist() == [[[255, 0, 0]], [[0, 255, 0]], [[0, 0, 255]]]


def test_unknown_orientation_is_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 77
    Image.fromarray(PHOTO).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), PHOTO)


def test_grey_and_1_bit(tmp_path):
    grey = PHOTO[..., 0]
    Image.fromarray(grey).save(tmp_path / "l.png")
    np.testing.assert_array_equal(pixels(tmp_path / "l.png"), np.repeat(grey[..., None], 3, axis=2))
    bits = grey > 127
    Image.fromarray(bits).save(tmp_path / "1.png")
    np.testing.assert_array_equal(pixels(tmp_path / "1.png")[..., 1], bits * np.uint8(255))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_by_a_fixed_factor(tmp_path, suffix):
    deep = np.array([[0, 128, 256, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a{suffix}")
    assert pixels(tmp_path / f"a{suffix}")[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_big_endian_16_bit_tiff(tmp_path):
    deep = np.array([[0, 32768, 65535]], dtype=np.uint16)
    Image.frombytes("I;16B", (3, 1), deep.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_8_bit_values_in_a_16_bit_file_are_kept(tmp_path):
    Image.fromarray(np.array([[0, 7, 255]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255])],
)
def test_float_tiff(tmp_path, values, expected):
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif")[0, :, 2].tolist() == expected


@pytest.mark.parametrize("values", [[-1.0, 2.0], [0.0, 4000.0], [0.0, float("nan")]])
def test_float_of_unknown_scale_is_refused(tmp_path, values):
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif has grey values .* 8- or 16-bit"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("band", [1, 50, 2**20])
def test_deep_grey_and_transparency_do_not_depend_on_the_bands(tmp_path, monkeypatch, band):
    monkeypatch.setattr(images, "_BAND_PIXELS", band)
    deep = RNG.integers(0, 65536, (23, 20), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = np.rint(deep.astype(np.float64) / 257).astype(np.uint8)
    np.testing.assert_array_equal(pixels(tmp_path / "deep.png"), np.repeat(expected[..., None], 3, axis=2))
    late = np.zeros((23, 20), dtype=np.uint16)
    late[-1, -1] = 1000  # only the last row tells that the values are no 8-bit ones
    late[0, 0] = 200
    Image.fromarray(late).save(tmp_path / "late.png")
    assert pixels(tmp_path / "late.png")[[0, -1], [0, -1], 0].tolist() == [1, 4]
    rgba = RNG.integers(0, 256, (23, 20, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    alpha = rgba[..., 3:] / 255
    on_white = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels(tmp_path / "rgba.png") - on_white).max() <= 1


def test_transparency_lies_on_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    assert pixels(tmp_path / "rgba.png")[0].tolist() == [[10, 20, 30], [255] * 3, [127] * 3]
    Image.fromarray(rgba[..., [0, 3]]).save(tmp_path / "la.png")
    assert pixels(tmp_path / "la.png")[0].tolist() == [[10] * 3, [255] * 3, [127] * 3]


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "one.png", transparency=1)
    assert pixels(tmp_path / "one.png")[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    image.save(tmp_path / "all.png", transparency=bytes([255, 0, 128]))
    assert pixels(tmp_path / "all.png")[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 255]]
    image.save(tmp_path / "one.gif", transparency=2)
    assert pixels(tmp_path / "one.gif")[0, 2].tolist() == [255, 255, 255]


def test_transparent_colour_of_an_rgb_png(tmp_path):
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    image.save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert pixels(tmp_path / "a.png")[0].tolist() == [[255, 255, 255], [4, 5, 6]]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk(tmp_path, suffix):
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    flat.save(tmp_path / f"a{suffix}")
    assert np.abs(pixels(tmp_path / f"a{suffix}").astype(int) - [255, 0, 0]).max() <= 4


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.webp", "a.tif", "a.png"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert (pixels(tmp_path / name) == [255, 0, 0]).all(), name


def test_result_is_independent_of_the_file(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    np.testing.assert_array_equal(np.asarray(image), PHOTO)


def test_zero_bytes(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageError, match=r"a\.jpg is empty \(0 bytes\)"):
        open_image(tmp_path / "a.jpg")


def test_text_named_jpg(tmp_path):
    (tmp_path / "a.jpg").write_text("this is no picture")
    with pytest.raises(ImageError, match=r"a\.jpg is damaged or not an image .*PNG, JPEG"):
        open_image(tmp_path / "a.jpg")


def test_heic_gets_its_own_advice(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    with pytest.raises(ImageError, match="HEIC picture; convert it"):
        open_image(tmp_path / "a.heic")


def test_formats_that_start_programs_are_not_tried(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(ImageError, match="not an image that can be read"):
        open_image(tmp_path / "a.png")


def test_missing_and_folder(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        open_image(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp", ".gif", ".ppm"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=f"a{suffix} is damaged"):
        open_image(path)


def chunk(kind: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ damaged)


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


LARGE = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + LARGE),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
        chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        chunk(b"iCCP", b"profile\0\0" + LARGE),
        chunk(b"tEXt", b"Comment\0hello", damaged=True),
        chunk(b"tIME", bytes([7, 230, 1, 1, 0, 0, 0]), damaged=True),
        chunk(b"zTXt", b"Comment\0\0no zlib data"),
    ],
    ids=["zTXt", "iTXt", "tEXt", "iCCP", "text checksum", "time checksum", "no zlib"],
)
def test_what_a_png_holds_beside_its_pixels_does_not_matter(tmp_path, extra, place):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    cut = 33 if place == "before" else len(data) - 12
    (tmp_path / "a.png").write_bytes(data[:cut] + extra + data[cut:])
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), PHOTO)
    (tmp_path / "a.png").write_bytes(data[:33] + extra + data[33 : len(data) // 2])
    with pytest.raises(ImageError, match=r"a\.png is damaged"):
        open_image(tmp_path / "a.png")


def test_small_texts_of_a_png_are_kept_as_they_may_say_what_is_up(tmp_path):
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    broken = chunk(b"tEXt", b"Comment\0hello", damaged=True)
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"iTXt", xmp) + broken + data[33:])
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), SHOWN[6](PHOTO))


def test_sizes_that_are_no_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of_size(1, 178_000_000))
    with pytest.raises(ImageError, match=r"1 x 178000000 pixels; a side may have 1000000"):
        open_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(png_of_size(1000, 170_000))
    with pytest.raises(ImageError, match=r"damaged or incomplete: it is too short for the 1000 x 170000 pixels"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["16-bit", "float"])
def test_white_is_zero_in_deep_tiff(tmp_path, kind, turned):
    shown = np.array([[0, 257, 32639, 65535]])
    stored = 65535 - shown if turned else shown
    values = stored.astype(np.uint16) if kind == "16-bit" else (stored / 65535).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: int(not turned)})
    assert pixels(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 1, 127, 255]


def test_decompression_bomb(tmp_path):
    (tmp_path / "a.png").write_bytes(png_of_size(60_000, 60_000))
    with pytest.raises(ImageError, match="too large"):
        open_image(tmp_path / "a.png")


def test_100_megapixels_are_no_bomb_and_give_no_warning(tmp_path):
    """Pillow warns from 89 million pixels on; phones make more. (This file breaks off after its header.)"""
    (tmp_path / "a.png").write_bytes(png_of_size(12_000, 9_000))
    with pytest.raises(ImageError, match="damaged"):
        open_image(tmp_path / "a.png")


def test_damaged_exif_is_a_warning(tmp_path, caplog):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    exif = b"MM\0*\0\0\0\x08\0\x05\x01"
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), PHOTO)
    assert "a.png" in caplog.text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["png", "jpg", "webp", "bmp", "tif", "gif", "ppm"]))
def test_any_damage_is_an_image_error_or_nothing(tmp_path, data, kind):
    path = tmp_path / f"a.{kind}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(PHOTO).save(path, **({} if kind in ("bmp", "gif", "ppm") else {"exif": exif}))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ImageError):
        assert open_image(path).mode == "RGB"


class TestSizeInHeader:
    @pytest.mark.parametrize("orientation", [1, 3, 6, 8])
    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
    def test_is_that_of_the_open_picture(self, tmp_path, orientation, suffix):
        path = tmp_path / f"a.{suffix}"
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.new("RGB", (30, 20)).save(path, exif=exif.tobytes())
        turned = (20, 30) if orientation > 4 else (30, 20)
        assert images.size_in_header(path) == images.open_image(path).size == turned

    def test_is_unknown_where_the_first_bytes_do_not_say_so(self, tmp_path):
        (tmp_path / "empty.png").write_bytes(b"")
        (tmp_path / "text.png").write_text("no picture")
        os.mkfifo(tmp_path / "pipe.png")
        for name in ("empty.png", "text.png", "pipe.png", "gone.png"):
            assert images.size_in_header(tmp_path / name) is None
