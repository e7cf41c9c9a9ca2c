"""The labelled image grid: one row per prompt or seed, one column per γ, measurements under every image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from .canvas import Canvas
from .fonts import shorten, text_width, wrap
from .pixels import fitted
from .theme import BODY, FAINT, HEADING, INK, MUTED, RULE, SMALL, SUBTITLE, TITLE

MARGIN, GAP, ROW_GAP, LABEL_GAP = 48, 20, 30, 28
PAGE_WIDTH = 1560
CELL_WIDTHS = (200, 384)
LABEL_WIDTH = 230
LINE = 22


@dataclass(frozen=True)
class Cell:
    """One image and what was measured on it, as (name, value with unit) pairs. No image: the values alone."""

    image: Image.Image | None = None
    measurements: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Row:
    """One line of the grid: a prompt or a seed, with one cell per column."""

    label: str
    cells: Sequence[Cell]
    detail: str = ""


@dataclass(frozen=True)
class _Layout:
    columns: int
    cell: int
    label: int

    @property
    def width(self) -> int:
        return self.left(self.columns) - GAP + MARGIN

    def left(self, column: int) -> int:
        return MARGIN + self.label + (LABEL_GAP if self.label else 0) + column * (self.cell + GAP)


def draw_panel(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    title: str,
    subtitle: str = "",
    column_notes: Sequence[str] = (),
    footer: str = "",
) -> Image.Image:
    """A page with a title, column headers, row labels and every image with its measurements below.

    Small images are enlarged by a whole factor, large ones reduced, so that the page is legible at screen size.
    ``column_notes`` is a second, quieter line under each header.
    """
    pictures = [[cell.image for cell in row.cells] for row in rows]
    layout = _layout(rows, len(columns))
    shown = [[None if image is None else fitted(image, layout.cell) for image in row] for row in pictures]
    widest = max((image.width for row in shown for image in row if image), default=layout.cell)
    layout = _Layout(layout.columns, max(layout.cell if not any(map(any, shown)) else 0, widest), layout.label)
    heights = [_row_height(row, images, layout) for row, images in zip(rows, shown, strict=True)]
    notes = wrap(footer, SMALL, layout.width - 2 * MARGIN)
    heading = wrap(subtitle, SUBTITLE, layout.width - 2 * MARGIN)
    top = MARGIN + TITLE + 10 + len(heading) * 25 + 24 + (LINE if any(column_notes) else 0) + HEADING + 16
    height = top + sum(heights) + ROW_GAP * (len(rows) - 1) + (34 + len(notes) * 20 if notes else 0) + MARGIN

    canvas = Canvas(layout.width, height, oversample=1)
    _draw_head(canvas, title, heading)
    _draw_columns(canvas, layout, columns, column_notes, top)
    for row, images, row_height in zip(rows, shown, heights, strict=True):
        _draw_row(canvas, layout, row, images, top)
        top += row_height + ROW_GAP
    for number, line in enumerate(notes):
        canvas.text(MARGIN, height - MARGIN - (len(notes) - 1 - number) * 20, line, SMALL, FAINT)
    return canvas.finish()


def _layout(rows: Sequence[Row], columns: int) -> _Layout:
    """Label column as wide as its text needs, cells as wide as the page allows."""
    texts = [text for row in rows for text in (row.label, row.detail)]
    label = min(LABEL_WIDTH, max((int(text_width(text, BODY, True)) + 2 for text in texts), default=0))
    free = PAGE_WIDTH - 2 * MARGIN - label - LABEL_GAP - GAP * (columns - 1)
    low, high = CELL_WIDTHS
    return _Layout(columns, max(low, min(high, free // columns)), label)


def _row_height(row: Row, images: Sequence[Image.Image | None], layout: _Layout) -> int:
    picture = max((image.height + 12 for image in images if image), default=0)
    values = max((len(cell.measurements) for cell in row.cells), default=0)
    label = len(wrap(row.label, BODY, layout.label, bold=True)) * LINE + (LINE if row.detail else 0)
    return max(picture + values * LINE, label)


def _draw_head(canvas: Canvas, title: str, heading: Sequence[str]) -> None:
    room = canvas.width - 2 * MARGIN
    canvas.text(MARGIN, MARGIN + TITLE - 6, shorten(title, TITLE, room, bold=True), TITLE, INK, bold=True)
    for number, line in enumerate(heading):
        canvas.text(MARGIN, MARGIN + TITLE + 26 + number * 25, line, SUBTITLE, MUTED)


def _draw_columns(canvas: Canvas, layout: _Layout, columns: Sequence[str], notes: Sequence[str], top: int) -> None:
    base = top - 16 - (LINE if any(notes) else 0)
    for number, header in enumerate(columns):
        left = layout.left(number)
        canvas.text(left, base, shorten(header, HEADING, layout.cell, bold=True), HEADING, INK, bold=True)
        if number < len(notes):
            canvas.text(left, base + LINE, shorten(notes[number], SMALL, layout.cell), SMALL, MUTED)


def _draw_row(canvas: Canvas, layout: _Layout, row: Row, images: Sequence[Image.Image | None], top: int) -> None:
    lines = wrap(row.label, BODY, layout.label, bold=True)
    for number, line in enumerate(lines):
        canvas.text(MARGIN, top + 15 + number * LINE, line, BODY, INK, bold=True)
    if row.detail:
        canvas.text(MARGIN, top + 15 + len(lines) * LINE, shorten(row.detail, BODY, layout.label), BODY, MUTED)
    for column, (cell, image) in enumerate(zip(row.cells, images, strict=True)):
        left, below = layout.left(column), top
        if image is not None:
            canvas.picture(image, left, top)
            below += image.height + 12
        else:
            canvas.box(left, top - ROW_GAP // 2, left + layout.cell, top - ROW_GAP // 2 + 1, RULE)
        _draw_measurements(canvas, cell, left, below, layout.cell)


def _draw_measurements(canvas: Canvas, cell: Cell, left: int, top: int, width: int) -> None:
    for number, (name, value) in enumerate(cell.measurements):
        base = top + 15 + number * LINE
        room = width - text_width(value, SMALL) - 8
        canvas.text(left, base, shorten(name, SMALL, room), SMALL, MUTED)
        canvas.text(left + width, base, value, SMALL, INK, anchor="rs")
