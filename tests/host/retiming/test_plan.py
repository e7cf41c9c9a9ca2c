"""What the front end asks before a run: the right curve, and a reason or silence for every question that is none."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.host import check_nodes, host_or_skip

pytestmark = pytest.mark.host
CONSTANT = {"type": "AsyncDiffConstantDeviation", "widgets": {"deviation": 0.3}}
CURVE = {"type": "AsyncDiffDeviationCurve", "widgets": {"curve": "0: 0.5, 1: 0.9", "bound": 0.5}}
SAMPLER = {"gamma": 1, "bound": "from policy", "tail_sync": 1, "velocity_coupling": 0.0, "steps": 6, "denoise": 1}
SAMPLER |= {"scheduler": "simple"}


@pytest.fixture(scope="module")
def plan(comfy):
    check_nodes(host_or_skip())
    from asyncdiff.nodes.retiming.live_plan import plan

    return plan


def question(policy=CONSTANT, **sampler):
    return json.dumps({"policy": policy, "sampler": SAMPLER | sampler})


def test_a_plan_is_what_the_run_will_do(plan):
    answer = plan(question())
    assert len(answer["sigmas"]) == 7
    assert [round(d, 6) for (d,) in answer["deviation"]] == [0, 0.3, 0.3, 0.3, 0.3, 0]
    assert len(plan(question(CURVE, gammas="0, 1, 2"))["t_star"][0]) == 3
    assert len(plan(json.dumps({"policy": CONSTANT, "sampler": {}}))["t_star"]) == 20


def test_a_curve_is_foreseen_over_its_axis(plan, comfy):
    from asyncdiff.nodes.retiming.nodes_policies import DeviationCurve
    from asyncdiff.tpm.policies import Curve

    drawn = {"curve": "0: 0.5, 1: 0.9", "bound": 0.5}
    over_step = plan(question(CURVE | {"widgets": drawn | {"axis": "step"}}, tail_sync=0))
    assert [d for (d,) in over_step["deviation"]] == pytest.approx([0.4 * k / 6 for k in range(6)])
    assert plan(question(CURVE | {"widgets": drawn | {"axis": "sigma"}})) == plan(question(CURVE))
    assert DeviationCurve.policy(**drawn, axis="log_snr") == Curve([(-10, 0), (10, 0.4)], axis="log_snr")
    assert DeviationCurve.execute(**drawn).args[0] == Curve([(0, 0), (1, 0.4)])
    assert "sigma, step, log_snr" in DeviationCurve.validate_inputs(**drawn, axis="time")
    assert DeviationCurve.validate_inputs(**drawn) is True


def test_points_as_text_come_before_the_drawing(plan):
    from asyncdiff.nodes.retiming.nodes_policies import DeviationCurve
    from asyncdiff.tpm.policies import Curve

    drawn = {"curve": {"points": [[0, 0.5], [1, 0.9]], "interpolation": "linear"}, "bound": 0.5}
    typed = "0: 0.5; 0.5: 0.7, 1: 0.5"
    text = DeviationCurve.execute(**drawn, points=typed).args[0]
    assert [d for _, d in text.knots] == pytest.approx([0, 0.2, 0])
    assert DeviationCurve.execute(**drawn, points=" ").args[0] == Curve([(0, 0), (1, 0.4)])
    assert "cannot be read" in DeviationCurve.validate_inputs(**drawn, points="0 0.5")
    asked = [question({"type": CURVE["type"], "widgets": CURVE["widgets"] | more}) for more in ({}, {"points": typed})]
    assert plan(asked[0]) != plan(asked[1])


WRONG = [
    "", "[]", "null", "{}", "[" * 100_000, '{"policy": {}, "sampler": {}}', "x" * 10**6,
    '{"policy": NaN, "sampler": {}}',
    question({"type": "AsyncDiffConstantDeviation", "widgets": {"deviation": "a"}}),
    question({"type": "AsyncDiffConstantDeviation", "widgets": {"deviation": 3}}),
    question({"type": "AsyncDiffDeviationCurve", "widgets": {"curve": [[1]], "bound": 0.5}}),
    question({"type": "AsyncDiffDeviationCurve", "widgets": {"curve": {"points": 5}, "bound": 0.5}}),
    question({"type": "AsyncDiffDeviationCurve", "widgets": {"curve": None, "bound": 9}}),
    question({"type": "AsyncDiffDeviationCurve", "widgets": CURVE["widgets"] | {"axis": "time"}}),
    question({"type": "AsyncDiffDeviationCurve", "widgets": CURVE["widgets"] | {"axis": ["step"]}}),
    question({"type": "AsyncDiffLoadTPM", "widgets": {"name": "../secret.json", "readout": "mode"}}),
    question({"type": "AsyncDiffLoadTPM", "widgets": {"name": ["a"]}}),
    question({"type": "KSampler", "widgets": {}}), question({"type": ["a"], "widgets": {}}),
    question(steps=0), question(steps=-5), question(steps=1.5), question(steps=10**30), question(steps=True),
    question(denoise=0), question(denoise=-1), question(scheduler="none"), question(scheduler=["simple"]),
    question(bound="3"), question(bound=None), question(gamma="1"), question(gamma=99), question(gammas=[1, 2]),
    question(gammas="1, oops"), question(tail_sync=-1), question(velocity_coupling=1e300), question(extra=1),
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_question_that_is_none_is_one_sentence(plan, text):
    from asyncdiff.tpm.errors import AsyncDiffError

    with pytest.raises(AsyncDiffError) as reason:
        plan(text)
    assert 10 < len(str(reason.value)) < 400


LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["simple", "0: 0.5"])
)
ANY = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
WIDGETS = st.dictionaries(st.sampled_from([*SAMPLER, "gammas", "more"]), ANY, max_size=4)
POLICY_WIDGETS = ["deviation", "curve", "bound", "name", "axis"]
MADE = st.sampled_from([CONSTANT, CURVE, {"type": "AsyncDiffLoadTPM", "widgets": {"name": "a", "readout": "mode"}}])


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(
    MADE, st.dictionaries(st.sampled_from(["deviation", "curve", "bound", "name", "axis"]), ANY, max_size=3), WIDGETS
)
def test_questions_without_end_get_a_curve_or_a_sentence(plan, maker, changes, widgets):
    from asyncdiff.tpm.errors import AsyncDiffError

    asked = {"policy": maker | {"widgets": maker["widgets"] | changes}, "sampler": SAMPLER | widgets}
    with contextlib.suppress(AsyncDiffError):
        answer = plan(json.dumps(asked))
        assert json.loads(json.dumps(answer, allow_nan=False))["sigmas"]


def test_the_server_answers_every_question(server):
    for text in WRONG:
        answer = json.loads(server.fetch("/asyncdiff/plan", text.encode()))
        assert set(answer) == {"reason"}
    assert json.loads(server.fetch("/asyncdiff/plan", b"\xff\xfe"))["reason"] == ""
    assert "sigmas" in json.loads(server.fetch("/asyncdiff/plan", question().encode()))


@pytest.mark.parametrize("leftover", ["enable", "disable"])
def test_a_part_of_a_run_is_foreseen_as_a_part(plan, leftover):
    from asyncdiff.tpm.errors import AsyncDiffError

    whole = plan(question())
    part = plan(question(start_at_step=2, end_at_step=5, return_with_leftover_noise=leftover))
    assert part["sigmas"][:-1] == whole["sigmas"][2:5]
    assert part["sigmas"][-1] == (whole["sigmas"][5] if leftover == "enable" else 0)
    assert part["t_star"][:2] == whole["t_star"][2:4]
    with pytest.raises(AsyncDiffError, match="No step lies between"):
        plan(question(start_at_step=5, end_at_step=5))
