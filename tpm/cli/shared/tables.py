"""Tables as text and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...files import write_atomically
from .terminal import shown


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces: the first to the left, numbers to the right."""
    header, *rows = ([shown(cell) for cell in row] for row in (header, *rows))
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        return "   ".join([first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))])

    return "\n".join([line(header), "   ".join(shown("─") * width for width in widths), *(line(row) for row in rows)])


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """One line per mapping, columns in the order of the first; atomic."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_atomically(path, text.getvalue().encode())
