"""What a host drives: the run, the per-pixel parametrization, the watch over its attention, and its regions."""

import pytest
import torch

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.pixelwise.attention_maps import AttentionWatch, MapMean, TextPlace, heads_first, split_text
from asyncdiff.tpm.pixelwise.errors import RegionError
from asyncdiff.tpm.pixelwise.parametrization import denoised, noised, presented
from asyncdiff.tpm.pixelwise.pictures import overlay, schedule_chart
from asyncdiff.tpm.pixelwise.policy_map import conditioning_map
from asyncdiff.tpm.pixelwise.regions import item_maps
from asyncdiff.tpm.pixelwise.requests import Phrase, Regions, SeenRun
from asyncdiff.tpm.pixelwise.run import (
    AttendedRegions,
    Deviating,
    FixedRegions,
    PixelwiseRun,
    control,
    scaled,
    static_regions,
)
from asyncdiff.tpm.pixelwise.schedules import SigmaLevels, TimestepLevels
from asyncdiff.tpm.policies import Constant
from asyncdiff.tpm.retiming.retimer import Retiming

SD3 = torch.tensor([1.0, 0.9231, 0.8182, 0.6667, 0.4286, 0.0])  # shift 3, simple, 5 steps


# ------------------------------------------------------------------------------------------------------------- run


def no_velocity():
    raise AssertionError("only a policy asks for the velocity")


def test_a_run_is_the_golden_table():
    masks = torch.tensor([[[[True, False]]]])
    run, seen = PixelwiseRun(SigmaLevels(SD3), FixedRegions(masks), [0.5]), []
    x = torch.zeros(1, 1, 1, 2)
    while not run.over:
        told = run.condition()
        assert torch.equal(told.told, told.level)
        assert told.background == float(SD3[run.index])
        seen.append(told.level.flatten().tolist())
        move = run.observe(x, no_velocity)
        assert move.levels[0].flatten().tolist() == seen[-1]
        assert (move.omega, move.last) == (1.0, run.over)
    seen.append(move.levels[1].flatten().tolist())
    items, background = zip(*seen, strict=True)
    assert items == pytest.approx([1, 0.9538, 0.8811, 0.7576, 0.5238, 0], abs=1e-4)
    assert background == tuple(SD3.tolist())


def test_timesteps_are_those_of_the_paper():
    levels = TimestepLevels(torch.tensor([751, 501, 251, 1]), 1000, 1)
    run, seen = PixelwiseRun(levels, FixedRegions(torch.ones(1, 1, 1, 1, dtype=torch.bool)), [0.5]), []
    while not run.over:
        seen.append(int(run.condition().told))
        run.observe(torch.zeros(1, 1, 1, 1), no_velocity)
    assert seen == [845, 626, 345, 1]


def test_a_policy_on_top_deviates_on_each_pixels_interval_and_is_forgotten():
    deviating = Deviating(Constant(0.4), Retiming(velocity_coupling=1.0))
    deviating.begin(SD3, None)
    masks = torch.tensor([[[[True, False]]]])
    run = PixelwiseRun(SigmaLevels(SD3), FixedRegions(masks), [0.5], deviating)
    before = run.condition()
    assert torch.equal(before.told, before.level)
    velocity = torch.ones(1, 1, 1, 2)
    assert run.observe(velocity, lambda: velocity).omega.tolist() == [[[[1.0, 1.0]]]]
    now = run.condition()
    expected = conditioning_map(before.level, now.level, 0.4, t_start=1.0)
    torch.testing.assert_close(now.told, expected)
    omega = run.observe(velocity, lambda: velocity).omega
    torch.testing.assert_close(omega.double(), expected / now.level.double())
    torch.testing.assert_close(scaled(velocity, omega), omega.to(velocity))
    deviating.end()
    assert not deviating.retimer.grid


