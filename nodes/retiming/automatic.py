"""The policy of a model that nobody chose one for: its preset, or none, which is the synchronous sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...tpm.errors import PolicyError
from ...tpm.policies import Constant, Policy, find_policy
from ...tpm.retiming.contract import StepState
from ...tpm.retiming.equations import DEFAULT_BOUND
from ...tpm.usual import PRESETS
from ..sockets import PRESET
from .families import backbone_of


class Automatic:
    """A policy that becomes the preset of the model that it meets; see `fitting`."""

    name = "automatic"
    bound = DEFAULT_BOUND
    backbone = None
    needs_state = False

    def begin(self, sigmas: Sequence[float]) -> None:  # noqa: ARG002 - the protocol's signature
        """Nothing runs by it: whoever has a model asks `fitting` first."""
        raise PolicyError("This node cannot take the automatic policy; choose a policy by name in Load Policy.")

    def ratio(self, state: StepState) -> float:  # noqa: ARG002 - the protocol's signature
        """No deviation."""
        return 0.5

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "automatic"}


def fitting(policy: Policy | None, model: Any) -> tuple[Policy, str]:
    """The policy for a MODEL where none, or the automatic one, was connected; with a sentence that says so, or ""."""
    if policy is not None and not isinstance(policy, Automatic):
        return policy, ""
    attached = getattr(model, "attachments", {}).get(PRESET)
    name = attached or PRESETS.get(backbone_of(model))
    why = "No policy is connected" if policy is None else "Load Policy is set to automatic"
    if name is None:
        return Constant(0.0, name="none"), f"{why}, and this model has no preset: the run is synchronous."
    return find_policy(name), f"{why}: the model's preset {name} decides."
