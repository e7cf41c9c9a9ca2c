"""Nodes that judge images: reward models and their composite."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui

from ...tpm.drawing.scores import Judged, draw_scores
from ...tpm.rewards.base import RewardError
from ...tpm.rewards.catalogue import RESIDUAL_NOISE
from ...tpm.rewards.composite import Composite, composite
from ...tpm.rewards.pictures import as_pictures
from ...tpm.rewards.report import as_csv
from ...tpm.rewards.scoring import ResidualNoise, one_each
from .. import sockets
from ..images import page
from ..schema import refusal, schema
from . import models
from .models import METRICS, TITLES, RewardModel

MOST_MODELS, MOST_ROWS = 8, 32


class LoadRewardModel(io.ComfyNode):
    """One metric from models/rewards, or the judge that is shipped."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffLoadRewardModel",
            display_name="Load Reward Model",
            description="Loads a metric that judges how well an image shows its prompt: ImageReward, HPSv2, CLIP Score"
            " or PickScore from models/rewards, or the judge of the embedded pipeline, which is shipped. A missing file"
            " is named before anything runs, with the place it belongs in and its official source.",
            search_aliases=["reward", "score", "ImageReward", "HPSv2", "CLIP score", "PickScore", "aesthetic", "judge"],
            inputs=[
                io.Combo.Input(
                    "metric",
                    options=list(METRICS),
                    tooltip="What judges. The paper's four are ImageReward, HPSv2 v2.0, CLIP Score and PickScore; the"
                    " embedded judge reads only captions of the embedded pipeline.",
                ),
                io.Combo.Input(
                    "name",
                    options=[models.AUTOMATIC, *models.weight_files()],
                    default=models.AUTOMATIC,
                    tooltip="automatic: the file with the official name in models/rewards. Or choose one of the files"
                    " that are there, if yours has another name. The embedded judge needs none.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(models.PRECISIONS),
                    default="fp32",
                    tooltip="fp32 is the reference. fp16 halves the memory; scores move slightly.",
                ),
            ],
            outputs=[sockets.RewardModel.Output("model", tooltip="Connect it to Composite Reward Scorer.")],
        )

    @classmethod
    def validate_inputs(cls, metric: str | None = None, name: str | None = None) -> bool | str:
        """Name a missing file before anything is queued."""
        return refusal(models.locate, metric, name)

    @classmethod
    def fingerprint_inputs(cls, metric: str, name: str, precision: str) -> str:
        """A replaced file is loaded again."""
        return models.fingerprint(metric, name, precision)

    @classmethod
    def execute(cls, metric: str, name: str, precision: str) -> io.NodeOutput:
        """Load the metric; the host caches it."""
        return io.NodeOutput(models.load(metric, name, precision))


