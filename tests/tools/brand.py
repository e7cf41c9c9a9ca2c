"""The pack's icon (400 × 400) and banner (21:9) for the registry, drawn from real runs.

    PYTHONPATH=tests python -m tools.brand

The curves are σ of a run and the t* that a model is told; the pictures are the embedded pipeline's, of one noise.
Needs the package installed with its `standalone` extra.
"""

from PIL import Image

from asyncdiff.tpm.drawing.canvas import Canvas
from asyncdiff.tpm.drawing.pixels import to_pil
from asyncdiff.tpm.drawing.theme import PAPER, RAMP, mix
from asyncdiff.tpm.hosts.diffusers.studio import DiffusersStudio
from asyncdiff.tpm.policies import Curve, find_policy, retiming_of
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.retiming.settings import Retiming
from support.paths import EMBEDDED, ROOT

FOLDER = ROOT / "docs"
NIGHT, PALE = (21, 19, 43), (205, 209, 228)
"""The ground of both pictures, and σ on it."""

SHIFT = 2.0
WIDE = Curve([(0.0, 0.6), (0.5, 1.0), (1.0, 1.0)], bound=1.0)
"""A policy whose two curves are told apart even at the size of an icon."""

PROMPT = "a large striped red circle above a small dotted blue star on a starry background"
GAMMAS = (0.0, 2.0)


def main():
    for name, picture in (("icon", icon()), ("banner", banner(pictures()))):
        file = FOLDER / f"{name}.png"
        picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
        print(f"{file.relative_to(ROOT)}: {picture.width} × {picture.height}, {file.stat().st_size / 1000:.0f} kB")


def icon():
    """Two curves that part and meet again, and nothing else: it is shown as small as 32 pixels."""
    canvas = ground(400, 400)
    curves(canvas, (70, 70, 330, 330), steps=5, thick=18, radius=18)
    return canvas.finish()


def banner(images):
    """Name and sentence, the curves, and one noise at two γ."""
    canvas = ground(1260, 540)
    canvas.text(60, 112, "AsyncDiff Timesteps", 52, PAPER, bold=True)
    canvas.text(60, 160, "Tell the model another timestep than the one", 24, PALE)
    canvas.text(60, 192, "its latent is at. One slider, γ, says how far.", 24, PALE)
    curves(canvas, (72, 256, 548, 416), steps=8, thick=7, radius=8)
    canvas.text(60, 470, "noise in the latent", 21, PALE)
    canvas.text(556, 470, "noise the model is told", 21, RAMP[0], bold=True, anchor="rs")
    for number, (image, name) in enumerate(zip(images, ("γ = 0, the stock sampler", "γ = 2"), strict=True)):
        left = 648 + number * 284
        canvas.picture(image.resize((268, 268), Image.Resampling.LANCZOS), left, 148)
        canvas.text(left, 470, name, 21, PALE)
    return canvas.finish()


def ground(width, height):
    canvas = Canvas(width, height)
    canvas.box(-1, -1, width + 1, height + 1, NIGHT)
    return canvas


def curves(canvas, box, *, steps, thick, radius):
    """σ pale, t* in colour, and what lies between them."""
    left, top, right, bottom = box
    sigmas = [SHIFT * (t := 1 - k / steps) / (1 + (SHIFT - 1) * t) for k in range(steps + 1)]
    told = [*rehearse(WIDE, Retiming(gamma=GAMMAS[-1], bound=1.0), sigmas).t_star, [0.0]]
    values = {"σ": sigmas, "t*": [value if isinstance(value, float) else value[0] for value in told]}
    paths = {
        name: [(left + (right - left) * k / steps, bottom - (bottom - top) * value) for k, value in enumerate(line)]
        for name, line in values.items()
    }
    canvas.polygon([*paths["σ"], *reversed(paths["t*"])], mix(NIGHT, RAMP[1], 0.45))
    canvas.line(paths["σ"], PALE, thick * 0.7)
    canvas.line(paths["t*"], RAMP[0], thick)
    for x, y in paths["t*"]:
        canvas.dot(x, y, radius, RAMP[0])


def pictures():
    """One prompt and noise at each γ."""
    studio, policy = DiffusersStudio.load(EMBEDDED), find_policy("tiny-sd35-tpm")
    runs = [
        studio.render([PROMPT], [1], policy, retiming_of(policy, gamma=gamma), steps=8, guidance=3.0).images[0]
        for gamma in GAMMAS
    ]
    return [to_pil(image) for image in runs]


if __name__ == "__main__":
    main()
