"""The labelled page of a γ Sweep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ...tpm.drawing import to_pil
from ...tpm.drawing.panel import Cell, Row, draw_panel
from ...tpm.retiming.trace import Trace
from ..latents import chosen_frames
from .axes import NO_AXIS, Setting
from .explorer import note_of


def draw_grid(
    images: Sequence[Tensor],
    gammas: Sequence[float],
    traces: Sequence[Trace | None],
    title: str,
    subtitle: str,
    labels: Sequence[str] = ("",),
) -> Image.Image:
    """A labelled page with a column for each γ, and for each label a row for each image of the batch.

    images, traces: of the first label at every γ, then of the next; a run's images are (b, t, h, w, 3), t = 1.
    Of a video of t frames only the first, the middle and the last have a row.
    """
    width, several = len(gammas), len(labels) > 1
    notes = [note_of(gamma, trace) for gamma, trace in zip([*gammas] * len(labels), traces, strict=True)]
    rows = []
    for place, label in enumerate(labels):
        here = slice(place * width, (place + 1) * width)
        rows += _rows(images[here], label, notes[here] if several else [""] * width)
    columns = [f"γ = {gamma:g}" for gamma in gammas]
    return draw_panel(rows, columns, title=title, subtitle=subtitle, column_notes=[] if several else notes)


def described(setting: Setting, sampler: str, scheduler: str, axis: str) -> str:
    """The settings of a page in one line, without the one that its rows differ in."""
    words = {
        "seed": f"seed {setting.seed}", "steps": f"{setting.steps} steps", "cfg": f"cfg {setting.cfg:g}",
        "sampler": sampler, "scheduler": scheduler, "policy": f"policy {setting.policy.name}",
    }  # fmt: skip
    if axis != NO_AXIS:
        words.pop(axis, None)
    return " · ".join(words.values())


def side_by_side(images: Sequence[Tensor], columns: int) -> Tensor:
    """The pictures alone, where no page can be drawn: one image, as wide as `columns` of them."""
    chosen = [run[:, chosen_frames(run.shape[1])].flatten(0, 1) for run in images]
    return torch.cat([torch.cat(chosen[n : n + columns], dim=2) for n in range(0, len(chosen), columns)])


def _rows(images: Sequence[Tensor], label: str, notes: Sequence[str]) -> list[Row]:
    batch, frames = images[0].shape[:2]
    return [_row(n, frame, images, label, notes) for n in range(batch) for frame in chosen_frames(frames)]


def _row(n: int, frame: int, images: Sequence[Tensor], label: str, notes: Sequence[str]) -> Row:
    """One frame of one image at every γ."""
    own, detail = _labels(n, frame, *images[0].shape[:2])
    pictures = [to_pil(run[n, frame].movedim(-1, 0)) for run in images]
    cells = [Cell(picture, [_pair(note)] if note else []) for picture, note in zip(pictures, notes, strict=True)]
    return Row(label, cells, ", ".join(filter(None, (own, detail)))) if label else Row(own, cells, detail)


def _pair(note: str) -> tuple[str, str]:
    name, _, value = note.partition(" = ")
    return name, value


def _labels(n: int, frame: int, batch: int, frames: int) -> tuple[str, str]:
    """A row's label and, below it, its detail."""
    which = f"image {n + 1}" if frames == 1 else f"video {n + 1}"
    when = f"frame {frame + 1} of {frames}"
    if frames == 1:
        return (which if batch > 1 else ""), ""
    return (which, when) if batch > 1 else (when, "")
