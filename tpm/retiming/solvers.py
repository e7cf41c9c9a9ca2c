"""The names of the solvers that a run can use, in ComfyUI's words. What each does is the host's part."""

from __future__ import annotations

from typing import Literal, get_args

Solver = Literal["euler", "dpmpp_2m", "res_multistep", "heun"]

SOLVERS: tuple[Solver, ...] = get_args(Solver)
EULER: Solver = "euler"


def evaluations(solver: str, steps: int) -> int:
    """How often `solver` calls the denoiser in a run of `steps`: Heun twice in every step but the last."""
    return 2 * steps - 1 if solver == "heun" else steps
