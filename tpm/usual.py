"""What the families of models are usually sampled with, and which shipped policy is theirs. It imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EMBEDDED = "embedded"

EMBEDDED_NODE_PRESET = "tiny-sd35-tpm"
"""The embedded pipeline's in ComfyUI, where widgets decide how a policy is applied: the best that needs no tail."""

PRESETS = {"sd3": "sd35-coco", "flux": "flux-coco"}
"""The policy of a family where nobody chose one: the paper's mean deviations. No other family has one that is known."""

FIRST_VALUES = {"sdxl": "sdxl-start"}
"""Shipped policies that are only a careful beginning: a command takes them, a node only where they are chosen."""

UNKNOWN = "constant:0.2"
"""For families without a preset: a careful first value, of which nothing is known."""


@dataclass(frozen=True)
class Usual:
    """What a model family is usually sampled with."""

    steps: int
    cfg: float
    policy: str
    by_solver: Mapping[str, str] = field(default_factory=dict)  # where another policy was made for a solver

    def policy_for(self, solver: str) -> str:
        """The name of the policy that was made for a solver, or the family's own."""
        return self.by_solver.get(solver, self.policy)


def _usual(family: str, steps: int, cfg: float) -> Usual:
    return Usual(steps, cfg, (PRESETS | FIRST_VALUES).get(family, UNKNOWN))


USUAL = {
    EMBEDDED: Usual(8, 3.0, "constant-one-tail", dict.fromkeys(("dpmpp_2m", "res_multistep"), "tiny-sd35-dpmpp_2m")),
    "sd3": _usual("sd3", 15, 5.0),
    "flux": _usual("flux", 10, 3.5),
    "flux2": _usual("flux2", 28, 4.0),
    "qwen-image": _usual("qwen-image", 20, 4.0),
    "z-image": _usual("z-image", 28, 4.0),
    "sdxl": _usual("sdxl", 25, 5.0),
    "sd1": _usual("sd1", 25, 7.5),
    "sd2": _usual("sd2", 25, 7.5),
    "unet": Usual(50, 5.0, ""),
}
"""Per family; the policy is the name of a shipped preset. "unet" is pixel-wise denoising with DDIM."""

CALLED = {
    "sd3": "SD3 or SD3.5", "flux": "Flux", "flux2": "Flux.2", "qwen-image": "Qwen-Image", "z-image": "Z-Image",
    "sdxl": "SDXL", "sd1": "SD1.x", "sd2": "SD2.x",
}  # fmt: skip
"""What people call the families that have a word in policy files."""
