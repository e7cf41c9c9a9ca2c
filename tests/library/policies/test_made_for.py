"""What a policy says of how it was made, and what is done with it."""

import json

import pytest

from asyncdiff.tpm.errors import PolicyError
from asyncdiff.tpm.policies import (
    Constant,
    Learned,
    find_policy,
    images_seen,
    made_with,
    presets,
    retiming_of,
    solver_for,
    solver_in,
    solver_note,
)
from asyncdiff.tpm.policies.checkpoint import Card
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.retiming.settings import Retiming
from support.paths import ROOT

SMALL = {"width": 16, "heads": 2, "layers": 1}


def test_a_preset_brings_the_settings_that_it_was_made_for():
    for name in ("constant-one-tail", "tiny-sd35-curve"):
        policy = find_policy(name)
        assert retiming_of(policy) == Retiming(tail_sync=1)
        assert made_with(policy) == "euler, tail_sync = 1"
    assert retiming_of(find_policy("tiny-sd35-tpm")) == Retiming()


def test_constant_one_fits_every_flow_model():
    policy = find_policy("constant-one-tail", "flux")
    assert isinstance(policy, Constant)
    assert (policy.deviation, policy.bound, policy.backbone) == (1.0, 1.0, None)


def test_what_is_given_takes_the_place_of_the_policys_own():
    policy = find_policy("constant-one-tail")
    applied = retiming_of(policy, gamma=0.5, tail_sync=0, bound=None, within_interval=True)
    assert applied == Retiming(gamma=0.5, tail_sync=0, within_interval=True)
    with pytest.raises(PolicyError, match=r"'constant-one-tail'.*tail_sync"):
        retiming_of(policy, tail_sync=-1)


@pytest.mark.parametrize(
    ("about", "solver"),
    [
        ({}, None),
        ({"source": "an earlier release"}, "euler"),
        ({"sampling": {"guidance": 3.0}}, "euler"),
        ({"sampling": {"solver": "dpmpp_2m"}}, "dpmpp_2m"),
        ({"sampling": {"sampler": "er_sde"}}, "er_sde"),
        ({"solver": "res_multistep", "sampling": {}}, "res_multistep"),
        ({"solver": 7, "sampling": "?"}, "euler"),
        ({"solver": "two\nlines"}, "euler"),
    ],
)
def test_a_policy_names_its_solver(about, solver):
    assert solver_for(Constant(0.1, about=about)) == solver


def test_a_tpm_names_its_solver_in_its_card():
    tpm = TPM(TPMConfig("sd3", 4, 8, 8, **SMALL))
    card = Card("sd3", about={"solver": "dpmpp_2m", "training": {"tail_sync": 2}})
    policy = Learned(tpm, card=card)
    assert made_with(policy) == "dpmpp_2m, tail_sync = 2"
    assert solver_for(Learned(tpm)) is None
    assert retiming_of(Learned(tpm)) == Retiming()


def test_another_solver_is_one_sentence():
    policy = find_policy("tiny-sd35-curve")
    assert solver_note(policy, "euler") is None
    note = solver_note(policy, "dpmpp_2m")
    assert "made for the solver euler" in note
    assert "\n" not in note
    assert solver_note(Constant(0.3), "dpmpp_2m") is None
    assert solver_in({}) == "euler"


def test_every_preset_can_be_told():
    assert all(isinstance(made_with(find_policy(name)), str) for name in presets())


@pytest.mark.parametrize(("language", "file"), [("en", "AsyncDiffLoadTPM.md"), ("zh", "AsyncDiffLoadTPM/zh.md")])
def test_the_node_that_loads_presets_names_those_that_need_a_tail(language, file):
    """In ComfyUI the sampler's widget decides, so the reader must be told: by the name in the list, and by the node."""
    tailed = [name for name in presets() if retiming_of(find_policy(name)).tail_sync]
    assert tailed == ["constant-one-tail", "tiny-sd35-curve"]
    rows = (ROOT / "web" / "docs" / file).read_text(encoding="utf-8").splitlines()
    told = [row for row in rows if "(for tail_sync 1)" in row and row.startswith("|")]
    assert [next(name for name in presets() if f"| {name} |" in row) for row in told] == tailed
    node = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())["AsyncDiffLoadTPM"]
    assert "tail_sync 1" in node["description"]


def test_the_budget_of_a_policy():
    assert images_seen(Constant(0.3)) == 0
    assert images_seen(find_policy("constant-one-tail")) == 0
    assert images_seen(find_policy("tiny-sd35-tpm")) == 150 * 4 * 8
    assert images_seen(find_policy("tiny-sd35-curve")) is None  # searched before searches said so
    assert images_seen(Constant(0.3, about={"images": 1300})) == 1300
    assert images_seen(Constant(0.3, about={"training": {"iterations": "?"}})) is None
