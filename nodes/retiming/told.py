"""Puts t* where the model's own timestep was: what one patched model's network is told, while a run has it in hand.

`process_timestep` is called for every family, after σ has become a timestep and outside of the network: the network
sees what it returns, and nothing else does. Previews, ControlNet, other patches and the sampler keep the true σ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from comfy.patcher_extension import WrappersMP
from torch import Tensor, float32, tensor, where

from ...tpm.errors import HostError
from ...tpm.retiming.clock import Clock
from ...tpm.retiming.equations import Value
from ..weak import weakly
from .families import Family, family_of

KEY = "asyncdiff"
INSIDE = "asyncdiff_inside"


class Moment(NamedTuple):
    """One evaluation that is retimed."""

    unit: Value  # where σ is on the clock's line: a float, or (1,) on the latent's device
    t_star: Value  # on the same line: a float, (1,) or (B,)
    clock: Clock
    ahead: Sequence[float] = ()  # the t* of the whole run, where they are known and numbers; another object each run


class Told:
    """What the network of one patched model is told."""

    def __init__(self, patched: Any) -> None:
        """Put this in the place of the model's `process_timestep`. It holds no model (see `weak`)."""
        self._next = weakly(patched.get_model_object("process_timestep"))
        self._model = weakly(patched.model)
        self.family: Family = family_of(patched.model)
        self.moment: Moment | None = None  # None: the network is told σ
        self.rows: list[int] | None = None  # which samples of the batch are in this call; None: all of them
        self.asked = False  # whether there was a timestep in this evaluation
        self.leads = False  # whether a guider samples with this model as its first
        self.leader: Told | None = None  # another model's, whose run decides for this one as well
        self._ahead: Sequence[float] = ()
        self._foreseen: dict[float, float] = {}  # the network's timestep by t*, for those
        patched.add_object_patch("process_timestep", self.process_timestep)
        if self.family.conversion in ("x0", "inside"):
            patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, INSIDE, self.network)

    def process_timestep(self, timestep: Tensor, **kwargs: Any) -> Tensor:
        """The timestep (n,) that the network receives: n is the batch once for each conditioning in the call."""
        decides = self.leader or self
        decides.asked = True
        if decides.moment is not None and self.family.conversion != "inside":
            timestep = self._retimed(timestep, decides.moment, decides.rows)
        return self._next()(timestep, **kwargs)

    def network(self, executor: Any, x: Any, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around the network of a family that does more with its timestep (see `families`)."""
        decides = self.leader or self
        moment = decides.moment
        if moment is None:
            return executor(x, timestep, *args, **kwargs)
        if self.family.conversion == "inside":
            return executor(x, self._retimed(timestep, moment, decides.rows), *args, **kwargs)
        return self._as_if_told_sigma(executor(x, timestep, *args, **kwargs), moment, decides.rows)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _retimed(self, timestep: Tensor, moment: Moment, rows: list[int] | None) -> Tensor:
        """`timestep` in the model's own units with t* in place of σ; untouched, to the bit, wherever t* is σ."""
        unit, t_star, clock, ahead = moment
        if not isinstance(t_star, Tensor):
            if t_star == unit:
                return timestep
            if ahead is not self._ahead:
                self._foresee(ahead, clock)
            if t_star in self._foreseen and timestep.dtype == float32:
                return timestep.new_full(timestep.shape, self._foreseen[t_star])
            return self._in_model_units(timestep.new_full(timestep.shape, t_star), clock)
        t_star = _for_rows(t_star, rows, len(timestep)).to(timestep.device)
        same = t_star == (unit.to(t_star) if isinstance(unit, Tensor) else unit)
        return where(same, timestep, self._in_model_units(t_star.to(timestep), clock))

    def _foresee(self, ahead: Sequence[float], clock: Clock) -> None:
        """What the network is going to be told in this run, in one computation."""
        told = self._in_model_units(tensor(ahead), clock).tolist() if ahead else ()
        self._ahead, self._foreseen = ahead, dict(zip(ahead, told, strict=True))

    def _in_model_units(self, t_star: Tensor, clock: Clock) -> Tensor:
        """As ComfyUI makes its own timestep of σ: σ·1000 for SD3, σ for Flux, in fp32."""
        return clock.timestep(t_star, self._model().model_sampling.timestep).float()

    def _as_if_told_sigma(self, velocity: Tensor, moment: Moment, rows: list[int] | None) -> Tensor:
        """v·t*/σ: the network divided its step to the image by t*, and the sampler multiplies by σ."""
        unit, t_star, *_ = moment
        least = self.family.least
        if not isinstance(t_star, Tensor):
            return velocity if t_star == unit else velocity * (max(t_star, least) / max(float(unit), least))
        t_star = _for_rows(t_star, rows, len(velocity)).to(velocity.device)
        below = unit.to(t_star).clamp(min=least) if isinstance(unit, Tensor) else max(unit, least)
        ratio = t_star.clamp(min=least) / below
        return velocity * ratio.to(velocity).reshape(-1, *[1] * (velocity.ndim - 1))


def _for_rows(t_star: Tensor, rows: list[int] | None, count: int) -> Tensor:
    """t* (count,) of the rows of a call: those samples of (B,), once for each conditioning; (1,) stands for all."""
    if len(t_star) == 1:
        return t_star
    if rows is not None:
        t_star = t_star[rows]
    if count % len(t_star):
        raise HostError(
            f"A model call has {count} rows where the batch has {len(t_star)}: another node splits the batch in a way"
            " that this policy cannot follow. Use a constant or a curve, or sample fewer images at once."
        )
    return t_star.repeat(count // len(t_star))
