from __future__ import annotations

import logging

import diffusers.utils.logging as diffusers_logging
import pytest
import transformers.utils.logging as transformers_logging

from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.backbones.unet import DiffusionBackbone
from tests.mini import MINI_FOLDER


def state():
    libraries = (diffusers_logging, transformers_logging)
    return [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries], logging.getLogger().level


@pytest.mark.parametrize("fails", [False, True])
def test_the_libraries_are_silent_inside_and_as_before_afterwards(fails):
    before = state()
    try:
        with quiet_libraries():
            assert diffusers_logging.get_verbosity() == diffusers_logging.ERROR
            assert not transformers_logging.is_progress_bar_enabled()
            assert not logging.getLogger("anything").isEnabledFor(logging.WARNING)
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert state() == before


def test_diffusers_loads_without_accelerate_and_does_not_advertise_it(monkeypatch, capfd):
    import diffusers.models.modeling_utils
    import diffusers.pipelines.pipeline_utils

    for module in (diffusers.models.modeling_utils, diffusers.pipelines.pipeline_utils):
        monkeypatch.setattr(module, "is_accelerate_available", lambda: False)
    assert DiffusionBackbone.load(MINI_FOLDER / "diffusion", device="cpu").unet is not None
    assert "".join(capfd.readouterr()) == ""
