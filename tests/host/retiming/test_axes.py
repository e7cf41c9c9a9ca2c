"""The lists of a γ Sweep: what they may hold, what is halfway, and what a wrong one is told."""

import pytest

pytestmark = pytest.mark.host


@pytest.fixture
def axes(comfy):
    from asyncdiff.nodes.retiming import axes

    return axes


def base(axes):
    from asyncdiff.tpm.policies import Constant

    return axes.Setting(7, 8, 3.0, Constant(0.2), "from policy", 0, 0.0)


@pytest.mark.parametrize(
    ("axis", "text", "values", "labels"),
    [
        ("steps", "4, 8", [4, 8], ["steps 4", "steps 8"]),
        ("cfg", "1; 3.5", [1.0, 3.5], ["cfg 1", "cfg 3.5"]),
        ("seed", "1\n18446744073709551615", [1, 2**64 - 1], ["seed 1", "seed 18446744073709551615"]),
        ("tail_sync", "0, 1", [0, 1], ["tail_sync 0", "tail_sync 1"]),
        ("p", "-1, 0.5", [-1.0, 0.5], ["p -1", "p 0.5"]),
        ("bound", "0.5, 1.0, from policy", ["0.5 (paper)", "1.0 (lifted)", "from policy"], None),
    ],
)
def test_each_value_is_a_row_with_one_setting_changed(axes, axis, text, values, labels):
    rows = axes.rows_of(base(axes), axis, text)
    field = axes.AXES[axis].field
    assert [getattr(row, field) for row in rows] == values
    assert [row.value for row in rows] == values
    assert labels is None or [row.label for row in rows] == labels
    others = [name for name in vars(base(axes)) if name not in (field, "label", "value")]
    assert all(getattr(row, name) == getattr(base(axes), name) for row in rows for name in others)


def test_policies_are_found_by_their_names(axes):
    from asyncdiff.nodes.retiming.automatic import Automatic

    rows = axes.rows_of(base(axes), "policy", "tiny-sd35, shipped: sd35-coco, automatic (by model)")
    assert [row.policy.name for row in rows] == ["tiny-sd35", "sd35-coco", "automatic"]
    assert isinstance(rows[2].policy, Automatic)
    assert [row.label for row in rows[:2]] == ["policy tiny-sd35", "policy sd35-coco"]


def test_without_a_second_axis_there_is_one_row(axes):
    assert axes.rows_of(base(axes), "none", "not, looked, at") == [base(axes)]


@pytest.mark.parametrize(
    ("axis", "text", "sentence"),
    [
        ("steps", "4, 8.5", '"8.5" in second_values is no steps: give a whole number from 1 to'),
        ("cfg", "nan", "is no cfg: give a number from 0 to 100"),
        ("cfg", "", 'different values of cfg in second_values, such as "1, 3, 5"'),
        ("cfg", "1, 1", "1 to 8 different values"),
        ("seed", "1,2,3,4,5,6,7,8,9", "1 to 8 different values"),
        ("bound", "2", "is no bound: give one of from policy"),
        ("policy", "no-such", "is no policy: give one of"),
        ("colour", "red", "second_axis is one of none, steps"),
        ("cfg", 3, "second_values is text"),
    ],
)
def test_a_list_that_cannot_be_read_is_told_so(axes, axis, text, sentence):
    from asyncdiff.tpm.errors import RetimingError

    with pytest.raises(RetimingError) as refused:
        axes.check_axes("0, 1", axis, text)
    assert sentence in str(refused.value)


def test_too_many_runs_are_refused(axes):
    from asyncdiff.tpm.errors import RetimingError

    gammas = ", ".join(map(str, range(-6, 10)))
    axes.check_axes(gammas, "cfg", "1, 2, 3, 4")
    with pytest.raises(RetimingError, match="80 runs"):
        axes.check_axes(gammas, "cfg", "1, 2, 3, 4, 5")


def test_the_node_refuses_before_anything_is_queued(comfy):
    from asyncdiff.nodes.retiming.nodes_sweep import GammaSweep

    check = GammaSweep.validate_inputs
    assert check(gammas="0, 1") is True  # an older workflow
    assert check(gammas="0, x", second_axis="none", second_values="") is not True
    assert "cfg" in check(gammas="0, 1", second_axis="cfg", second_values="x")
    assert check(gammas=None, second_axis="cfg", second_values="1, 2") is True  # linked
    assert check(gammas="0, 1", second_axis="none", second_values="x") is True


@pytest.mark.parametrize(
    ("gammas", "halfway"),
    [
        ([0.0, 0.5, 1.0, 2.0], [0.25, 0.75, 1.5]),
        ([2.0, 0.0], [1.0]),
        ([0.0, 0.25, 0.5], [0.12, 0.38]),
        ([1.0, 1.01], [1.005]),
        ([-1.0, 1.0], [0.0]),
        ([1.0], []),
    ],
)
def test_halfway_is_between_the_neighbours_and_short(axes, gammas, halfway):
    gaps = axes.between(gammas)
    assert [gap["gamma"] for gap in gaps] == halfway
    assert all(gap["low"] < gap["gamma"] < gap["high"] for gap in gaps)
