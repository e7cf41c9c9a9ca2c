"""Cards of the workflows whose models are not here: what their settings tell the model, computed, and no picture."""

from asyncdiff.tpm.drawing.theme import INK, NEUTRAL, PAPER, RAMP, mix, tint
from asyncdiff.tpm.pixelwise.schedules import Pace, trajectory
from asyncdiff.tpm.policies import Constant, load_policy, presets
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.retiming.settings import Retiming
from tools.cards import LEFT, MOSS, NIGHT, SAND, SEA, SIDE, SKY, heading, sheet

AMBER, CORAL, VIOLET, DEEP = RAMP
GAMMAS = {2.0: VIOLET, 1.0: CORAL, 0.5: AMBER}
FLUX_SHIFT = 3.1582  # e^1.15
BOX = 44, 190, SIDE - 44, SIDE - 66  # left, top, right, bottom of a chart


def grid(steps, shift):
    """The points that are evaluated on ComfyUI's simple grid, and the last one at 0."""
    times = [1 - k / steps for k in range(steps)]
    return [shift * t / (1 + (shift - 1) * t) for t in times] + [0.0]


def told(policy, gamma, sigmas):
    """t* at each step; policy: a Policy, or the name of a preset."""
    policy = load_policy(presets()[policy]) if isinstance(policy, str) else policy
    return rehearse(policy, Retiming(gamma=gamma), sigmas).t_star


def gaps(policy, gamma, sigmas):
    """σ − t* at each step: how far ahead of the latent the model is told to be."""
    return [s - t for s, t in zip(sigmas, told(policy, gamma, sigmas), strict=False)]


def across(steps):
    """From (step, height from 0 to 1) to a place in the box."""
    left, top, right, bottom = BOX
    return lambda k, height: (left + (right - left) * k / (steps - 1), bottom - (bottom - top) * height)


def ends(canvas, steps, ink):
    left, _, right, _ = BOX
    for x, text in ((left, "0"), ((left + right) / 2, "step"), (right, f"{steps - 1}")):
        canvas.text(x, SIDE - 26, text, 22, ink, anchor="ms")


def areas(title, subtitle, ground, *, policy, steps, shift):
    """σ − t* for three γ, one before another."""
    canvas = sheet(ground)
    heading(canvas, title, subtitle, INK)
    sigmas, at = grid(steps, shift), across(steps)
    found = {gamma: gaps(policy, gamma, sigmas) for gamma in GAMMAS}
    highest = max(map(max, found.values()))
    for gamma, gap in found.items():
        line = [at(k, value / highest) for k, value in enumerate(gap)]
        canvas.polygon([at(0, 0), *line, at(steps - 1, 0)], tint(GAMMAS[gamma], 0.8))
    for number, gamma in enumerate(found):
        canvas.dot(BOX[0] + 14, BOX[1] + 30 + 34 * number, 8, GAMMAS[gamma])
        canvas.text(BOX[0] + 34, BOX[1] + 39 + 34 * number, f"γ = {gamma:g}", 25, INK)
    ends(canvas, steps, INK)
    return canvas.finish()


def bars(title, subtitle, ground, colour, *, policy, steps, shift):
    """σ − t* at γ = 1, a bar for each step."""
    canvas = sheet(ground)
    heading(canvas, title, subtitle)
    gap = gaps(policy, 1.0, grid(steps, shift))
    left, top, right, bottom = BOX
    width = (right - left) / steps
    for k, value in enumerate(gap):
        high = bottom - max((bottom - top) * value / max(gap), 3)
        shade = mix(colour, PAPER, 0.55 * k / (steps - 1))
        canvas.box(left + k * width + 1.5, high, left + (k + 1) * width - 1.5, bottom, shade, radius=3)
    ends(canvas, steps, PAPER)
    return canvas.finish()