def test_a_video_is_a_run_of_each_frame():
    """Maps (B, 1, T, H, W): with a policy for each video, frame by frame what a run of images gives."""
    masks = torch.rand(2, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0)) < 0.3
    masks[:, 1] &= ~masks[:, 0]
    settings = Retiming(velocity_coupling=1.0)

    def walked(masks, shape):
        deviating = Deviating(Constant(0.4), settings)
        deviating.begin(SD3, None)
        run, seen = PixelwiseRun(SigmaLevels(SD3), FixedRegions(masks), [0.6, 0.3], deviating), []
        while not run.over:
            told = run.condition().told
            move = run.observe(torch.zeros(shape), lambda: torch.ones(shape))
            seen.append((told.double(), move.levels[1], move.omega.double()))
            assert move.background == deviating.omega
        return seen

    video = walked(masks, (2, 4, 3, 2, 2))
    for frame in range(3):
        for whole, alone in zip(video, walked(masks[:, :, frame], (2, 4, 2, 2)), strict=True):
            assert all(torch.equal(a[:, :, frame], b) for a, b in zip(whole, alone, strict=True))


def test_the_number_of_images_may_be_known_with_the_first_step_only():
    first, later = torch.ones(1, 1, 1, 2, dtype=torch.bool), torch.tensor([[[[True, False]]], [[[False, True]]]])
    source = AttendedRegions(first, later.float, lambda maps: maps.bool())
    run = PixelwiseRun(SigmaLevels(SD3), source, [0.5])
    run.condition()
    level = run.observe(torch.zeros(2, 1, 1, 2), no_velocity).levels[1]
    assert torch.equal(level[0], level[1].flip(-1))


# -------------------------------------------------------------------------------------------------- parametrization


def host(kind, x, output, sigma):
    """What a host makes of a network's output at one σ, in k-diffusion's terms."""
    if kind == "v":
        return x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5
    return x - sigma * output


@pytest.mark.parametrize("kind", ["flow", "eps", "v"])
def test_the_denoised_latent_is_that_of_each_pixels_sigma(kind):
    torch.manual_seed(0)
    x, output = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    ref, sigma = torch.tensor(0.4, dtype=torch.float64), 0.4 + torch.rand(2, 1, 4, 4).double() / 2
    sigma[..., 0] = 0.4
    shown = presented(kind, x, sigma, ref)
    if kind != "flow":  # the network's input is x/√(σ² + 1) of each pixel
        torch.testing.assert_close(shown / (ref**2 + 1).sqrt(), x / (sigma**2 + 1).sqrt())
    found = denoised(kind, x, host(kind, shown, output, ref), sigma, ref)
    torch.testing.assert_close(found, host(kind, x, output, sigma))
    assert torch.equal(found[..., 0], host(kind, shown, output, ref)[..., 0])


def test_noise_is_added_at_each_pixels_sigma():
    latent, noise, sigma = torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.25, 1.0])
    assert noised("flow", latent, noise, sigma).tolist() == [1.75, 1.0]
    assert noised("flow", latent, noise, sigma, scale=2.0).tolist() == [2.0, 2.0]
    assert noised("eps", latent, noise, sigma).tolist() == [2.25, 3.0]


# ------------------------------------------------------------------------------------------------------- attention


def maps_by_hand(query, key, tokens):
    return item_maps([(query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)], tokens, (2, 2))


def test_maps_are_the_mean_over_layers_of_the_conditionings_that_hold_the_text():
    torch.manual_seed(0)
    tokens = [(1, 2), (4,)]
    query, key = torch.randn(2, 4, 2, 4, 3), torch.randn(2, 4, 2, 5, 3)  # two layers of [other, ours] × 2 images
    watch = AttentionWatch(tokens, {"ours": TextPlace(5)})
    assert watch.expect(["other", "ours"], 2, (2, 2))
    for q, k in zip(query, key, strict=True):
        watch.add(q, k)
    expected = torch.stack([maps_by_hand(q[2:], k[2:], tokens) for q, k in zip(query, key, strict=True)]).mean(dim=0)
    assert not watch.expect(["ours"], 2, (2, 2))  # skip-layer guidance calls again
    watch.add(query[0], key[0])
    torch.testing.assert_close(watch.take(), expected)
    with pytest.raises(HostError, match="Region from Mask"):
        watch.take()
    assert watch.expect(["ours"], 2, (2, 2))  # in another step it counts again


