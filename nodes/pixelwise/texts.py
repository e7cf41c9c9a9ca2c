"""Which conditionings of a run hold the prompt that phrases were found in, and where in them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...tpm.pixelwise.attention_maps import TextPlace
from ...tpm.pixelwise.errors import RegionError
from ...tpm.pixelwise.requests import Regions

REMEDY = " Connect the conditioning of Regions from Prompt itself, or use Region from Mask."


def text_places(regions: Regions, guider: Any, sigmas: Sequence[float]) -> dict[Hashable, TextPlace]:
    """The positive conditionings that hold the regions' prompt, by the host's id for them.

    A prompt that was joined to another one (Conditioning Concat, Combine) is followed to its place. Raises RegionError
    where none has it as it was encoded (averaged, scaled, or of another prompt), or where a step has none of them.
    """
    positive = guider.conds.get("positive") or next(iter(guider.conds.values()))
    found = {cond["uuid"]: (cond, place_of(regions, cond.get("cross_attn"))) for cond in positive}
    holding = {name: (cond, place) for name, (cond, place) in found.items() if place is not None}
    if not holding:
        raise RegionError(
            "The positive conditioning of this run is not the one that the regions' phrases were found in: it is of"
            " another prompt, or was averaged or changed after Regions from Prompt." + REMEDY
        )
    check_every_step([cond for cond, _ in holding.values()], sigmas)
    return {name: place for name, (_, place) in holding.items()}


def place_of(regions: Regions, context: Tensor | None) -> TextPlace | None:
    """Where the prompt lies in a conditioning (1, n, D); None where it does not."""
    if not regions.texts:  # regions that no node made: their text is taken to be the conditioning
        return TextPlace(regions.text_length)
    if context is None or context.ndim != 3:
        return None
    shifts = (shift_of(text, context) for text in regions.texts)
    shift = next((each for each in shifts if each is not None), None)
    return None if shift is None else TextPlace(context.shape[1], shift)


def shift_of(text: Tensor, context: Tensor) -> int | None:
    """The token of `context` (1, n, D) at which the tokens of `text` (1, L, D) begin; None where they do not."""
    length, room = text.shape[1], context.shape[1] - text.shape[1]
    if room < 0 or text.shape[2:] != context.shape[2:] or len(context) != len(text):
        return None
    text = text.to(context)
    starts = (context[:, : room + 1] == text[:, :1]).flatten(2).all(dim=2).all(dim=0).nonzero().flatten().tolist()
    return next((start for start in starts if torch.equal(context[:, start : start + length], text)), None)


def check_every_step(conds: Sequence[dict[str, Any]], sigmas: Sequence[float]) -> None:
    """Raise RegionError where a step has none of these conditionings (Conditioning Set Timestep Range)."""
    for step, sigma in enumerate(sigmas):
        if not any(reaches(cond, sigma) for cond in conds):
            raise RegionError(
                f"The prompt of the regions is not in the positive conditioning of step {step} (σ = {sigma:.4g}), so"
                " that they cannot be seen there: let it reach over the whole run, or use Region from Mask."
            )


def reaches(cond: dict[str, Any], sigma: float) -> bool:
    """Whether a conditioning is used at σ."""
    start, end = cond.get("timestep_start"), cond.get("timestep_end")
    return (start is None or sigma <= start) and (end is None or sigma >= end)
