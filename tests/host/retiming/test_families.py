"""Every family of ComfyUI, small: what an asynchronous run of it must hold (`support.zoo.contract`), check by check."""

from functools import lru_cache

import pytest
import torch

from support.paths import ROOT
from support.zoo import ENTRIES
from support.zoo.build import BuildError, build
from support.zoo.contract import CHECKS, Bench, nearest
from support.zoo.parties import Parties
from support.zoo.runs import sample

pytestmark = pytest.mark.host

PAGE = ROOT / "docs" / "families.md"
GENERATING = [name for name, entry in ENTRIES.items() if entry.generates]
NOT_GENERATING = [name for name, entry in ENTRIES.items() if not entry.generates]

WRONG: dict[str, tuple[str, ...]] = {}
"""What is known to fail: an entry's name, and its checks."""

OLD_HOSTS_FAIL = ("HunyuanVideo (first frame given)", "ACEStep")
"""What v0.8.0 or v0.3.64 does not sample, or not twice the same, without our patch either."""


@lru_cache(maxsize=1)
def bench_of(name):
    """One entry at a time: its checks come one after the other."""
    bench = Bench(ENTRIES[name])
    bench.model  # noqa: B018 - built here, so that an entry that cannot be is skipped
    if name in OLD_HOSTS_FAIL and (reason := why_not_sampled(bench)):
        raise BuildError(f"this ComfyUI does not sample {name} itself: {reason}")
    return bench


def why_not_sampled(bench):
    """Why the host alone gives no result to hold ours against; None where it does."""
    try:
        return None if torch.equal(bench.stock, sample(bench.model, bench.entry)) else "two runs differ"
    except RuntimeError as failed:
        return failed


@pytest.fixture(scope="module", autouse=True)
def last_one_goes():
    """No model is left for the end of the process."""
    yield
    bench_of.cache_clear()


@pytest.fixture
def bench(comfy, name):
    try:
        return bench_of(name)
    except BuildError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", GENERATING)
def test_contract(bench, name, check, request):
    if check in WRONG.get(name, ()):
        request.applymarker(pytest.mark.xfail(strict=True))
    CHECKS[check](bench)


@pytest.mark.parametrize("name", NOT_GENERATING)
def test_what_generates_nothing_is_refused(comfy, name, request):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.errors import HostError
    from asyncdiff.tpm.policies import Constant

    if "refused" in WRONG.get(name, ()):
        request.applymarker(pytest.mark.xfail(strict=True))
    try:
        model = build(ENTRIES[name])
    except BuildError as missing:
        pytest.skip(str(missing))
    with pytest.raises(HostError, match=r"^[A-Z].+\.$"):
        attach(model, Constant(0.4))


@pytest.mark.parametrize("name", ["HunyuanImage21 (distilled)", "HunyuanVideo15_SR_Distilled"])
def test_mean_flow_is_told_no_time_beyond_its_step(bench, name, request):
    """A network that is told the end of the step as well was trained on times before that end."""
    if "mean flow" in WRONG.get(name, ()):
        request.applymarker(pytest.mark.xfail(strict=True))
    far = Parties(bench, deviation=0.5, gamma=8.0)
    for call in far.calls:
        end = far.sigma_grid[nearest(far.sigma_grid, call.sigma) + 1]
        least = bench.sampling.timestep(torch.tensor(end)) - 1e-3
        assert (call.timestep >= least).all(), f"told {call.timestep} in a step that ends at {least}"


def test_every_class_of_the_host_has_an_entry(comfy):
    import comfy.supported_models

    known = {entry.family for entry in ENTRIES.values()}
    assert [family.__name__ for family in comfy.supported_models.models if family.__name__ not in known] == []


def test_the_page_lists_every_class(comfy):
    """docs/families.md is what `tests/tools/families.py` wrote of these entries."""
    import comfy.supported_models

    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if " | " in line]
    verdicts = {row[0]: row[-1] for row in rows}
    listed = {name.split(" ")[0] for name in verdicts}
    assert [family.__name__ for family in comfy.supported_models.models if family.__name__ not in listed] == []
    assert ENTRIES.keys() <= verdicts.keys(), "run tests/tools/families.py"
    assert [name for name, verdict in verdicts.items() if verdict.startswith("wrong")] == []


def test_every_rank_of_latents_has_an_entry():
    ranks = {entry.rank for entry in ENTRIES.values()}
    assert ranks >= {"3-D", "4-D", "5-D", "5-D + 4-D", "3-D + 3-D"}
