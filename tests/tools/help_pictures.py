"""The pictures of the help pages (web/docs/images), drawn again: `cd tests && python -m tools.help_pictures`.

The charts need the library alone. `sweep.png`, `scores.png`, `training.png`, `search.png` and `calibration.png` are
what nodes give on the embedded pipeline: they need ComfyUI, and are to be drawn again whenever the weights change.
"""

import json
import math
import sys
import tempfile
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image

from asyncdiff.tpm.drawing import retiming_chart, step_distribution, to_pil
from asyncdiff.tpm.drawing.chart import Plot, Series, line_chart
from asyncdiff.tpm.drawing.theme import NEUTRAL, RAMP
from asyncdiff.tpm.hosts.diffusers.text_to_image import simple_sigmas
from asyncdiff.tpm.numbers import strength
from asyncdiff.tpm.pixelwise.pictures import schedule_chart
from asyncdiff.tpm.policies import Curve, load_policy, presets
from asyncdiff.tpm.policies.learned import sample_beta
from asyncdiff.tpm.retiming.equations import coupled_velocity_scale, deviation
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.retiming.settings import Retiming
from support.inside import enter

FOLDER = Path(__file__).resolve().parents[2] / "web" / "docs" / "images"
PROMPT = "a large striped red circle above a small dotted blue star on a starry background"
LOOSE, ASKED = "a star above a star on a starry background", "a red star above a blue star on a starry background"
GAMMAS = [k / 20 for k in range(41)]
DEFAULT_CURVE = [(0.0, 0.0), (0.5, 0.2), (1.0, 0.0)]  # the node's default: heights .5, .7, .5 at bound .5
TEXTURES = [k / 50 for k in range(5, 41)]  # 0.1 … 0.8
WIDEST = 960  # of sweep.png
COLOURS = {"scores": 256}  # small pictures in many colours
MANY = 500  # steps, where nothing depends on their number any more


def grid(steps, shift):
    """ComfyUI's simple grid of a flow model."""
    return [shift * s / (1 + (shift - 1) * s) for s in simple_sigmas(steps)] + [0.0]


SD35, FLUX = grid(15, 3.0), grid(10, math.exp(1.15))


def outcome(sigmas, t_star, spread, power=0.0):
    """Standard deviation that Euler steps with the ideal denoiser give for data N(0, spread²), from unit noise."""
    x = 1.0
    for (t, t_next), told in zip(pairwise(sigmas), t_star, strict=True):
        v = x * (told - (1 - told) * spread**2) / ((1 - told) ** 2 * spread**2 + told**2)
        x += (t_next - t) * coupled_velocity_scale(told / t, power) * v
    return abs(x)


def timesteps():
    policy = load_policy(presets()["sd35-coco"])
    runs = {strength(g): [[t] for t in rehearse(policy, Retiming(gamma=g), SD35).t_star] for g in (0.5, 1, 2)}
    return retiming_chart(
        SD35[:-1],
        runs,
        title="What the model is told with the preset sd35-coco",
        subtitle="Deviation D = 0.192 · 15 steps, simple, shift 3",
    )


def curve():
    policy = Curve(DEFAULT_CURVE)
    trace = rehearse(policy, Retiming(), SD35)
    steps = SD35[1:-1]
    drawn = [Series("the default curve, γ = 1", steps, [policy.deviation_at(s) for s in steps])]
    ahead = [Series("", range(15), [s - t for s, t in zip(SD35, trace.t_star, strict=False)])]
    plots = [
        Plot("The curve, at the σ of a run", "σ", "D", drawn, include_zero=True),
        Plot("Ahead of the latent", "step", "σ − t*", ahead, whole_x=True, include_zero=True),
    ]
    return line_chart(plots, title="A deviation curve, step by step", subtitle="15 steps, simple, shift 3 · bound 0.5")


