"""The parts that a host drives: the course of σ, the per-pixel parametrization, heat, and sources."""

import pytest
import torch

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.pixelwise.attention_maps import Heat, conditional_chunks, heads_first, split_text
from asyncdiff.tpm.pixelwise.course import Course
from asyncdiff.tpm.pixelwise.errors import RegionError
from asyncdiff.tpm.pixelwise.parametrization import denoised, noised, presented
from asyncdiff.tpm.pixelwise.pictures import overlay, schedule_chart
from asyncdiff.tpm.pixelwise.regions import item_maps
from asyncdiff.tpm.pixelwise.requests import Drawn, Phrase, Regions
from asyncdiff.tpm.pixelwise.source import Source

SD3 = torch.tensor([1.0, 0.9231, 0.8182, 0.6667, 0.4286, 0.0])  # shift 3, simple, 5 steps


# ---------------------------------------------------------------------------------------------------------- course


def test_a_course_is_the_golden_table():
    masks = torch.tensor([[[[True, False]]]])
    course, seen = Course(SD3, [0.5], 1, (1, 2), "quadratic"), []
    while course.step < course.steps:
        seen.append(course.sigma.flatten().tolist())
        course.advance(masks)
    seen.append(course.sigma.flatten().tolist())
    items, background = zip(*seen, strict=True)
    assert items == pytest.approx([1, 0.9538, 0.8811, 0.7576, 0.5238, 0], abs=1e-4)
    assert background == tuple(SD3.tolist())
    assert torch.equal(course.before[..., 1], SD3[-2].view(1, 1, 1))


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


# ------------------------------------------------------------------------------------------------------------ heat


def test_heat_is_the_mean_over_layers_of_the_conditional_half():
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 2, 4, 3), torch.randn(2, 4, 2, 5, 3)  # two layers of [uncond, cond] × 2 images
    heat = Heat([(1, 2), (4,)], 5)
    with pytest.raises(HostError, match="Region from Mask"):
        _ = heat.maps
    heat.expect(conditional_chunks([1, 0]), 2, (2, 2))
    weights = [(q[2:] @ k[2:].mT / 3**0.5).softmax(-1) for q, k in zip(query, key, strict=True)]
    for q, k in zip(query, key, strict=True):
        heat.add(q, k)
    torch.testing.assert_close(heat.maps, item_maps(weights, [(1, 2), (4,)], (2, 2)))
    heat.clear()
    heat.expect([0], 4, (2, 2))
    heat.add(query[0], torch.cat([key[0][:, :, :2], key[0]], dim=2), offset=2)  # padded on the left
    padded = (query[0] @ torch.cat([key[0][:, :, :2], key[0]], dim=2).mT / 3**0.5).softmax(-1)
    torch.testing.assert_close(heat.maps, item_maps([padded], [(3, 4), (6,)], (2, 2)))


def test_a_prompt_that_is_too_short_is_refused():
    heat = Heat([(9,)], 5)
    heat.expect([0], 1, (1, 1))
    with pytest.raises(RegionError, match="position 9"):
        heat.add(torch.randn(1, 1, 1, 2), torch.randn(1, 1, 5, 2))


def test_heads_and_text_are_split():
    assert heads_first(torch.randn(2, 5, 12), 3).shape == (2, 3, 5, 4)
    query, key = split_text(torch.randn(1, 2, 7, 4), torch.randn(1, 2, 7, 4), 3)
    assert (query.shape[2], key.shape[2]) == (4, 3)


# --------------------------------------------------------------------------------------------------------- sources


class Told(Heat):
    """Heat that gives these maps, one a step."""

    def __init__(self, *steps):
        super().__init__([(1,), (2,)], 3)
        self._steps, self.cleared = iter(steps), 0

    def clear(self):
        self.cleared += 1

    @property
    def maps(self):
        return next(self._steps)


FIRST = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])


def phrases(**options):
    return Regions((Phrase("a", 0.5, (1,)), Phrase("b", 0.3, (2,))), text_length=3, **options)


def test_dynamic_regions_follow_every_step_and_are_recorded():
    regions = phrases()
    source = Source(regions, Told(FIRST, FIRST.flip(1)), (1, 2), 1, 1, concave=False)
    assert source.watching
    assert not source.needs_pass
    assert source.masks()[0, 0].tolist() == [[True, False]]
    assert source.masks()[0, 0].tolist() == [[False, True]]
    assert [labels.tolist() for labels in regions.seen.labels] == [[[[1, 2]]], [[[2, 1]]]]


def test_static_regions_are_the_mean_of_a_whole_run():
    regions, heat = phrases(static=True), Told(FIRST, 3 * FIRST.flip(1))
    source = Source(regions, heat, (1, 2), 1, 1, concave=False)
    assert source.needs_pass
    source.average(range(2))
    assert not source.watching
    assert heat.cleared == 2
    assert source.masks()[0, 0].tolist() == [[False, True]]


def test_a_static_phrase_without_a_region_is_refused_and_a_dynamic_one_is_said(caplog):
    source = Source(phrases(static=True, threshold=9.0), Told(FIRST), (1, 2), 1, 1, concave=False)
    with pytest.raises(RegionError, match="'a' got no region in the whole run; lower the threshold"):
        source.average(range(1))
    source = Source(phrases(threshold=9.0), Told(FIRST), (1, 2), 1, 1, concave=False)
    source.masks()
    source.report()
    assert "'b' got no region at any step" in caplog.text


def test_the_control_watches_nothing_and_keeps_the_record_of_the_run_before():
    regions = phrases()
    Source(regions, Told(FIRST), (1, 2), 1, 1, concave=False).masks()
    source = Source(regions, Told(), (1, 2), 1, 1, concave=True)
    assert not source.watching
    assert source.masks()[0, 0].all()
    assert len(regions.seen.labels) == 1


def test_drawn_regions_are_fixed():
    source = Source(Regions((Drawn("a", 0.5, torch.ones(2, 4)),)), None, (1, 2), 1, 1, concave=False)
    assert not source.watching
    assert torch.equal(source.masks(), source.masks())


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
