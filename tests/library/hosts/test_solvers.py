"""Solvers of the diffusers studio: one grid, their own step, γ = 0 to the bit, a memory of one run only.

That they are ComfyUI's samplers of the same names is a test of the host (tests/host/embedded).
"""

from itertools import pairwise

import pytest
import torch

from support import stock_pipelines as stock

pytest.importorskip("diffusers")

from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers import DiffusersStudio, asynchronous
from asyncdiff.tpm.hosts.diffusers.schedulers import check_euler, solver_of
from asyncdiff.tpm.hosts.diffusers.solvers import with_solver
from asyncdiff.tpm.policies import Constant, Learned
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.retiming.settings import Retiming
from asyncdiff.tpm.retiming.solvers import SOLVERS, evaluations

OTHERS = [name for name in SOLVERS if name != "euler"]
SIGMAS = [1.0, 0.8, 0.55, 0.3, 0.1]


def scheduler_of(solver, **settings):
    return with_solver(FlowMatchEulerDiscreteScheduler(**settings), solver)


def velocity(x, sigma):
    return torch.sin(3 * x) + sigma


def drive(scheduler, x=None, sigmas=SIGMAS):
    """The loop of the pipelines on a velocity that is known."""
    scheduler.set_timesteps(sigmas=sigmas)
    x = torch.linspace(-2, 2, 7) if x is None else x
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t / 1000), t, x, return_dict=False)[0]
    return x


def by_the_book(solver, sigmas):
    """The same run in float64, as the papers write their updates."""
    x, before, last = torch.linspace(-2, 2, 7).double(), None, None
    for s, s_next in pairwise([*sigmas, 0.0]):
        v = velocity(x, s)
        clean = x - s * v
        if solver == "heun" and s_next:
            x = x + (s_next - s) * (v + velocity(x + (s_next - s) * v, s_next)) / 2
        elif before is None or not s_next or solver == "heun":
            x = x + (s_next - s) * v
        else:
            h, h_before = (torch.tensor(a / b).double().log() for a, b in ((s, s_next), (last, s)))
            phi1 = torch.expm1(-h) / -h
            phi2 = (phi1 - 1) / -h
            if solver == "dpmpp_2m":
                mixed = clean + (clean - before) * h / (2 * h_before)
                x = (-h).exp() * x - torch.expm1(-h) * mixed
            else:
                part = phi2 * h / h_before
                x = (-h).exp() * x + h * ((phi1 + part) * clean - part * before)
        before, last = clean, s
    return x


@pytest.mark.parametrize("solver", OTHERS)
def test_a_step_is_the_one_of_the_papers(solver):
    expected = by_the_book(solver, SIGMAS)
    assert torch.allclose(drive(scheduler_of(solver)).double(), expected, atol=1e-5)
    assert (drive(scheduler_of("euler")).double() - expected).abs().max() > 1e-2


@pytest.mark.parametrize("solver", OTHERS)
def test_one_step_is_eulers(solver):
    assert torch.allclose(drive(scheduler_of(solver), sigmas=[1.0]), drive(scheduler_of("euler"), sigmas=[1.0]))


@pytest.mark.parametrize("solver", OTHERS)
def test_a_run_that_was_left_changes_nothing_in_the_next_one(solver):
    scheduler = scheduler_of(solver, shift=3.0)
    expected = drive(scheduler)
    assert scheduler._memory is None
    scheduler.set_timesteps(sigmas=SIGMAS)
    scheduler.step(torch.ones(7), scheduler.timesteps[0], torch.ones(7))
    assert torch.equal(drive(scheduler), expected)


def test_a_run_that_begins_in_the_middle_has_no_step_before_it():
    scheduler, x = scheduler_of("dpmpp_2m"), torch.ones(3)
    scheduler.set_timesteps(sigmas=SIGMAS)
    scheduler.set_begin_index(2)
    (moved,) = scheduler.step(2 * x, scheduler.timesteps[2], x, return_dict=False)
    assert torch.allclose(moved, x + (SIGMAS[3] - SIGMAS[2]) * 2 * x)


def tpm_for(family):
    torch.manual_seed(3)
    made = TPM(TPMConfig(family, stock.CHANNELS, stock.CONTEXT, stock.POOLED, width=16, heads=2, layers=1, grid=2))
    torch.nn.init.normal_(made.head.last.weight)
    return made.eval()


@pytest.mark.parametrize("solver", OTHERS)
@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "FluxPipeline", "StableDiffusion3Img2ImgPipeline"])
def test_stock_pipelines_take_every_solver(name, solver):
    pipe, family = stock.build(name)
    euler, sigmas = stock.run(pipe, 2), pipe.scheduler.sigmas
    pipe.scheduler = with_solver(pipe.scheduler, solver)
    plain = stock.run(pipe, 2)
    assert set(pipe.scheduler.sigmas.tolist()) == set(sigmas.tolist())
    assert not torch.equal(plain, euler)
    with asynchronous(pipe, Constant(0.4), Retiming(gamma=0.0)):
        assert torch.equal(stock.run(pipe, 2), plain)
    with asynchronous(pipe, Constant(0.4)) as run:
        assert (stock.run(pipe, 2) - plain).abs().max() > 1e-3
    assert run.trace.proposed[1:] == pytest.approx([0.4] * (len(run.trace.sigmas) - 2))
    with asynchronous(pipe, Learned(tpm_for(family))) as run:
        assert not torch.equal(stock.run(pipe, 2), plain)
    assert all(len(set(entry)) == 2 for entry in run.trace.t_star[1:-1])
    assert torch.equal(stock.run(pipe, 2), plain)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_studio_names_its_solver_and_keeps_the_grid(make_pipe, tmp_path, solver, monkeypatch):
    from asyncdiff.tpm.hosts.diffusers import studio as module

    monkeypatch.setattr(module, "load_pipeline", lambda *_: (make_pipe("sd3"), tmp_path))
    studio = DiffusersStudio.load(tmp_path, solver=solver)
    assert studio.solver == solver
    assert studio.sigma_grid(5) == DiffusersStudio(make_pipe("sd3")).sigma_grid(5)
    described = module.ConfiguredStudio(studio, 3.0).describe()
    assert described.get("solver", "euler") == solver
    assert ("solver" in described) == (solver != "euler")


def test_euler_is_the_scheduler_itself():
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    assert with_solver(scheduler, "euler") is scheduler
    assert solver_of(scheduler) == "euler"
    assert solver_of(FlowMatchHeunDiscreteScheduler()) == "heun"
    assert [evaluations(solver, 8) for solver in ("euler", "dpmpp_2m", "heun")] == [8, 8, 15]


def test_what_cannot_be_solved_is_a_sentence():
    with pytest.raises(HostError, match="'euler_a' is unknown"):
        scheduler_of("euler_a")
    with pytest.raises(HostError, match="FlowMatchHeunDiscreteScheduler"):
        with_solver(FlowMatchHeunDiscreteScheduler(), "dpmpp_2m")
    with pytest.raises(HostError, match="stochastic_sampling"):
        scheduler_of("dpmpp_2m", stochastic_sampling=True)
    for solver in OTHERS:
        with pytest.raises(HostError, match="first-order"):
            check_euler(scheduler_of(solver))
