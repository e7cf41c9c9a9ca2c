"""Type: Inter (shipped beside this file; Pillow's own font has no γ, σ or −), measuring and wrapping.

Text comes from users: titles, prompts, names of files. Every function here takes it through `one_line` first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

FOLDER = Path(__file__).with_name("fonts")
OTHER_SCRIPTS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "malgun.ttf")
"""System fonts to try for prompts in a script that Inter lacks."""

LONGEST = 2000  # characters of one text; more never fit on a page
_LAST_COVERED = 0x2BFF
_JOINED_SCRIPTS = range(0x0590, 0x1E00)


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Inter at ``size`` pixels."""
    return ImageFont.truetype(str(FOLDER / f"Inter-{'SemiBold' if bold else 'Regular'}.otf"), size)


@lru_cache(maxsize=16)
def _system_font(size: int) -> ImageFont.FreeTypeFont | None:
    for name in OTHER_SCRIPTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return None


def font_for(text: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Inter, or a system font when ``text`` has letters of another script and the machine has one for them."""
    foreign = any(ord(letter) > _LAST_COVERED or ord(letter) in _JOINED_SCRIPTS for letter in text)
    return (foreign and _system_font(size)) or font(size, bold)


def one_line(text: str) -> str:
    """`text` as a font can draw it: spaces for line breaks and tabs, no control characters, no halves of surrogates.

    More than `LONGEST` characters, which no page has room for, end in an ellipsis.
    """
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    spaced = "".join(" " if letter.isspace() else letter for letter in text)
    return "".join(letter for letter in spaced if unicodedata.category(letter) not in ("Cc", "Cs"))


def text_width(text: str, size: int, bold: bool = False) -> float:
    """Width of one line in pixels."""
    text = one_line(text)
    return font_for(text, size, bold).getlength(text)


def wrap(text: str, size: int, width: float, *, bold: bool = False, max_lines: int | None = None) -> list[str]:
    """Lines of ``text`` no wider than ``width``; what does not fit in ``max_lines`` ends in an ellipsis."""
    lines: list[str] = []
    rest = " ".join(one_line(text).split())
    while rest and (max_lines is None or len(lines) < max_lines):
        cut = _fitting(rest, size, width, bold)
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest:
        lines[-1] = shorten(f"{lines[-1]} {rest}", size, width, bold=bold)
    return lines


def shorten(text: str, size: int, width: float, *, bold: bool = False) -> str:
    """``text``, or as much of its beginning as fits in ``width`` with an ellipsis."""
    text = one_line(text)
    if text_width(text, size, bold) <= width:
        return text
    fitting = _longest(text, lambda part: text_width(f"{part}…", size, bold) <= width)
    return f"{text[:fitting].rstrip()}…"


def _fitting(text: str, size: int, width: float, bold: bool) -> int:
    """How many characters of ``text`` fit in one line, at least one, preferably up to a space."""
    if text_width(text, size, bold) <= width:
        return len(text)
    most = max(1, _longest(text, lambda part: text_width(part, size, bold) <= width))
    space = text.rfind(" ", 0, most + 1)
    return space if space > 0 else most


def _longest(text: str, fits: Callable[[str], bool]) -> int:
    """How many characters of ``text`` fit, by halving."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
    return low