def coupling():
    """t* = 0.9·σ throughout: what Lying Sigma and Detail Daemon do with a multiplier of 0.9, and p = 0 beside it."""
    sigmas = grid(MANY, 3.0)
    told = [0.9 * t for t in sigmas[:-1]]
    lines = [
        Series(
            f"p = {p:g}", TEXTURES, [outcome(sigmas, told, s, p) / outcome(sigmas, sigmas[:-1], s) for s in TEXTURES], c
        )
        for p, c in ((0, RAMP[3]), (0.5, RAMP[2]), (1, RAMP[1]))
    ]
    level = Series("synchronous", TEXTURES, [1.0] * len(TEXTURES), NEUTRAL)
    plot = Plot("Contrast that comes out, synchronous is 1", "contrast of the texture in the data", "", [level, *lines])
    return line_chart(
        [plot], title="The same told timesteps, with and without velocity coupling", width=1080,
        subtitle="Exact for a Gaussian texture (standard deviation on the axis; the noise has 1) and its ideal"
        " denoiser, t* = 0.9 σ, many steps. A trained model differs.",
    )  # fmt: skip


def grain():
    def left(gamma, tail):
        retiming = Retiming(gamma=gamma, tail_sync=tail)
        return 100 * outcome(FLUX, rehearse(load_policy(presets()["flux-coco"]), retiming, FLUX).t_star, 0.0)

    lines = [
        Series(f"tail_sync {tail}", GAMMAS, [left(gamma, tail) for gamma in GAMMAS], colour)
        for tail, colour in ((0, RAMP[2]), (1, RAMP[0]))
    ]
    plot = Plot("Noise left in a flat area", "γ", "% of the initial noise", lines, include_zero=True)
    return line_chart(
        [plot], title="Grain comes from the last step", width=1080,
        subtitle="Exact for a flat area and its ideal denoiser; a trained model differs. Preset flux-coco, 10 steps,"
        " simple, shift 3.16.",
    )  # fmt: skip


def distribution():
    draw = torch.Generator().manual_seed(1)
    untrained = torch.zeros(16)
    values = [[0.0] * 16, *(deviation(sample_beta(untrained, untrained, draw)).tolist() for _ in range(14))]
    return step_distribution(
        values, title="Deviations of a batch of 16",
        subtitle="An example of the chart: random draws of an untrained TPM (readout sample), strength γ = 1,"
        " bound 0.5",
    )  # fmt: skip


def pixelwise():
    sigmas = torch.tensor(grid(20, 3.0))
    return schedule_chart(sigmas, ["a region", "another", "a third"], [0.3, 0.5, 0.7], "quadratic", concave=False)


def sweep():
    """What the node gives; None without a host."""
    if isinstance(enter(), str):
        return None
    with torch.inference_mode():
        return _swept()


def scores():
    """What the scorer shows for the workflow's prompt; None without a host."""
    if isinstance(enter(), str):
        return None
    with torch.inference_mode():
        return _scored()


def training():
    """The report of the training workflow; None without a host."""
    if isinstance(enter(), str):
        return None
    from asyncdiff.nodes.training import inputs, nodes_training

    with _workshop("42 Train a policy", nodes_training.TrainTPM) as given:
        made = nodes_training.train(inputs.open_setting(given), nodes_training.recipe_of(given), "tiny-trained", False)
    return made.report()


def search():
    """The report of the search workflow; None without a host."""
    if isinstance(enter(), str):
        return None
    from asyncdiff.nodes.training import inputs, nodes_search

    with _workshop("41 Search a policy", nodes_search.SearchPolicy) as given:
        setting, plan = inputs.open_setting(given), nodes_search.plan_of(given)
        report = nodes_search.search(setting, plan, "tiny-searched", given["render_batch"], False).report
    return to_pil(report[0].movedim(-1, 0))


