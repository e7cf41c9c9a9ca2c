"""A composite as text: one line per image, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from .composite import Composite


def as_csv(combined: Composite, prompts: Sequence[str], titles: Mapping[str, str]) -> str:
    """Image (from 1), prompt, rank, R, then raw score and z-score of each metric under its title."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [title for key in combined.raw for title in (titles[key], f"z({titles[key]})")]
    writer.writerow(["image", "prompt", "rank", "R", *names])
    ranks = {row: rank for rank, row in enumerate(combined.ranking(), start=1)}
    for row, prompt in enumerate(prompts):
        values = [value for key in combined.raw for value in (combined.raw[key][row], combined.z[key][row])]
        writer.writerow([row + 1, prompt, ranks[row], *(f"{float(v):.9g}" for v in (combined.reward[row], *values))])
    return text.getvalue()
