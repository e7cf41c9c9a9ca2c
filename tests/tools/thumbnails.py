"""The pictures of workflows/, which the template browser shows: runs each workflow and draws a card of what it made.

    PYTHONPATH=tests python -m tools.thumbnails [name ...]

Needs a ComfyUI checkout (see `support.host`) and the package installed. Cards are square, as those of the template
browser are, and legible at half their size. Workflows whose models are not shipped show the timesteps that their
preset gives.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

from asyncdiff.tpm.drawing.canvas import Canvas
from asyncdiff.tpm.drawing.theme import INK, MUTED, NEUTRAL, PAPER, RAMP, RULE, tint
from asyncdiff.tpm.files import read_json
from asyncdiff.tpm.policies import Constant, load_policy, presets
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.retiming.settings import Retiming
from asyncdiff.tpm.training.grpo.journal import read_journal
from asyncdiff.tpm.training.grpo.trainer import JOURNAL
from asyncdiff.tpm.training.search.search import REPORT
from support.graph import to_prompt
from support.host import find_host
from support.paths import ROOT
from support.server import ComfyServer

FOLDER = ROOT / "workflows"
SIDE = 512
MARGIN = 12
BADGE = 60  # the height of what covers the top left corner of a card
QUALITY = 88
GAMMAS = {2.0: RAMP[2], 1.0: RAMP[1], 0.5: RAMP[0]}
FLUX_SHIFT = 3.1582  # e^1.15


def main(names):
    cards = [name for name in (*EMBEDDED, *CHARTS) if not names or name in names]
    if unknown := set(names) - {*EMBEDDED, *CHARTS}:
        sys.exit(f"no such workflow: {', '.join(sorted(unknown))}")
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(Runner()) if EMBEDDED.keys() & set(cards) else None
        for name in cards:
            card = below_badge(EMBEDDED[name](runner.run(name)) if name in EMBEDDED else CHARTS[name]())
            file = FOLDER / f"{name}.jpg"
            card.save(file, quality=QUALITY, optimize=True)
            print(f"{file.relative_to(ROOT)}: {card.width} × {card.height}, {file.stat().st_size / 1000:.0f} kB")


def below_badge(card):
    """The card a little smaller, with an empty strip at its top, where the template browser puts a badge."""
    side = SIDE - BADGE
    framed = Image.new("RGB", (SIDE, SIDE), PAPER)
    framed.paste(card.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (BADGE // 2, BADGE))
    return framed


class Runner:
    """A server of its own, for as long as the workflows are run."""

    def __enter__(self):
        host = find_host()
        if host is None:
            sys.exit("no ComfyUI found: set COMFYUI_PATH")
        self.folder = tempfile.TemporaryDirectory()
        self.server = ComfyServer(host, Path(self.folder.name))
        self.server.start()
        self.info = self.server.object_info()
        return self

    def __exit__(self, *_):
        self.server.stop()
        self.folder.cleanup()

    def run(self, name):
        """Pictures by the node that made them, before anything puts them together: {class: [batch, batch, …]}."""
        prompt = to_prompt(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")), self.info)
        sources = {key: node["class_type"] for key, node in prompt.items() if node["class_type"] in SOURCES}
        for key, kind in sources.items():
            images = [key, SOURCES[kind]]
            prompt[f"{key} shown"] = {"class_type": "PreviewImage", "inputs": {"images": images}}
        entry = self.server.run(prompt)
        made = {}
        for key, kind in sources.items():
            made.setdefault(kind, []).append(self.server.images(entry, f"{key} shown"))
        settings = [node["inputs"] for node in prompt.values() if node["class_type"] == "AsyncDiffDeviationCurve"]
        return made | {"curve": settings, "tpm": self.server.models / "tpm"}


SOURCES = {"VAEDecode": 0, "AsyncDiffGammaSweep": 1, "AsyncDiffBestOfBatch": 0, "AsyncDiffPreviewRegions": 0}
"""Nodes whose pictures a card shows, and the output that has them."""


# --- cards of pictures --------------------------------------------------------------------------------------------


def quickstart(made):
    """The picture, and below it what the model was told."""
    [[picture]] = made["VAEDecode"]
    canvas = page()
    side = 356
    place(canvas, picture, (SIDE - side) // 2, MARGIN, side)
    curves(canvas, policy="tiny-sd35", steps=8, shift=3.0, box=(28, 392, SIDE - 28, SIDE - 16))
    return canvas.finish()


def sweep(made):
    """The first picture of the batch at each γ."""
    [images] = made["AsyncDiffGammaSweep"]
    batch = len(images) // 4
    names = ("γ = 0", "γ = 0.5", "γ = 1", "γ = 2")
    return quarters(list(zip(names, images[::batch], strict=True)))


def before_after(made):
    """The first picture, and the one painted over it."""
    (first,), (second,) = made["VAEDecode"]
    canvas = page()
    side = 306
    place(canvas, first, MARGIN, MARGIN, side)
    corner = SIDE - MARGIN - side
    canvas.text(SIDE - MARGIN - 2, 44, "text to image", 25, INK, bold=True, anchor="rs")
    canvas.text(SIDE - MARGIN - 2, 76, "KSampler", 22, MUTED, anchor="rs")
    canvas.text(MARGIN + 2, SIDE - 52, "image to", 25, INK, bold=True)
    canvas.text(MARGIN + 2, SIDE - 22, "image, γ 1.5", 25, INK, bold=True)
    framed = Image.new("RGB", (side + 2 * MARGIN, side + 2 * MARGIN), PAPER)
    canvas.picture(framed, corner - MARGIN, corner - MARGIN)
    place(canvas, second, corner, corner, side)
    return canvas.finish()


def daemon(made):
    """Three samplers, and the curve that two of them follow."""
    (stock,), (coupled,), (asynchronous,) = made["VAEDecode"]
    cells = [("KSampler", stock), ("p = 1: Daemon", coupled), ("one curve", None), ("p = 0: AsyncDiff", asynchronous)]
    canvas = page()
    fill(canvas, cells)
    draw_curve(canvas, made["curve"][0], (44, 312, 238, 462))
    return canvas.finish()


def ranked(made):
    """The batch, and a frame around the picture that was kept."""
    [pictures], [[kept]] = made["VAEDecode"], made["AsyncDiffBestOfBatch"]
    best = next(n for n, picture in enumerate(pictures) if picture.tobytes() == kept.tobytes())
    canvas = page()
    left, top = 36 + 230 * (best % 2), 42 + 248 * (best // 2)
    canvas.box(left - 6, top - 6, left + 216, top + 216, RAMP[2])
    fill(canvas, [("best of four" if n == best else f"image {n + 1}", p) for n, p in enumerate(pictures)])
    return canvas.finish()


def pixelwise(made):
    """Base, concave and pixel-wise, and where the regions were."""
    pictures = [picture for (picture,) in made["VAEDecode"]]
    names = ("ordinary", "concave", "pixel-wise")
    return quarters([*zip(names, pictures, strict=True), ("regions", unlabelled(made["AsyncDiffPreviewRegions"]))])


def drawn(made):
    """The regions that were drawn, beside the picture they gave."""
    [[picture]] = made["VAEDecode"]
    canvas = page()
    side = 238
    canvas.text(MARGIN + 2, 74, "Draw what goes slower", 38, INK, bold=True)
    canvas.text(MARGIN + 2, 112, "two masks, each with its strength", 24, MUTED)
    place(canvas, unlabelled(made["AsyncDiffPreviewRegions"]), MARGIN, 178, side)
    place(canvas, picture, SIDE - MARGIN - side, 178, side)
    canvas.text(MARGIN + 2, 454, "the regions", 24, INK, bold=True)
    canvas.text(SIDE - MARGIN - side + 2, 454, "the image", 24, INK, bold=True)
    return canvas.finish()


def unlabelled(previews):
    """The picture of a Preview Regions without its legend."""
    [[preview]] = previews
    return preview.crop((0, 0, preview.width, preview.width))


def trained(made):
    """D of each step in the last iteration of the training."""
    records = read_journal(made["tpm"] / "training" / "tiny-trained" / JOURNAL)
    canvas = page()
    canvas.text(28, 56, "Train a TPM", 40, INK, bold=True)
    canvas.text(28, 90, "GRPO, for your model and rewards", 23, MUTED)
    band(canvas, [(k + 1, d, s) for k, (d, s) in enumerate(zip(records[-1]["D"], records[-1]["D_std"], strict=True))])
    canvas.text(SIDE / 2, SIDE - 24, "deviation per step, mean ± σ", 22, MUTED, anchor="ms")
    return canvas.finish()


def searched(made):
    """The curve that was found, and what the search still believes possible."""
    report = read_json(made["tpm"] / "training" / "tiny-searched" / "search" / REPORT, ValueError)
    last = report["generations"][-1]
    canvas = page()
    canvas.text(28, 56, "Search a curve", 40, INK, bold=True)
    canvas.text(28, 90, "without training, for your rewards", 23, MUTED)
    band(canvas, list(zip(report["knots"], last["mean"], last["std"], strict=True))[::-1])
    canvas.text(SIDE / 2, SIDE - 24, "deviation over σ, mean ± σ", 22, MUTED, anchor="ms")
    return canvas.finish()


def band(canvas, points):
    """(x, mean, spread) as a line with a band, and a rule at 0."""
    left, top, right, bottom = 40, 130, SIDE - 34, SIDE - 62
    xs = [x for x, _, _ in points]
    low, high = min(0, *(y - s for _, y, s in points)), max(0, *(y + s for _, y, s in points))

    def at(x, y):
        return left + (right - left) * (x - xs[0]) / (xs[-1] - xs[0]), bottom - (bottom - top) * (y - low) / (
            high - low
        )

    edge = [at(x, y + s) for x, y, s in points] + [at(x, y - s) for x, y, s in reversed(points)]
    canvas.polygon(edge, tint(RAMP[2], 0.16))
    canvas.line([at(xs[0], 0), at(xs[-1], 0)], NEUTRAL, 2)
    line = [at(x, y) for x, y, _ in points]
    canvas.line(line, RAMP[2], 4)
    for x, y in line:
        canvas.dot(x, y, 6, RAMP[2], PAPER)


def quarters(cells):
    canvas = page()
    fill(canvas, cells)
    return canvas.finish()


def fill(canvas, cells):
    """Two by two pictures with a line of text above each."""
    side = 210
    for number, (name, picture) in enumerate(cells):
        left = 36 + (side + 20) * (number % 2)
        top = 42 + (side + 38) * (number // 2)
        canvas.text(left, top - 9, name, 24, INK, bold=True)
        if picture is not None:
            place(canvas, picture, left, top, side)


def page():
    return Canvas(SIDE, SIDE)


def place(canvas, picture, left, top, side):
    canvas.picture(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), left, top)


def draw_curve(canvas, widgets, box):
    """D over σ as the node has it, where it is positive."""
    left, top, right, bottom = box
    knots = [(x, 2 * y - 1) for x, y in widgets["curve"]["points"]]

    def at(x, y):
        return left + (right - left) * x, bottom - (bottom - top) * y

    line = [at(*knot) for knot in smooth(knots)]
    canvas.polygon([at(0, 0), *line, at(1, 0)], tint(RAMP[2], 0.16))
    canvas.line([at(0, 0), at(1, 0)], NEUTRAL, 2)
    canvas.line(line, RAMP[2], 4)
    for knot in knots:
        canvas.dot(*at(*knot), 6, RAMP[2], PAPER)
    canvas.text((left + right) / 2, bottom + 34, "deviation over σ", 22, MUTED, anchor="ms")


def smooth(knots):
    """A monotone cubic through the knots, as the node interpolates."""
    from scipy.interpolate import PchipInterpolator

    line = PchipInterpolator(*zip(*knots, strict=True))
    return [(n / 80, float(line(n / 80))) for n in range(81)]


# --- cards of timesteps -------------------------------------------------------------------------------------------


def grid(steps, shift):
    """The points that are evaluated on ComfyUI's simple grid, and the last one at 0."""
    times = [1 - k / steps for k in range(steps)]
    return [shift * t / (1 + (shift - 1) * t) for t in times] + [0.0]


