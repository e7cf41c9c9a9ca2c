"""Policies as decisions and as files."""

import json
import math

import pytest
import torch

from asyncdiff.tpm.errors import AsyncDiffError, GridError, PolicyError
from asyncdiff.tpm.files import check_header
from asyncdiff.tpm.policies import (
    Constant,
    Curve,
    Learned,
    Recorded,
    StepState,
    TextCondition,
    check_backbone,
    find_policy,
    load_policy,
    policy_from_dict,
    presets,
    sample_beta,
    save_policy,
)
from asyncdiff.tpm.policies.axes import AXES, log_snr
from asyncdiff.tpm.policies.checkpoint import Card
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.retiming import equations as rt
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.retiming.settings import Retiming
from asyncdiff.tpm.retiming.trace import Trace

TINY = TPMConfig("sd3", latent_channels=4, context_dim=12, pooled_dim=8, width=16, heads=2, layers=1, grid=2)


def state(batch=2, **changes):
    x = torch.randn(batch, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    text = TextCondition(torch.ones(batch, 5, 12), torch.ones(batch, 8))
    values = {"x": x, "v": -x, "sigma": 0.8, "sigma_next": 0.6, "t_star": 0.75, "index": 2, "steps": 8, "text": text}
    return StepState(**{**values, **changes})


def trained(seed=0):
    """A TPM whose last layer is not zero."""
    torch.manual_seed(seed)
    tpm = TPM(TINY).eval()
    torch.nn.init.normal_(tpm.head.last.weight)
    return tpm


def trace(**changes):
    values = {
        "sigmas": [1.0, 0.8, 0.6, 0.0],
        "t_star": [1.0, 0.79, [0.6, 0.5]],
        "deviation": [0.0, 0.1, [0.0, 0.5]],
        "ratio": [0.5, 0.6, [0.5, 1.0]],
        "clamped": [False, False, [False, True]],
        "policy": {"bound": 0.5, "backbone": "sd3"},
    }
    values["proposed"] = values["deviation"]
    return Trace(**{**values, **changes})


def test_constant():
    policy = Constant(0.2)
    assert policy.ratio(state()) == pytest.approx(0.7)
    assert rt.deviation(Constant(0.4, bound=1.0).ratio(state()), bound=1.0) == pytest.approx(0.4)
    assert Constant(0.0).ratio(state()) == 0.5


def test_curve_interpolates_over_the_next_sigma_and_holds_its_ends():
    policy = Curve([(0.2, 0.1), (0.8, 0.4)])
    assert policy.deviation_at(0.5) == pytest.approx(0.25)
    assert policy.deviation_at(0.2) == 0.1
    assert policy.deviation_at(0.0) == 0.1
    assert policy.deviation_at(1.0) == 0.4
    assert policy.ratio(state(sigma_next=0.5)) == pytest.approx(0.75)
    assert Curve([(0.5, 0.3)]).deviation_at(0.9) == 0.3


def test_curve_sorts_its_knots():
    assert Curve([(0.8, 0.4), (0.2, 0.1)]).knots == ((0.2, 0.1), (0.8, 0.4))


GRIDS = {"even": [1.0, 0.75, 0.5, 0.25, 0.0], "video": [1.0, 0.99, 0.97, 0.9, 0.7, 0.3, 0.0]}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_curve_is_the_same_over_every_axis_with_knots_at_the_steps_of_a_grid(grid):
    steps, wanted = range(1, len(grid) - 1), [0.1 * k for k in range(1, len(grid) - 1)]
    places = {
        "sigma": grid[1:-1],
        "step": [k / (len(grid) - 1) for k in steps],
        "log_snr": [2 * math.log((1 - sigma) / sigma) for sigma in grid[1:-1]],
    }
    for axis in AXES:
        policy = Curve(list(zip(places[axis], wanted, strict=True)), bound=1.0, axis=axis)
        assert rehearse(policy, Retiming(), grid).proposed == pytest.approx([0, *wanted], abs=1e-12), axis


def test_log_snr_is_that_of_a_flow_model_within_its_range():
    assert log_snr(0.5) == 0
    assert log_snr(0.2) == pytest.approx(2 * math.log(4))
    assert log_snr(0.8) == pytest.approx(-log_snr(0.2))
    assert [log_snr(s) for s in (1.001, 1.0, 0.994, 0.006, 0.0)] == [-10, -10, -10, 10, 10]
    assert AXES["log_snr"].at(0.5) == 0


def test_a_step_of_a_curve_is_the_part_of_the_steps_that_is_done():
    policy = Curve([(0.0, 0.0), (1.0, 0.4)], axis="step")
    assert rehearse(policy, Retiming(), [1.0, 0.9, 0.5, 0.2, 0.0]).proposed == pytest.approx([0, 0.1, 0.2, 0.3])


def test_the_axis_is_in_the_file_unless_it_is_sigma(tmp_path):
    for axis in AXES:
        policy = Curve([(0.2, 0.1), (0.8, 0.4)], axis=axis)
        assert policy_from_dict(policy.to_dict()) == policy
        assert load_policy(save_policy(tmp_path / "c.json", policy)) == policy
    document = Curve([(0.2, 0.1)]).to_dict()
    assert "axis" not in document
    assert document["version"] == 1
    with pytest.raises(PolicyError, match="update asyncdiff"):  # what a release says that knows σ alone
        check_header(policy.to_dict(), "asyncdiff-policy", 1, PolicyError, "it")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Constant(0.6), "bound"),
        (lambda: Constant(float("nan")), "finite"),
        (lambda: Constant("much"), "finite"),
        (lambda: Constant(0.1, bound=0), "bound"),
        (lambda: Constant(0.1, bound=float("inf")), "bound"),
        (lambda: Constant(0.1, backbone="sd xl"), "backbone is a word such as sd3, flux"),
        (lambda: Constant(0.1, backbone=""), "backbone"),
        (lambda: Constant(0.1, backbone="W" * 65), "at most 64"),
        (lambda: Constant(0.1, backbone="two\nlines"), "backbone"),
        (lambda: Constant(0.1, backbone=3), "backbone"),
        (lambda: Curve([]), "knot"),
        (lambda: Curve([(0.5, 0.1), (0.5, 0.2)]), "distinct"),
        (lambda: Curve([(1.5, 0.1)]), "distinct σ between 0 and 1"),
        (lambda: Curve([(1.5, 0.1)], axis="step"), "distinct step k/K between 0 and 1"),
        (lambda: Curve([(11, 0.1)], axis="log_snr"), "distinct log-SNR between -10 and 10"),
        (lambda: Curve([(0.5, 0.1)], axis="time"), "axis of a curve is sigma, step, log_snr, not 'time'"),
        (lambda: Curve([(0.5, 0.1)], axis=["step"]), "axis of a curve"),
        (lambda: policy_from_dict(Curve([(0.5, 0.1)]).to_dict() | {"axis": "x"}), "axis of a curve"),
        (lambda: policy_from_dict(Curve([(0.5, 0.1)]).to_dict() | {"axis": 1}), "axis"),
        (lambda: Curve([(0.5, 0.7)]), "bound"),
        (lambda: Learned(TPM(TINY), readout="median"), "read-out"),
        (lambda: Recorded(trace(ratio=[0.5, 1.2, 0.5])), "0 … 1"),
    ],
)
def test_bad_values_are_sentences(make, word):
    with pytest.raises(PolicyError, match=word):
        make()


