"""Policies: who decides how far the conditioning timestep deviates.

A policy answers, once per step, with a ratio r in [0, 1]; `equations.deviation` turns it into D = γ·2B·(r − 0.5). It is
data: it can be saved, shown and shared.
"""

from ..retiming.contract import BACKBONES, Backbone, Policy, StepState, TextCondition, check_backbone
from .files import find_policy, load_policy, policy_from_dict, presets, save_policy
from .learned import READOUTS, Learned, Readout, sample_beta
from .recorded import Recorded
from .static import Constant, Curve

__all__ = [
    "BACKBONES",
    "READOUTS",
    "Backbone",
    "Constant",
    "Curve",
    "Learned",
    "Policy",
    "Readout",
    "Recorded",
    "StepState",
    "TextCondition",
    "check_backbone",
    "find_policy",
    "load_policy",
    "policy_from_dict",
    "presets",
    "sample_beta",
    "save_policy",
]
