"""Nodes that measure and choose without any weights: residual noise, and the best images of a batch."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...tpm.rewards.base import RewardError
from ...tpm.rewards.catalogue import RESIDUAL_NOISE
from ...tpm.rewards.composite import Composite, composite
from ...tpm.rewards.pictures import as_pictures
from ...tpm.rewards.scoring import ResidualNoise
from .. import sockets
from ..schema import schema
from .models import TITLES

MOST_IMAGES = 4096
REWARD = "R (composite)"


class BestOfBatch(io.ComfyNode):
    """The images that a ranking puts first."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffBestOfBatch",
            display_name="Best of Batch",
            description="Keeps the best images of a batch, best first, by R or by one metric.",
            search_aliases=["reward", "best of n", "rank", "sort", "pick", "select", "filter"],
            inputs=[
                io.Image.Input("images", tooltip="The batch that was scored."),
                sockets.Scores.Input("scores", tooltip="From Composite Reward Scorer or Residual Noise."),
                io.Combo.Input(
                    "by",
                    options=[REWARD, *TITLES.values()],
                    tooltip="R, or the raw score of one metric. Of residual noise less is better.",
                ),
                io.Int.Input(
                    "count", default=1, min=0, max=MOST_IMAGES, tooltip="How many images to keep; 0: all, sorted."
                ),
            ],
            outputs=[
                io.Image.Output("best", tooltip="The images, best first."),
                io.Int.Output("index", tooltip="Place of the best in the batch, from 0; for LatentFromBatch."),
                io.String.Output("text", tooltip="Their places and scores, a line each."),
            ],
        )

    @classmethod
    def execute(cls, images: torch.Tensor, scores: Composite, by: str, count: int) -> io.NodeOutput:
        if len(images) != len(scores.reward):
            raise RewardError(
                f"There are {len(images)} images but scores of {len(scores.reward)}; connect the batch that was scored."
            )
        values, better = _values(scores, by)
        chosen = torch.argsort(values * better, descending=True, stable=True).tolist()[: count or None]
        lines = [f"image {row + 1}: {by.split(' (', maxsplit=1)[0]} {float(values[row]):.4g}" for row in chosen]
        return io.NodeOutput(images[chosen], chosen[0], "\n".join(lines))


def _values(scores: Composite, by: str) -> tuple[torch.Tensor, int]:
    """The numbers to sort by, and −1 where less is better."""
    if by == REWARD:
        return scores.reward, 1
    keys = {TITLES[key]: key for key in scores.raw}
    if by not in keys:
        raise RewardError(f"{by} was not scored; there are {', '.join([REWARD, *keys])}.")
    return scores.raw[keys[by]], -1 if keys[by] == RESIDUAL_NOISE else 1


class MeasureResidualNoise(io.ComfyNode):
    """Leftover noise, without any weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffResidualNoise",
            display_name="Residual Noise",
            description="Measures how much unstructured noise is left in each image: standard deviation in 8-bit levels"
            " where the image is flat. Needs no weights.",
            search_aliases=["noise", "grain", "score", "quality", "measure", "reward"],
            inputs=[io.Image.Input("images", tooltip="One or more images of 32 pixels a side or more.")],
            outputs=[
                io.Float.Output("noise", tooltip="The mean over the batch, in levels of 255."),
                io.String.Output("text", tooltip="The noise of each image, a line each."),
                sockets.Scores.Output("scores", tooltip="For Best of Batch: less noise is better."),
            ],
        )

    @classmethod
    def execute(cls, images: torch.Tensor) -> io.NodeOutput:
        pictures = as_pictures(images.movedim(-1, 1))
        noise = ResidualNoise().score(pictures, [""] * len(pictures))
        lines = [f"image {number}: {value:.3f}" for number, value in enumerate(noise.tolist(), start=1)]
        return io.NodeOutput(float(noise.mean()), "\n".join(lines), composite({RESIDUAL_NOISE: noise}))


NODES = [BestOfBatch, MeasureResidualNoise]
