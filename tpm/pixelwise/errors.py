"""Errors of pixel-wise denoising: sentences that say what is wrong and what to do."""

from ..errors import AsyncDiffError


class ScheduleError(AsyncDiffError):
    """A curve, a strength, a number of steps or η is out of range, or maps do not fit the latent."""


class RegionError(AsyncDiffError):
    """A region is empty, overlaps another, has the wrong size, or its phrase is not in the prompt."""
