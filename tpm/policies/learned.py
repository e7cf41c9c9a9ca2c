"""The policy that a trained timestep prediction module (TPM) decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import PolicyError
from ..retiming.contract import StepState, check_bound
from ..retiming.equations import DEFAULT_BOUND, beta_distribution, beta_mean, beta_mode
from .base import describe
from .checkpoint import Card
from .network import TPM

Readout = Literal["mode", "mean", "sample"]
READOUTS: tuple[Readout, ...] = ("mode", "mean", "sample")


class Learned:
    """A trained TPM: r is read from Beta(φ(a), φ(b)) per sample. The prompt is encoded once per run."""

    needs_state = True

    def __init__(
        self,
        tpm: TPM,
        readout: Readout = "mode",
        generator: torch.Generator | None = None,
        card: Card | None = None,
    ) -> None:
        if readout not in READOUTS:
            raise PolicyError(f"The read-out {readout!r} is unknown; use one of {', '.join(READOUTS)}.")
        self.tpm, self.readout, self.generator, self.card = tpm, readout, generator, card
        self.name = card.name if card else "tpm"
        self.bound = card.bound if card else DEFAULT_BOUND
        self.backbone: str | None = tpm.config.backbone
        self._tokens: Tensor | None = None
        check_bound(self.bound)

    def begin(self, sigmas: Sequence[float]) -> None:  # noqa: ARG002 - the protocol's signature
        """Forget the previous run's prompt."""
        self._tokens = None

    @torch.no_grad()
    def beta(self, state: StepState) -> tuple[Tensor, Tensor]:
        """(a, b), each (B,), from the TPM (Eq 7). The TPM is moved to the latent's device if it is elsewhere."""
        assert state.x is not None
        assert state.v is not None
        if self._tokens is None:
            self.tpm.to(state.x.device)
            self._tokens = self.tpm.encode_text(state.text, state.x.shape[0])
        times = self.tpm.times(state)
        x0 = state.x - state.sigma * state.v
        return self.tpm(state.x, state.v, x0, times, self._tokens)

    def ratio(self, state: StepState) -> Tensor:
        """The action r (B,): the mode (Eq 18), the mean, or a draw."""
        a, b = self.beta(state)
        if self.readout == "sample":
            return sample_beta(a, b, self.generator)
        return beta_mode(a, b) if self.readout == "mode" else beta_mean(a, b)

    def to_dict(self) -> dict[str, Any]:
        """Name, bound, read-out and card; the weights are in the TPM's own file."""
        card = self.card.to_dict() if self.card else {}
        return describe(self, "learned", readout=self.readout, card=card)


def sample_beta(a: Tensor, b: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw r ~ Beta(φ(a), φ(b)), shape (B,), strictly inside (0, 1) so that its log-probability is finite.

    The draw happens where the generator lives, so that a CPU generator gives the same r on any device.
    """
    beta = beta_distribution(a, b)
    concentration = torch.stack([beta.concentration1, beta.concentration0], dim=-1)
    if generator is not None:
        concentration = concentration.to(generator.device)
    r = torch._sample_dirichlet(concentration, generator)[..., 0]  # what torch.distributions.Beta draws from
    return r.clamp(1e-6, 1 - 1e-6).to(a.device)
