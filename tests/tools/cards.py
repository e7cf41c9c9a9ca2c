"""What the cards of thumbnails.py have in common: sheets, headings, places of pictures."""

from PIL import Image

from asyncdiff.tpm.drawing.canvas import Canvas
from asyncdiff.tpm.drawing.theme import PAPER, tint

SIDE = 512
LEFT = 32
TOP = 76  # above it only the sheet: the browser's badge lies there
NIGHT, SEA, MOSS, SKY, SAND = (23, 22, 50), (18, 84, 97), (66, 98, 58), (206, 226, 240), (248, 235, 209)


def sheet(colour):
    canvas = Canvas(SIDE, SIDE)
    canvas.box(0, 0, SIDE, SIDE, colour)
    return canvas


def heading(canvas, title, subtitle, ink=PAPER):
    canvas.text(LEFT, TOP + 40, title, 44, ink, bold=True)
    canvas.text(LEFT, TOP + 74, subtitle, 23, ink)


def place(canvas, picture, left, top, side, frame=0, colour=PAPER):
    """A picture at its place, with a frame around it."""
    page = Image.new("RGB", (side + 2 * frame, side + 2 * frame), colour)
    page.paste(enlarged(picture, side), (frame, frame))
    canvas.picture(page, left - frame, top - frame)


def enlarged(picture, side):
    return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def band(canvas, points, box, colour, ground):
    """(x, mean, spread) as a line with a band, and a rule at 0."""
    left, top, right, bottom = box
    xs = [x for x, _, _ in points]
    low, high = min(0, *(y - s for _, y, s in points)), max(0, *(y + s for _, y, s in points))

    def at(x, y):
        across, up = (x - xs[0]) / (xs[-1] - xs[0]), (y - low) / (high - low)
        return left + (right - left) * across, bottom - (bottom - top) * up

    edge = [at(x, y + s) for x, y, s in points] + [at(x, y - s) for x, y, s in reversed(points)]
    canvas.polygon(edge, tint(colour, 0.25))
    canvas.line([at(xs[0], 0), at(xs[-1], 0)], colour, 1.5, dash=5)
    line = [at(x, y) for x, y, _ in points]
    canvas.line(line, colour, 4)
    for x, y in line:
        canvas.dot(x, y, 7, colour, ground)
