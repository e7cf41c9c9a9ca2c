"""The policy that a trained timestep prediction module (TPM) decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import PolicyError
from ..retiming.contract import DeviceState, StepState, TextCondition, check_bound
from ..retiming.equations import DEFAULT_BOUND, beta_distribution, beta_mean, beta_mode
from .base import describe
from .checkpoint import Card, TPMFile
from .network import TPM, Fixed

Readout = Literal["mode", "mean", "sample"]
READOUTS: tuple[Readout, ...] = ("mode", "mean", "sample")


class Learned:
    """A trained TPM: r is read from Beta(φ(a), φ(b)) per sample. The prompt is encoded once per run.

    compiled: the TPM is compiled by torch.compile, with CUDA graphs on a GPU, which costs some ten seconds at the first
    step of each latent size and saves launches at every other; it needs a compiler (Triton, or a C++ compiler).
    """

    needs_state = True

    def __init__(
        self,
        tpm: TPM,
        readout: Readout = "mode",
        generator: torch.Generator | None = None,
        card: Card | None = None,
        compiled: bool = False,
    ) -> None:
        if readout not in READOUTS:
            raise PolicyError(f"The read-out {readout!r} is unknown; use one of {', '.join(READOUTS)}.")
        self.tpm, self.readout, self.generator, self.card = tpm, readout, generator, card
        self.name = card.name if card else "tpm"
        self.bound = card.bound if card else DEFAULT_BOUND
        self.backbone: str | None = tpm.config.backbone
        self.file: TPMFile | None = None  # what it was loaded from
        self._tokens: Tensor | None = None
        self._fixed: Fixed | None = None
        self._network = compiled_network(tpm) if compiled else tpm
        check_bound(self.bound)

    def check_run(self, shape: Sequence[int], text: TextCondition | None) -> None:
        """Raise PolicyError where the TPM does not read latents of this shape (B, C, …), or this prompt."""
        self.tpm.check(shape, text)

    def begin(self, sigmas: Sequence[float]) -> None:  # noqa: ARG002 - the protocol's signature
        """Forget the previous run's prompt and weights."""
        self._tokens = self._fixed = None

    @torch.no_grad()
    def beta(self, state: StepState | DeviceState) -> tuple[Tensor, Tensor]:
        """(a, b), each (B,), from the TPM (Eq 7). The TPM is moved to the latent's device if it is elsewhere."""
        assert state.x is not None
        assert state.v is not None
        if self._tokens is None:
            self.tpm.to(state.x.device)
            self._tokens, self._fixed = self.tpm.encode_text(state.text, state.x.shape[0]), self.tpm.fixed()
        x0 = state.x - state.sigma * state.v
        return self._network(state.x, state.v, x0, self.tpm.times(state), self._tokens, self._fixed)

    def ratio(self, state: StepState | DeviceState) -> Tensor:
        """The action r (B,): the mode (Eq 18), the mean, or a draw."""
        a, b = self.beta(state)
        if self.readout == "sample":
            return sample_beta(a, b, self.generator)
        return beta_mode(a, b) if self.readout == "mode" else beta_mean(a, b)

    def ratio_on_device(self, state: DeviceState) -> Tensor:
        return self.ratio(state)

    def to_dict(self) -> dict[str, Any]:
        """Name, bound, read-out and card; the weights are in the TPM's own file."""
        card = self.card.to_dict() if self.card else {}
        return describe(self, "learned", readout=self.readout, card=card)


def compiled_network(tpm: TPM) -> Callable[..., tuple[Tensor, Tensor]]:
    """`tpm`, compiled at its first call on each device and latent size. Answers are copied out of the CUDA graph."""
    call = torch.compile(tpm, mode="reduce-overhead", dynamic=False)

    def copied(*given: Any) -> tuple[Tensor, Tensor]:
        a, b = call(*given)
        return a.clone(), b.clone()

    return copied


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
