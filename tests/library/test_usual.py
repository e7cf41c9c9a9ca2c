"""The usual policies: each is shipped, fits its family, and was made for the solver that it is the usual one of."""

import pytest

from asyncdiff.tpm.policies import Learned, find_policy, presets, retiming_of, solver_for
from asyncdiff.tpm.retiming.solvers import SOLVERS
from asyncdiff.tpm.usual import EMBEDDED, USUAL, Usual


def test_a_solver_without_a_policy_of_its_own_has_the_familys():
    usual = Usual(8, 3.0, "plain", {"dpmpp_2m": "other"})
    assert [usual.policy_for(solver) for solver in ("euler", "dpmpp_2m", "heun")] == ["plain", "other", "plain"]


@pytest.mark.parametrize("family", [name for name, usual in USUAL.items() if usual.policy])
def test_the_usual_policies_are_shipped_or_constants(family):
    for solver in SOLVERS:
        name = USUAL[family].policy_for(solver)
        assert name in presets() or name.startswith("constant:")


def test_the_embedded_pipeline_has_a_policy_made_for_dpmpp_2m():
    policy = find_policy(USUAL[EMBEDDED].policy_for("dpmpp_2m"))
    assert solver_for(policy) == "dpmpp_2m"
    assert not isinstance(policy, Learned)  # no TPM has beaten the curve: docs/evidence.md
    assert retiming_of(policy).tail_sync == 0
    assert retiming_of(find_policy(USUAL[EMBEDDED].policy_for("euler"))).tail_sync == 1
