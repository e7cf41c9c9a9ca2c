"""The strip of rendered γ inside the node: what the browser is sent before, while and after a γ Sweep samples.

The front end (web/js/explorer.js) shows it and computes nothing: pictures are the host's own previews, t* and D of
every run are in the document, and so is the γ halfway between each two.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

import nodes as core

from ...tpm.numbers import mean_deviation, strength
from ...tpm.retiming.trace import Trace
from ..latents import chosen_frames
from .axes import AXES, MOST_GAMMAS, Setting, between
from .live import columns_of, tell
from .shared import Made

log = logging.getLogger("asyncdiff")

EVENT = "asyncdiff.explorer"
SEPARATOR = " · "
KEY = "asyncdiff_explorer"
"""Under which the host keeps the document of a finished sweep among what its nodes show."""


class Explorer:
    """The strip of one sweep: a row for each value of the second axis, a column for each γ, rising."""

    def __init__(self, node: str | None, gammas: Sequence[float], rows: Sequence[Setting], axis: str) -> None:
        self._node, self._rows = node, rows
        self._gammas = sorted(gammas)
        self._cells: dict[tuple[int, int], dict[str, Any]] = {}
        self._names: list[str] = []
        self._axis = axis

    def begin(self) -> None:
        """Show the empty places, and what is filled in already."""
        tell(EVENT, self._node, event="begin", **self.document())

    def add(self, row: int, gamma: float, made: Made, pictures: Tensor, send: bool = True) -> None:
        """A run was made. pictures: (B, T, H, W, 3), of a video all frames."""
        if self._node is None:
            return
        frames = chosen_frames(pictures.shape[1])
        self._names = names_of(len(pictures), pictures.shape[1])
        made.files = made.files or previews(pictures[:, frames].flatten(0, 1))
        column = self._gammas.index(gamma)
        cell = {
            "row": row, "column": column, "note": note_of(gamma, made.trace), "files": made.files,
            "curve": curve_of(made.trace, self._label(row, column)),
        }  # fmt: skip
        self._cells[row, column] = cell
        if send:
            tell(EVENT, self._node, event="cell", cell=cell, pictures=self._names)

    def document(self) -> dict[str, Any]:
        """All that the strip shows."""
        return {
            "widget": AXES[self._axis].field if self._axis in AXES else "",
            "seed": self._rows[0].seed,
            "rows": [{"label": row.label, "value": row.value} for row in self._rows],
            "columns": [{"gamma": gamma, "label": strength(gamma)} for gamma in self._gammas],
            "pictures": self._names,
            "gaps": between(self._gammas) if len(self._gammas) < MOST_GAMMAS else [],
            "start": min(self._gammas, key=lambda gamma: abs(gamma - 1)),
            "synchronous": min(self._gammas, key=abs),
            "cells": list(self._cells.values()),
        }

    def _label(self, row: int, column: int) -> str:
        return SEPARATOR.join(filter(None, (strength(self._gammas[column]), self._rows[row].label)))


def names_of(batch: int, frames: int) -> list[str]:
    """What the pictures of one run are called: images of a batch, chosen frames of a video; one alone has no name."""
    if batch * frames == 1:
        return [""]
    if frames == 1:
        return [f"image {n + 1} of {batch}" for n in range(batch)]
    which = [f"video {n + 1}{SEPARATOR}" if batch > 1 else "" for n in range(batch)]
    return [f"{video}frame {frame + 1} of {frames}" for video in which for frame in chosen_frames(frames)]


def note_of(gamma: float, trace: Trace | None) -> str:
    """A column's second line: the mean of D over the steps that were decided."""
    if gamma == 0:
        return "synchronous"
    decided = trace.mean_deviation()[1:] if trace else []
    return mean_deviation(sum(decided) / len(decided)) if decided else ""


def curve_of(trace: Trace | None, label: str) -> dict[str, Any] | None:
    """What the chart draws of a run that is over."""
    return (
        None if trace is None else {"sigmas": trace.sigmas, "label": label, "notes": trace.notes, **columns_of(trace)}
    )


def previews(pictures: Tensor) -> list[dict[str, str]]:
    """The host's temporary files of pictures (N, H, W, 3), as it names them. Where they cannot be written: none."""
    try:
        found: list[dict[str, str]] = core.PreviewImage().save_images(pictures, "asyncdiff.gamma")["ui"]["images"]
    except Exception:  # whatever it is, the sampling is worth more than its preview
        log.exception("The previews of γ Sweep could not be written. The outputs of the node are complete.")
        return []
    return found
