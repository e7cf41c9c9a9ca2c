"""What ``pixelwise`` leaves behind: images under AsynDM's names, the run's settings, a labelled picture, a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...drawing import Cell, draw_panel, to_pil
from ...drawing import Row as PanelRow
from ...drawing.png import save_png
from ...errors import AsyncDiffError
from ...files import read_json, write_atomically, write_json
from ...statistics import bootstrap
from ..shared.tables import as_text
from .items import Items
from .trio import KINDS, Drawing, Trio, regions_picture

FORMAT, VERSION = "asyncdiff-pixelwise", 1
MOST_SHOWN = 12
NOTES = ("synchronous", "concave: all pixels alike", "pixel-wise", "slowed down, at the last step")
__all__ = ["KINDS", "Row", "Run", "groups", "resume", "save_panel", "save_trio", "summary"]


@dataclass(frozen=True)
class Row:
    """One prompt and seed."""

    number: int
    prompt: str
    seed: int
    items: Items

    def file(self, out: Path, what: str) -> Path:
        """Where one of the row's pictures lies; AsynDM's naming."""
        return out / "images" / f"{self.number:05d}_{what}.png"

    def done(self, out: Path) -> bool:
        """Whether all of the row's pictures are there."""
        return all(self.file(out, what).is_file() for what in (*KINDS, "regions"))


@dataclass(frozen=True)
class Run:
    """Everything that was asked for."""

    model: str
    drawing: Drawing
    rows: tuple[Row, ...]
    masks: tuple[str, ...] = ()  # digests of drawn regions

    def document(self) -> dict[str, Any]:
        """The run as JSON: equal documents give equal images."""
        drawing = self.drawing
        settings = {
            name: value for name, value in vars(drawing).items() if name not in ("policy", "retiming", "options")
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            **settings,
            **asdict(drawing.options),
            "policy": drawing.policy.to_dict() if drawing.policy else None,
            "retiming": drawing.retiming.to_dict() if drawing.retiming else None,
            "masks": self.masks,
            "rows": [{"prompt": row.prompt, "seed": row.seed, **asdict(row.items)} for row in self.rows],
        }


def resume(out: Path, run: Run) -> list[Row]:
    """The rows to draw, with the run's settings written down. Raises AsyncDiffError in another run's folder."""
    document = json.loads(json.dumps(run.document()))
    file = out / "run.json"
    if file.exists() and read_json(file, AsyncDiffError) != document:
        raise AsyncDiffError(f"{out} holds another run (see its run.json); choose another --out, or the same options.")
    write_json(file, document)
    prompts = json.dumps([row.prompt for row in run.rows], indent=2, ensure_ascii=False)
    write_atomically(out / "prompt.json", (prompts + "\n").encode())
    return [row for row in run.rows if not row.done(out)]


def groups(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Runs of at most `size` rows of one prompt."""
    batch: list[Row] = []
    for row in rows:
        if batch and (row.prompt != batch[0].prompt or len(batch) == size):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def save_trio(out: Path, rows: Sequence[Row], trio: Trio) -> None:
    """Write the pictures of some rows."""
    for place, row in enumerate(rows):
        for kind in KINDS:
            save_png(row.file(out, kind), to_pil(trio.images[kind][place]))
        size = trio.images["base"].shape[-2:]
        save_png(row.file(out, "regions"), to_pil(regions_picture(trio.masks[place], (size[0], size[1]))))


def save_panel(out: Path, run: Run) -> Path:
    """The first rows side by side, with their regions."""
    rows = [panel_row(out, row) for row in run.rows[:MOST_SHOWN]]
    more = len(run.rows) - len(rows)
    picture = draw_panel(
        rows,
        [*KINDS, "regions"],
        title="Slowing down what the prompt names",
        subtitle=describe(run),
        column_notes=NOTES,
        footer=f"The first {len(rows)} of {len(run.rows)} rows; all are in images/." if more else "",
    )
    return save_png(out / "panel.png", picture)


def panel_row(out: Path, row: Row) -> PanelRow:
    """One row of the picture."""
    pictures = [Image.open(row.file(out, what)).convert("RGB") for what in (*KINDS, "regions")]
    items = [(name, f"k {k:g}") for name, k in zip(row.items.names, row.items.strengths, strict=True)]
    cells = [*(Cell(picture) for picture in pictures[:-1]), Cell(pictures[-1], items)]
    return PanelRow(row.prompt, cells, detail=f"seed {row.seed}")


def describe(run: Run) -> str:
    """The settings on one line."""
    drawing = run.drawing
    drawn = not any(row.items.tokens for row in run.rows)
    source = "drawn" if drawn else "static" if drawing.static else "dynamic"
    parts = [run.model, f"{drawing.steps} steps", f"cfg {drawing.cfg:g}", f"{drawing.options.curve} curve"]
    parts += [f"{source} regions"] + ([f"η {drawing.eta:g}"] if drawing.eta is not None else [])
    if drawing.policy is not None and drawing.retiming is not None:
        parts.append(f"policy {drawing.policy.name} at γ = {drawing.retiming.gamma:g}")
    return " · ".join(parts)


def summary(out: Path, run: Run, judge_folder: Path) -> str:
    """The judge's attributes of all rows: means, and paired differences to the synchronous images."""
    from ...embedded.judges import load_judge

    judge, prompts = load_judge(judge_folder), [row.prompt for row in run.rows]
    scores = {kind: judge.score(load_images(out, run.rows, kind), prompts)["attributes"].numpy() for kind in KINDS}
    lines = []
    for kind, note in zip(KINDS, NOTES, strict=False):
        gain = bootstrap(scores[kind] - scores["base"])
        shown = "" if kind == "base" else f"{gain.mean:+.2%} [{gain.low:+.2%}, {gain.high:+.2%}]"
        lines.append([f"{kind} ({note})", f"{scores[kind].mean():.1%}", shown])
    return as_text(["", "attributes", "difference to base"], lines)


def load_images(out: Path, rows: Sequence[Row], kind: str) -> Tensor:
    """(n, 3, H, W) in [0, 1] from the files."""
    arrays = [np.asarray(Image.open(row.file(out, kind)).convert("RGB"), dtype=np.float32) / 255 for row in rows]
    return torch.from_numpy(np.stack(arrays)).movedim(-1, 1)
