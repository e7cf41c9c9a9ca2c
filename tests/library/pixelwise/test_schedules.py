"""Pixel-wise schedules and updates: the golden tables of the specification, their properties, and controls."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdiff.tpm.pixelwise import schedules as sc
from asyncdiff.tpm.pixelwise import updates as up
from asyncdiff.tpm.pixelwise.errors import RegionError, ScheduleError

settings.register_profile("patient", deadline=None)  # a busy machine is not a failure
settings.load_profile("patient")

STEPS = 50
# spec/pixelwise.md section 1: T = 1000, S = 50, τ = 1, k = .5; the state used at step i, 50 is the final target
GOLDEN = {
    None: {0: 981, 1: 961, 2: 941, 10: 781, 24: 501, 25: 481, 26: 461, 40: 181, 48: 21, 49: 1, 50: 0},
    "quadratic": {
        0: 990.8, 1: 980.2, 2: 969.2, 10: 866.8, 24: 626, 25: 605.8, 26: 585.2, 40: 254.8, 48: 30.8, 49: 1, 50: 0,
    },
    "piecewise": {0: 991, 1: 981, 2: 971, 10: 891, 24: 751, 25: 721, 26: 691, 40: 271, 48: 31, 49: 1, 50: 0},
    "exponential": {
        0: 985.1216, 1: 969.1245, 2: 953.0063, 10: 819.3945, 24: 562.2297, 25: 542.5379, 26: 522.6503, 40: 221.2993,
        48: 26.6626, 49: 1, 50: 0,
    },
}  # fmt: skip
OTHER_STRENGTHS = {
    0.3: {0: 986.88, 1: 972.52, 2: 957.92, 10: 832.48, 25: 555.88, 49: 1},  # printed as 554.88; see linearity below
    0.7: {0: 994.72, 1: 987.88, 2: 980.48, 10: 901.12, 25: 655.72},
}
SWITCHED = {  # a pixel of a region of k = .5 for i < 10, of the background for i < 30, of a region of k = .7 after that
    "quadratic": {9: 881, 10: 866.8, 11: 844.6, 29: 445, 30: 422.8, 31: 405.64, 40: 226, 48: 28.24, 49: 1},
    "piecewise": {9: 901, 10: 891, 11: 868.1795, 29: 457.4103, 30: 434.5897, 31: 428.5897, 40: 307, 48: 35, 49: 1},
    "exponential": {
        9: 836.5744, 10: 819.3945, 11: 798.4101, 29: 420.6895, 30: 399.705, 31: 381.2637, 40: 203.3508, 48: 24.8325,
        49: 1,
    },
}  # fmt: skip
GOLDEN_SIGMA = {  # S = 50, k = .5
    "quadratic": {1: 0.9898, 2: 0.9792, 10: 0.88, 25: 0.625, 26: 0.6048, 40: 0.28, 49: 0.0298},
    "piecewise": {1: 0.99, 2: 0.98, 10: 0.9, 25: 0.75, 26: 0.72, 40: 0.3, 49: 0.03},
    "exponential": {1: 0.984122, 2: 0.968125, 10: 0.835574, 25: 0.56123, 26: 0.541538, 40: 0.243382, 49: 0.025663},
}
SD3_FIVE_STEPS = [1, 0.9231, 0.8182, 0.6667, 0.4286, 0]  # shift 3, "simple"


def paper(curve="quadratic", steps=STEPS):
    return sc.Pace(steps, curve, sc.PAPER)


def agrees(states, table, tolerance=5e-5):
    """Whether the states are those of a printed table."""
    return all(abs(states[i] - value) <= tolerance for i, value in table.items())


def every(pace):
    """The states of pixels [background, k = .3, k = .5, k = .7] at every step, (S + 1, 4), by maps."""
    masks = torch.zeros(1, 3, 1, 4, dtype=torch.bool)
    masks[0, 0, 0, 1] = masks[0, 1, 0, 2] = masks[0, 2, 0, 3] = True
    strengths = (0.3, 0.5, 0.7)
    states = [sc.start(masks, strengths, pace)]
    for i in range(pace.steps):
        states.append(sc.reaim(states[-1], i, masks, strengths, pace))
    return torch.cat(states).flatten(1)


def switched(pace):
    """The states of one pixel whose region changes."""
    nobody = torch.zeros(1, 2, 1, 1, dtype=torch.bool)
    first, second = nobody.clone(), nobody.clone()
    first[:, 0] = second[:, 1] = True
    states = [sc.start(first, (0.5, 0.7), pace)]
    for i in range(pace.steps):
        masks = first if i < 10 else nobody if i < 30 else second
        states.append(sc.reaim(states[-1], i, masks, (0.5, 0.7), pace))
    return [state.item() for state in states]


# --- schedules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", GOLDEN)
def test_golden_table_of_the_paper(curve):
    states = sc.trajectory(paper(curve or "quadratic"), None if curve is None else 0.5)
    assert len(states) == STEPS + 1
    assert agrees(states, GOLDEN[curve])


@pytest.mark.parametrize("strength", OTHER_STRENGTHS)
def test_golden_table_of_other_strengths(strength):
    assert agrees(sc.trajectory(paper(), strength), OTHER_STRENGTHS[strength])


def test_the_quadratic_curve_is_linear_in_its_strength():
    """So the states of k = .3 follow from those of the background and of k = .5: 481 + .6 · 124.8 = 555.88."""
    background, some, more = (sc.trajectory(paper(), strength) for strength in (None, 0.3, 0.5))
    assert some == pytest.approx([b + 0.6 * (m - b) for b, m in zip(background, more, strict=True)])


def test_golden_table_of_twenty_steps():
    states = sc.trajectory(paper(steps=20), 0.5)
    assert states[:5] == pytest.approx([974.75, 946, 914.75, 881, 844.75])
    assert states[-3:] == [pytest.approx(74.75), 1, 0]


@pytest.mark.parametrize("curve", sc.CURVES)
def test_golden_table_of_changing_masks(curve):
    assert agrees(switched(paper(curve)), SWITCHED[curve])


def test_the_tables_tell_the_curves_apart():
    for curve in sc.CURVES:
        for other in set(sc.CURVES) - {curve}:
            assert not agrees(sc.trajectory(paper(other), 0.5), GOLDEN[curve])
            assert not agrees(switched(paper(other)), SWITCHED[curve])
        assert not agrees(sc.trajectory(paper(curve), 0.51), GOLDEN[curve])
        assert not agrees(sc.trajectory(sc.Pace(STEPS, curve, sc.Space(1000.0, 0.0, 1)), 0.5), GOLDEN[curve])


@pytest.mark.parametrize("curve", sc.CURVES)
def test_golden_table_of_sigma_space(curve):
    states = sc.trajectory(sc.Pace(STEPS, curve), 0.5)
    assert agrees(states, GOLDEN_SIGMA[curve], 6e-7)
    assert (states[0], states[-1], len(states)) == (1, 0, STEPS + 1)


@pytest.mark.parametrize("curve", sc.CURVES)
def test_maps_and_single_pixels_agree(curve):
    for pace in (paper(curve), sc.Pace(STEPS, curve)):
        expected = [sc.trajectory(pace, strength) for strength in (None, 0.3, 0.5, 0.7)]
        torch.testing.assert_close(every(pace), torch.tensor(expected, dtype=torch.float64).T, rtol=1e-12, atol=1e-12)


def test_names_of_the_paper():
    assert [sc.PAPER_NAMES[name] for name in ("bin", "lin", "exp")] == ["quadratic", "piecewise", "exponential"]


strengths = st.floats(0, 1)
paces = st.builds(sc.Pace, st.integers(1, 60), st.sampled_from(sc.CURVES), st.sampled_from((sc.PAPER, sc.SIGMA)))


@given(pace=paces, k=strengths)
def test_states_go_down_and_their_ends_are_fixed(pace, k):
    states = sc.trajectory(pace, k)
    slack = 1e-9 * pace.space.span
    assert all(later <= earlier + slack for earlier, later in pairwise(states))
    assert states[-1] == 0
    if pace.space is sc.PAPER:
        assert states[-2] == 1
    else:
        assert states[0] == 1


@given(pace=paces, k=strengths, weaker=strengths)
def test_a_stronger_region_is_never_cleaner(pace, k, weaker):
    weaker = min(k, weaker)
    slack = 1e-9 * pace.space.span
    lines = [sc.trajectory(pace, strength) for strength in (None, weaker, k)]
    for background, weak, strong in zip(*lines, strict=True):
        assert background <= weak + slack
        assert weak <= strong + slack


@given(pace=paces)
def test_no_strength_is_the_background(pace):
    assert sc.trajectory(pace, 0.0) == pytest.approx(sc.trajectory(pace), abs=1e-9 * pace.space.span)


@given(pace=paces, seed=st.integers(0, 2**31))
@settings(max_examples=40)
def test_whatever_the_masks_do_the_states_go_down_and_arrive(pace, seed):
    draw = torch.Generator().manual_seed(seed)

    def masks():
        return torch.nn.functional.one_hot(torch.randint(4, (2, 3, 3), generator=draw), 4)[..., 1:].bool().movedim(3, 1)

    chosen = (0.2, 0.95, 0.6)
    state = sc.start(masks(), chosen, pace)
    straight = sc.trajectory(pace)
    for i in range(pace.steps):
        following = sc.reaim(state, i, masks(), chosen, pace)
        assert (following <= state + 1e-9 * pace.space.span).all()
        assert (following >= straight[i + 1] - 1e-9 * pace.space.span).all()
        state = following
    assert (state == 0).all()


def test_uniform_masks_are_the_scalar_schedule():
    masks = torch.ones(2, 1, 3, 5, dtype=torch.bool)
    state, pace = sc.start(masks, (0.4,), paper()), paper()
    for i, expected in enumerate(sc.trajectory(pace, 0.4)[1:]):
        state = sc.reaim(state, i, masks, (0.4,), pace)
        assert torch.equal(state, torch.full((2, 1, 3, 5), expected, dtype=torch.float64))


def test_transitions_are_rounded_clamped_and_never_go_back():
    state = torch.tensor([990.8, 1001.0, 30.8, 5.4, 0.0])
    following = torch.tensor([980.2, 991.0, 1.0, 5.6, 0.0])
    t, t_next = sc.transition(state, following)
    assert t.tolist() == [991, 999, 31, 5, 0]
    assert t_next.tolist() == [980, 991, 1, 5, 0]


@pytest.mark.parametrize("steps", [1, 4, 7, 28, 50, 333])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_background_is_the_hosts_schedule_bit_by_bit(steps, dtype):
    sigmas = torch.cat([torch.linspace(1, 0.01, steps, dtype=dtype) ** 1.7 * 14.6, torch.zeros(1, dtype=dtype)])
    masks, pace = torch.zeros(1, 1, 1, 1, dtype=torch.bool), sc.Pace(steps)
    state = sc.start(masks, (0.5,), pace)
    for i in range(steps):
        assert sc.sigma_at(state, sigmas).item() == sigmas[i].item()
        state = sc.reaim(state, i, masks, (0.5,), pace)
    assert sc.sigma_at(state, sigmas).item() == 0


def test_sigma_of_sd3_by_the_specification():
    shifted = [3 * s / (1 + 2 * s) for s in (1, 0.8, 0.6, 0.4, 0.2, 0)]
    sigmas = torch.tensor(shifted, dtype=torch.float64)
    pace = sc.Pace(5)
    background, item = (torch.tensor(sc.trajectory(pace, k), dtype=torch.float64) for k in (None, 0.5))
    assert [round(s, 4) for s in sc.sigma_at(background, sigmas).tolist()] == SD3_FIVE_STEPS
    assert [round(s, 4) for s in sc.sigma_at(item, sigmas).tolist()] == [1, 0.9538, 0.8811, 0.7576, 0.5238, 0]
    outside = sc.sigma_at(torch.tensor([1.1, -0.1], dtype=torch.float64), sigmas)
    assert outside.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: sc.Pace(0), "steps"),
        (lambda: sc.Pace(True), "steps"),
        (lambda: sc.Pace(5, "cubic"), "quadratic"),
        (lambda: sc.trajectory(sc.Pace(5), 1.2), "0 to 1"),
        (lambda: sc.trajectory(sc.Pace(5), -0.1), "0 to 1"),
        (lambda: sc.trajectory(sc.Pace(5), math.nan), "0 to 1"),
        (lambda: sc.reaim(torch.ones(1, 1, 2, 2), 5 + 1, torch.ones(1, 1, 2, 2).bool(), (0.5,), sc.Pace(5)), "no step"),
        (lambda: sc.sigma_at(torch.ones(1), torch.ones(1)), "grid"),
    ],
)
def test_bad_schedules_are_sentences(call, word):
    with pytest.raises(ScheduleError, match=word):
        call()


@pytest.mark.parametrize(
    "masks",
    [
        torch.ones(1, 1, 2, 2),
        torch.ones(1, 2, 2, 2).bool(),
        torch.ones(1, 1, 2, 3).bool(),
        torch.ones(3, 1, 2, 2).bool(),
        torch.ones(2, 2).bool(),
    ],
    ids=["not bool", "two for one strength", "another size", "another batch", "no batch"],
)
def test_masks_that_do_not_fit_are_sentences(masks):
    with pytest.raises(RegionError, match=r"masks of shape|do not fit"):
        sc.reaim(torch.ones(2, 1, 2, 2), 0, masks, (0.5,), sc.Pace(5))


# --- updates ------------------------------------------------------------------------------------------------------

ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
# spec/pixelwise.md section 3, scaled-linear .00085–.012, x = .7, o = −.3, z = .5: x0, σ(η=1), x′ η=1, x′ η=0
UPDATES = {
    (991, 980, "eps"): (13.950950, 0.349350, 0.960989, 0.767353),
    (501, 481, "eps"): (1.821958, 0.294785, 0.914668, 0.751152),
    (501, 481, "v"): (0.622523, 0.294785, 0.832533, 0.708719),
    (31, 1, "eps"): (0.762446, 0.040090, 0.778890, 0.749412),
    (1, 0, "eps"): (0.712991, 0.020648, 0.716838, 0.703942),
}


def example():
    """x, o, z of the table, and every transition of it as one map: (1, 1, 1, 5)."""
    t = torch.tensor([[[[t for t, _, _ in UPDATES]]]])
    t_next = torch.tensor([[[[t_next for _, t_next, _ in UPDATES]]]])
    x, output, noise = (torch.full(t.shape, value, dtype=torch.float64) for value in (0.7, -0.3, 0.5))
    return x, output, noise, up.alpha_bar_at(t, ALPHAS), up.alpha_bar_at(t_next, ALPHAS)


def test_golden_updates():
    x, output, noise, a, b = example()
    for place, ((_, _, prediction), (x0, sigma, stochastic, straight)) in enumerate(UPDATES.items()):
        got = [
            up.estimates(x, output, a, prediction)[0],
            up.fresh_noise(a, b, 1.0),
            up.ddim_step(x, output, a, b, prediction=prediction, noise=noise),
            up.ddim_step(x, output, a, b, prediction=prediction, eta=0.0),
        ]
        values = [tensor[0, 0, 0, place].item() for tensor in got]
        assert values == pytest.approx([x0, sigma, stochastic, straight], abs=6e-7)


def test_the_updates_tell_the_predictions_apart():
    x, output, noise, a, b = example()
    wrong = up.ddim_step(x, output, a, b, prediction="v", noise=noise)[0, 0, 0]
    right = torch.tensor([row[2] for row in UPDATES.values()], dtype=torch.float64)
    assert ((wrong - right).abs() < 6e-7).tolist() == [False, False, True, False, False]


def test_pixels_that_do_not_move_stay_bit_by_bit():
    x = torch.randn(2, 4, 3, 3)
    output, noise = torch.randn_like(x), torch.randn_like(x)
    a = torch.rand(2, 1, 3, 3) * 0.9
    b = a.clone()
    b[..., 1, 1] = 0.95
    sigma, sigma_next = ((1 - a) / a).sqrt(), ((1 - b) / b).sqrt()
    for moved in (
        up.ddim_step(x, output, a, b, noise=noise),
        up.sigma_step(x, output, sigma, sigma_next, eta=1.0, noise=noise),
        up.flow_step(x, output, sigma, sigma_next),
    ):
        still = (a == b).expand_as(x)
        assert torch.equal(moved[still], x[still])
        assert not torch.equal(moved[~still], x[~still])


def test_a_clean_final_is_the_estimate_itself():
    x, output, noise, a, _ = example()
    last = up.alpha_bar_at(torch.zeros(1, dtype=torch.long), ALPHAS, clean=True).expand_as(a)
    assert torch.equal(last, torch.ones_like(a))
    assert torch.equal(up.ddim_step(x, output, a, last, noise=noise), up.estimates(x, output, a)[0])
    sigma = ((1 - a) / a).sqrt()
    assert torch.equal(up.sigma_step(x, output, sigma, torch.zeros_like(a), eta=1.0, noise=noise), output)
    kept = up.alpha_bar_at(torch.tensor([0, 5]), ALPHAS)
    assert torch.equal(kept, ALPHAS[[0, 5]])


def test_pixels_that_are_clean_already_do_not_turn_into_nan():
    x, zero = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert torch.equal(up.sigma_step(x, x * 3, zero, zero, eta=1.0, noise=x), x)
    assert torch.equal(up.ddim_step(x, x * 3, zero + 1, zero + 1, noise=x), x)


@given(eta=st.floats(0, 1), sigma=st.floats(0.05, 80), part=st.floats(0, 0.999), seed=st.integers(0, 2**31))
def test_ddim_and_its_form_in_sigma_are_one(eta, sigma, part, seed):
    draw = torch.Generator().manual_seed(seed)
    x, output, noise = torch.randn(3, 1, 4, 2, 2, generator=draw, dtype=torch.float64)
    here, there = torch.full((1, 1, 2, 2), sigma, dtype=torch.float64), torch.full((1, 1, 2, 2), sigma * part).double()
    a, b = 1 / (1 + here**2), 1 / (1 + there**2)
    denoised = up.estimates(x, output, a)[0]
    by_sigma = up.sigma_step(x / a.sqrt(), denoised, here, there, eta=eta, noise=noise)
    torch.testing.assert_close(by_sigma * b.sqrt(), up.ddim_step(x, output, a, b, eta=eta, noise=noise))


def test_a_uniform_map_is_the_scalar_step():
    x, output, noise = torch.randn(3, 2, 4, 3, 3)
    scalars = torch.tensor(0.3), torch.tensor(0.6)
    maps = [value.expand(2, 1, 3, 3) for value in scalars]
    for step, extra in ((up.ddim_step, {"noise": noise}), (up.sigma_step, {}), (up.flow_step, {})):
        pair = (0, 1) if step is up.ddim_step else (1, 0)
        by_map = step(x, output, maps[pair[0]], maps[pair[1]], **extra)
        assert torch.equal(by_map, step(x, output, scalars[pair[0]], scalars[pair[1]], **extra))


def test_each_pixel_goes_its_own_way():
    clean, eps = torch.randn(2, 1, 4, 2, 2, dtype=torch.float64)
    sigma = torch.tensor([[[[0.9, 0.8], [0.7, 0.2]]]], dtype=torch.float64)
    following = sigma - torch.tensor([[[[0.1, 0.4], [0.0, 0.2]]]], dtype=torch.float64)
    stepped = up.flow_step((1 - sigma) * clean + sigma * eps, eps - clean, sigma, following)
    torch.testing.assert_close(stepped, (1 - following) * clean + following * eps)
    together = up.flow_step((1 - sigma) * clean + sigma * eps, eps - clean, sigma.mean(), following.mean())
    assert (together - stepped).abs().max() > 0.01  # the control: one σ for all is another step


def test_the_result_has_the_dtype_of_the_latent():
    x = torch.randn(1, 4, 2, 2, dtype=torch.bfloat16)
    sigma = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    assert up.flow_step(x, x, sigma, sigma / 2).dtype == torch.bfloat16
    assert up.sigma_step(x, x, sigma, sigma / 2).dtype == torch.bfloat16
    assert up.ddim_step(x, x, sigma / 2, sigma, eta=0.0).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"eta": 1.0}, "noise"),
        ({"eta": 1.5}, "η must"),
        ({"eta": 1.0, "noise": torch.zeros(1, 4, 2, 2)}, "noise of shape"),
        ({"eta": 0.0, "prediction": "flow"}, "flow_step"),
        ({"eta": 0.0, "alpha_bar": torch.ones(1, 1, 8, 8)}, "one value per pixel"),
        ({"eta": 0.0, "alpha_bar": torch.ones(1, 1, 1, 4, 4)}, "one value per pixel"),
    ],
)
def test_bad_updates_are_sentences(arguments, word):
    x, half = torch.zeros(1, 4, 4, 4), torch.full((1, 1, 4, 4), 0.5)
    with pytest.raises(ScheduleError, match=word):
        up.ddim_step(x, x, **{"alpha_bar": half, "alpha_bar_next": half, **arguments})
