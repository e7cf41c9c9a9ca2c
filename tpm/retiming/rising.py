"""A run whose grid also rises (restarts, unsampling): retimed where σ falls, synchronous everywhere else.

The equations need a step that was just taken towards the image. On each falling stretch a run of its own begins, whose
first step is synchronous; a step that rises, and the last point of a stretch that another step rises from, are told σ.
"""

from __future__ import annotations

import math

from torch import Tensor

from .courses import Course, course_of
from .decisions import Decision
from .evaluation import Seen
from .parts import Stretch, falling
from .retimer import Retimer

NEAR = 1e-3
"""How far from the first point of a stretch, relatively, a sampler may start on it."""


class RisingRun:
    """One run; `retimer` has begun it by `begin_rising`. A course (see `courses`)."""

    def __init__(self, retimer: Retimer) -> None:
        self._retimer, self._points = retimer, retimer.grid
        self._inner = Retimer(retimer.policy, retimer.retiming)
        self._text = retimer.text
        self._stretches = falling(self._points)
        self._course: Course | None = None  # of the stretch in progress
        self._stretch = Stretch(0, 0)
        self._sigma = math.inf
        self._synchronous = True
        self._decisions: list[Decision | None] = [None] * (len(self._points) - 1)
        self.step = -1
        retimer.notes.append(
            f"σ rises in this run: {len(self._stretches)} falling stretches are asynchronous, each from its second step"
            " on, and the rest is synchronous."
        )

    @property
    def decision(self) -> Decision:
        """What holds for the latest evaluation."""
        if self._synchronous or self._course is None:
            return Decision(t_star=self._sigma)
        return self._course.decision

    def condition(self, sigma: float) -> float | Tensor:
        """t* for the evaluation at σ; exactly σ where nothing deviates."""
        self._enter(sigma)
        self._sigma, self._synchronous = sigma, not self._inside(sigma)
        if self._synchronous or self._course is None:
            self._pass(sigma)
            return sigma
        told = self._course.condition(sigma)
        self.step = self._stretch.first + self._course.step
        return told

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:
        """See `Course`."""
        if self._synchronous or self._course is None:
            return denoised
        return self._course.observe(x, denoised, seen)

    def withdraw(self) -> None:
        """See `Course`."""
        if not self._synchronous and self._course is not None:
            self._course.withdraw()

    def settle(self) -> None:
        """The run is over."""
        self._leave()
        last = max((k for k, made in enumerate(self._decisions) if made is not None), default=-1)
        done = [made or Decision(t_star=self._points[k]) for k, made in enumerate(self._decisions[: last + 1])]
        self._retimer.settle([*done, *self._decisions[last + 1 :]])

    # --- inside ---------------------------------------------------------------------------------------------------

    def _enter(self, sigma: float) -> None:
        """Where σ rose, or at the start: leave the stretch, and begin the next one where σ is its first point."""
        if self._course is not None and sigma <= self._sigma * (1 + NEAR):
            return
        self._leave()
        later = (s for s in self._stretches if s.first >= self._stretch.stop)
        found = next((s for s in later if math.isclose(self._points[s.first], sigma, rel_tol=NEAR)), None)
        if found is None:
            return
        self._stretch = found
        self._inner.begin(self._points[found.first : found.stop + 1], self._text)
        self._course = course_of(self._inner)

    def _pass(self, sigma: float) -> None:
        """Remember that the step at σ was evaluated, and synchronous."""
        ahead = range(max(self.step, 0), len(self._decisions))
        step = next((k for k in ahead if math.isclose(self._points[k], sigma, rel_tol=NEAR)), None)
        if step is not None:
            self.step, self._decisions[step] = step, Decision(t_star=self._points[step])

    def _leave(self) -> None:
        """Keep what was decided on the stretch that is over."""
        if self._course is None:
            return
        self._course.settle()
        first = self._stretch.first
        self._decisions[first : first + len(self._inner.decisions)] = self._inner.decisions
        self._course = None

    def _inside(self, sigma: float) -> bool:
        """Whether σ is on the stretch in progress; its last point is only where the whole run ends there."""
        first, stop = self._stretch
        lowest = self._points[stop]
        above = sigma > lowest * (1 + NEAR) or stop == len(self._points) - 1
        return self._course is not None and above and sigma <= self._points[first] * (1 + NEAR)