def told(policy, gamma, sigmas):
    """t* at each step."""
    return rehearse(load_policy(presets()[policy]), Retiming(gamma=gamma), sigmas).t_star


def curves(canvas, *, policy, steps, shift, box, gamma=1.0):
    """σ and t* over the steps."""
    sigmas = grid(steps, shift)
    left, top, right, bottom = box

    def path(values):
        return [(left + (right - left) * k / (steps - 1), bottom - (bottom - top) * v) for k, v in enumerate(values)]

    canvas.line(path(sigmas[:-1]), NEUTRAL, 2.5, dash=5)
    line = path(told(policy, gamma, sigmas))
    canvas.line(line, RAMP[2], 3.5)
    for x, y in line:
        canvas.dot(x, y, 5, RAMP[2], PAPER)
    canvas.text(left, bottom - 34, "σ, the latent", 24, MUTED)
    canvas.text(left, bottom - 2, "t*, what the model is told", 24, RAMP[2], bold=True)


def ahead(title, subtitle, *, policy, steps, shift):
    """How far below the latent's σ the model is told to be, for three γ: the higher, the cleaner it believes it."""
    canvas = page()
    canvas.text(28, 56, title, 40, INK, bold=True)
    canvas.text(28, 90, subtitle, 23, MUTED)
    left, top, right, bottom = 40, 168, SIDE - 34, SIDE - 58
    sigmas = grid(steps, shift)
    gaps = {g: [s - t for s, t in zip(sigmas, told(policy, g, sigmas), strict=False)] for g in GAMMAS}
    highest = max(map(max, gaps.values()))

    def at(k, gap):
        return left + (right - left) * k / (steps - 1), bottom - (bottom - top) * gap / highest

    canvas.line([(left, top - 12), (left, bottom)], RULE, 2)
    for gamma, gap in gaps.items():
        line = [at(k, value) for k, value in enumerate(gap)]
        canvas.polygon([(left, bottom), *line, (right, bottom)], tint(GAMMAS[gamma], 0.16))
    canvas.line([(left, bottom), (right, bottom)], NEUTRAL, 2)
    for number, (gamma, gap) in enumerate(gaps.items()):
        line = [at(k, value) for k, value in enumerate(gap)]
        canvas.line(line, GAMMAS[gamma], 4)
        for x, y in line:
            canvas.dot(x, y, 5, GAMMAS[gamma], PAPER)
        canvas.dot(left + 26, top + 14 + 34 * number, 7, GAMMAS[gamma])
        canvas.text(left + 44, top + 23 + 34 * number, f"γ = {gamma:g}", 25, INK)
    canvas.text(left - 12, top - 28, "σ − t*, ahead of the latent", 23, INK)
    canvas.text(right + 8, top - 14, f"{highest:.2f}", 22, MUTED, anchor="rs")
    canvas.text(left, SIDE - 24, "0", 22, MUTED, anchor="ms")
    canvas.text((left + right) / 2, SIDE - 24, "step", 22, MUTED, anchor="ms")
    canvas.text(right, SIDE - 24, f"{steps - 1}", 22, MUTED, anchor="ms")
    return canvas.finish()