class CompositeReward(io.ComfyNode):
    """Several metrics over a batch, and what they say together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffCompositeReward",
            display_name="Composite Reward Scorer",
            description="Scores the images of a batch with one or more reward models and combines them as AsyncDiff's"
            " paper does (Eq 16): R is the weighted mean of the z-scores. One model is on the device at a time, and"
            " leaves it after scoring.",
            search_aliases=["reward", "score", "composite", "rank", "best of n", "ImageReward", "HPSv2", "PickScore"],
            inputs=[
                io.Image.Input("images", tooltip="The batch to judge. z-scores compare its images with each other."),
                *_model_inputs(),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="One line for all images, or one line per image in the order of the batch.",
                ),
                io.String.Input(
                    "weights",
                    default="",
                    tooltip='Weights in R where they are not 1, by metric: "ImageReward: 2, Residual noise: 0.5".',
                ),
                io.Boolean.Input(
                    "group_by_prompt",
                    default=False,
                    tooltip="z-scores among the images of the same prompt instead of the whole batch.",
                ),
                io.Int.Input(
                    "ddof",
                    default=0,
                    min=0,
                    max=1,
                    tooltip="0: standard deviation of the batch; 1: estimate from a sample. Only scales R.",
                ),
                io.Boolean.Input(
                    "residual_noise",
                    default=False,
                    tooltip="A further term without weights: leftover noise, less is better. The paper's four metrics"
                    " do not see it.",
                ),
                io.String.Input("title", default="", tooltip="A heading for the table."),
            ],
            outputs=[
                sockets.Scores.Output("scores", tooltip="Everything that was computed; see Best of Batch."),
                io.Image.Output("table", tooltip="The images, best first, with their scores and z-scores."),
                io.String.Output("text", tooltip="The same for a spreadsheet (CSV), in the order of the batch."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = None, models: Any = None) -> bool | str:  # noqa: ARG003 (always passed)
        """Refuse weights that cannot be read before anything is queued."""
        return refusal(parse_weights, weights)

    @classmethod
    def execute(
        cls, images: torch.Tensor, prompts: str, weights: str, group_by_prompt: bool, ddof: int, residual_noise: bool,
        title: str, models: Mapping[str, RewardModel] | None = None, **single: RewardModel | None,
    ) -> io.NodeOutput:  # fmt: skip
        connected = [model for model in (models or single).values() if model is not None]
        pictures = as_pictures(images.movedim(-1, 1))
        lines = split_prompts(prompts, len(pictures), needed=bool(connected))
        weigh = parse_weights(weights)
        scores = score(connected, pictures, lines, residual_noise)
        groups = lines if group_by_prompt else None
        combined = composite(scores, weights=weigh, groups=groups, ddof=ddof)
        note = describe(len(pictures), len(set(lines)) if group_by_prompt else 1, weigh)
        table = page(lambda: draw_table(pictures, lines, combined, title, note))
        return io.NodeOutput(combined, table, as_csv(combined, lines, TITLES), ui=ui.PreviewImage(table, cls=cls))


def _model_inputs() -> list[Any]:
    """As many sockets as are connected and one more; a fixed number where the host cannot grow them."""
    about = "Load Reward Model, once for each metric."
    if hasattr(io, "Autogrow"):
        socket = sockets.RewardModel.Input("model", tooltip=about)
        template = io.Autogrow.TemplatePrefix(socket, prefix="model", min=0, max=MOST_MODELS)
        return [io.Autogrow.Input("models", template=template, tooltip=about)]
    return [sockets.RewardModel.Input(f"model{n}", optional=True, tooltip=about) for n in range(MOST_MODELS)]


def score(
    models: Sequence[RewardModel], pictures: Sequence[Any], prompts: Sequence[str], residual_noise: bool
) -> dict[str, torch.Tensor]:
    """Raw scores (n,) by metric, metric after metric; the stop button is heard between two chunks."""
    names = [TITLES[model.key] for model in models]
    if not names and not residual_noise:
        raise RewardError("There is nothing to score with: connect a Load Reward Model, or turn residual_noise on.")
    if len(set(names)) < len(names):
        raise RewardError(f"A metric is connected twice ({', '.join(names)}); connect each once.")
    bar = comfy.utils.ProgressBar(len(models) * len(pictures))

    def step(count: int) -> None:
        bar.update(count)
        comfy.model_management.throw_exception_if_processing_interrupted()

    scores = {model.key: model.score(pictures, prompts, step) for model in models}
    if residual_noise:
        scores[RESIDUAL_NOISE] = ResidualNoise().score(pictures, prompts)
    return scores


def split_prompts(text: str, count: int, *, needed: bool = True) -> list[str]:
    """A prompt for each of ``count`` images from the lines of ``text``: one for all, or one each."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines:
        if needed:
            raise RewardError("There is no prompt to judge by: write one line for all images, or one line per image.")
        return [""] * count
    if "" in lines:
        raise RewardError(f"Line {lines.index('') + 1} of the prompts is empty; give one line for all, or one each.")
    return one_each(lines, count)


def parse_weights(text: str) -> dict[str, float]:
    """Weights by metric from "ImageReward: 2, Residual noise: 0.5"; a RewardError that says what is wrong."""
    keys = {title.lower(): key for key, title in TITLES.items()}
    weights = {}
    for part in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
        title, _, value = part.rpartition(":")
        try:
            weights[keys[title.strip().lower()]] = float(value)
        except KeyError:
            known = ", ".join(TITLES.values())
            raise RewardError(f'"{part}" does not begin with a metric and a colon; there are {known}.') from None
        except ValueError:
            raise RewardError(f'"{part}" does not end with a number; write "ImageReward: 2".') from None
    return weights


def draw_table(pictures: Sequence[Any], prompts: Sequence[str], combined: Composite, title: str, note: str) -> Any:
    """The table, best first; long batches are cut."""
    same = len(set(prompts)) == 1
    ranking = combined.ranking()
    rows = [
        Judged(
            pictures[row],
            f"image {row + 1}",
            "" if same else prompts[row],
            float(combined.reward[row]),
            [(float(combined.raw[key][row]), float(combined.z[key][row])) for key in combined.raw],
        )
        for row in ranking[:MOST_ROWS]
    ]
    heading = title or "Composite reward"
    if same and prompts[0]:
        note = f"{prompts[0]} · {note}"
    left_out = len(ranking) - len(rows)
    footer = f"{left_out} more images are in the text." if left_out else ""
    return draw_scores(rows, [TITLES[key] for key in combined.raw], title=heading, subtitle=note, footer=footer)


def describe(images: int, prompts: int, weights: Mapping[str, float]) -> str:
    """How R came about, in one line."""
    within = f"within each of {prompts} prompts" if prompts > 1 else "within the batch"
    parts = [f"{images} images, best first" if images > 1 else "1 image", f"z-scores {within} beside the raw scores"]
    if weights:
        parts.append("weights " + ", ".join(f"{TITLES[key]} {value:g}" for key, value in weights.items()))
    return " · ".join(parts)


NODES = [LoadRewardModel, CompositeReward]
