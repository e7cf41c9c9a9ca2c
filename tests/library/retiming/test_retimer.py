"""One run: what the retimer answers, when it asks the policy, and what it leaves alone."""

import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdiff.tpm.errors import AsyncDiffError, GridError, PolicyError, RetimingError
from asyncdiff.tpm.policies import Constant, Curve, Learned, Recorded, TextCondition
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.retiming.retimer import Retimer
from asyncdiff.tpm.retiming.settings import Retiming
from asyncdiff.tpm.retiming.trace import Trace

settings.register_profile("patient", deadline=None)  # a busy machine is not a failure
settings.load_profile("patient")

SIGMAS = [3 * s / (1 + 2 * s) for s in [(1000 - int(k * 1000 / 15)) / 1000 for k in range(15)]] + [0.0]
TINY = TPMConfig("sd3", latent_channels=4, context_dim=12, pooled_dim=8, width=16, heads=2, layers=1, grid=2)
TEXT = TextCondition(torch.ones(1, 5, 12), torch.ones(1, 8))


class Spy:
    """A policy that says what it was asked."""

    name, bound, backbone, needs_state = "spy", 0.5, None, True

    def __init__(self, r=0.7):
        self.r, self.states, self.runs = r, [], 0

    def begin(self, sigmas):
        self.runs += 1

    def ratio(self, state):
        self.states.append(state)
        return self.r

    def to_dict(self):
        return {"name": self.name}


def field(x, t):
    """A velocity field that depends on the conditioning timestep."""
    t = t if isinstance(t, torch.Tensor) else torch.tensor(t)
    return torch.sin(3 * x) + t.reshape(-1, 1, 1, 1).to(x) * x