def test_backbone_mismatch_is_a_sentence():
    with pytest.raises(PolicyError, match="made for flux, the model is sd3"):
        check_backbone(Constant(0.1, backbone="flux"), "sd3")
    check_backbone(Constant(0.1), "sd3")


@pytest.mark.parametrize("backbone", ["WAN21", "qwen-image", "SDXL", "W" * 64, "sd3", None])
def test_a_backbone_is_a_free_word_that_files_keep(tmp_path, backbone):
    for policy in (Constant(0.1, backbone=backbone), Curve([(0.5, 0.1)], backbone=backbone)):
        loaded = load_policy(save_policy(tmp_path / "p.json", policy))
        assert loaded == policy
        if backbone not in (None, "flux"):
            with pytest.raises(PolicyError, match=f"made for {backbone}, the model is flux"):
                check_backbone(loaded, "flux")


def test_recorded_replays_numbers_and_batches():
    policy = Recorded(trace())
    policy.begin([1.0, 0.8, 0.6, 0.0])
    assert policy.ratio(state(index=0)) == 0.6
    assert policy.ratio(state(index=1)).tolist() == [0.5, 1.0]
    assert policy.ratio(state(index=2)) == 0.5
    with pytest.raises(PolicyError, match="batch of 2"):
        policy.ratio(state(index=1, batch=3))


