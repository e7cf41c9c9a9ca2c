"""Compiled denoisers, parts that are replaced inside the context, and loops of one's own."""

import warnings
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers import asynchronous
from asyncdiff.tpm.policies import Constant, Learned
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.retiming.settings import Retiming

CONTEXT, POOLED, CHANNELS, STEPS = 12, 8, 4, 4  # of the pipelines in conftest
FAMILIES = ["sd3", "flux"]


def sample(pipe, batch=1, **call):
    draw = torch.Generator().manual_seed(5)
    context, pooled = torch.randn(batch, 6, CONTEXT, generator=draw), torch.randn(batch, POOLED, generator=draw)
    dtype = pipe.transformer.dtype
    given = {"prompt_embeds": context.to(dtype), "pooled_prompt_embeds": pooled.to(dtype)}
    if "StableDiffusion3" in type(pipe).__name__:
        given |= {"negative_prompt_embeds": -given["prompt_embeds"]}
        given |= {"negative_pooled_prompt_embeds": -given["pooled_prompt_embeds"]}
    given |= {"num_inference_steps": STEPS, "height": 64, "width": 64, "output_type": "latent"}
    return pipe(**{**given, "generator": torch.Generator().manual_seed(1), **call}).images


def learned(family, trained=True):
    torch.manual_seed(3)
    tpm = TPM(TPMConfig(family, CHANNELS, CONTEXT, POOLED, width=16, heads=2, layers=1, grid=2))
    if trained:
        torch.nn.init.normal_(tpm.head.last.weight)
    return Learned(tpm.eval())


def told(pipe):
    """The timesteps (0 … 1000) that the embedding computes with, and the hook to remove."""
    seen = []
    embedding = pipe.transformer.time_text_embed
    return seen, embedding.register_forward_pre_hook(lambda _module, args: seen.append(args[0].float()))


# --- half precision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [0.05, 0.2, -0.3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_embedding_is_told_what_the_trace_claims(make_pipe, family, dtype, deviation):
    pipe = make_pipe(family)
    pipe.transformer.to(dtype)
    seen, hook = told(pipe)
    with asynchronous(pipe, Constant(deviation)) as run:
        sample(pipe, num_inference_steps=28)
    hook.remove()
    assert [t[0].item() for t in seen] == pytest.approx([1000 * t for t in run.trace.t_star], rel=1e-6)
    d = [0.0] + [deviation if not cut else None for cut in run.trace.clamped[1:]]
    grid = run.trace.sigmas
    for k in range(1, 28):
        if d[k] is not None:
            acts = (seen[k][0].item() / 1000 - grid[k]) / (grid[k] - grid[k - 1])
            assert acts == pytest.approx(deviation, abs=1e-3), k


