from __future__ import annotations

import logging

import diffusers.utils.logging as diffusers_logging
import pytest
import transformers.utils.logging as transformers_logging

from ovseg_cli.backbones.quiet import quiet_libraries


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
