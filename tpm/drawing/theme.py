"""One look for every picture: colours and type sizes."""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (24, 28, 35)
MUTED: Colour = (96, 107, 121)
FAINT: Colour = (132, 141, 153)
RULE: Colour = (229, 232, 236)
NEUTRAL: Colour = (148, 156, 167)
"""For the synchronous reference, beside which the others are read."""

TITLE, SUBTITLE, HEADING, BODY, SMALL = 30, 17, 20, 16, 14
"""Type sizes in pixels."""

RAMP: Sequence[Colour] = ((242, 173, 73), (221, 88, 89), (150, 45, 122), (62, 26, 110))
"""Amber to deep violet: an ordered scale that stays readable on paper and in grey."""


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour a ``share`` of the way from ``a`` to ``b``."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def tint(colour: Colour, strength: float) -> Colour:
    """``colour`` thinned to ``strength`` on paper: a transparency that needs no alpha channel."""
    return mix(PAPER, colour, strength)


def ramp(count: int) -> list[Colour]:
    """``count`` colours for an ordered quantity such as γ, evenly spread over :data:`RAMP`."""
    if count == 1:
        return [RAMP[2]]
    places = [i * (len(RAMP) - 1) / (count - 1) for i in range(count)]
    return [mix(RAMP[int(p)], RAMP[min(int(p) + 1, len(RAMP) - 1)], p - int(p)) for p in places]
