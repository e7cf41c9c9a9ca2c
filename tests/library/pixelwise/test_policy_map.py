"""A policy's deviation on top of a pixel-wise map, against the scalar equations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncdiff.tpm.pixelwise.errors import ScheduleError
from asyncdiff.tpm.pixelwise.policy_map import conditioning_map, coupling_map
from asyncdiff.tpm.policies import Constant
from asyncdiff.tpm.retiming.equations import conditioning_timestep, coupled_velocity_scale, limits
from asyncdiff.tpm.retiming.retimer import Retimer
from asyncdiff.tpm.retiming.settings import Retiming

GRID = (0.9, 0.7, 0.45, 0.2)


def flat(value):
    return torch.full((2, 1, 3, 4), value, dtype=torch.float64)


@given(
    points=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3, unique=True),
    deviation=st.floats(-2, 2),
    within=st.booleans(),
)
def test_a_uniform_map_is_the_scalar_equation(points, deviation, within):
    before, here, after = sorted(points, reverse=True)
    neighbours = {"floor": after, "ceiling": before} if within else {}
    allowed = limits(here, t_start=1.0, **neighbours)
    expected = conditioning_timestep(here, here - before, deviation, allowed)
    following = flat(after) if within else None
    got = conditioning_map(flat(before), flat(here), deviation, t_start=1.0, following=following)
    assert (got == expected).all()


def test_every_pixel_has_its_own_interval():
    before, here = torch.tensor([0.9, 0.9]).view(1, 1, 1, 2), torch.tensor([0.7, 0.85]).view(1, 1, 1, 2)
    got = conditioning_map(before, here, 0.5, t_start=1.0)
    torch.testing.assert_close(got, torch.tensor([0.6, 0.825]).view(1, 1, 1, 2).double())
    got = conditioning_map(before, here, torch.tensor([0.5, -1.0]), t_start=0.9)
    torch.testing.assert_close(got[1], torch.tensor([0.9, 0.9]).view(1, 1, 2).double())  # clamped to σ_0
    assert got.shape == (2, 1, 1, 2)


def test_no_deviation_is_the_map_itself():
    here = torch.rand(1, 1, 2, 2)
    assert conditioning_map(here + 0.1, here, 0.0, t_start=1.0) is here
    got = conditioning_map(here + 0.1, here, torch.zeros(3), t_start=1.0, sigma_min=0.9)
    assert torch.equal(got, here.double().expand(3, -1, -1, -1))  # also below σ_min


def test_coupling_is_the_scalar_equation_and_leaves_clean_pixels():
    assert coupling_map(flat(0.4), flat(0.5), 0) == 1.0
    assert (coupling_map(flat(0.4), flat(0.5), 1.5) == coupled_velocity_scale(0.4 / 0.5, 1.5)).all()
    assert (coupling_map(flat(0.001), flat(0.0), 1.0) == 1).all()


def test_the_retimer_tells_what_it_decided():
    retimer = Retimer(Constant(0.3), Retiming(gamma=2.0, tail_sync=1))
    retimer.begin(GRID)
    seen = []
    for sigma in GRID[:-1]:
        retimer.condition(sigma)
        seen.append(retimer.decision.deviation)
    assert seen == pytest.approx([0.0, 0.6, 0.0])


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 3, 2), 0.5),
        (torch.zeros(2, 2), torch.zeros(2, 2), 0.5),
        (torch.zeros(3, 1, 2, 2), torch.zeros(3, 1, 2, 2), torch.zeros(2)),
    ],
)
def test_what_does_not_fit_is_a_sentence(arguments):
    with pytest.raises(ScheduleError, match=r"fit|shape"):
        conditioning_map(*arguments, t_start=1.0)


def test_a_video_is_its_frames():
    """(B, 1, T, H, W) gives what each frame gives alone, for a deviation of each video and within its interval."""
    before, here, after = (torch.rand(2, 1, 3, 2, 2).double() + shift for shift in (2.0, 1.0, 0.0))
    deviations = torch.tensor([0.4, -0.2])
    whole = conditioning_map(before, here, deviations, t_start=3.0, following=after)
    for frame in range(3):
        alone = (each[:, :, frame] for each in (before, here, after))
        one, two, three = alone
        assert torch.equal(whole[:, :, frame], conditioning_map(one, two, deviations, t_start=3.0, following=three))
    with pytest.raises(ScheduleError, match="one shape"):
        conditioning_map(before, here[:, :, :2], deviations, t_start=3.0)