def test_a_text_is_followed_to_its_place():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 4, 3), torch.randn(2, 1, 9, 3)
    watch = AttentionWatch([(1,)], {"joined": TextPlace(7, shift=3)})
    watch.expect(["joined"], 2, (2, 2))
    watch.add(query, key)
    torch.testing.assert_close(watch.take(), maps_by_hand(query, key, [(4,)]))
    watch.expect(["joined"], 2, (2, 2))
    watch.add(query, key, padded_left=True)  # two tokens of padding before the seven
    torch.testing.assert_close(watch.take(), maps_by_hand(query, key, [(6,)]))


def test_a_prompt_that_is_too_short_is_refused():
    watch = AttentionWatch([(9,)], {0: TextPlace(5)})
    watch.expect([0], 1, (1, 1))
    with pytest.raises(RegionError, match="position 9"):
        watch.add(torch.randn(1, 1, 1, 2), torch.randn(1, 1, 5, 2))


def test_maps_of_another_size_begin_anew():
    mean = MapMean()
    for maps in (torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)):
        mean.add(maps)
    assert torch.equal(mean.mean, torch.full((1, 1, 4, 4), 0.5))


def test_heads_and_text_are_split():
    assert heads_first(torch.randn(2, 5, 12), 3).shape == (2, 3, 5, 4)
    query, key = split_text(torch.randn(1, 2, 7, 4), torch.randn(1, 2, 7, 4), 3)
    assert (query.shape[2], key.shape[2]) == (4, 3)


# --------------------------------------------------------------------------------------------------------- sources


FIRST = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])


def phrases(**options):
    return Regions((Phrase("a", 0.5, (1,)), Phrase("b", 0.3, (2,))), text_length=3, **options)


def test_dynamic_regions_follow_every_step_and_are_recorded():
    regions, steps, seen = phrases(), iter((FIRST, FIRST.flip(1))), SeenRun()
    source = AttendedRegions(regions.unattended((1, 2)), lambda: next(steps), lambda m: regions.attended(m, (1, 2)))
    assert source.first[0, 1].all()  # the phrase whose token comes last
    run = PixelwiseRun(SigmaLevels(SD3[:3]), source, regions.strengths, seen=seen.add)
    for _ in range(2):
        run.condition()
        run.observe(torch.zeros(1, 1, 1, 2), no_velocity)
    assert [labels.tolist() for labels in seen.labels] == [[[[1, 2]]], [[[2, 1]]]]
    assert seen.never(3) == [2]


def test_static_regions_are_the_mean_of_a_whole_run():
    source = static_regions(phrases(), [FIRST, 3 * FIRST.flip(1)], (1, 2))
    assert source.now()[0, 0].tolist() == [[False, True]]
    assert torch.equal(source.now(), source.first)
    with pytest.raises(RegionError, match="'a' got no region in the whole run; lower the threshold"):
        static_regions(phrases(threshold=9.0), [FIRST], (1, 2))


def test_the_control_is_every_pixel_in_the_strongest():
    source = control(FixedRegions(FIRST.bool()), [0.3, 0.6])
    assert source.now()[:, 1].all()
    assert not source.now()[:, 0].any()


# -------------------------------------------------------------------------------------------------------- pictures


def test_an_overlay_tints_the_regions_and_nothing_else():
    labels = torch.tensor([[0, 0], [0, 1]])
    picture = overlay(labels, ["a region"], [0.5], None)
    assert picture.width == 768
    assert picture.getpixel((200, 200)) == picture.getpixel((600, 200)) == (210, 214, 219)
    assert picture.getpixel((600, 600)) != (210, 214, 219)


def test_the_chart_of_the_control_has_one_curve():
    names, strengths = ["a", "b"], [0.3, 0.6]
    charts = [schedule_chart(SD3, names, strengths, "quadratic", concave) for concave in (False, True)]
    assert charts[0].size[0] == charts[1].size[0]
    assert charts[0].tobytes() != charts[1].tobytes()
