"""The names of the solvers that a run can use, in ComfyUI's words. What each does is the host's part."""

from __future__ import annotations

from typing import Literal, get_args

Solver = Literal["euler", "dpmpp_2m", "res_multistep", "heun"]

SOLVERS: tuple[Solver, ...] = get_args(Solver)
EULER: Solver = "euler"

TWO_STAGES = frozenset({
    *("heun", "exp_heun_2_x0", "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral"),
    *("dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "seeds_2", "sa_solver_pece"),
})  # fmt: skip
OWN_STEPS = frozenset({"dpm_fast", "dpm_adaptive"})
"""These leave the scheduler's σ and choose their own."""


def evaluations(solver: str, steps: int) -> int:
    """How often `solver` calls the denoiser in a run of `steps`; two stages: twice in every step but the last."""
    if solver in TWO_STAGES:
        return 2 * steps - 1
    return {"heunpp2": 3 * steps - 3, "seeds_3": 3 * steps - 2}.get(solver, steps)