def test_a_flux_under_autocast_is_told_exactly_as_well(make_pipe):
    pipe = make_pipe("flux")
    seen, hook = told(pipe)
    with torch.autocast("cpu", torch.bfloat16):
        reference = sample(pipe, 2)
        with asynchronous(pipe, learned("flux", trained=False)):
            assert torch.equal(sample(pipe, 2), reference)
        seen.clear()
        with asynchronous(pipe, Constant(0.05)) as run:
            sample(pipe)
    hook.remove()
    assert [t[0].item() for t in seen] == pytest.approx([1000 * t for t in run.trace.t_star], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_deviate_is_bit_identical_in_half_precision(make_pipe, family, dtype):
    pipe = make_pipe(family)
    pipe.transformer.to(dtype)
    reference = sample(pipe, 2, num_inference_steps=9)
    for policy, retiming in ((Constant(0.3), Retiming(gamma=0.0)), (learned(family, trained=False), Retiming())):
        with asynchronous(pipe, policy, retiming):
            assert torch.equal(sample(pipe, 2, num_inference_steps=9), reference), policy.name


# --- torch.compile ------------------------------------------------------------------------------------------------


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def compile_in_place(pipe):
    pipe.transformer.compile(backend="eager", fullgraph=True)


def compile_wrapped(pipe):
    pipe.transformer = torch.compile(pipe.transformer, backend="eager", fullgraph=True)


WAYS = [compile_in_place, compile_wrapped]


@pytest.mark.parametrize(
    ("family", "dtype", "way"), [("sd3", torch.float32, WAYS[0]), ("flux", torch.bfloat16, WAYS[1])]
)
def test_a_compiled_denoiser_stays_one_graph(make_pipe, dynamo, family, way, dtype):
    pipe = make_pipe(family)
    pipe.transformer.to(dtype)
    reference = sample(pipe)
    with asynchronous(pipe, Constant(0.3)):
        expected = sample(pipe)
    way(pipe)
    assert torch.equal(sample(pipe), reference)
    with asynchronous(pipe, Constant(0.3), Retiming(gamma=0.0)):
        assert torch.equal(sample(pipe), reference)
    for _ in range(3):
        with asynchronous(pipe, Constant(0.3)) as run:
            assert torch.equal(sample(pipe), expected)
    assert run.trace.steps == STEPS
    assert torch.equal(sample(pipe), reference)
    assert not dynamo["graph_break"]
    assert dynamo["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("way", WAYS)
def test_a_denoiser_compiled_inside_the_context_is_followed(make_pipe, dynamo, way):
    pipe = make_pipe("sd3")
    with asynchronous(pipe, learned("sd3")) as run:
        expected = sample(pipe)
        way(pipe)
        assert torch.equal(sample(pipe), expected)
    assert [trace.steps for trace in run.traces] == [STEPS, STEPS]
    assert not dynamo["graph_break"]
    stock = sample(make_pipe("sd3"))
    assert torch.equal(sample(pipe), stock)


# --- parts that are replaced --------------------------------------------------------------------------------------


def other_weights(make_pipe):
    transformer = make_pipe("sd3").transformer
    for parameter in transformer.parameters():
        parameter.data.mul_(0.9)
    return transformer


@pytest.mark.parametrize("replaced", [("scheduler",), ("transformer",), ("scheduler", "transformer")])
@pytest.mark.parametrize("register", [False, True])
def test_a_part_that_is_replaced_inside_the_context_is_followed(make_pipe, replaced, register):
    parts = {"scheduler": FlowMatchHeunDiscreteScheduler(shift=2.0), "transformer": other_weights(make_pipe)}
    parts = {name: parts[name] for name in replaced}
    fresh = make_pipe("sd3")
    fresh.register_modules(**parts)
    with asynchronous(fresh, learned("sd3")) as run:
        expected, trace = sample(fresh), run.trace
    pipe = make_pipe("sd3")
    old = pipe.scheduler, pipe.transformer
    with asynchronous(pipe, learned("sd3")) as run:
        sample(pipe)
        if register:
            pipe.register_modules(**parts)
        else:
            for name, part in parts.items():
                setattr(pipe, name, part)
        assert torch.equal(sample(pipe), expected)
    assert run.trace.t_star == trace.t_star
    for part in (*old, pipe.scheduler, pipe.transformer):
        assert not {"step", "compile", "_compiled_call_impl"} & {*vars(part)}
    assert type(pipe) is type(fresh)


def test_a_part_that_cannot_be_driven_is_refused_where_it_is_put_in(make_pipe):
    pipe = make_pipe("sd3")
    for part, value, words in (
        ("transformer", torch.nn.Linear(1, 1), "drives SD3"),
        ("scheduler", DDIMScheduler(), "flow-matching"),
    ):
        before = getattr(pipe, part)
        with asynchronous(pipe, Constant(0.1)), pytest.raises(HostError, match=words):
            setattr(pipe, part, value)
        setattr(pipe, part, before)


def test_a_sibling_with_other_parts_is_refused_with_a_sentence(make_pipe):
    pipe = make_pipe("sd3")
    own_scheduler = type(pipe)(**{**pipe.components, "scheduler": FlowMatchEulerDiscreteScheduler(shift=1.7)})
    own_transformer = type(pipe)(**{**pipe.components, "transformer": other_weights(make_pipe)})
    sample(pipe)
    with asynchronous(pipe, Constant(0.3)):
        with pytest.raises(HostError, match="did not make"):
            sample(own_scheduler)
        with pytest.raises(HostError, match="not the one that the context watches"):
            sample(own_transformer)
    fresh = make_pipe("sd3")
    other = type(fresh)(**{**fresh.components, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)})
    with asynchronous(fresh, Constant(0.3)), pytest.raises(HostError, match="did not make"):
        sample(other)


# --- loops of one's own -------------------------------------------------------------------------------------------


def own_loop(pipe, steps=True, by_place=False, stop=99):
    """SD3 without guidance. steps: whether the scheduler makes the steps; else they are written out."""
    draw = torch.Generator().manual_seed(5)
    context, pooled = torch.randn(2, 6, CONTEXT, generator=draw), torch.randn(2, POOLED, generator=draw)
    x = torch.randn(2, CHANNELS, 8, 8, generator=draw)
    sigmas = pipe.scheduler.sigmas
    for k, t in enumerate(pipe.scheduler.timesteps[:stop]):
        with torch.no_grad():
            told = t.expand(2)
            given = {"encoder_hidden_states": context, "pooled_projections": pooled, "timestep": told}
            v = (pipe.transformer(x, *given.values()) if by_place else pipe.transformer(x, **given)).sample
        x = pipe.scheduler.step(v, t, x).prev_sample if steps else x + (sigmas[k + 1] - sigmas[k]) * v
    return x


@pytest.mark.parametrize("by_place", [False, True])
@pytest.mark.parametrize("steps", [True, False])
def test_an_own_loop_that_runs_twice_starts_afresh(make_pipe, steps, by_place):
    pipe = make_pipe("sd3")
    pipe.scheduler.set_timesteps(STEPS)
    stock = own_loop(pipe, steps)
    policy = learned("sd3") if steps else Constant(0.3)
    with asynchronous(pipe, policy) as run:
        pipe.scheduler._step_index = None
        first = own_loop(pipe, steps, by_place)
        assert not torch.equal(first, stock)
        for stop in (2, 99):  # an own loop that was left in the middle, and a whole one
            pipe.scheduler._step_index = None
            second = own_loop(pipe, steps, by_place, stop)
        assert torch.equal(first, second)
    assert [trace.steps for trace in run.traces] == [STEPS, 2, STEPS]


def test_an_own_loop_needs_no_pipeline_object(make_pipe):
    pipe = make_pipe("sd3")
    pipe.scheduler.set_timesteps(STEPS)
    with asynchronous(pipe, Constant(0.3)):
        expected = own_loop(pipe)
    parts = SimpleNamespace(transformer=pipe.transformer, scheduler=pipe.scheduler)
    parts.scheduler.set_timesteps(STEPS)
    with asynchronous(parts, Constant(0.3)):
        assert torch.equal(own_loop(parts), expected)
    assert "step" not in vars(pipe.scheduler)


def test_an_own_loop_on_the_grid_of_a_finished_run_is_looked_up(make_pipe):
    pipe = make_pipe("sd3")
    with asynchronous(pipe, Constant(0.3)) as run:
        sample(pipe)
        own_loop(pipe, steps=False)
    assert run.traces[0].t_star == run.traces[1].t_star


def test_an_own_step_around_ours_stays_and_still_shows_the_state(make_pipe):
    pipe, calls = make_pipe("sd3"), []
    with asynchronous(pipe, learned("sd3")) as run:
        expected = sample(pipe)
        inner = pipe.scheduler.step
        pipe.scheduler.step = lambda *args, **kwargs: calls.append(1) or inner(*args, **kwargs)
        assert torch.equal(sample(pipe), expected)
    assert len(run.traces) == 2
    assert torch.equal(sample(pipe), sample(make_pipe("sd3")))
    assert len(calls) == 2 * STEPS


def test_nothing_of_a_run_outlives_it(make_pipe):
    pipe = make_pipe("sd3")

    def stop(_pipe, index, _t, tensors):
        if index == 1:
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt), asynchronous(pipe, learned("sd3")) as run:
        sample(pipe, callback_on_step_end=stop)
    assert run.trace.steps == 2
    assert run.retimer.grid == ()
    assert run.retimer._observed is None
    assert run._opening is None


