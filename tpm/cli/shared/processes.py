"""This process among those that ``accelerate launch`` or torchrun started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...training.distributed import Processes


def join_processes() -> Processes:
    """This process' place among those that ``accelerate launch`` or torchrun started."""
    from ...training.distributed import Processes

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState()
    return Processes.current()


def process_device() -> str | None:
    """The device of this process among several; None where it is alone and may take the best there is."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import PartialState

    return str(PartialState().device)