def sd35():
    return ahead("SD3.5 Medium", "15 steps · preset sd35-coco", policy="sd35-coco", steps=15, shift=3.0)


def flux():
    return ahead("FLUX.1 dev", "10 steps · preset flux-coco", policy="flux-coco", steps=10, shift=FLUX_SHIFT)


def two_experts():
    """σ and t* of one run over two models, each in its own half."""
    steps, middle, deviation = 20, 10, 0.2
    canvas = page()
    canvas.text(28, 56, "Wan 2.2", 40, INK, bold=True)
    canvas.text(28, 90, "two experts, one run of 20 steps", 23, MUTED)
    left, top, right, bottom = 40, 150, SIDE - 34, SIDE - 58
    sigmas = grid(steps, shift=5.0)
    t_star = rehearse(Constant(deviation), Retiming(gamma=2.0), sigmas).t_star

    def at(k, value):
        return left + (right - left) * k / (steps - 1), bottom - (bottom - top) * value

    border = at(middle - 0.5, 0)[0]
    canvas.polygon([(left, top), (border, top), (border, bottom), (left, bottom)], tint(RAMP[0], 0.14))
    canvas.polygon([(border, top), (right, top), (right, bottom), (border, bottom)], tint(RAMP[2], 0.12))
    canvas.line([at(k, sigma) for k, sigma in enumerate(sigmas[:-1])], NEUTRAL, 2.5, dash=5)
    for part, colour in ((range(middle), RAMP[0]), (range(middle, steps), RAMP[2])):
        line = [at(k, t_star[k]) for k in part]
        canvas.line(line, colour, 4)
        for x, y in line:
            canvas.dot(x, y, 5, colour, PAPER)
    canvas.line([(left, bottom), (right, bottom)], NEUTRAL, 2)
    canvas.text((left + border) / 2, bottom - 40, "high noise", 25, RAMP[0], bold=True, anchor="ms")
    canvas.text((border + right) / 2, top + 44, "low noise", 25, RAMP[2], bold=True, anchor="ms")
    canvas.text(left, SIDE - 24, "0", 22, MUTED, anchor="ms")
    canvas.text((left + right) / 2, SIDE - 24, "step", 22, MUTED, anchor="ms")
    canvas.text(right, SIDE - 24, f"{steps - 1}", 22, MUTED, anchor="ms")
    return canvas.finish()


