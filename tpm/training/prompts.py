"""The order in which training meets prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from .studio import derive


@dataclass
class PromptOrder:
    """Every prompt once per epoch, shuffled anew each time. A function of (seed, position): nothing to save."""

    prompts: Sequence[str]
    seed: int
    _epochs: dict[int, list[int]] = field(default_factory=dict, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """Tells one list of prompts from another: how many, and a hash."""
        return f"{len(self.prompts)} prompts, {derive(*self.prompts):016x}"

    def __getitem__(self, position: int) -> str:
        """The prompt at this position of the endless sequence."""
        epoch, place = divmod(position, len(self.prompts))
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(derive(self.seed, "prompts", epoch))
            self._epochs = {epoch: torch.randperm(len(self.prompts), generator=generator).tolist()}
        return self.prompts[self._epochs[epoch][place]]
