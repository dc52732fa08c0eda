from __future__ import annotations

import pytest

from examples.mini_pack.glyphs import FontError, GlyphSet


@pytest.fixture(scope="session")
def glyphs() -> GlyphSet:
    try:
        return GlyphSet()
    except FontError as error:
        pytest.skip(f"needs the emoji font: {error}")
