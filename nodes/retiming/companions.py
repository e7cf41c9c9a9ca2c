"""Guiders that call a second model: both are retimed by the run of the first.

`DualModelGuider` (Ideogram 4) evaluates the negative prompt with another model, whose own wrappers it never calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy.model_patcher import ModelPatcher

from ...tpm.errors import HostError
from .told import Told


@contextmanager
def companions(guider: Any, leader: Told) -> Iterator[None]:
    """For one run: every other model of the guider is told what `leader` decides; afterwards it is as it was."""
    attached = [
        (name, patcher)
        for name, patcher in vars(guider).items()
        if isinstance(patcher, ModelPatcher) and patcher is not guider.model_patcher
    ]
    followers: list[Told] = []
    leader.leads = True
    try:
        for name, patcher in attached:
            told = _told_by(patcher)
            if told is None:
                patched = patcher.clone()
                told = Told(patched)
                setattr(guider, name, patched)
            followers.append(told)
            told.leader = leader
        yield
    finally:
        leader.leads = False
        for told in followers:
            told.leader = None
        for name, patcher in attached:
            setattr(guider, name, patcher)


def check_leads(told: Told) -> None:
    """Raises HostError where a guider holds an asynchronous model as its second one only: its own run never starts."""
    if not told.leads and told.leader is None:
        raise HostError(
            "This asynchronous model is only the second one of its guider, so nothing would be asynchronous. Connect"
            " the output of Apply Asynchronous Timesteps to the guider's first model input: the second model is then"
            " told the same."
        )


def _told_by(patcher: Any) -> Told | None:
    """What a model is told by already, where it is patched itself."""
    patch = patcher.object_patches.get("process_timestep")
    owner = getattr(patch, "__self__", None)
    return owner if isinstance(owner, Told) else None