def stems(title, subtitle, ground, *, policy, steps, shift):
    """σ − t* at γ = 1, a stem for each step."""
    canvas = sheet(ground)
    heading(canvas, title, subtitle)
    gap, at = gaps(policy, 1.0, grid(steps, shift)), across(steps)
    canvas.line([at(0, 0), at(steps - 1, 0)], mix(ground, PAPER, 0.5), 2)
    for k, value in enumerate(gap):
        place = at(k, 0.94 * value / max(gap))
        canvas.line([at(k, 0), place], mix(ground, PAPER, 0.5), 3)
        canvas.dot(*place, 9, AMBER, ground)
    ends(canvas, steps, PAPER)
    return canvas.finish()


def ruler():
    """A part of SDXL's thousand timesteps: where a step arrives, and what the model is told there."""
    canvas = sheet(SKY)
    heading(canvas, "SDXL", "25 of a thousand timesteps", INK)
    step = 999 / 24
    before, after = 999 - 12 * step, 999 - 13 * step
    deviation = load_policy(presets()["sdxl-start"]).deviation
    first, last, base = 510, 440, 350

    def at(t):
        return 44 + (SIDE - 88) * (first - t) / (first - last)

    canvas.line([(at(first), base), (at(last), base)], INK, 3)
    for t in range(last, first + 1):
        canvas.line([(at(t), base), (at(t), base + (34 if t % 10 == 0 else 16))], INK, 3 if t % 10 == 0 else 1.5)
        if t % 20 == 0:
            canvas.text(at(t), base + 66, f"{t}", 24, INK, anchor="ms")
    ahead = after - deviation * step
    for t, colour in ((before, NEUTRAL), (after, INK), (ahead, VIOLET)):
        canvas.line([(at(t), base - 8), (at(t), base - 84)], colour, 5)
        canvas.dot(at(t), base - 84, 14, colour)
    canvas.text(at(before), base - 116, "step 12", 24, INK, anchor="ms")
    canvas.text(at(after) + 6, base - 116, "step 13", 24, INK, anchor="rs")
    canvas.text(at(ahead) + 34, base - 150, "what the model is told", 24, VIOLET, bold=True, anchor="rs")
    canvas.text(at(ahead) + 18, base - 116, f"{ahead:.0f}", 24, VIOLET, bold=True, anchor="ls")
    canvas.text(SIDE / 2, SIDE - 36, f"D = {deviation:g}: a fifth of a step ahead", 23, INK, anchor="ms")
    return canvas.finish()


def second_pass():
    """Two sizes, and one patched model for both."""
    canvas = sheet(MOSS)
    heading(canvas, "Second pass", "one patched model, two runs")
    large, small = 300, 200
    left, bottom = 150, SIDE - 30
    canvas.box(left, bottom - large, left + large, bottom, mix(MOSS, PAPER, 0.35), radius=10)
    canvas.box(left, bottom - small, left + small, bottom, AMBER, radius=10)
    canvas.text(left + small / 2, bottom - small / 2 + 10, "1024", 40, INK, bold=True, anchor="ms")
    canvas.text(left + large - 20, bottom - large + 50, "1536", 40, PAPER, bold=True, anchor="rs")
    canvas.line([(left + small - 20, bottom - small + 20), (left + large - 62, bottom - large + 62)], PAPER, 5)
    canvas.dot(left + large - 62, bottom - large + 62, 9, PAPER)
    canvas.text(LEFT, bottom - 12, "SDXL", 30, PAPER, bold=True)
    return canvas.finish()


def two_experts():
    """A strip of film: σ and t* of one run over two models, each in its own half."""
    steps, middle, deviation = 20, 10, 0.2
    canvas = sheet(NIGHT)
    heading(canvas, "Wan 2.2 video", "two experts, one run of 20 steps")
    left, top, right, bottom = 0, 190, SIDE, SIDE - 20
    canvas.box(left, top, right, bottom, (8, 8, 20))
    for n in range(14):
        for y in (top + 10, bottom - 32):
            canvas.box(10 + 37 * n, y, 30 + 37 * n, y + 22, PAPER, radius=4)
    high, low = top + 46, bottom - 46
    canvas.box(left, high, SIDE / 2 - 3, low, AMBER)
    canvas.box(SIDE / 2 + 3, high, right, low, CORAL)
    sigmas = grid(steps, shift=5.0)
    t_star = told(Constant(deviation), 2.0, sigmas)

    def at(k, value):
        return 30 + (SIDE - 60) * k / (steps - 1), low - 10 - (low - high - 24) * value

    canvas.line([at(k, sigma) for k, sigma in enumerate(sigmas[:-1])], INK, 3, dash=6)
    for part in (range(middle), range(middle, steps)):
        line = [at(k, t_star[k]) for k in part]
        canvas.line(line, DEEP, 5)
        for x, y in line:
            canvas.dot(x, y, 6, DEEP)
    canvas.text(SIDE / 4, low - 20, "high noise", 27, INK, bold=True, anchor="ms")
    canvas.text(3 * SIDE / 4 + 20, high + 42, "low noise", 27, INK, bold=True, anchor="ms")
    return canvas.finish()


