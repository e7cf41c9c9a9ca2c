"""The labelled page of a γ Sweep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ...tpm.drawing import to_pil
from ...tpm.drawing.panel import Cell, Row, draw_panel
from ...tpm.numbers import strength
from ...tpm.retiming.trace import Trace
from ..latents import chosen_frames
from .axes import NO_AXIS, Setting
from .explorer import SEPARATOR, names_of, note_of


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
    columns = [strength(gamma) for gamma in gammas]
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
    """A row for each picture of the runs, called as in the strip."""
    batch, frames = images[0].shape[:2]
    places = [(n, frame) for n in range(batch) for frame in chosen_frames(frames)]
    names = names_of(batch, frames)
    return [_row([run[place] for run in images], name, label, notes) for place, name in zip(places, names, strict=True)]


def _row(pictures: Sequence[Tensor], name: str, label: str, notes: Sequence[str]) -> Row:
    """One picture (h, w, 3) at every γ."""
    drawn = [to_pil(picture.movedim(-1, 0)) for picture in pictures]
    cells = [Cell(picture, [_pair(note)] if note else []) for picture, note in zip(drawn, notes, strict=True)]
    own, _, detail = name.partition(SEPARATOR)
    return Row(label, cells, name) if label else Row(own, cells, detail)


def _pair(note: str) -> tuple[str, str]:
    name, _, value = note.partition(" = ")
    return name, value
