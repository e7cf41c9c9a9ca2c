"""Asynchronous conditioning on a ComfyUI model: the twin of `tpm.hosts.diffusers.retiming`.

A clone of the model gets `hooks` that drive a `HostRun`, and what puts t* in the timestep's place (`told`).
The patched model holds these hooks, so they hold no model: one that is replaced is freed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...tpm.errors import HostError
from ...tpm.policies import Policy
from ...tpm.retiming.equations import distinct
from ...tpm.retiming.settings import Retiming
from .automatic import fitting
from .families import check_generates
from .fit import check_fits, seen_in
from .hooks import Hooks
from .record import RunRecord
from .reports import Watcher
from .run import HostRun
from .shared import FirstEvaluation
from .sharing import publish
from .together import Together
from .told import KEY, Told

PIXELWISE = "asyncdiff_pixelwise"
"""Under which transformer_options hold a model's regions (`pixelwise.model`)."""


def attach(
    model: Any,
    policy: Policy | None,
    retiming: Retiming | None = None,
    watcher: Watcher | None = None,
    first: FirstEvaluation | None = None,
    whole: Sequence[float] | Tensor | None = None,
    before: RunRecord | None = None,
) -> Any:
    """A clone of MODEL that samples asynchronously, with any sampler, scheduler and guider; the original is untouched.

    policy: None stands for the model's preset (see `automatic`).
    first: shared with other runs from the same noise, which then evaluate their first step once (see `can_share`).
    whole: the σ of the whole run, where the runs of this clone are parts of it. before: what the part before recorded.

    Raises HostError for a model that has no run to retime or is asynchronous already, PolicyError for a policy of
    another model family.
    """
    policy, note = fitting(policy, model)
    patched, hooks, run = drive(model, policy, retiming, watcher)
    hooks.first, run.before, run.note = first, before, note
    run.published = partial(publish, policy)
    if whole is not None:
        run.whole = distinct(whole.tolist() if isinstance(whole, Tensor) else whole)
    check_fits(policy, seen_in(model))
    return patched


def attach_together(
    model: Any,
    policy: Policy,
    retimings: Sequence[Retiming],
    watchers: Sequence[Watcher],
    first: FirstEvaluation,
    note: str = "",
) -> Any:
    """As `attach`, for several runs from the same noise as one batch, which holds the same images once for each run.

    note: a sentence for the trace of every run.
    """
    check_fits(policy, seen_in(model))
    patched, told = _clone_of(model)
    runs = [HostRun(told.family, policy, *each) for each in zip(retimings, watchers, strict=True)]
    for run in runs:
        run.published, run.note = partial(publish, policy), note
    hooks = Hooks(told, Together(runs))
    hooks.first = first
    _put(hooks, patched, splits=True)
    return patched


def drive(
    model: Any, policy: Policy, retiming: Retiming | None = None, watcher: Watcher | None = None
) -> tuple[Any, Hooks, HostRun]:
    """As `attach`, with the hooks of the clone and the run that they drive: who decides may change between runs."""
    patched, told = _clone_of(model)
    run = HostRun(told.family, policy, retiming, watcher)
    hooks = Hooks(told, run)
    _put(hooks, patched, splits=policy.needs_state)
    return patched, hooks, run


def _clone_of(model: Any) -> tuple[Any, Told]:
    _check_model(model)
    patched = model.clone()
    return patched, Told(patched)


def _put(hooks: Hooks, patched: Any, splits: bool) -> None:
    """Put the hooks in their places. splits: whether images of one batch are told different timesteps."""
    patched.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, hooks.pre_run)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, hooks.outer_sample)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, hooks.predict_noise)
    if splits and hasattr(WrappersMP, "CALC_COND_BATCH"):
        patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, hooks.calc_cond_batch)


def _check_model(model: Any) -> None:
    check_generates(model)
    if model.get_wrappers(WrappersMP.PREDICT_NOISE, KEY):
        raise HostError(
            "This model is asynchronous already: use either Apply Asynchronous Timesteps or Asynchronous KSampler,"
            " and only one of them."
        )
    if PIXELWISE in model.model_options.get("transformer_options", {}):
        raise HostError(
            "This model is pixel-wise. To have both, connect the policy to Apply Pixel-wise Asynchronous Denoising"
            " itself."
        )
