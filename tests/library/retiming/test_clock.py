"""Clocks: σ ↔ u there and back, floats and tensors alike, and what a network is told."""

import math
from itertools import pairwise

import pytest
import torch

from asyncdiff.tpm.retiming.clock import Angle, Cosine, Flow, Ratio, Table

# σ of Stable Diffusion's 1000 timesteps: "scaled linear" β from .00085 to .012
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS = (1 - BETAS).cumprod(0)
TRAINED = ((1 - ALPHAS) / ALPHAS).sqrt()
CLOCKS = {"flow": Flow(), "ratio": Ratio(), "angle": Angle(), "cosine": Cosine(), "table": Table(TRAINED)}
SIGMAS = (0.0, 0.005, 0.03, 0.2, 0.9)


@pytest.fixture(params=CLOCKS)
def clock(request):
    return CLOCKS[request.param]


def test_there_and_back(clock):
    assert [clock.to_sigma(clock.to_unit(sigma)) for sigma in SIGMAS] == pytest.approx(SIGMAS, rel=1e-6, abs=1e-9)


def test_a_tensor_gives_what_numbers_give(clock):
    units = clock.to_unit(torch.tensor(SIGMAS, dtype=torch.float64))
    assert units.tolist() == pytest.approx([clock.to_unit(sigma) for sigma in SIGMAS], abs=1e-12)
    assert clock.to_sigma(units).tolist() == pytest.approx(SIGMAS, rel=1e-6, abs=1e-7)


def test_the_line_rises_from_zero(clock):
    units = [clock.to_unit(sigma) for sigma in SIGMAS]
    assert 0 <= units[0] < 1e-9
    assert all(later > earlier for earlier, later in pairwise(units))
    assert units[-1] <= 1


@pytest.mark.parametrize("index", [0, 1, 499, 799, 999])
def test_a_trained_level_is_its_own_index(index):
    told = CLOCKS["table"].timestep(torch.tensor([CLOCKS["table"].to_unit(float(TRAINED[index]))]), lambda s: s)
    assert told.item() == pytest.approx(index, abs=1e-3)


def test_sdxl_is_told_a_timestep_between_its_trained_ones():
    clock = CLOCKS["table"]
    first, second = (clock.to_unit(float(TRAINED[index])) for index in (999, 799))
    told = clock.timestep(torch.tensor([second + 0.2 * (second - first)], dtype=torch.float64), lambda sigma: sigma)
    assert told.item() == pytest.approx(759, abs=1e-6)


def test_a_table_goes_on_outside_of_its_levels():
    clock = CLOCKS["table"]
    assert clock.to_unit(float(TRAINED[0]) / 2) == pytest.approx(0.5 / 1000)
    assert clock.to_unit(float(TRAINED[-1]) * 1.05) > 1.001
    assert clock.timestep(torch.tensor([0.0002, 1.2]), lambda sigma: sigma).tolist() == [0, 999]


def test_other_clocks_ask_the_host_for_the_timestep():
    unit = torch.tensor([0.5])
    assert Ratio().timestep(unit, lambda sigma: 0.25 * sigma.log()).item() == pytest.approx(0)  # EDM at σ = 1
    assert Angle().timestep(unit, lambda sigma: sigma.atan() / math.pi * 2).item() == pytest.approx(0.5)
