from __future__ import annotations

import pytest
from PIL import ImageDraw


@pytest.fixture
def drawn(monkeypatch):
    """Collect every text that is drawn."""
    texts: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def text(self, xy, text, *args, **kwargs):
        texts.append(text)
        return draw(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts
