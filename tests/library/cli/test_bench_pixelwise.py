"""The cost of a pixel-wise map is measured on runs that do the work."""

import pytest

pytest.importorskip("diffusers")

from asyncdiff.tpm.cli import main
from asyncdiff.tpm.cli.bench import pixelwise as bench
from asyncdiff.tpm.hosts.diffusers import pixelwise as runs


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "SIDE", 16)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("make", [bench.small_dit, bench.small_unet, bench.small_sdxl])
def test_one_side_of_a_pair_is_pixelwise_and_the_other_untouched(make, count, monkeypatch):
    pipe, seen = make(), []
    begin = runs.PixelwisePipeline._begin
    monkeypatch.setattr(runs.PixelwisePipeline, "_begin", lambda run, *call: seen.append(run) or begin(run, *call))
    timed = bench.pixelwise_overhead(pipe, bench.drawn_regions(count), count, steps=1, pairs=2)
    assert len(timed.plain) == len(timed.retimed) == 2
    assert all(seconds > 0 for seconds in timed.plain + timed.retimed)
    assert len(seen) == 3  # one to warm up, two pairs
    assert seen[0].masks.any(dim=(0, 2, 3)).tolist() == [True] * count
    assert not seen[0].masks.any(1).all()  # there is background
    assert not pipe.scheduler.__dict__.get("step")


def test_the_command_prints_the_ratios(capsys, monkeypatch):
    monkeypatch.setattr(bench, "REGIONS", (2,))
    assert main(["bench", "--only", "pixelwise", "--steps", "1", "--pairs", "1", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 2  # networks, drawn and dynamic
    assert all("[target ≤ 1.15]" in line for line in lines)
