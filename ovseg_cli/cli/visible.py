"""Characters that would act on a terminal, or turn the direction of what follows, as characters that are seen.

File names, label maps and stores come from others. An escape sequence in one of them could set the terminal's title,
fill its clipboard or hide what stands before it.
"""

from __future__ import annotations

import re

# C0 but for line feeds, DEL and C1; marks, embeddings, overrides and isolates of direction; line and paragraph
# separators; halves of surrogate pairs, which is how Python holds the bytes of a file name that is not UTF-8.
_ACTING = "\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_ACTING}]")
_IN_A_LINE = re.compile(f"[\n{_ACTING}]")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def visible(text: str, *, lines: bool = False) -> str:
    r"""Text with every control and direction character written as Python writes it.

    Args:
        text: any text.
        lines: whether line feeds stay; else a text has one line, whatever is in it.

    >>> visible("a\x1b]0;title\x07\nb\u202e"), visible("a\nb", lines=True), visible("caf\udce9")
    ('a\\x1b]0;title\\x07\\nb\\u202e', 'a\nb', 'caf\\xe9')
    """
    return (_IN_TEXT if lines else _IN_A_LINE).sub(_written, text)


def escaped(document: str) -> str:
    r"""A JSON document that means the same, with `\uXXXX` for what would act on a terminal.

    >>> escaped('"\u202e\x9b"')
    '"\\u202e\\u009b"'
    """
    return _IN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _written(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