@pytest.mark.parametrize("grid", [[1.0, 0.8, 0.0], [1.0, 0.81, 0.6, 0.0]])
def test_recorded_refuses_another_grid(grid):
    with pytest.raises(GridError, match="recorded on"):
        Recorded(trace()).begin(grid)


def test_untrained_tpm_is_one_half_for_every_readout_that_is_deterministic():
    for readout in ("mode", "mean"):
        assert Learned(TPM(TINY), readout).ratio(state()).tolist() == [0.5, 0.5]


def test_readouts_of_a_trained_tpm():
    tpm = trained()
    mode = Learned(tpm, "mode")
    a, b = mode.beta(state())
    assert a.shape == (2,)
    assert (a.abs() > 0).all()
    assert torch.equal(mode.ratio(state()), rt.beta_mode(a, b))
    assert torch.equal(Learned(tpm, "mean").ratio(state()), rt.beta_mean(a, b))


def test_a_compiled_tpm_answers_as_the_plain_one(monkeypatch):
    stock = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **_: stock(model, backend="eager"))  # needs no compiler
    tpm = trained()
    plain, compiled = Learned(tpm), Learned(tpm, compiled=True)
    assert torch.allclose(compiled.ratio(state()), plain.ratio(state()), atol=1e-6)


def test_weights_that_changed_after_a_run_are_used_in_the_next():
    policy = Learned(trained())
    policy.begin([1.0, 0.0])
    before = policy.ratio(state())
    policy.tpm.maps[0].conv.weight.data.mul_(2)
    policy.begin([1.0, 0.0])
    assert not torch.equal(policy.ratio(state()), before)


def test_sampling_is_reproducible_and_inside_the_interval():
    def draw():
        return Learned(trained(), "sample", torch.Generator().manual_seed(7)).ratio(state(batch=64))

    assert torch.equal(draw(), draw())
    assert ((draw() > 0) & (draw() < 1)).all()
    assert draw().unique().numel() > 1


def test_draws_follow_the_distribution():
    a, b = torch.full((20_000,), 1.0), torch.full((20_000,), -0.5)
    r = sample_beta(a, b, torch.Generator().manual_seed(0))
    assert r.mean().item() == pytest.approx(rt.beta_mean(a, b)[0].item(), abs=0.01)


def test_text_is_encoded_once_per_run():
    policy = Learned(TPM(TINY))
    calls = []
    policy.tpm.text.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        policy.begin([1.0, 0.0])
        for _ in range(3):
            policy.ratio(state())
    assert len(calls) == 2


@pytest.mark.parametrize(
    "text", [None, TextCondition(), TextCondition(context=torch.ones(1, 3, 12)), TextCondition(pooled=torch.ones(2, 8))]
)
def test_absent_parts_of_the_prompt_are_tolerated(text):
    assert Learned(trained()).ratio(state(text=text)).shape == (2,)


def test_a_prompt_of_another_width_or_batch_is_a_sentence():
    with pytest.raises(PolicyError, match="width 12"):
        Learned(TPM(TINY)).ratio(state(text=TextCondition(torch.ones(2, 3, 99))))
    with pytest.raises(PolicyError, match="batch of 3"):
        Learned(TPM(TINY)).ratio(state(text=TextCondition(torch.ones(3, 3, 12))))


@pytest.mark.parametrize(
    "policy",
    [
        Constant(0.2, name="a", backbone="sd3", about={"source": "here"}),
        Constant(0.8, bound=1.0),
        Curve([(0.1, -0.2), (0.9, 0.3)], bound=0.5, name="b", about={"note": "σ"}),
    ],
)
def test_formula_policies_survive_a_file(tmp_path, policy):
    assert load_policy(save_policy(tmp_path / "policy.json", policy)) == policy


