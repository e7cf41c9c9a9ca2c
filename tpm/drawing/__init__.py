"""Pictures with Pillow alone: labelled image panels and charts, for hosts that have no matplotlib."""

from .chart import Series, line_chart, retiming_chart, step_distribution
from .panel import Cell, Row, draw_panel
from .pixels import to_pil

__all__ = ["Cell", "Row", "Series", "draw_panel", "line_chart", "retiming_chart", "step_distribution", "to_pil"]