def calibration():
    """The chart of a calibration of the embedded pipeline with the node's own settings; None without a host."""
    if isinstance(enter(), str):
        return None
    from asyncdiff.nodes.nodes_embedded import LoadEmbeddedPipeline
    from asyncdiff.nodes.training import nodes_calibrate
    from asyncdiff.tpm.embedded.worlds import training_captions

    node = nodes_calibrate.CalibratePolicy
    model, clip, _ = LoadEmbeddedPipeline.execute().args
    given = {entry.id: getattr(entry, "default", None) for entry in node.GET_SCHEMA().inputs}
    given |= {"prompts": "\n".join(training_captions(16)), "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    given |= {"model": model, "clip": clip, "latent_image": {"samples": torch.zeros(1, 16, 16, 16)}}
    with _tpm_folder():
        return nodes_calibrate.calibrate("tiny", *nodes_calibrate.open_calibration(given), False).chart


@contextmanager
def _workshop(workflow, node):
    """The inputs that a workflow gives to its node, and a folder of its own for the files."""
    from asyncdiff.nodes.nodes_embedded import LoadEmbeddedPipeline
    from asyncdiff.nodes.rewards.nodes_scoring import models

    document = json.loads((FOLDER.parents[2] / "workflows" / f"{workflow}.json").read_text(encoding="utf-8"))
    [saved] = [one for one in document["nodes"] if one["type"] == node.GET_SCHEMA().node_id]
    names = [socket["name"] for socket in saved["inputs"] if "widget" in socket]
    model, clip, vae = LoadEmbeddedPipeline.execute().args
    judge = {"rewards": {"reward0": models.load("Embedded judge")}}
    given = dict(zip(names, saved["widgets_values"], strict=True)) | judge | {"model": model, "clip": clip, "vae": vae}
    with _tpm_folder():
        yield given


@contextmanager
def _tpm_folder():
    """An empty folder as the only one of models/tpm."""
    import folder_paths

    places = folder_paths.folder_names_and_paths
    with tempfile.TemporaryDirectory() as folder:
        before, places["tpm"] = places["tpm"], ([folder], set())
        try:
            yield
        finally:
            places["tpm"] = before


def _pipeline(*prompts):
    """MODEL and VAE, and a CONDITIONING of each prompt."""
    from asyncdiff.nodes.nodes_embedded import LoadEmbeddedPipeline

    model, clip, vae = LoadEmbeddedPipeline.execute().args
    return model, vae, *(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in prompts)


def _scored():
    import nodes
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.nodes.rewards import models, nodes_scoring
    from asyncdiff.tpm.rewards.composite import composite
    from asyncdiff.tpm.rewards.pictures import as_pictures

    model, vae, positive, negative = _pipeline(LOOSE, "")
    patched = attach(model, load_policy(presets()["tiny-sd35"]))
    latent = {"samples": torch.zeros(4, 16, 16, 16)}
    (latent,) = nodes.common_ksampler(patched, 7, 8, 3.0, "euler", "simple", positive, negative, latent)
    pictures = as_pictures(vae.decode(latent["samples"]).movedim(-1, 1))
    combined = composite(nodes_scoring.score([models.load("Embedded judge")], pictures, [ASKED] * 4, True))
    return nodes_scoring.draw_table(pictures, [ASKED] * 4, combined, "", nodes_scoring.describe(4, 1, {}))


def _swept():
    from asyncdiff.nodes.retiming.nodes_sweep import GammaSweep

    GammaSweep.hidden = type("Hidden", (), {"unique_id": None})
    model, vae, positive, negative = _pipeline(PROMPT, "")
    page = GammaSweep.execute(
        model, 1, 8, 3.0, "euler", "simple", positive, negative, {"samples": torch.zeros(2, 16, 16, 16)}, 1.0, vae,
        load_policy(presets()["tiny-sd35"]), "0, 0.5, 1, 2", "from policy", 0, 0.0, PROMPT,
    ).args[0]  # fmt: skip
    picture = to_pil(page[0].movedim(-1, 0))
    return picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:]
    charts = (timesteps, curve, coupling, grain, distribution, pixelwise)
    for draw in (*charts, sweep, scores, training, search, calibration):
        if wanted and draw.__name__ not in wanted:
            continue
        picture = draw()
        if picture is None:
            sys.stderr.write(f"{draw.__name__}.png is kept as it is: no ComfyUI found\n")
            continue
        if isinstance(picture, torch.Tensor):
            picture = to_pil(picture[0].movedim(-1, 0))
        picture.quantize(COLOURS.get(draw.__name__, 96), dither=Image.Dither.NONE).save(
            FOLDER / f"{draw.__name__}.png", optimize=True
        )


if __name__ == "__main__":
    main()
