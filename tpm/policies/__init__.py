"""Policies: who decides how far the conditioning timestep deviates.

A policy answers, once per step, with a ratio r in [0, 1]; `equations.deviation` turns it into D = γ·2B·(r − 0.5). It is
data: it can be saved, shown and shared.
"""

from ..retiming.contract import BACKBONES, Backbone, Policy, StepState, TextCondition, check_backbone
from .files import find_policy, load_policy, policy_from_dict, presets, save_policy
from .learned import READOUTS, Learned, Readout, sample_beta
from .made_for import about_of, images_seen, made_with, retiming_of, solver_for, solver_in, solver_note, solver_told
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
    "about_of",
    "check_backbone",
    "find_policy",
    "images_seen",
    "load_policy",
    "made_with",
    "policy_from_dict",
    "presets",
    "retiming_of",
    "sample_beta",
    "save_policy",
    "solver_for",
    "solver_in",
    "solver_note",
    "solver_told",
]
