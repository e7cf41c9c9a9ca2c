"""Cards of the workflows that run here, with the pictures they made: `made` is what `thumbnails.Runner.run` gives."""

from PIL import Image, ImageDraw

from asyncdiff.tpm.drawing.theme import INK, NEUTRAL, PAPER, RAMP
from asyncdiff.tpm.files import read_json
from asyncdiff.tpm.training.grpo.journal import read_journal
from asyncdiff.tpm.training.grpo.trainer import JOURNAL
from asyncdiff.tpm.training.search.search import REPORT
from tools.cards import LEFT, MOSS, NIGHT, SAND, SEA, SIDE, SKY, TOP, band, enlarged, heading, place, sheet

FOOT = 96  # the strip below a picture that fills the card
AMBER, CORAL, VIOLET, DEEP = RAMP


def quickstart(made):
    """The picture over the whole card, and what it takes."""
    [[picture]] = made["VAEDecode"]
    canvas = filled(enlarged(picture, SIDE), AMBER)
    canvas.text(LEFT, SIDE - 50, "Start here", 40, INK, bold=True)
    canvas.text(LEFT, SIDE - 18, "no download, no GPU, seconds", 24, INK)
    return canvas.finish()


def filled(picture, foot):
    """A card of one picture with a strip for words below."""
    canvas = sheet(foot)
    canvas.picture(picture.crop((0, 24, SIDE, SIDE - FOOT + 24)), 0, 0)
    return canvas


def before_after(made):
    """The first picture, and the one painted over it."""
    (first,), (second,) = made["VAEDecode"]
    canvas = sheet(SKY)
    place(canvas, first, LEFT, TOP + 8, 236)
    place(canvas, second, SIDE - LEFT - 252, SIDE - LEFT - 252, 252, frame=8)
    canvas.text(LEFT, SIDE - 74, "Image", 36, INK, bold=True)
    canvas.text(LEFT, SIDE - 34, "to image", 36, INK, bold=True)
    return canvas.finish()


def two_parts(made):
    """The steps as dots, the first half as they are, and both images."""
    (ordinary,), (parts,) = made["VAEDecode"]
    canvas = sheet(NIGHT)
    xs = [LEFT + 18 + 59 * k for k in range(8)]
    canvas.line([(xs[0], TOP + 36), (xs[3], TOP + 36)], NEUTRAL, 4)
    canvas.line([(xs[4], TOP + 36), (xs[7], TOP + 36)], AMBER, 4)
    for k, x in enumerate(xs):
        canvas.dot(x, TOP + 36, 12, AMBER if k > 3 else NEUTRAL)
    canvas.text((xs[0] + xs[3]) / 2, TOP + 88, "4 steps as they are", 22, PAPER, anchor="ms")
    canvas.text((xs[4] + xs[7]) / 2, TOP + 88, "4 with γ 2", 22, AMBER, bold=True, anchor="ms")
    side = 212
    for left, picture, name in ((LEFT, ordinary, "8 as they are"), (SIDE - LEFT - side, parts, "4 + 4")):
        place(canvas, picture, left, 206, side)
        canvas.text(left, 206 + side + 36, name, 26, PAPER, bold=True)
    return canvas.finish()


