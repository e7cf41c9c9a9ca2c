"""A node's schema on hosts of different age, and what it answers when the host asks whether its widgets are valid."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

import nodes as core

from ..tpm.errors import AsyncDiffError
from .messages import message

CATEGORY = f"{core.KSampler.CATEGORY}/AsyncDiff"
"""Beside core's samplers, wherever this host keeps them."""

FOLDERS = {
    "Policies": ("LoadTPM", "ConstantDeviation", "DeviationCurve", "PolicyFromTrace", "PolicyFromImage"),
    "Explore": ("DeviationScale", "GammaSweep", "GammaExplorer", "DeviationPlot"),
    "Pixel-wise": (
        *("RegionsFromPrompt", "RegionFromMask", "PreviewRegions"),
        *("ApplyPixelwise", "PixelwiseSampler", "PixelwiseSchedulePlot"),
    ),
    "Rewards": ("LoadRewardModel", "CompositeReward", "BestOfBatch", "ResidualNoise"),
    "Training": ("CalibratePolicy", "SearchPolicy", "TrainTPM"),
}
"""The folders of the menu, with their nodes without the prefix; what samples, and the embedded pipeline, is above."""
PREFIX = "AsyncDiff"


def category(node_id: str) -> str:
    """Where the menu has a node."""
    name = node_id.removeprefix(PREFIX)
    return "/".join([CATEGORY, *(folder for folder, names in FOLDERS.items() if name in names)])


def schema(node_id: str, **keywords: Any) -> io.Schema:
    """An `io.Schema` under the pack's category, without the keywords that this host does not know."""
    made: io.Schema = made_here(io.Schema, node_id=node_id, category=category(node_id), **keywords)
    return made


def made_here(kind: type, *values: Any, **keywords: Any) -> Any:
    """`kind(*values, **keywords)` without the keywords that this host does not know, such as `advanced` before v0.9."""
    known = inspect.signature(kind).parameters
    return kind(*values, **{name: value for name, value in keywords.items() if name in known})


def refusal(check: Callable[..., Any], *values: Any) -> bool | str:
    """What `validate_inputs` answers: True, or the sentence of the AsyncDiffError that `check(*values)` raises.

    The host asks with None for an input that is linked to another node: its value is not known yet, so nothing is
    checked. The node checks its values when it runs.
    """
    if any(value is None for value in values):
        return True
    try:
        check(*values)
    except AsyncDiffError as error:
        return message(error)
    return True
