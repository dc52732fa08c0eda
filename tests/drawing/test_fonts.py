from __future__ import annotations

from ovseg_cli.drawing import fonts
from ovseg_cli.drawing.fonts import bundled_font, font_for, shortened


def test_plain_text_is_drawn_in_the_bundled_font():
    assert font_for("chocolate glazed donut", 15) == (bundled_font(15), "chocolate glazed donut")


def test_accents_are_dropped_without_a_font_that_has_them(monkeypatch):
    monkeypatch.setattr(fonts, "SYSTEM_FONTS", ("no-such-font.ttf",))
    assert font_for("crème bru\u0302lée", 15) == (bundled_font(15), "creme brulee")
    assert font_for("猫", 15) == (bundled_font(15), "猫")


def test_system_font_is_used_when_it_has_the_letters(monkeypatch):
    other = bundled_font(17)
    monkeypatch.setattr(fonts, "_system_font", lambda name, size: other)
    monkeypatch.setattr(fonts, "_has_letter", lambda font, letter: font is other or letter < "\x80")
    assert font_for("crème", 15) == (other, "crème")


def test_shortened():
    font = bundled_font(15)
    assert shortened("cat", font, 100) == "cat"
    short = shortened("a name that goes on and on", font, 100)
    assert short.endswith("...")
    assert font.getlength(short) <= 100
    assert shortened("cat", font, 0) == "..."
    whole = "猫 and a tabby, " * 600
    assert whole.startswith(shortened(whole, font, 200)[:-3])
    assert 190 < font.getlength(shortened(whole, font, 200)) <= 200
