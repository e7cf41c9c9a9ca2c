"""The equations: the golden tables, the clamps, the velocity scale, the Beta policy."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdiff.tpm.errors import GridError
from asyncdiff.tpm.retiming import equations as rt

settings.register_profile("patient", deadline=None)  # a busy machine is not a failure
settings.load_profile("patient")

# spec/asyncdiff.md section 1: SD3.5, 15 steps, ComfyUI "simple" grid, shift 3, constant r = 0.7
GOLDEN = {
    0.0: "1 .9770 .9514 .9231 .8922 .8573 .8182 .7747 .7244 .6667 .6007 .5222 .4286 .3170 .1772",
    0.2: "1 .9724 .9462 .9174 .8860 .8503 .8104 .7660 .7144 .6551 .5875 .5065 .4099 .2947 .1493",
    0.4: "1 .9678 .9411 .9118 .8799 .8434 .8025 .7573 .7043 .6436 .5743 .4907 .3911 .2724 .1213",
    0.8: "1 .9586 .9308 .9005 .8675 .8294 .7869 .7398 .6842 .6205 .5480 .4593 .3537 .2278 .0654",
}


def simple_grid(steps, shift=3.0):
    """ComfyUI's "simple" scheduler for SD3: K of 1,000 shifted σ, then 0."""
    raw = [(1000 - int(k * 1000 / steps)) / 1000 for k in range(steps)]
    return [shift * s / (1 + (shift - 1) * s) for s in raw] + [0.0]


def conditioned(grid, d, **clamps):
    """t*_k of every step for a constant deviation."""
    pairs = pairwise(grid[:-1])
    return [grid[0]] + [
        rt.conditioning_timestep(b, b - a, d, rt.limits(b, t_start=grid[0], **clamps)) for a, b in pairs
    ]


@pytest.mark.parametrize("d", GOLDEN)
def test_golden_table_of_sd35(d):
    printed = [float(x) for x in GOLDEN[d].split()]
    # The table was made from the rounded grid's exact values; four digits are what it states.
    assert [round(t, 4) for t in conditioned(simple_grid(15), d)] == printed


@pytest.mark.parametrize(("gamma", "bound", "d"), [(1, 0.5, 0.2), (2, 0.5, 0.4), (1, 1.0, 0.4), (2, 1.0, 0.8)])
def test_r_of_the_golden_table_gives_its_deviation(gamma, bound, d):
    assert rt.deviation(0.7, gamma, bound) == pytest.approx(d)


def test_lifted_bound_is_gamma_two():
    r = torch.linspace(0, 1, 11)
    assert torch.equal(rt.deviation(r, 1.0, rt.LIFTED_BOUND), rt.deviation(r, 2.0, rt.DEFAULT_BOUND))


@given(d=st.floats(-0.5, 0.5), bound=st.floats(0.5, 1))
def test_ratio_is_the_inverse_of_deviation(d, bound):
    assert rt.deviation(rt.ratio_of(d, bound), 1.0, bound) == pytest.approx(d, abs=1e-12)


# Flux.1-dev, 512 × 512, 10 steps, by hand: 64 × 64 latent, 2 × 2 packing → 1,024 tokens.
# mu = .5 + (1.15 − .5)·(1024 − 256)/(4096 − 256) = .63; σ' = e^mu / (e^mu + 1/σ − 1).
FLUX_MU = 0.63
FLUX_SIGMAS = [0.9441, 0.8825, 0.8142, 0.7380, 0.6525, 0.5559, 0.4459, 0.3195, 0.1726]


def flux_grid(steps=10):
    raw = [1 - k * (1 - 1 / steps) / (steps - 1) for k in range(steps)]
    return [math.exp(FLUX_MU) / (math.exp(FLUX_MU) + 1 / s - 1) for s in raw] + [0.0]


def test_flux_grid_by_hand():
    assert pytest.approx(0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)) == FLUX_MU
    assert [round(s, 4) for s in flux_grid()[1:-1]] == FLUX_SIGMAS


