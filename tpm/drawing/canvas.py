"""A page to draw on: shapes oversampled and smoothed, text at the final size so that it stays crisp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw

from .fonts import font_for, one_line
from .theme import INK, PAPER, Colour

Point = tuple[float, float]


@dataclass(frozen=True)
class _Text:
    place: Point
    text: str
    size: int
    colour: Colour
    bold: bool
    anchor: str


class Canvas:
    """A ``width`` × ``height`` page in final pixels. Call :meth:`finish` once, at the end."""

    def __init__(self, width: int, height: int, *, oversample: int = 3) -> None:
        self.width, self.height, self._scale = width, height, oversample
        self._page = Image.new("RGB", (width * oversample, height * oversample), PAPER)
        self._draw = ImageDraw.Draw(self._page)
        self._texts: list[_Text] = []
        self._pictures: list[tuple[Image.Image, tuple[int, int]]] = []

    def line(self, points: Sequence[Point], colour: Colour, width: float = 2.0, dash: float = 0.0) -> None:
        """A polyline with round joins and ends; ``dash`` > 0 breaks it into dashes of that length."""
        for piece in _dashes(points, dash) if dash else [points]:
            self._stroke(piece, colour, width)

    def _stroke(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        thick = max(1, round(width * self._scale))
        self._draw.line([self._at(p) for p in points], fill=colour, width=thick, joint="curve")
        if thick > self._scale:
            for x, y in (points[0], points[-1]):
                self.dot(x, y, width / 2, colour)

    def dot(self, x: float, y: float, radius: float, fill: Colour, ring: Colour | None = None) -> None:
        """A disc; with ``ring``, a thin border around it."""
        if ring is not None:
            self.dot(x, y, radius + 1, ring)
        self._draw.ellipse([self._at((x - radius, y - radius)), self._at((x + radius, y + radius))], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour, radius: float = 0) -> None:
        """A filled rectangle, with rounded corners where ``radius`` > 0."""
        corners = [self._at((left, top)), self._at((right, bottom))]
        self._draw.rounded_rectangle(corners, radius * self._scale, fill=fill)

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([self._at(p) for p in points], fill=fill)

    def picture(self, image: Image.Image, left: int, top: int) -> None:
        """An image, pixel for pixel."""
        self._pictures.append((image, (left, top)))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int,
        colour: Colour = INK,
        *,
        bold: bool = False,
        anchor: str = "ls",
    ) -> None:
        """One line of text, whatever white space it holds; ``anchor`` as in Pillow (``ls``: left, baseline)."""
        self._texts.append(_Text((x, y), one_line(text), size, colour, bold, anchor))

    def finish(self) -> Image.Image:
        """The finished page."""
        page = self._page.resize((self.width, self.height), Image.Resampling.LANCZOS) if self._scale > 1 else self._page
        for image, place in self._pictures:
            page.paste(image, place)
        draw = ImageDraw.Draw(page)
        for item in self._texts:
            face = font_for(item.text, item.size, item.bold)
            draw.text(item.place, item.text, item.colour, face, anchor=item.anchor)
        return page

    def _at(self, point: Point) -> Point:
        return point[0] * self._scale, point[1] * self._scale


def _dashes(points: Sequence[Point], length: float) -> list[list[Point]]:
    """Cut a polyline into dashes of ``length`` with gaps of the same length."""
    pieces: list[list[Point]] = []
    travelled = 0.0
    for start, end in pairwise(points):
        span = math.dist(start, end)
        walked = 0.0
        while walked < span:
            step = min(length - travelled % length, span - walked)
            if int(travelled / length + 1e-9) % 2 == 0:
                pieces.append([_between(start, end, walked / span), _between(start, end, (walked + step) / span)])
            walked += step
            travelled += step
    return pieces


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share
