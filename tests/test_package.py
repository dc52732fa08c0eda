"""The package as a whole: what it exports, what its wheel holds."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ovseg_cli

REPOSITORY = Path(__file__).resolve().parents[1]


def test_every_public_name_can_be_imported_and_nothing_else() -> None:
    assert all(getattr(ovseg_cli, name) is not None for name in ovseg_cli.__all__)
    assert dir(ovseg_cli) == sorted(ovseg_cli.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ovseg_cli.nothing


def test_no_public_name_is_a_module_too() -> None:
    """Importing the module would put it in the place of the function."""
    rooms = {path.stem for path in Path(ovseg_cli.__file__).parent.iterdir()}
    assert rooms.isdisjoint(ovseg_cli.__all__)


def test_importing_the_package_loads_no_model_library() -> None:
    code = "import ovseg_cli, ovseg_cli.errors, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "diffusers", "transformers", "open_clip", "faiss", "sqlalchemy"} & set(loaded)


@pytest.mark.slow
def test_wheel_brings_weights_and_migrations_and_works(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        ".",
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ovseg-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"ovseg_cli"}
    assert "ovseg_cli/profiles/mini/diffusion/unet/diffusion_pytorch_model.safetensors" in names
    assert "ovseg_cli/py.typed" in names
    assert {"ovseg_cli/pages/run.css", "ovseg_cli/pages/run.js"} <= names
    assert any(re.match(r"ovseg_cli/_migrations/versions/0001\w*\.py", name) for name in names)
    code = (
        "import ovseg_cli; from ovseg_cli import Store; from ovseg_cli.profiles import get_profile, weights_status;"
        "print(ovseg_cli.__file__);"
        "print(Store.open('store', profile='mini').health().ok);"
        "print(all(state.present for state in weights_status(get_profile('mini').weights)))"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    where, *answers = result.stdout.split("\n")
    assert where.startswith(str(tmp_path / "site"))
    assert answers[:2] == ["True", "True"]