def test_flux_grid_is_what_the_scheduler_of_diffusers_yields():
    diffusers = pytest.importorskip("diffusers")
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
    )
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0.1, 10).tolist(), mu=calculate_shift(1024))
    assert scheduler.sigmas.tolist() == pytest.approx(flux_grid(), abs=1e-6)


def test_flux_conditioning_at_the_papers_mean_deviation():
    # t*_1 = .9441 + .499·(.9441 − 1) = .9162; the last: .1726 + .499·(.1726 − .3195) = .0993
    t_star = conditioned(flux_grid(), 0.499)
    by_hand = {1: 0.94410 + 0.499 * (0.94410 - 1), 9: 0.17261 + 0.499 * (0.17261 - 0.31951)}
    assert t_star[1] == pytest.approx(by_hand[1], abs=1e-4)
    assert t_star[9] == pytest.approx(by_hand[9], abs=1e-4)
    assert all(b < a for a, b in pairwise(t_star))


grids = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=20, unique=True).map(
    lambda s: [*sorted(s, reverse=True), 0.0]
)
deviations = st.floats(-20, 20)


@given(grid=grids, d=deviations)
@settings(max_examples=150)
def test_t_star_stays_between_sigma_min_and_the_start(grid, d):
    for t, t_star in zip(grid[1:-1], conditioned(grid, d)[1:], strict=True):
        assert min(rt.SIGMA_MIN, t) <= t_star <= grid[0]


@given(grid=grids, d=deviations)
@settings(max_examples=150)
def test_within_interval_never_passes_a_neighbour(grid, d):
    for k in range(1, len(grid) - 1):
        allowed = rt.limits(grid[k], t_start=grid[0], floor=grid[k + 1], ceiling=grid[k - 1])
        t_star = rt.conditioning_timestep(grid[k], grid[k] - grid[k - 1], d, allowed)
        assert grid[k + 1] <= t_star <= grid[k - 1]


@given(grid=grids)
def test_no_deviation_is_exact(grid):
    assert conditioned(grid, 0.0) == grid[:-1]
    assert conditioned(grid, -0.0) == grid[:-1]


def test_tensors_and_floats_agree():
    d = torch.tensor([-3.0, -0.3, 0.0, 0.4, 30.0], dtype=torch.float64)
    allowed = rt.limits(0.5, t_start=1.0, floor=0.2)
    together = rt.conditioning_timestep(0.5, -0.1, d, allowed)
    apart = [rt.conditioning_timestep(0.5, -0.1, x, allowed) for x in d.tolist()]
    assert together.tolist() == apart == pytest.approx([0.8, 0.53, 0.5, 0.46, 0.2])
    assert rt.is_clamped(0.5, -0.1, d, allowed).tolist() == [False, False, False, False, True]
    assert rt.is_clamped(0.5, -0.1, 30.0, allowed) is True


@given(grid=grids, d=deviations)
@settings(max_examples=150)
def test_the_applied_deviation_is_that_of_the_clamped_timestep(grid, d):
    for before, t in pairwise(grid[:-1]):
        cut = (t, t - before, d, rt.limits(t, t_start=grid[0]))
        t_star, applied = rt.conditioning_timestep(*cut), rt.applied_deviation(*cut)
        if before - t > 1e-6:
            assert applied == pytest.approx(d, abs=1e-9) or rt.is_clamped(*cut)
        assert t + applied * (t - before) == pytest.approx(t_star, abs=1e-12)


def test_velocity_scale():
    assert rt.velocity_scale(rt.deviation(0.7)) == pytest.approx(0.5 + 0.7)  # Eq 20
    assert rt.coupled_velocity_scale(0.9, 0) == 1.0
    assert rt.coupled_velocity_scale(0.9, 1) == 0.9


def test_phi_is_equation_17():
    x = torch.tensor([-3.0, 0.0, 1e-9, 2.0])
    expected = [1 + math.exp(-3), 2, 2, 2 + 2 + 2]
    assert rt.phi(x).tolist() == pytest.approx(expected)