def sweep(made):
    """One scene in four strips, each at its own γ."""
    [images] = made["AsyncDiffGammaSweep"]
    strips = Image.new("RGB", (SIDE, SIDE))
    width = SIDE // 4
    for n, image in enumerate(images[:: len(images) // 4]):
        strips.paste(enlarged(image, SIDE).crop((n * width, 0, (n + 1) * width, SIDE)), (n * width, 0))
    draw = ImageDraw.Draw(strips)
    for n in (1, 2, 3):
        draw.line([(n * width, 0), (n * width, SIDE)], PAPER, 3)
    canvas = filled(strips, VIOLET)
    for n, name in enumerate(("γ 0", "0.5", "1", "2")):
        canvas.text((n + 0.5) * width, SIDE - 50, name, 34, PAPER, bold=True, anchor="ms")
    canvas.text(SIDE / 2, SIDE - 16, "one seed, four strengths", 24, PAPER, anchor="ms")
    return canvas.finish()


def daemon(made):
    """Three samplers, and the curve that two of them follow."""
    (stock,), (coupled,), (asynchronous,) = made["VAEDecode"]
    canvas = sheet(MOSS)
    fill(canvas, [("KSampler", stock), ("p = 1: Daemon", coupled), ("one curve", None), ("p = 0: ours", asynchronous)])
    draw_curve(canvas, made["curve"][0], (48, 346, 220, 466))
    return canvas.finish()


def ranked(made):
    """The batch, and a frame around the picture that was kept."""
    [pictures], [[kept]] = made["VAEDecode"], made["AsyncDiffBestOfBatch"]
    best = next(n for n, picture in enumerate(pictures) if picture.tobytes() == kept.tobytes())
    canvas = sheet(CORAL)
    names = ["kept" if n == best else "" for n in range(4)]
    fill(canvas, list(zip(names, pictures, strict=True)), framed=best)
    return canvas.finish()


def fill(canvas, cells, framed=None):
    """Two by two pictures with a line of text above each."""
    side = 184
    for number, (name, picture) in enumerate(cells):
        left = 56 + (side + 32) * (number % 2)
        top = TOP + 24 + (side + 40) * (number // 2)
        canvas.text(left, top - 10, name, 23, PAPER, bold=True)
        if picture is not None:
            place(canvas, picture, left, top, side, frame=8 * (number == framed))


def draw_curve(canvas, widgets, box):
    """D over σ as the node has it, where it is positive."""
    left, top, right, bottom = box
    knots = [(x, 2 * y - 1) for x, y in widgets["curve"]["points"]]

    def at(x, y):
        return left + (right - left) * x, bottom - (bottom - top) * y

    line = [at(*knot) for knot in smooth(knots)]
    canvas.line([at(0, 0), at(1, 0)], PAPER, 2)
    canvas.line(line, AMBER, 5)
    for knot in knots:
        canvas.dot(*at(*knot), 7, AMBER, MOSS)


def smooth(knots):
    """A monotone cubic through the knots, as the node interpolates."""
    from scipy.interpolate import PchipInterpolator

    line = PchipInterpolator(*zip(*knots, strict=True))
    return [(n / 80, float(line(n / 80))) for n in range(81)]


def words(made):
    """Where the phrases were found, large, and the image."""
    *_, (picture,) = made["VAEDecode"]
    canvas = sheet(DEEP)
    place(canvas, unlabelled(made["AsyncDiffPreviewRegions"]), SIDE - LEFT - 316, TOP + 4, 316)
    place(canvas, picture, LEFT, SIDE - LEFT - 196, 196, frame=8, colour=DEEP)
    canvas.text(SIDE - LEFT, SIDE - 66, "“red circle” 0.6", 29, PAPER, bold=True, anchor="rs")
    canvas.text(SIDE - LEFT, SIDE - 30, "“blue star” 0.4", 29, PAPER, bold=True, anchor="rs")
    return canvas.finish()


def drawn(made):
    """The regions that were drawn, beside the picture they gave."""
    [[picture]] = made["VAEDecode"]
    canvas = sheet(SEA)
    heading(canvas, "Draw two masks", "inside them the image goes slower")
    side = 218
    for left, image in ((LEFT, unlabelled(made["AsyncDiffPreviewRegions"])), (SIDE - LEFT - side, picture)):
        place(canvas, image, left, 190, side)
    canvas.text(LEFT, 190 + side + 40, "the regions", 26, PAPER, bold=True)
    canvas.text(SIDE - LEFT - side, 190 + side + 40, "the image", 26, PAPER, bold=True)
    return canvas.finish()


def unlabelled(previews):
    """The picture of a Preview Regions without its legend."""
    [[preview]] = previews
    return preview.crop((0, 0, preview.width, preview.width))


def trained(made):
    """D of each step in the last iteration of the training."""
    last = read_journal(made["tpm"] / "training" / "tiny-trained" / JOURNAL)[-1]
    canvas = sheet(SAND)
    heading(canvas, "Train a policy", "GRPO, for your model and rewards", INK)
    points = [(k + 1, d, s) for k, (d, s) in enumerate(zip(last["D"], last["D_std"], strict=True))]
    band(canvas, points, (44, 190, SIDE - 44, SIDE - 70), CORAL, SAND)
    canvas.text(SIDE / 2, SIDE - 26, "deviation at each step, mean ± σ", 22, INK, anchor="ms")
    return canvas.finish()


def searched(made):
    """Every generation's curve, and the last one."""
    report = read_json(made["tpm"] / "training" / "tiny-searched" / "search" / REPORT, ValueError)
    canvas = sheet(NIGHT)
    heading(canvas, "Search a policy", "a curve, without training")
    curves = [generation["mean"][::-1] for generation in report["generations"]]
    low, high = min(map(min, curves)), max(map(max, curves))
    left, top, right, bottom = 44, 196, SIDE - 44, SIDE - 70

    def path(values):
        places = [(n / (len(values) - 1), (v - low) / (high - low)) for n, v in enumerate(values)]
        return [(left + (right - left) * x, bottom - (bottom - top) * y) for x, y in places]

    for number, values in enumerate(curves):
        colour = AMBER if number == len(curves) - 1 else RAMP[2 - number % 2]
        canvas.line(path(values), colour, 5 if colour == AMBER else 3.5)
        for x, y in path(values):
            canvas.dot(x, y, 7, colour, NIGHT)
    canvas.text(SIDE / 2, SIDE - 26, f"generations 1 to {len(curves)}", 22, PAPER, anchor="ms")
    return canvas.finish()


def calibrated(made):
    """One seed as it is and with the policy that was found."""
    (ordinary,), (moved,) = made["VAEDecode"]
    canvas = sheet(AMBER)
    heading(canvas, "Calibrate", "eight prompts, no rewards", INK)
    side = 216
    for left, picture, name in ((LEFT, ordinary, "as it is"), (SIDE - LEFT - side, moved, "calibrated")):
        place(canvas, picture, left, 196, side)
        canvas.text(left, 196 + side + 40, name, 27, INK, bold=True)
    return canvas.finish()


EMBEDDED = {
    "01 Quickstart, no download": quickstart,
    "02 Image to image": before_after,
    "03 KSampler Advanced in two parts": two_parts,
    "21 Explore gamma": sweep,
    "22 Coming from Detail Daemon": daemon,
    "23 Best of four": ranked,
    "31 Pixel-wise from words": words,
    "32 Pixel-wise from masks": drawn,
    "41 Search a policy": searched,
    "42 Train a policy": trained,
    "43 Calibrate a policy": calibrated,
}
