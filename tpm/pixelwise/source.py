"""Where a run's regions come from, step by step: drawn once, from this step's attention, or from a whole run's."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch import Tensor

from .attention_maps import Heat, mean_maps
from .errors import RegionError
from .regions import Size
from .requests import Regions

log = logging.getLogger("asyncdiff")


class Source:
    """The partition of one run. Drawn and static regions are fixed, dynamic ones are asked for after every step.

    concave: the control, every pixel in the region of the largest k; nothing is watched then. patch: pixels that share
    a timestep. heat: who watches the attention, for regions from a prompt.
    """

    def __init__(self, regions: Regions, heat: Heat | None, size: Size, patch: int, batch: int, concave: bool) -> None:
        self._regions, self._heat, self._size, self._concave = regions, heat, size, concave
        self._fixed: Tensor | None = None
        self._used = [False] * len(regions.items)
        if concave:
            self._fixed = regions.everywhere(size)
        elif heat is None:
            self._fixed = regions.drawn(size, patch, batch).cpu()
        if not concave:
            regions.seen.labels.clear()

    @property
    def needs_pass(self) -> bool:
        """Whether a synchronous run has to come first."""
        return self._fixed is None and self._regions.static

    @property
    def watching(self) -> bool:
        """Whether the attention of the next step counts."""
        return self._fixed is None

    def average(self, steps: Iterable[int]) -> None:
        """Watch a synchronous run to its end, and fix the regions by the mean of its steps' maps. RegionError."""
        assert self._heat is not None
        maps = []
        for _ in steps:
            maps.append(self._heat.maps.cpu())
            self._heat.clear()
        self._fixed = self._regions.attended(mean_maps(maps), self._size)
        for j, mask in enumerate(self._fixed.unbind(1)):
            if not mask.any():
                raise RegionError(
                    f"{self._nothing(j)} in the whole run; lower the threshold, raise its strength, or take another."
                )

    def masks(self) -> Tensor:
        """The regions of the step that was just evaluated, bool (B, J, H, W) or (1, J, H, W) on the CPU."""
        masks = self._fixed
        if masks is None:
            assert self._heat is not None
            masks = self._regions.attended(self._heat.maps.cpu(), self._size)
            self._heat.clear()
        if not self._concave:
            self._regions.seen.add(masks)
            self._used = [used or bool(mask.any()) for used, mask in zip(self._used, masks.unbind(1), strict=True)]
        return masks

    def report(self) -> None:
        """Say which regions never had a pixel."""
        for j, used in enumerate(self._used):
            if not used and not self._concave:
                log.warning("%s at any step.", self._nothing(j))

    def _nothing(self, j: int) -> str:
        return f"The phrase {self._regions.names[j]!r} got no region"