def test_mode_is_equation_18():
    a, b = torch.meshgrid(torch.linspace(-6, 6, 25), torch.linspace(-6, 6, 25), indexing="ij")
    alpha, beta = rt.beta_parameters(a.double(), b.double())
    literal = (alpha - 1) / (alpha + beta - 2)
    assert torch.allclose(rt.beta_mode(a, b).double(), literal, atol=1e-6)


@pytest.mark.parametrize("x", [-17.0, -25.0, -40.0, -60.0])
def test_mode_survives_where_the_literal_form_does_not(x):
    a = torch.tensor([x, x, x])
    b = torch.tensor([x, x - 1, 2.0])
    alpha, beta = rt.beta_parameters(a, b)
    assert not torch.isfinite(((alpha - 1) / (alpha + beta - 2))[:1]).all()
    mode = rt.beta_mode(a, b)
    assert mode[0] == 0.5
    assert mode[1].item() == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)
    assert 0 <= mode[2] < 1e-6


def test_gradient_of_the_policy_is_finite_everywhere():
    a = torch.tensor([-60.0, -1.0, 0.0, 1e-6, 6.0], requires_grad=True)
    b = torch.zeros(5)
    total = rt.beta_mode(a, b) + rt.beta_mean(a, b) + rt.beta_log_prob(a, b, torch.full((5,), 0.3))
    total.sum().backward()
    assert torch.isfinite(a.grad).all()


def test_mode_saturates_before_the_mean():
    a, b = torch.tensor(2.0), torch.tensor(-2.0)
    assert rt.beta_mode(a, b).item() == pytest.approx(0.974, abs=5e-4)
    assert rt.beta_mean(a, b).item() == pytest.approx(0.841, abs=5e-4)


def test_untrained_policy_is_exactly_one_half():
    zero = torch.zeros(3)
    assert torch.equal(rt.beta_mode(zero, zero), torch.full((3,), 0.5))
    assert torch.equal(rt.beta_mean(zero, zero), torch.full((3,), 0.5))
    assert torch.equal(rt.deviation(rt.beta_mode(zero, zero), 2.0, 1.0), zero)


def test_log_prob_and_entropy_integrate():
    a, b = torch.tensor(0.7), torch.tensor(-0.4)
    r = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    log_p = rt.beta_log_prob(a, b, r.float()).double()
    assert log_p.exp().mean().item() == pytest.approx(1, abs=1e-3)
    assert -(log_p.exp() * log_p).mean().item() == pytest.approx(rt.beta_entropy(a, b).item(), abs=1e-3)


def test_locate_finds_the_step_of_any_sigma():
    grid = simple_grid(15)
    for k, sigma in enumerate(grid[:-1]):
        assert rt.locate(grid, sigma) == k
        assert rt.locate(grid, torch.tensor(sigma).item()) == k  # fp32 rounding
        assert rt.locate(grid, (sigma + grid[k + 1]) / 2) == k
    assert rt.locate(grid, 1.2) == 0
    assert rt.locate(grid, 0.99997) == 0
    assert rt.locate(grid, 0.0) == 14


@given(grid=grids)
def test_locate_is_exact_on_any_grid(grid):
    assert [rt.locate(grid, sigma) for sigma in grid[:-1]] == list(range(len(grid) - 1))


def test_distinct_drops_the_repeats_of_heun():
    assert rt.distinct([1.0, 0.5, 0.5, 0.2, 0.2, 0.0]) == [1.0, 0.5, 0.2, 0.0]


@pytest.mark.parametrize(
    ("sigmas", "word"),
    [
        ([], "two"),
        ([1.0], "two"),
        ([1.0, 0.5, 0.5, 0.0], "decrease"),
        ([0.0, 1.0], "decrease"),
        ([1.0, math.nan, 0.0], "finite"),
        ([14.6, 3.0, 0.0], "flow"),
        ([1.0, 0.5, -0.1], "flow"),
    ],
)
def test_bad_grids_are_sentences(sigmas, word):
    with pytest.raises(GridError, match=word):
        rt.check_grid(sigmas)


def test_grids_may_be_tensors_and_have_one_step():
    assert rt.check_grid(torch.tensor([1.0, 0.0])) == (1.0, 0.0)