def sample(retimer, f=field, sigmas=SIGMAS, batch=2, text=TEXT):
    """The loop of spec section 1 with the Euler solver."""
    x = torch.randn(batch, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    retimer.begin(sigmas, text)
    for sigma, after in pairwise(sigmas):
        v = f(x, retimer.condition(sigma))
        x = x + (after - sigma) * retimer.observe(x, sigma, v)
    return x


def plain(f=field, sigmas=SIGMAS, batch=2):
    x = torch.randn(batch, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for sigma, after in pairwise(sigmas):
        x = x + (after - sigma) * f(x, sigma)
    return x


def trained(seed=0):
    torch.manual_seed(seed)
    tpm = TPM(TINY).eval()
    torch.nn.init.normal_(tpm.head.last.weight)
    return tpm


def test_the_golden_row_through_the_loop():
    retimer = Retimer(Constant(0.2))
    sample(retimer)
    printed = "1 .9724 .9462 .9174 .8860 .8503 .8104 .7660 .7144 .6551 .5875 .5065 .4099 .2947 .1493"
    assert [round(t, 4) for t in retimer.trace.t_star] == [float(t) for t in printed.split()]
    assert retimer.trace.sigmas == SIGMAS
    assert retimer.trace.deviation == pytest.approx([0.0] + [0.2] * 14)


@pytest.mark.parametrize(
    ("gamma", "bound", "d"), [(2.0, None, 0.4), (1.0, 1.0, 0.4), (2.0, 1.0, 0.8), (0.5, None, 0.1)]
)
def test_gamma_and_bound_rescale_the_deviation(gamma, bound, d):
    retimer = Retimer(Constant(0.2), Retiming(gamma=gamma, bound=bound))
    sample(retimer)
    assert retimer.trace.deviation[1:] == pytest.approx([d] * 14)
    assert retimer.trace.retiming["bound"] == (bound or 0.5)


def test_a_clamped_step_holds_the_deviation_as_applied_and_as_proposed():
    """One D in every chart: what t* stands for after the clamp; what was asked for stands beside it."""
    retimer = Retimer(Constant(0.5), Retiming(gamma=4.0))
    sample(retimer)
    trace = retimer.trace
    assert trace.proposed[1:] == [2.0] * 14
    assert trace.clamped == [False] * 14 + [True]
    assert trace.deviation[-1] == pytest.approx((trace.t_star[-1] - SIGMAS[14]) / (SIGMAS[14] - SIGMAS[13]))
    assert trace.deviation[:-1] == trace.proposed[:-1]
    again = Trace.from_dict(trace.to_dict())
    assert again == trace
    assert Trace.from_dict({k: v for k, v in trace.to_dict().items() if k != "proposed"}).proposed == trace.deviation


@pytest.mark.parametrize(
    ("policy", "retiming"),
    [
        (Constant(0.0), Retiming()),
        (Constant(0.4), Retiming(gamma=0.0)),
        (Curve([(0.5, 0.0)]), Retiming(gamma=2.0, velocity_coupling=1.0)),
        (Learned(TPM(TINY)), Retiming(gamma=2.0, bound=1.0)),
        (Learned(TPM(TINY), "mean"), Retiming(velocity_coupling=1.0)),
        (Learned(TPM(TINY)), Retiming(target="velocity")),
        (Learned(trained()), Retiming(gamma=0.0)),
        (Constant(0.4), Retiming(tail_sync=15)),
        (Constant(0.4), Retiming(tail_sync=99)),
    ],
)
def test_nothing_deviates_bit_for_bit(policy, retiming):
    assert torch.equal(sample(Retimer(policy, retiming)), plain())


def test_control_a_deviation_does_change_the_result():
    for policy in (Constant(0.2), Learned(trained())):
        assert not torch.equal(sample(Retimer(policy)), plain())


@pytest.mark.parametrize("policy", [Constant(0.5), Curve([(0.1, -0.5), (0.9, 0.5)]), Learned(trained())])
def test_a_velocity_field_constant_in_time_gives_the_synchronous_result(policy):
    def still(x, t):
        return torch.sin(3 * x)

    assert torch.equal(sample(Retimer(policy, Retiming(gamma=2.0)), still), plain(still))


def test_p_one_is_lying_sigma():
    """Model and x0 both at ρσ (Lying Sigma, Detail Daemon) is conditioning ratio ρ together with ω = ρ."""
    d, retimer = 0.3, Retimer(Constant(0.3), Retiming(velocity_coupling=1.0))
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    before = None
    for sigma, after in pairwise(SIGMAS):
        lied = sigma if before is None else sigma + d * (sigma - before)
        x0 = x - lied * field(x, lied)  # the denoiser's answer, computed with the σ it was told
        x = x + (after - sigma) * (x - x0) / sigma  # the sampler's Euler step with the true σ
        before = sigma
    assert torch.allclose(sample(retimer), x, atol=1e-5)
    assert not torch.allclose(sample(Retimer(Constant(0.3))), x, atol=1e-2)


def test_velocity_target_is_equation_19():
    retimer = Retimer(Constant(0.2), Retiming(target="velocity"))
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for k, (sigma, after) in enumerate(pairwise(SIGMAS)):
        omega = 1.0 if k in (0, 14) else 0.5 + 0.7
        x = x + (after - sigma) * omega * field(x, sigma)
    assert torch.allclose(sample(retimer), x, atol=1e-5)
    assert retimer.trace.t_star == SIGMAS[:-1]


def test_tail_sync_leaves_the_last_steps():
    retimer = Retimer(Constant(0.2), Retiming(tail_sync=3))
    sample(retimer)
    assert retimer.trace.t_star[-3:] == SIGMAS[-4:-1]
    assert retimer.trace.t_star[11] != SIGMAS[11]


def test_the_policy_is_asked_k_minus_one_times_on_the_previous_step():
    spy = Spy()
    sample(Retimer(spy))
    assert [state.index for state in spy.states] == list(range(14))
    for k, state in enumerate(spy.states):
        assert (state.sigma, state.sigma_next, state.steps) == (SIGMAS[k], SIGMAS[k + 1], 15)
        assert state.text is TEXT
    assert spy.states[0].t_star == 1.0
    assert spy.states[5].t_star == pytest.approx(0.8503, abs=1e-4)


def test_the_velocity_shown_to_the_policy_is_unscaled():
    spy = Spy()
    retimer = Retimer(spy, Retiming(velocity_coupling=1.0))
    sample(retimer)
    for state in spy.states:
        assert torch.equal(state.v, field(state.x, state.t_star))


def test_gamma_zero_and_the_tail_ask_nothing():
    idle, tail = Spy(), Spy()
    sample(Retimer(idle, Retiming(gamma=0.0)))
    sample(Retimer(tail, Retiming(tail_sync=5)))
    assert not idle.states
    assert len(tail.states) == 9
    assert not Retimer(idle, Retiming(gamma=0)).active


def test_formula_policies_see_no_latent_and_cost_no_tensor_work():
    retimer = Retimer(Constant(0.2), Retiming(gamma=2))
    retimer.begin(SIGMAS, TEXT)
    for sigma in SIGMAS[:-1]:
        v = object()  # not even a tensor: nothing may touch it
        assert isinstance(retimer.condition(sigma), float)
        assert retimer.observe(object(), sigma, v) is v
    assert retimer._observed.x is None


def test_velocity_keeps_its_dtype_and_identity():
    retimer = Retimer(Constant(0.2), Retiming(velocity_coupling=1.0))
    retimer.begin(SIGMAS)
    v = torch.ones(2, 4, 2, 2, dtype=torch.bfloat16)
    retimer.condition(SIGMAS[0])
    assert retimer.observe(v, SIGMAS[0], v) is v
    retimer.condition(SIGMAS[1])
    assert retimer.observe(v, SIGMAS[1], v).dtype == torch.bfloat16


def test_learned_timesteps_are_per_sample():
    retimer = Retimer(Learned(trained()))
    sample(retimer, batch=3)
    trace = retimer.trace
    assert trace.t_star[0] == 1.0
    assert all(len(entry) == 3 for entry in trace.t_star[1:])
    assert len(set(trace.t_star[1])) == 3


def heun(retimer, f=field, sigmas=SIGMAS, tell=True):
    """Heun's solver; the last step is Euler's. Records the conditioning of every evaluation."""
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    retimer.begin(sigmas)
    seen = []
    for sigma, after in pairwise(sigmas):
        seen.append(retimer.condition(sigma, True if tell else None))
        v = retimer.observe(x, sigma, f(x, seen[-1]))
        if after > 0:
            guess = x + (after - sigma) * v
            seen.append(retimer.condition(after, False if tell else None))
            v = (v + retimer.observe(guess, after, f(guess, seen[-1]))) / 2
        x = x + (after - sigma) * v
    return x, seen


def test_heun_holds_the_ratio_at_its_second_stage():
    spy = Spy()
    _, seen = heun(Retimer(spy))
    expected = [SIGMAS[k] + 0.2 * (SIGMAS[k] - SIGMAS[k - 1]) if k else 1.0 for k in range(15)]
    assert len(spy.states) == 14
    assert seen[::2] == pytest.approx(expected)
    rho = [t / s for t, s in zip(expected, SIGMAS, strict=False)]
    assert seen[1::2] == pytest.approx([r * s for r, s in zip(rho, SIGMAS[1:-1], strict=False)])


def test_heun_decides_on_the_first_stage_only():
    told, untold = Spy(), Spy()
    x = heun(Retimer(told))[0]
    heun(Retimer(untold), tell=False)
    assert torch.isfinite(x).all()
    assert [state.index for state in untold.states] == list(range(14))
    assert [state.sigma for state in told.states] == SIGMAS[:14]


def test_heun_is_unchanged_without_deviation():
    reference = heun(Retimer(Constant(0.0), Retiming(gamma=0)))[0]
    for policy in (Constant(0.0), Learned(TPM(TINY))):
        assert torch.equal(heun(Retimer(policy))[0], reference)


def test_off_grid_sigmas_hold_the_ratio_of_their_step():
    retimer = Retimer(Constant(0.2))
    retimer.begin(SIGMAS)
    assert retimer.condition(0.99997) == 0.99997  # dpmpp_2m_sde, er_sde and sa_solver start below 1
    v = torch.ones(1, 1, 1, 1)
    retimer.observe(v, 0.99997, v)
    rho = retimer.condition(SIGMAS[1]) / SIGMAS[1]
    assert retimer.condition(0.96) == pytest.approx(rho * 0.96)
    assert retimer.condition(SIGMAS[1]) == pytest.approx(rho * SIGMAS[1])


def test_a_run_that_starts_off_the_grid_still_informs_the_policy():
    spy = Spy()
    retimer = Retimer(spy)
    retimer.begin(SIGMAS)
    x = torch.ones(1, 1, 1, 1)
    retimer.condition(0.99997)
    retimer.observe(x, 0.99997, x)
    retimer.condition(SIGMAS[1])
    assert spy.states[0].sigma == 0.99997


def test_asking_twice_gives_one_answer_and_one_decision():
    spy = Spy()
    retimer = Retimer(spy)
    retimer.begin(SIGMAS)
    x = torch.ones(1, 1, 1, 1)
    retimer.condition(SIGMAS[0])
    retimer.observe(x, SIGMAS[0], x)
    assert retimer.condition(SIGMAS[1]) == retimer.condition(SIGMAS[1])
    assert len(spy.states) == 1


def test_a_sub_grid_is_a_grid_and_starts_synchronous():
    retimer = Retimer(Constant(0.2))
    sample(retimer, sigmas=SIGMAS[6:])
    assert retimer.trace.t_star[0] == SIGMAS[6]
    assert retimer.trace.t_star[1] == pytest.approx(0.7660, abs=1e-4)
    sample(retimer, sigmas=SIGMAS[3:9])  # split sigmas: does not end at 0
    assert retimer.trace.steps == 5


def test_one_step_grids_are_synchronous():
    assert torch.equal(sample(Retimer(Constant(0.5)), sigmas=[1.0, 0.0]), plain(sigmas=[1.0, 0.0]))


def test_runs_do_not_leak_into_each_other():
    retimer = Retimer(Learned(trained()))
    first = sample(retimer)
    sample(retimer, sigmas=SIGMAS[4:], batch=1)
    assert torch.equal(sample(retimer), first)


def test_a_missing_observation_is_a_sentence_only_for_policies_that_need_it():
    for policy, fails in ((Constant(0.2), False), (Spy(), True)):
        retimer = Retimer(policy)
        retimer.begin(SIGMAS)
        retimer.condition(SIGMAS[0])
        if fails:
            with pytest.raises(AsyncDiffError, match="call observe"):
                retimer.condition(SIGMAS[1])
        else:
            assert retimer.condition(SIGMAS[1]) == pytest.approx(0.9724, abs=1e-4)


def leaving_out(retimer, steps, cache):
    """A run on SIGMAS that evaluates only some steps: the others are never asked for, or a cache answers."""
    retimer.begin(SIGMAS, TEXT)
    for step, sigma in enumerate(SIGMAS[:-1]):
        x = torch.full((2, 4, 4, 4), float(step))
        if step in steps:
            retimer.condition(sigma)
            retimer.observe(x, sigma, x)
        elif cache == "inside":
            retimer.condition(sigma)
            retimer.withdraw()


@pytest.mark.parametrize("cache", ["outside", "inside"])
def test_the_trace_shows_what_was_evaluated(cache):
    retimer = Retimer(Constant(0.3))
    leaving_out(retimer, {0, 1, 4, 14}, cache)
    trace = retimer.trace
    assert [k for k, d in enumerate(trace.deviation) if d] == [1, 4, 14]
    assert [trace.t_star[k] for k in (2, 3, 5)] == [SIGMAS[k] for k in (2, 3, 5)]


@pytest.mark.parametrize("cache", ["outside", "inside"])
def test_the_last_state_that_was_seen_decides(cache):
    spy = Spy()
    retimer = Retimer(spy)
    leaving_out(retimer, {2, 3, 7, 8}, cache)
    decided = [state for state in spy.states if state.index + 1 in (3, 7, 8)]
    assert [(float(s.x[0, 0, 0, 0]), s.sigma, s.sigma_next, s.index) for s in decided] == [
        (2, SIGMAS[2], SIGMAS[3], 2),
        (3, SIGMAS[3], SIGMAS[7], 6),
        (7, SIGMAS[7], SIGMAS[8], 7),
    ]
    assert [k for k, d in enumerate(retimer.trace.deviation) if d] == [3, 7, 8]  # before any state was seen: none


def test_a_second_stage_that_a_cache_answers_leaves_the_step_decided():
    retimer = Retimer(Constant(0.3))
    retimer.begin(SIGMAS)
    x = torch.zeros(1)
    for sigma in SIGMAS[:2]:
        retimer.condition(sigma)
        retimer.observe(x, sigma, x)
    retimer.condition(SIGMAS[2], new_step=False)
    retimer.withdraw()
    assert retimer.trace.deviation[1] == pytest.approx(0.3)


def test_sigmas_that_lie_by_a_few_percent_end_no_run():
    for lie in (0.9, 0.95, 0.98, 1.02, 1.05):
        retimer = Retimer(Learned(trained()))
        told = sample_lying(retimer, lie)
        assert len(told) == len(SIGMAS) - 1
        assert any(t != s for t, s in told)


def sample_lying(retimer, lie):
    """What a detail sampler does: the denoiser is shown another σ than the sampler's own, in the middle of a run."""
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    retimer.begin(SIGMAS, TEXT)
    told = []
    for sigma, after in pairwise(SIGMAS):
        shown = sigma * lie
        t = retimer.condition(shown)
        x = x + (after - sigma) * retimer.observe(x, shown, field(x, t))
        told.append((float(torch.as_tensor(t).flatten()[0]), shown))
    return told


def test_a_grid_that_starts_again_is_a_new_run():
    spy = Spy()
    retimer = Retimer(spy)
    first = sample(retimer)
    asked = len(spy.states)
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for sigma, after in pairwise(SIGMAS):  # the next block, without another begin
        x = x + (after - sigma) * retimer.observe(x, sigma, field(x, retimer.condition(sigma)))
    assert torch.equal(x, first)
    assert spy.runs == 2
    assert len(spy.states) == 2 * asked


def test_use_before_begin_is_a_sentence():
    with pytest.raises(AsyncDiffError, match="begin"):
        Retimer(Constant(0.1)).condition(1.0)


def test_bad_grids_are_sentences():
    with pytest.raises(GridError):
        Retimer(Constant(0.1)).begin([1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    "values",
    [
        {"gamma": math.nan},
        {"gamma": math.inf},
        {"gamma": 100},
        {"gamma": "1"},
        {"gamma": True},
        {"bound": 0},
        {"bound": -0.5},
        {"bound": 2},
        {"tail_sync": -1},
        {"tail_sync": 1.5},
        {"velocity_coupling": math.nan},
        {"sigma_min": -0.1},
        {"sigma_min": 0.9},
        {"target": "noise"},
        {"target": "velocity", "velocity_coupling": 1.0},
    ],
)
def test_bad_retimings_are_sentences(values):
    with pytest.raises(RetimingError) as caught:
        Retiming(**values)
    assert str(caught.value).endswith(".")


grids = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=12, unique=True).map(
    lambda sigmas: [*sorted(sigmas, reverse=True), 0.0]
)


@given(
    sigmas=grids,
    d=st.floats(-1, 1),
    gamma=st.floats(-10, 10),
    within=st.booleans(),
    tail=st.integers(0, 3),
)
@settings(max_examples=80)
def test_whole_runs_keep_every_promise(sigmas, d, gamma, within, tail):
    retiming = Retiming(gamma=gamma, within_interval=within, tail_sync=tail)
    retimer = Retimer(Constant(d, bound=1.0), retiming)
    retimer.begin(sigmas)
    t_star = [retimer.condition(sigma) for sigma in sigmas[:-1]]
    assert t_star[0] == sigmas[0]
    assert all(1e-3 <= t <= sigmas[0] for t in t_star)
    synchronous = range(max(len(t_star) - tail, 0), len(t_star))
    assert all(t_star[k] == sigmas[k] for k in synchronous)
    if gamma == 0 or d == 0:
        assert t_star == sigmas[:-1]
    if within:
        assert all(sigmas[k + 1] <= t_star[k] <= sigmas[k - 1] for k in range(1, len(t_star)))


def test_clamped_actions_are_marked():
    retimer = Retimer(Constant(1.0, bound=1.0), Retiming(gamma=10))
    sample(retimer)
    assert retimer.trace.clamped[0] is False
    assert retimer.trace.clamped[-1] is True
    assert retimer.trace.t_star[-1] == 1e-3


@pytest.mark.parametrize("policy", [Constant(0.2), Learned(trained())])
def test_traces_survive_a_file_and_replay_bit_for_bit(tmp_path, policy):
    retimer = Retimer(policy, Retiming(gamma=1.5))
    image = sample(retimer)
    trace = Trace.load(retimer.trace.save(tmp_path / "trace.json"))
    assert trace == retimer.trace
    assert json.loads((tmp_path / "trace.json").read_text())["format"] == "asyncdiff-trace"
    assert torch.equal(sample(Retimer(Recorded(trace), Retiming(gamma=1.5))), image)
    with pytest.raises(GridError):
        sample(Retimer(Recorded(trace)), sigmas=SIGMAS[1:])


def test_a_trace_of_a_batch_does_not_fit_another_batch():
    retimer = Retimer(Learned(trained()))
    sample(retimer, batch=2)
    with pytest.raises(PolicyError, match="batch"):
        sample(Retimer(Recorded(retimer.trace)), batch=3)


def test_a_host_that_only_observes_still_informs_the_policy():
    """Step caches skip the network, and with it `condition`, but show what they made of it."""
    spy = Spy()
    retimer = Retimer(spy)
    retimer.begin(SIGMAS)
    x = torch.ones(1, 1, 1, 1)
    for sigma in SIGMAS[:4]:
        assert retimer.observe(x, sigma, x) is x
    assert retimer.condition(SIGMAS[4]) == pytest.approx(0.8860, abs=1e-4)
    assert [state.index for state in spy.states] == [0, 1, 2, 3]


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_a_sampler_that_jumps_over_steps_leaves_a_whole_trace(gamma):
    retimer = Retimer(Constant(0.2), Retiming(gamma=gamma))
    retimer.begin(SIGMAS)
    for k in (0, 3, 7):
        retimer.condition(SIGMAS[k])
    assert retimer.trace.steps == 8
    assert retimer.trace.t_star[7] == pytest.approx(SIGMAS[7] + 0.2 * gamma * (SIGMAS[7] - SIGMAS[6]))


def test_a_trace_can_be_read_in_the_middle_of_a_run():
    retimer = Retimer(Constant(0.2))
    retimer.begin(SIGMAS)
    retimer.condition(SIGMAS[0])
    assert retimer.trace.steps == 1
    assert retimer.trace.mean_deviation() == [0.0]
