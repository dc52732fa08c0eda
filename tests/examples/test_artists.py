from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.mini_pack import artists
from examples.mini_pack.artists import ARTISTS, Artist, glyph_files, main, take
from examples.mini_pack.glyphs import FontError, GlyphSet
from examples.mini_pack.vocabulary import THINGS


def install(folder: Path, artist: Artist, *names: str) -> None:
    place = folder / "node_modules" / artist.package / artist.folder
    place.mkdir(parents=True)
    for name in names:
        Image.new("RGBA", (72, 72), (200, 30, 60, 255)).save(place / name)


def test_files_are_found_by_code_point_however_they_are_written(tmp_path: Path) -> None:
    for name in ("1F431.png", "2708-fe0f.png", "2602.svg", "1f436-200d-1f9ba.png", "1f600.png", "notes.txt"):
        (tmp_path / name).touch()
    found = {name: file.name for name, file in glyph_files(tmp_path).items()}
    assert found == {"cat": "1F431.png", "airplane": "2708-fe0f.png", "umbrella": "2602.svg"}


def test_a_package_becomes_a_folder_of_glyphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path, ARTISTS["emojione"], "1f431.png", "1f436.png", "1f600.png")
    assert main([str(tmp_path), "--out", str(tmp_path / "glyphs")]) == 0
    assert sorted(file.name for file in (tmp_path / "glyphs" / "emojione").iterdir()) == ["1f431.png", "1f436.png"]
    assert GlyphSet(tmp_path / "glyphs" / "emojione").glyph("🐶").size == (72, 72)
    said = capsys.readouterr().out
    assert f"{len(THINGS) - (len(THINGS) - 2)} glyphs, without doughnut, car" in said


def test_what_is_not_installed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "glyphs")]) == 1
    assert "holds none of: emojione-assets, openmoji" in capsys.readouterr().err
    assert main([str(tmp_path), "--out", str(tmp_path / "glyphs"), "--artists", "openmoji"]) == 1
    assert "npm install" in capsys.readouterr().err
    with pytest.raises(FontError, match="holds no glyphs"):
        take(tmp_path, ARTISTS["fluent"], tmp_path / "x")


def test_vector_graphics_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("node") is None:
        pytest.skip("needs node")
    place = tmp_path / "node_modules" / "openmoji" / "color" / "svg"
    place.mkdir(parents=True)
    (place / "1F431.svg").write_text("<svg/>")
    module = tmp_path / "node_modules" / "@resvg" / "resvg-js"
    module.mkdir(parents=True)
    sample = tmp_path / "sample.png"
    Image.new("RGBA", (128, 128), (1, 2, 3, 255)).save(sample)
    # stands in for the renderer: the picture, if it is asked for as it should be
    (module / "index.js").write_text(
        "exports.Resvg = class { constructor(svg, settings) { this.side = settings.fitTo.value; } render() { return "
        f"{{ asPng: () => this.side === 128 && require('fs').readFileSync('{sample}') }}; }} }};"
    )
    missing = take(tmp_path, ARTISTS["openmoji"], tmp_path / "out")
    assert len(missing) == len(THINGS) - 1
    assert np.asarray(GlyphSet(tmp_path / "out").glyph("🐱"))[0, 0].tolist() == [1, 2, 3, 255]
    monkeypatch.setattr(artists, "_RENDER", "process.exit(3)")
    assert main([str(tmp_path), "--out", str(tmp_path / "glyphs")]) == 1
