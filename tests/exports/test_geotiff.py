from __future__ import annotations

import builtins
import logging
import warnings

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import UsageError
from ovseg_cli.exports.registry import wanted_formats
from ovseg_cli.exports.run import export_run
from tests.exports.runs import make_run, many_classes, ring, with_gaps

rasterio = pytest.importorskip("rasterio", reason="GeoTIFFs need rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

TRANSFORM = Affine(0.5, 0, 440720, 0, -0.5, 3751320)


def write_map(path, size, *, bands=3, dtype="uint8", **more):
    """A picture with a place on earth, in place of the one that the run has."""
    width, height = size
    about = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": dtype} | more
    values = np.full((bands, height, width), 90, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **about) as file:
            file.write(values)
    return path


@pytest.fixture
def made(tmp_path):
    """A run of one map of 300 x 280 pixels: more than one tile."""
    ids = np.zeros((280, 300), np.uint16)
    ids[20:200, 10:290] = 1
    ids[250:, 270:] = 2
    run = make_run(tmp_path, ("cat", "雨"), {"sub/map": ids, "plain": ring(20, 2)})
    old = run.photos / "sub" / "map.png"
    old.unlink()
    return run


def export(run, tmp_path, **more):
    place = tmp_path / "maps"
    return export_run(run.folder, "geotiff", place, images=run.photos, **more), place


def test_a_map_stays_where_it_is_and_equals_the_label_map(made, tmp_path, caplog):
    write_map(made.photos / "sub" / "map.tif", (300, 280), crs="EPSG:32611", transform=TRANSFORM)
    with caplog.at_level(logging.WARNING, logger="ovseg_cli"):
        export(made, tmp_path)
    with rasterio.open(tmp_path / "maps" / "sub" / "map.tif") as file:
        assert file.crs.to_epsg() == 32611
        assert file.transform == TRANSFORM
        assert (file.read(1) == made.truth["sub/map"]).all()
        assert file.dtypes == ("uint8",)
        assert file.nodata == 255
        assert file.profile["tiled"]
        assert file.profile["compress"] == "deflate"
        assert file.block_shapes == [(256, 256)]
        colours = file.colormap(1)
        assert [colours[i] for i in range(3)] == [(*made.labels.colour_of(i), 255) for i in range(3)]
        assert file.tags(1)["CLASS_2"] == "雨"
    assert caplog.messages == ["1 picture is not georeferenced; the GeoTIFFs of these are not either"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "maps" / "plain.tif") as file:
            assert (file.read(1) == made.truth["plain"]).all()
            assert file.crs is None


def test_control_points_stay(made, tmp_path):
    points = [GroundControlPoint(0, 0, -118.0, 34.0), GroundControlPoint(0, 300, -117.9, 34.0)]
    points += [GroundControlPoint(280, 0, -118.0, 33.9), GroundControlPoint(280, 300, -117.9, 33.9)]
    write_map(made.photos / "sub" / "map.tif", (300, 280), gcps=points, crs="EPSG:4326")
    export(made, tmp_path)
    with rasterio.open(tmp_path / "maps" / "sub" / "map.tif") as file:
        found, system = file.gcps
        assert system.to_epsg() == 4326
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


def test_where_the_picture_has_no_data_the_label_map_has_none(made, tmp_path):
    path = write_map(made.photos / "sub" / "map.tif", (300, 280), crs="EPSG:32611", transform=TRANSFORM, nodata=0)
    with rasterio.open(path, "r+") as file:
        values = file.read()
        values[:, :30, :40] = 0
        file.write(values)
    export(made, tmp_path)
    expected = made.truth["sub/map"].copy()
    expected[:30, :40] = 255
    with rasterio.open(tmp_path / "maps" / "sub" / "map.tif") as file:
        assert (file.read(1) == expected).all()


@pytest.mark.parametrize(("bands", "dtype"), [(1, "uint16"), (8, "uint8"), (4, "uint16")])
def test_maps_of_many_bands_and_bits_give_their_place_too(made, tmp_path, bands, dtype):
    write_map(
        made.photos / "sub" / "map.tif", (300, 280), bands=bands, dtype=dtype, crs="EPSG:32611", transform=TRANSFORM
    )
    export(made, tmp_path)
    with rasterio.open(tmp_path / "maps" / "sub" / "map.tif") as file:
        assert (file.crs.to_epsg(), file.transform) == (32611, TRANSFORM)
        assert (file.read(1) == made.truth["sub/map"]).all()


def test_many_classes_have_sixteen_bits(tmp_path):
    run = many_classes(tmp_path)
    write_map(run.photos / "deep.png", run.truth["deep"].shape[::-1], driver="PNG")
    export(run, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "maps" / "deep.tif") as file:
            assert file.dtypes == ("uint16",)
            assert file.nodata == 65535
            assert (file.read(1) == run.truth["deep"]).all()
            assert file.colormap(1)[300] == (*run.labels.colour_of(300), 255)


def test_what_does_not_count_stays_so(tmp_path):
    run = with_gaps(tmp_path)
    export(run, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        for key, truth in run.truth.items():
            with rasterio.open(tmp_path / "maps" / f"{key}.tif") as file:
                assert (file.read(1) == truth).all()


def test_a_map_that_is_turned_by_its_tag_is_told(made, tmp_path):
    image = Image.new("RGB", (280, 300))
    exif = Image.Exif()
    exif[274] = 6
    image.save(made.photos / "sub" / "map.tif", exif=exif)
    result, place = export(made, tmp_path)
    (failure,) = result.failed
    assert "orientation" in failure.reason
    assert (place / "plain.tif").is_file()


def test_without_its_library_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **more):
        if name.startswith("rasterio"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UsageError, match=r'pip install "ovseg\[geo\]"'):
        wanted_formats(["geotiff"])