def four_metrics():
    """Four metrics that become one reward."""
    canvas = page()
    canvas.text(28, 56, "Composite reward", 40, INK, bold=True)
    canvas.text(28, 90, "best of four · SD3.5 Medium", 23, MUTED)
    names, right, middle = ("ImageReward", "HPSv2", "CLIP Score", "PickScore"), SIDE - 84, 300
    for number, name in enumerate(names):
        base, colour = 174 + 84 * number, RAMP[number]
        canvas.line([(226, base), (276, base), (right - 70, middle), (right, middle)], tint(colour, 0.6), 4)
        canvas.dot(226, base, 9, colour, PAPER)
        canvas.text(28, base + 9, name, 27, INK)
    canvas.dot(right, middle, 46, RAMP[2], PAPER)
    canvas.text(right, middle + 16, "R", 46, PAPER, bold=True, anchor="ms")
    canvas.text(28, SIDE - 24, "the mean of their z-scores in a batch", 22, MUTED)
    return canvas.finish()


EMBEDDED = {
    "01 Quickstart, no download": quickstart,
    "21 Explore gamma": sweep,
    "02 Image to image": before_after,
    "22 Coming from Detail Daemon": daemon,
    "23 Best of four": ranked,
    "31 Pixel-wise from words": pixelwise,
    "32 Pixel-wise from masks": drawn,
    "42 Train a policy": trained,
    "41 Search a policy": searched,
}
CHARTS = {
    "14 SD3.5 Medium 512": sd35,
    "16 Flux.1 dev 512": flux,
    "18 Wan 2.2 video": two_experts,
    "24 Best of four with SD3.5": four_metrics,
}

if __name__ == "__main__":
    main(sys.argv[1:])
