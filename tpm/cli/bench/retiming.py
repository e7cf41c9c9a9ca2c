"""What asynchronous conditioning costs: arithmetic, wall-clock, and waiting for the device.

    asyncdiff bench

`flops` counts on the meta device, with the real shapes of SD3.5-Medium and Flux.1-dev and no weights. `overhead` times
interleaved pairs of an untouched and a retimed run. `synchronisations` counts what would make the host wait for the
device; it looks at the calls and not at a device, so that a machine without a GPU counts what one with a GPU would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ...hosts.diffusers import DiffusersStudio, asynchronous
from ...policies import Constant, Learned, Policy
from ...policies.network import FLUX, SD35, TPM
from ...retiming.contract import Backbone, TextCondition
from .operators import Decided, Operators, run_operators, tpm_operators

MAX_SHARE = 0.001  # TPM call / denoiser evaluation
PAPER_STEPS: dict[Backbone, int] = {"sd3": 15, "flux": 10}
MOST_OPERATORS = 101  # the most in a TPM call: half of what a TPM without shared work calls
MAX_OVERHEAD = 1.02  # retimed run / untouched run, constant policy


# --- arithmetic ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one TPM call (prompt included) and of one evaluation of its denoiser, 512 × 512."""

    model: str
    tpm: int
    denoiser: int

    @property
    def share(self) -> float:
        """The TPM's cost as a part of the denoiser's."""
        return self.tpm / self.denoiser

    def training_share(self, steps: int) -> float:
        """The TPM's cost in training as a part of the denoiser's: asked, asked again, and its gradient, twice as much.

        A trajectory of K steps has K evaluations and K − 1 actions.
        """
        return 4 * (steps - 1) * self.tpm / (steps * self.denoiser)


@cache
def flops(backbone: Backbone) -> Flops:
    """Count for SD3.5-Medium (guidance: batch of 2) or Flux.1-dev (guidance-distilled: batch of 1). Needs diffusers."""
    with torch.device("meta"):
        if backbone == "sd3":
            return Flops("SD3.5-Medium", _count(_tpm_call(TPM(SD35), tokens=333)), _count(sd35_medium_call()))
        return Flops("Flux.1-dev", _count(_tpm_call(TPM(FLUX), tokens=512)), _count(flux_dev_call()))


def sd35_medium_call() -> Callable[[], object]:
    """One evaluation at 512 × 512 with guidance: 2 × 1,024 image tokens, 77 + 256 text tokens. Call under meta."""
    from diffusers import SD3Transformer2DModel

    model: Any = SD3Transformer2DModel(
        num_layers=24,
        num_attention_heads=24,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        in_channels=16,
        out_channels=16,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    latent, context, pooled = torch.empty(2, 16, 64, 64), torch.empty(2, 333, 4096), torch.empty(2, 2048)
    return lambda: model(latent, context, pooled, torch.empty(2))


def flux_dev_call() -> Callable[[], object]:
    """One evaluation at 512 × 512: 1,024 image tokens, 512 text tokens. Call under meta."""
    from diffusers import FluxTransformer2DModel

    model: Any = FluxTransformer2DModel(guidance_embeds=True)  # its defaults are Flux.1-dev's
    latent, context, pooled = torch.empty(1, 1024, 64), torch.empty(1, 512, 4096), torch.empty(1, 768)
    ids = {"img_ids": torch.empty(1024, 3), "txt_ids": torch.empty(512, 3)}
    return lambda: model(latent, context, pooled, torch.empty(1), guidance=torch.empty(1), **ids)


def _tpm_call(tpm: TPM, tokens: int) -> Callable[[], object]:
    text = TextCondition(torch.empty(1, tokens, tpm.config.context_dim), torch.empty(1, tpm.config.pooled_dim))
    latent = torch.empty(1, tpm.config.latent_channels, 64, 64)
    return lambda: tpm(latent, latent, latent, torch.empty(1, 4), tpm.encode_text(text, 1))


def _count(call: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


# --- wall-clock ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overhead:
    """Wall-clock of retimed runs over untouched ones, pair by pair."""

    policy: str
    steps: int
    plain: list[float]  # seconds
    retimed: list[float]

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return median(b / a for a, b in zip(self.plain, self.retimed, strict=True))


def overhead(studio: DiffusersStudio, policy: Policy, prompt: str, steps: int = 8, pairs: int = 9) -> Overhead:
    """Time `pairs` interleaved pairs of one image each, after one run of each kind to warm up."""

    def run(decide: Policy | None) -> Callable[[], float]:
        return lambda: studio.render([prompt], [0], decide, steps=steps).seconds

    return Overhead(policy.name, steps, *interleaved(run(None), run(policy), pairs))


def interleaved(
    plain: Callable[[], float], retimed: Callable[[], float], pairs: int
) -> tuple[list[float], list[float]]:
    """The seconds that both runs say they took, alternating which goes first, after one of each to warm up."""
    plain(), retimed()
    taken: dict[Callable[[], float], list[float]] = {plain: [], retimed: []}
    for pair in range(pairs):
        for run in (plain, retimed) if pair % 2 == 0 else (retimed, plain):
            taken[run].append(run())
    return taken[plain], taken[retimed]


def untrained_policy(studio: DiffusersStudio, **size: int) -> Learned:
    """A TPM of the paper's size, or of `size`, for this pipeline; untrained costs what trained costs."""
    return Learned(TPM(studio.tpm_config(**size)).eval())


# --- waiting for the device ---------------------------------------------------------------------------------------


class ScalarReads(TorchDispatchMode):
    """Counts operators whose result the host must wait for: item(), bool(), float(), nonzero(), equal()."""

    WAITING = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.equal.default,
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.WAITING
        return func(*args, **(kwargs or {}))


class Transfers(TorchFunctionMode):
    """Counts tensors asked onto the host: cpu(), tolist(), numpy(), to("cpu"). On a CPU these dispatch nothing.

    `to` counts where "cpu" is spelt out; with another tensor's device it is a move to where the work is.
    """

    WAITING = (Tensor.cpu, Tensor.tolist, Tensor.numpy)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        words = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, str)]
        to_host = func is Tensor.to and "cpu" in words
        self.count += func in self.WAITING or to_host
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Synchronisations:
    """What a policy adds to a run."""

    policy: str
    per_step: float
    per_run: float