def four_metrics():
    """Four metrics that become one reward."""
    canvas = sheet(DEEP)
    heading(canvas, "Best of four", "SD3.5, the paper's four metrics")
    names, right, middle = ("ImageReward", "HPSv2", "CLIP Score", "PickScore"), SIDE - 92, 336
    for number, name in enumerate(names):
        base, colour = 222 + 76 * number, (AMBER, CORAL, (214, 120, 190), (150, 130, 220))[number]
        canvas.line([(226, base), (276, base), (right - 70, middle), (right, middle)], colour, 5)
        canvas.dot(226, base, 10, colour)
        canvas.text(LEFT, base + 9, name, 27, PAPER)
    canvas.dot(right, middle, 54, PAPER)
    canvas.text(right, middle + 18, "R", 54, DEEP, bold=True, anchor="ms")
    return canvas.finish()


def mosaic():
    """The state of every pixel at step 12 of 25, 1 noise and 0 image: two regions are slower than what is around."""
    canvas = sheet(SEA)
    heading(canvas, "Pixel-wise SDXL", "step 12 of 25: two phrases are slower")
    pace = Pace(25)
    around, fox, vase = (trajectory(pace, strength)[12] for strength in (None, 0.4, 0.6))
    cells, side = (13, 9), 33
    for row in range(cells[1]):
        for column in range(cells[0]):
            inside = {fox: ((column - 3.2) / 3.1) ** 2 + ((row - 5) / 2.6) ** 2, vase: ((column - 9.3) / 2) ** 2}
            inside[vase] += ((row - 4) / 3.7) ** 2
            state = next((each for each in (vase, fox) if inside[each] < 1), around)
            colour = mix(SAND, DEEP, (state - around) / (vase - around))
            left, top = 41 + column * side, 182 + row * side
            canvas.box(left, top, left + side - 4, top + side - 4, colour, radius=4)
    canvas.text(SIDE / 2, SIDE - 12, f"noise left: {around:.2f}, {fox:.2f} and {vase:.2f}", 22, PAPER, anchor="ms")
    return canvas.finish()


CHARTS = {
    "11 SDXL": ruler,
    "12 SDXL second pass": second_pass,
    "13 SD3.5 Medium": lambda: bars(
        "SD3.5 Medium", "1024, 28 steps, preset sd35-coco", VIOLET, AMBER, policy="sd35-coco", steps=28, shift=3.0
    ),
    "14 SD3.5 Medium 512": lambda: areas(
        "SD3.5 Medium", "as in the paper: 512, 15 steps", SAND, policy="sd35-coco", steps=15, shift=3.0
    ),
    "15 Flux.1 dev": lambda: bars(
        "Flux.1 dev", "1024, 20 steps, preset flux-coco", NIGHT, CORAL, policy="flux-coco", steps=20, shift=FLUX_SHIFT
    ),
    "16 Flux.1 dev 512": lambda: areas(
        "Flux.1 dev", "as in the paper: 512, 10 steps", SKY, policy="flux-coco", steps=10, shift=FLUX_SHIFT
    ),
    "17 Flux.2 dev": lambda: stems(
        "Flux.2 dev", "D = 0.2 to start with", SEA, policy=Constant(0.2), steps=20, shift=FLUX_SHIFT
    ),
    "18 Wan 2.2 video": two_experts,
    "24 Best of four with SD3.5": four_metrics,
    "33 Pixel-wise SDXL": mosaic,
}
