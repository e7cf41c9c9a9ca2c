"""One run, and what its parties saw: the network, functions after guidance, the sampler's callback, a policy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from support.retiming_runs import Log
from support.zoo.runs import sample
from support.zoo.watch import calls_of


class PerImage:
    """A policy that reads the state and gives the images of a batch deviations of their own, from 0.4 down to 0.2."""

    name, bound, backbone, needs_state = "per image", 0.5, None, True

    def __init__(self) -> None:
        self.states: list[Any] = []

    def begin(self, sigmas: Any) -> None:
        self.states.clear()

    def ratio(self, state: Any) -> Tensor:
        self.states.append(state)
        return 0.5 + self.deviations(len(state.x))

    @staticmethod
    def deviations(batch: int) -> Tensor:
        return torch.linspace(0.4, 0.2, batch)

    def to_dict(self) -> dict[str, Any]:
        return {"policy": "per-image"}


class Parties:
    """A run of a bench, stock without a deviation and a policy."""

    def __init__(
        self, bench: Any, deviation: float = 0.0, policy: Any = None, *, masked: bool = False, **settings: Any
    ) -> None:
        """masked: with the entry's mask. settings: of the retiming."""
        self.log = Log()
        self.processed: list[dict[str, Any]] = []  # what the family's `process_timestep` is given with the timestep
        self.callbacks: list[tuple[Tensor, Tensor]] = []  # (denoised, x), flat
        self.post_cfg: list[float] = []
        model = self._attached(self._probe(bench), deviation, policy, settings)
        with calls_of(bench.network, bench.entry.inner) as self.calls:
            sample(model, bench.entry, masked=masked, callback=self._callback)
        self.sigma_grid = self.calls[0].options["sample_sigmas"].tolist()

    @property
    def sigmas(self) -> list[list[float]]:
        """σ as each call's options and the functions after guidance have it."""
        return [[call.sigma for call in self.calls], self.post_cfg]

    @property
    def shown(self) -> list[tuple[int, ...]]:
        return [tuple(x.shape) for _, x in self.callbacks]

    # --- inside ---------------------------------------------------------------------------------------------------

    def _attached(self, probe: Any, deviation: float, policy: Any, settings: dict[str, Any]) -> Any:
        from asyncdiff.nodes.retiming.patch import attach
        from asyncdiff.tpm.policies import Constant
        from asyncdiff.tpm.retiming.settings import Retiming

        if policy is None and not deviation:
            return probe
        return attach(probe, policy or Constant(deviation), Retiming(**settings), self.log)

    def _probe(self, bench: Any) -> Any:
        """A clone whose `process_timestep` and whose function after guidance write down what they are given."""
        probe = bench.model.clone()

        def process_timestep(timestep: Tensor, **given: Any) -> Any:
            self.processed.append(given)
            return bench.family_timestep(timestep, **given)

        def post_cfg(args: dict[str, Any]) -> Tensor:
            self.post_cfg.append(float(args["sigma"][0]))
            return args["denoised"]

        probe.add_object_patch("process_timestep", process_timestep)
        probe.set_model_sampler_post_cfg_function(post_cfg)
        return probe

    def _callback(self, step: int, denoised: Any, x: Any, total: int) -> None:
        self.callbacks.append((flat(denoised), flat(x)))


def flat(latent: Any) -> Tensor:
    """(B, …), nested or not, as (B, all values of an image)."""
    parts = latent.unbind() if getattr(latent, "is_nested", False) else [latent]
    return torch.cat([part.clone().flatten(1) for part in parts], 1)