def synchronisations(
    studio: DiffusersStudio, policy: Policy, prompt: str, steps: tuple[int, int] = (4, 8)
) -> Synchronisations:
    """Synchronisations that the policy adds per step and once per run, from runs of two lengths.

    The trace is not read: it is read after a run, one transfer for each of its columns.
    """
    extra = [count_waits(studio, policy, prompt, k) - count_waits(studio, None, prompt, k) for k in steps]
    per_step = (extra[1] - extra[0]) / (steps[1] - steps[0])
    return Synchronisations(policy.name, per_step, extra[0] - steps[0] * per_step)


def count_waits(studio: DiffusersStudio, policy: Policy | None, prompt: str, steps: int) -> int:
    """All synchronisations of one run of the pipeline, up to its latents."""
    generator = torch.Generator().manual_seed(0)
    context = asynchronous(studio.pipe, policy) if policy else nullcontext()
    with context, ScalarReads() as reads, Transfers() as transfers:
        studio.pipe(prompt=prompt, num_inference_steps=steps, generator=generator, output_type="latent")
    return reads.count + transfers.count


# --- report -------------------------------------------------------------------------------------------------------


def report(studio: DiffusersStudio | None, prompt: str, steps: int = 8, pairs: int = 9) -> list[tuple[str, str, str]]:
    """All measurements as rows (what, value, target). Without a studio only the arithmetic."""
    rows = []
    backbones: tuple[Backbone, ...] = ("sd3", "flux")
    for backbone in backbones:
        found = flops(backbone)
        value = f"{found.tpm / 1e9:.2f} G / {found.denoiser / 1e12:.2f} T = {found.share:.4%}"
        rows.append((f"TPM call / {found.model} evaluation, FLOPs", value, f"< {MAX_SHARE:.1%}"))
        length = PAPER_STEPS[backbone]
        value = f"{found.training_share(length):.4%}"
        rows.append((f"TPM / {found.model} while training, {length} steps, FLOPs", value, ""))
    rows += _launches()
    if studio is None:
        return rows
    for policy, target in ((Constant(0.2), f"≤ {MAX_OVERHEAD}"), (untrained_policy(studio), "")):
        timed, waits = overhead(studio, policy, prompt, steps, pairs), synchronisations(studio, policy, prompt)
        value = f"{timed.ratio:.3f} (median of {pairs} pairs, {median(timed.plain):.2f} s untouched)"
        rows.append((f"{policy.name}: retimed / untouched run, {steps} steps", value, target))
        rows.append((f"{policy.name}: synchronisations added per step", f"{waits.per_step:g}", "0"))
        rows.append((f"{policy.name}: synchronisations added per run", f"{waits.per_run:g}", ""))
    return rows


def _launches() -> Iterator[tuple[str, str, str]]:
    """The operators of a TPM call, whose size does not change them, and of an evaluation beside it."""
    yield "TPM call: operators, prompt not included", _counted(tpm_operators(SD35)), f"≤ {MOST_OPERATORS}"
    yield "Evaluation on a device, TPM: operators beside its call", _counted(run_operators(Decided())), ""
    yield "Evaluation on a device, constant: operators", _counted(run_operators(Constant(0.2))), ""


def _counted(found: Operators) -> str:
    return f"{found.called}, of which {found.computing} write a tensor"
