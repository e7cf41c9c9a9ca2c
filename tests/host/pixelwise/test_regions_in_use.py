"""Regions while they are used: each run finds its own, at the places of the text that they were encoded with."""

import pytest
import torch

from support.pixelwise_runs import attach, phrases, refused, sampler

pytestmark = pytest.mark.host


# ------------------------------------------------------------------------------------- regions of the run they are of


def labels(regions, latent, step=-1):
    from asyncdiff.nodes.pixelwise.pictures import labels_of

    return labels_of(regions, latent, step)


def test_two_samplers_that_share_regions_keep_their_own(bench):
    from asyncdiff.tpm.pixelwise.errors import RegionError

    regions = phrases(("cat", 0.6, (1, 2)), ("dog", 0.3, (5,)))
    patched = attach(bench.model, regions)
    long, short = (bench.run(patched, sampler(), steps=steps) for steps in (5, 3))
    alone = []
    for steps in (5, 3):
        own = phrases(("cat", 0.6, (1, 2)), ("dog", 0.3, (5,)))
        alone.append((own, bench.run(attach(bench.model, own), sampler(), steps=steps)))
    for latent, (own, expected) in zip((long, short), alone, strict=True):
        assert torch.equal(latent, expected)
        assert torch.equal(labels(regions, latent), labels(own, expected))
    assert not torch.equal(labels(regions, long), labels(regions, short))
    with pytest.raises(RegionError, match="had 3 steps"):
        labels(regions, short, 4)
    assert labels(regions, long, 4) is not None
    with pytest.raises(RegionError, match="connect the LATENT of that sampler"):
        labels(regions, long + 1)


def test_the_denoised_output_is_of_the_same_run(bench):
    regions, shown = phrases(("cat", 0.6, (1, 2))), []
    latent = bench.run(attach(bench.model, regions), sampler(), callback=lambda step, x0, *_: shown.append(x0))
    clean = bench.model.model.process_latent_out(shown[-1].cpu())
    assert torch.equal(labels(regions, clean), labels(regions, latent))


# ---------------------------------------------------------------------------------- positions in the text they are of


def prompted(bench, text, *items):
    """Regions as the node makes them: with the encoded prompt that their positions are of."""
    made = phrases(*items or (("cat", 0.6, (1, 2)), ("dog", 0.3, (5,))), length=text[0][0].shape[1])
    from dataclasses import replace

    return replace(made, texts=tuple(each for each, _ in text))


def cut(text, length):
    return [[text[0][0][:, :length], text[0][1]]]


def changed(text, context):
    return [[context, text[0][1]]]


def seen_in(bench, regions, positive):
    """The labels of the only step."""
    bench.run(attach(bench.model, regions), sampler(), steps=1, positive=positive)
    return regions.seen.labels[0]


def test_a_prompt_behind_another_one_is_followed(each):
    """Conditioning Concat: the same queries and keys, whose positions come after those of the other text."""
    ours, other = each.positive, each.text(7, 8)
    joined = torch.cat([other[0][0], ours[0][0]], dim=1)
    found = seen_in(each, prompted(each, ours), changed(ours, joined))
    by_hand = phrases(("cat", 0.6, (9, 10)), ("dog", 0.3, (13,)), length=16)
    assert torch.equal(found, seen_in(each, by_hand, changed(ours, joined)))
    misread = phrases(("cat", 0.6, (1, 2)), ("dog", 0.3, (5,)), length=16)
    assert not torch.equal(found, seen_in(each, misread, changed(ours, joined)))


def test_a_prompt_combined_with_another_one_is_the_only_one_that_is_read(bench):
    """Conditioning Combine: two positive prompts, of which one holds the phrases."""
    ours, other = bench.positive, bench.text(7)
    alone = seen_in(bench, prompted(bench, ours), ours)
    assert torch.equal(seen_in(bench, prompted(bench, ours), [*other, *ours]), alone)
    assert not torch.equal(seen_in(bench, phrases(("cat", 0.6, (1, 2)), ("dog", 0.3, (5,))), [*other, *ours]), alone)


def test_a_prompt_that_was_changed_or_is_another_one_is_refused(bench):
    ours = bench.positive
    context, model = ours[0][0], attach(bench.model, prompted(bench, ours))
    averaged = 0.5 * context + 0.5 * bench.text(7)[0][0]
    for positive in (bench.text(7), changed(ours, averaged), changed(ours, 2 * context), cut(ours, 5)):
        seen = []
        refused(bench, model, "not the one that the regions' phrases", positive=positive, callback=seen.append)
        assert not seen


def test_a_prompt_that_ends_early_is_refused_before_anything_is_sampled(bench):
    """Conditioning Set Timestep Range: another prompt takes over."""
    ours, other = bench.positive, bench.text(7)
    early = [[ours[0][0], {**ours[0][1], "start_percent": 0.0, "end_percent": 0.5}]]
    late = [[other[0][0], {**other[0][1], "start_percent": 0.5, "end_percent": 1.0}]]
    rest = [[ours[0][0], {**ours[0][1], "start_percent": 0.5, "end_percent": 1.0}]]
    model, seen = attach(bench.model, prompted(bench, ours)), []
    refused(bench, model, "let it reach over the whole run", positive=[*early, *late], callback=seen.append)
    assert not seen
    assert torch.isfinite(bench.run(model, sampler(), positive=[*early, *rest])).all()


def test_the_negative_prompt_of_another_guider_is_not_read(bench):
    """Dual CFG asks for its prompts in another order, so that the first is the negative one."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    regions = prompted(bench, bench.positive)
    guider = Guider_DualCFG(attach(bench.model, regions))
    guider.set_conds(bench.positive, bench.text(7), bench.negative)
    guider.set_cfg(4.0, 2.0)
    sigmas = comfy.samplers.calculate_sigmas(bench.model.get_model_object("model_sampling"), "simple", 1)
    with torch.no_grad():
        guider.sample(bench.noise, torch.zeros(bench.shape), sampler(), sigmas, disable_pbar=True, seed=3)
    assert torch.equal(regions.seen.labels[0], seen_in(bench, prompted(bench, bench.positive), bench.positive))
