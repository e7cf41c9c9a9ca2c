"""Arms of several solvers in one table: the opponent is the best arm without a policy, of as many evaluations."""

import pytest
import torch

from asyncdiff.tpm.cli import build_parser
from asyncdiff.tpm.cli.shared.models import locate
from asyncdiff.tpm.cli.training import evaluate
from asyncdiff.tpm.errors import AsyncDiffError
from asyncdiff.tpm.policies import Constant
from asyncdiff.tpm.training.compare.arms import OTHER_NOISE, SYNCHRONOUS, baselines, with_solver
from asyncdiff.tpm.training.compare.evaluate import Evaluation
from asyncdiff.tpm.training.compare.measure import Arm, MeasureError, Measurer
from asyncdiff.tpm.training.compare.tables import markdown
from asyncdiff.tpm.training.distributed import Processes
from support.toy import ToyStudio

STEPS = 4
PROMPTS = [f"prompt {n}" for n in range(12)]


class Brighter(ToyStudio):
    """A solver that makes the same images, brighter."""

    def __init__(self, solver, by):
        super().__init__()
        self.solver, self.by = solver, by

    def describe(self):
        return {"model": "toy", "solver": self.solver}

    def render(self, *arguments, **options):
        made = super().render(*arguments, **options)
        return type(made)(made.images + self.by, made.trace, made.seconds)


def brightness(images, prompts):
    return {"bright": images.mean((1, 2, 3))}


STUDIOS = {"dpmpp_2m": Brighter("dpmpp_2m", 0.2), "heun": Brighter("heun", 0.9), "res_multistep": Brighter("x", -0.1)}


def evaluated(folder, solvers=STUDIOS, **changes):
    own = [*baselines(STEPS, [STEPS * 2]), Arm("half", STEPS, Constant(0.5), label="half")]
    arms = [*own, *(arm for solver in solvers for arm in with_solver(own, solver))]
    measurer = Measurer(ToyStudio(), brightness, 4, Processes(), others=STUDIOS)
    return {result.arm.name: result for result in Evaluation(measurer, PROMPTS, folder, **changes).run(arms)}


def test_every_arm_is_there_once_more_with_each_other_solver(tmp_path):
    results = evaluated(tmp_path, ["dpmpp_2m"])
    assert list(results) == [
        SYNCHRONOUS, OTHER_NOISE, "synchronous, 8 steps", "half",
        "dpmpp_2m: synchronous", "dpmpp_2m: synchronous, 8 steps", "dpmpp_2m: half",
    ]  # fmt: skip
    mean = {name: result.metrics["bright"].mean for name, result in results.items()}
    assert mean["dpmpp_2m: half"] == pytest.approx(mean["half"] + 0.2, abs=1e-5)
    assert results["dpmpp_2m: half"].solver == "dpmpp_2m"
    assert results["dpmpp_2m: half"].to_dict()["solver"] == "dpmpp_2m"


def test_the_opponent_is_the_best_of_equal_cost(tmp_path):
    results = evaluated(tmp_path)
    assert {result.opponent for result in results.values()} == {"dpmpp_2m: synchronous"}  # heun costs twice as much
    found = results["half"].metrics["bright"].differences["dpmpp_2m: synchronous"]
    assert found.high < 0
    table = markdown(list(results.values()), len(PROMPTS))
    assert "paired difference to dpmpp_2m: synchronous, the best arm without a policy" in table
    own = next(line for line in table.splitlines() if line.startswith("| half"))
    assert "−0.1" in own


def test_one_solver_alone_is_compared_with_itself(tmp_path):
    assert evaluated(tmp_path, [])["half"].opponent == SYNCHRONOUS


def test_an_arm_of_a_solver_without_a_studio_is_refused(tmp_path):
    with pytest.raises(MeasureError, match="no studio with the solver er_sde for the arm 'er_sde: synchronous'"):
        evaluated(tmp_path, ["er_sde"])


def test_a_stored_unit_of_gain_is_used_and_told(tmp_path):
    first, other = (evaluated(tmp_path / str(unit), [], yardstick={"bright": unit}) for unit in (0.1, 0.2))
    gains = [made["half"].gain.mean for made in (first, other)]
    assert gains[0] == pytest.approx(2 * gains[1])
    difference = first["half"].metrics["bright"].differences[SYNCHRONOUS].mean
    assert gains[0] == pytest.approx(difference / 0.1)


def test_solvers_share_the_weights_of_one_pipeline(studio):
    again = studio.with_solver("dpmpp_2m")
    assert (studio.solver, again.solver) == ("euler", "dpmpp_2m")
    assert again.denoiser is studio.denoiser
    call = (["a"], [1], Constant(0.3))
    plain = studio.render(*call, steps=4).images
    other = again.render(*call, steps=4).images
    assert not torch.equal(plain, other)
    assert torch.equal(again.with_solver("euler").render(*call, steps=4).images, plain)
    assert torch.equal(again.with_solver("dpmpp_2m").render(*call, steps=4).images, other)


# --- the command ------------------------------------------------------------------------------------------------------


def arms_of_command(*texts, also=("dpmpp_2m",)):
    options = [part for text in texts for part in ("--policy", text)]
    args = build_parser().parse_args(["evaluate", "--gamma", "1", "--more-steps", "--variant", *options])
    return [arm.name for arm in evaluate._arms(args, locate("embedded"), STEPS, ["euler", *also])]


def test_a_policy_is_tried_with_every_solver_or_with_those_that_are_named():
    names = arms_of_command("a=constant:0.1", "b@dpmpp_2m=constant:0.2", "c@euler,dpmpp_2m=constant:0.3")
    assert names == [
        SYNCHRONOUS, OTHER_NOISE, "a", "c",
        "dpmpp_2m: synchronous", "dpmpp_2m: a", "dpmpp_2m: b", "dpmpp_2m: c",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["b@heun=constant:0.2", "b@=constant:0.2"])
def test_a_policy_for_a_solver_that_is_not_in_the_table_is_refused(text):
    with pytest.raises(AsyncDiffError, match="not in this table; name it with --also-solver"):
        arms_of_command(text)
