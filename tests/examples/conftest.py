from __future__ import annotations

import pytest

from examples.mini_pack.glyphs import GlyphSet


@pytest.fixture(scope="session")
def glyphs() -> GlyphSet:
    return GlyphSet()