# --- waiting for the device ---------------------------------------------------------------------------------------


class Reads:
    """Counts what copies a value of a tensor to the host."""

    def __init__(self, monkeypatch):
        self.count = 0
        for name in ("tolist", "item", "__float__", "__bool__", "__int__", "cpu", "numpy"):
            monkeypatch.setattr(torch.Tensor, name, self.counted(getattr(torch.Tensor, name)), raising=False)

    def counted(self, read):
        def reading(*args, **kwargs):
            self.count += 1
            return read(*args, **kwargs)

        return reading


@pytest.mark.parametrize("family", FAMILIES)
def test_the_host_reads_a_few_numbers_a_run_and_none_a_step(make_pipe, monkeypatch, family):
    pipe, reads = make_pipe(family), Reads(monkeypatch)

    def counted(steps, policy=None):
        reads.count = 0
        if policy is None:
            sample(pipe, num_inference_steps=steps)
        else:
            with asynchronous(pipe, policy) as run:
                sample(pipe, num_inference_steps=steps)
                made = reads.count
            assert run.trace.steps == steps
            return made
        return reads.count

    for policy in (Constant(0.2), learned(family)):
        extra = [counted(steps, policy) - counted(steps) for steps in (4, 12)]
        assert extra[0] == extra[1] <= 3, policy.name
