"""The table of judged images: rank, picture, reward, and each metric's score with its z-score as a bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..numbers import minus, signed
from .canvas import Canvas
from .fonts import shorten, wrap
from .theme import BODY, FAINT, HEADING, INK, MUTED, NEUTRAL, RAMP, RULE, SMALL, SUBTITLE, TITLE, Colour

MARGIN, GAP = 48, 28
RANK_WIDTH, PICTURE, LABEL_WIDTH, REWARD_WIDTH, METRIC_WIDTH = 30, 120, 220, 180, 140
ROW = PICTURE + 24
LINE, BAR = 20, 8


@dataclass(frozen=True)
class Judged:
    """One image of the table: its reward R, and (raw score, z-score) in the order of the metrics."""

    picture: Image.Image
    label: str
    detail: str
    reward: float
    scores: Sequence[tuple[float, float]]


def draw_scores(
    rows: Sequence[Judged], metrics: Sequence[str], *, title: str, subtitle: str = "", footer: str = ""
) -> Image.Image:
    """A page with one line per image, in the order given; bars of all metrics have one scale."""
    lefts = _lefts(len(metrics))
    width = lefts[-1] + (METRIC_WIDTH if metrics else REWARD_WIDTH) + MARGIN
    heading = wrap(subtitle, SUBTITLE, width - 2 * MARGIN)
    notes = wrap(footer, SMALL, width - 2 * MARGIN)
    top = MARGIN + TITLE + 10 + len(heading) * 25 + 24 + HEADING + 16
    height = top + ROW * len(rows) + (16 + len(notes) * LINE if notes else 0) + MARGIN - 12

    canvas = Canvas(width, height, oversample=1)
    canvas.text(MARGIN, MARGIN + TITLE - 6, shorten(title, TITLE, width - 2 * MARGIN, bold=True), TITLE, bold=True)
    for number, line in enumerate(heading):
        canvas.text(MARGIN, MARGIN + TITLE + 26 + number * 25, line, SUBTITLE, MUTED)
    _draw_header(canvas, metrics, lefts, top - 16)
    reach = max([1.0, *(abs(value) for row in rows for value in (row.reward, *(z for _, z in row.scores)))])
    for rank, row in enumerate(rows, start=1):
        _draw_row(canvas, rank, row, lefts, top + (rank - 1) * ROW, reach)
    for number, line in enumerate(notes):
        canvas.text(MARGIN, height - MARGIN + 12 - (len(notes) - 1 - number) * LINE, line, SMALL, FAINT)
    return canvas.finish()


def _lefts(metrics: int) -> list[int]:
    """Where the columns begin: rank, picture, label, reward, metrics."""
    widths = [RANK_WIDTH, PICTURE, LABEL_WIDTH, REWARD_WIDTH, *[METRIC_WIDTH] * metrics]
    lefts = [MARGIN]
    for width in widths[:-1]:
        lefts.append(lefts[-1] + width + GAP)
    return lefts


def _draw_header(canvas: Canvas, metrics: Sequence[str], lefts: Sequence[int], base: int) -> None:
    canvas.text(lefts[3], base, "R", HEADING, INK, bold=True)
    for left, name in zip(lefts[4:], metrics, strict=True):
        canvas.text(left, base, shorten(name, BODY, METRIC_WIDTH, bold=True), BODY, INK, bold=True)


def _draw_row(canvas: Canvas, rank: int, row: Judged, lefts: Sequence[int], top: int, reach: float) -> None:
    middle = top + ROW // 2
    canvas.box(MARGIN, top, canvas.width - MARGIN, top + 1, RULE)
    canvas.text(lefts[0], middle + 8, str(rank), HEADING, MUTED)
    shown = _inside(row.picture)
    canvas.picture(shown, lefts[1] + (PICTURE - shown.width) // 2, middle - shown.height // 2)
    _draw_label(canvas, row, lefts[2], middle)
    canvas.text(lefts[3], middle + 2, signed(row.reward, 2), HEADING, INK, bold=True)
    _draw_bar(canvas, lefts[3], middle + 16, REWARD_WIDTH, row.reward / reach, RAMP[2])
    for left, (raw, z) in zip(lefts[4:], row.scores, strict=True):
        canvas.text(left, middle + 2, minus(f"{raw:.4g}"), BODY, INK)
        canvas.text(left + METRIC_WIDTH, middle + 2, signed(z, 2), SMALL, MUTED, anchor="rs")
        _draw_bar(canvas, left, middle + 16, METRIC_WIDTH, z / reach, RAMP[1])


def _draw_label(canvas: Canvas, row: Judged, left: int, middle: int) -> None:
    lines = wrap(row.detail, SMALL, LABEL_WIDTH, max_lines=4)
    base = middle + 6 - len(lines) * LINE // 2
    canvas.text(left, base, shorten(row.label, BODY, LABEL_WIDTH, bold=True), BODY, INK, bold=True)
    for number, line in enumerate(lines, start=1):
        canvas.text(left, base + number * LINE, line, SMALL, MUTED)


def _draw_bar(canvas: Canvas, left: float, top: float, width: float, share: float, colour: Colour) -> None:
    """From the middle to the right where ``share`` is positive, to the left where it is negative."""
    centre = left + width / 2
    canvas.box(left, top + BAR / 2, left + width, top + BAR / 2, RULE)
    end = centre + share * width / 2
    if abs(end - centre) >= 1:
        canvas.box(min(centre, end), top, max(centre, end), top + BAR, colour if share > 0 else NEUTRAL)
    canvas.box(centre, top - 3, centre, top + BAR + 3, MUTED)


def _inside(picture: Image.Image) -> Image.Image:
    """The picture, as large as fits in the cell."""
    scale = PICTURE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