def test_recorded_survives_a_file_and_a_trace_is_a_policy(tmp_path):
    saved = load_policy(save_policy(tmp_path / "policy.json", Recorded(trace(), name="mine")))
    direct = load_policy(trace().save(tmp_path / "trace.json"))
    assert isinstance(saved, Recorded)
    assert isinstance(direct, Recorded)
    assert saved.trace == direct.trace == trace()
    assert saved.name == "mine"


def test_learned_survives_a_file(tmp_path):
    policy = Learned(trained(), card=Card("sd3", bound=1.0, name="mine"))
    loaded = load_policy(save_policy(tmp_path / "tpm.safetensors", policy), backbone="sd3")
    assert isinstance(loaded, Learned)
    assert (loaded.name, loaded.bound, loaded.backbone) == ("mine", 1.0, "sd3")
    assert torch.equal(loaded.ratio(state()), policy.ratio(state()))
    with pytest.raises(PolicyError, match="only describes"):
        policy_from_dict(policy.to_dict())


GOOD = {"format": "asyncdiff-policy", "version": 1, "kind": "constant", "deviation": 0.2}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        ("{}", "not a asyncdiff-policy|not an? asyncdiff-policy"),
        (json.dumps({**GOOD, "version": 9}), "update"),
        (json.dumps({**GOOD, "version": "one"}), "version"),
        (json.dumps({**GOOD, "kind": "oracle"}), "oracle"),
        (json.dumps({**GOOD, "deviation": None}), "valid number, not null"),
        (json.dumps({**GOOD, "deviation": 3}), "bound"),
        (json.dumps({**GOOD, "deviation": 0.1, "backbone": "flux"}), "flux"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "deviation"}), "deviation"),
        (json.dumps({**GOOD, "kind": "curve", "knots": [[1]]}), "knots.0.1 is missing"),
        (json.dumps({**GOOD, "kind": "curve", "knots": "abc"}), "valid array"),
        (json.dumps({**GOOD, "kind": "recorded", "trace": {}}), "trace"),
        (json.dumps({"format": "asyncdiff-trace", "version": 1}), "sigmas"),
        (json.dumps({**trace().to_dict(), "ratio": [0.5]}), "length"),
        ('{"format": "asyncdiff-policy", "version": 1, "kind": "constant", "deviation": NaN}', "finite"),
    ],
)
def test_bad_files_are_sentences(tmp_path, text, word):
    path = tmp_path / "policy.json"
    path.write_text(text)
    with pytest.raises(PolicyError, match=word) as caught:
        load_policy(path, backbone="sd3")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(AsyncDiffError, match="no file"):
        load_policy(tmp_path / "none.json")


PAPER = {  # tables 1 and 2, column Mean Deviation
    "sd35-coco": (0.192, 0.5, "sd3"),
    "sd35-compbench": (0.231, 0.5, "sd3"),
    "sd35-coco-lifted": (0.398, 1.0, "sd3"),
    "sd35-compbench-lifted": (0.106, 1.0, "sd3"),
    "flux-coco": (0.499, 0.5, "flux"),
    "flux-compbench": (0.499, 0.5, "flux"),
    "flux-coco-lifted": (0.959, 1.0, "flux"),
    "flux-compbench-lifted": (0.640, 1.0, "flux"),
}


@pytest.mark.parametrize("name", PAPER)
def test_presets_are_the_papers_means_and_say_so(name):
    policy = find_policy(name)
    assert isinstance(policy, Constant)
    assert (policy.deviation, policy.bound, policy.backbone) == PAPER[name]
    assert policy.name == name
    assert "table" in policy.about["source"]
    assert "MEAN" in policy.about["note"]
    assert "steps" in policy.about["grid"]


def test_find_policy_takes_names_and_paths(tmp_path):
    assert set(PAPER) <= set(presets())
    path = save_policy(tmp_path / "mine.json", Constant(0.1))
    assert find_policy(path) == Constant(0.1)
    with pytest.raises(PolicyError, match="sd35-coco"):
        find_policy("no-such-policy")
    with pytest.raises(PolicyError, match="made for flux"):
        find_policy("flux-coco", backbone="sd3")
