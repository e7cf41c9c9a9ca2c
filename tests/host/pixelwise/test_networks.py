"""Every family under a map: a uniform one is the scalar path, an inactive one is nothing, weights and names stay."""

import pytest
import torch

from support.pixelwise_runs import FAMILIES, TOLERANCE, UNETS, Bench, load, relative, same_sigma, sampler

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request, comfy):
    try:
        model = load(request.param)
    except (ValueError, RuntimeError):
        pytest.skip(f"this ComfyUI loads no small model of the family {request.param}")
    return Bench(request.param, model)


def sigmas_of(bench):
    """Two σ in the middle of the model's range."""
    sampling = bench.model.get_model_object("model_sampling")
    return float(sampling.percent_to_sigma(0.3)), float(sampling.percent_to_sigma(0.6))


def noisy(bench, sigma):
    return sigma * bench.noise


# ------------------------------------------------------------------------------------------------------- equalities


def test_a_map_that_is_constant_in_each_image_is_one_timestep_per_image(bench):
    """Two σ in the batch: the rows are gathered, and the host's own batch of timesteps says what must come out."""
    high, low = sigmas_of(bench)
    x = torch.stack([high * bench.noise[0], low * bench.noise[1]])
    patched = bench.attached(0.5)
    expected = bench.evaluate(patched, x, (high, low))
    told = bench.evaluate(patched, x, (high, low), same_sigma(bench, high, low))
    assert relative(told, expected) <= TOLERANCE[bench.family]


def test_a_uniform_map_is_the_scalar_path(bench):
    high, _ = sigmas_of(bench)
    patched, x = bench.attached(0.5), noisy(bench, high)
    expected = bench.evaluate(patched, x, high)
    assert relative(bench.evaluate(patched, x, high, same_sigma(bench, high)), expected) <= TOLERANCE[bench.family]


@pytest.mark.parametrize("prediction", ["own", "v_prediction"])
def test_the_denoised_latent_is_that_of_the_pixels_own_sigma(bench, prediction):
    """σ_ref is another σ than the map's: input scaling and output must be put right, for ε, v and flow."""
    model = bench.model
    if prediction != "own":
        if bench.family != "sd15":
            pytest.skip("one family is enough")
        import comfy_extras.nodes_model_advanced as advanced

        model = advanced.ModelSamplingDiscrete().patch(model, prediction, False)[0]
    high, low = sigmas_of(bench)
    patched, x = bench.attached(0.5, model=model), noisy(bench, high)
    expected = bench.evaluate(patched, x, high, cfg=4.0)
    assert relative(bench.evaluate(patched, x, low, same_sigma(bench, high), cfg=4.0), expected) < 1e-5
    assert relative(bench.evaluate(patched, x, low, cfg=4.0), expected) > 1e-3  # control: without the map


def test_a_strength_of_zero_is_euler(bench):
    patched = bench.attached(0.0)
    assert relative(bench.run(patched, sampler()), bench.run(bench.model, "euler")) < 1e-5


# --------------------------------------------------------------------------------------------------------- inactive


def inactive(bench):
    """The network patched, the sampler not asked for."""
    from asyncdiff.nodes.pixelwise.patch import PixelwiseModel

    patched = bench.model.clone()
    PixelwiseModel(patched, bench.drawn(0.5), "mean", "corner", None).patch_network(patched)
    return patched


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_an_inactive_patch_is_bit_identical(bench, name):
    assert torch.equal(bench.run(inactive(bench), name), bench.run(bench.model, name))


def test_a_scale_of_zero_is_the_hosts_euler_to_the_bit(bench):
    patched = bench.attached(0.5)
    stock = bench.run(bench.model, "euler")
    assert torch.equal(bench.run(patched, sampler(scale=0.0)), stock)
    assert relative(bench.run(patched, sampler()), stock) > 1e-3
    assert torch.equal(bench.run(bench.model, "euler"), stock)


# ----------------------------------------------------------------------------------------------------- weights, LoRA


def test_weights_keep_their_names_and_a_lora_applies(bench):
    name = next(
        name for name in bench.model.model.state_dict()
        if name.endswith(("emb_layers.1.weight", "img_mod.lin.weight", "x_block.adaLN_modulation.1.weight"))
        or "double_stream_modulation_img.lin.weight" in name
    )  # fmt: skip
    patched = bench.attached(0.0)
    assert list(patched.model.state_dict()) == list(bench.model.model.state_dict())
    plain = bench.run(bench.model, "euler")
    difference = 0.3 * torch.randn(
        bench.model.model.state_dict()[name].shape, generator=torch.Generator().manual_seed(5)
    )
    before, after = bench.model.clone(), patched.clone()
    for each in (before, after):
        assert each.add_patches({name: ("diff", (difference,))}) == [name]
    adapted = bench.run(before, "euler")
    assert relative(adapted, plain) > 1e-3
    assert relative(bench.run(after, sampler()), adapted) < 1e-5
    assert relative(bench.run(bench.attached(0.0, model=before), sampler()), adapted) < 1e-5
    assert torch.equal(bench.run(bench.model, "euler"), plain)


# ------------------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("rule", ["mean", "max", "min", "background"])
def test_the_text_stream_has_its_own_rule(bench, rule):
    """Transformers tell the text one timestep; in a UNet no layer of the text reads it."""
    outputs = {each: bench.run(bench.attached(0.7, text=each), sampler()) for each in ("mean", rule)}
    differs = relative(outputs[rule], outputs["mean"]) if rule != "mean" else 0.0
    assert (differs == 0.0) == (bench.family in UNETS or rule == "mean")


def test_the_coarser_layers_of_a_unet_read_a_corner_or_a_mean(bench):
    """Regions of whole patches are the same to a transformer either way."""
    corner, mean = (bench.run(bench.attached(0.7, 0.3, reading=each), sampler()) for each in ("corner", "mean"))
    assert torch.equal(corner, mean) == (bench.family not in UNETS)


@pytest.mark.parametrize("curve", ["quadratic", "piecewise", "exponential"])
def test_every_curve_moves_the_region_and_arrives(bench, curve):
    stock = bench.run(bench.model, "euler")
    moved = bench.run(bench.attached(0.5, 0.2), sampler(curve))
    assert torch.isfinite(moved).all()
    assert relative(moved, stock) > 1e-3


def test_concave_is_every_pixel_on_the_strongest_curve(bench):
    from asyncdiff.nodes.pixelwise.patch import attach
    from asyncdiff.tpm.pixelwise.requests import Drawn, Regions

    control = bench.run(bench.attached(0.2, 0.6), sampler(concave=True))
    whole = attach(bench.model, Regions((Drawn("all", 0.6, torch.ones(64, 64)),)))
    assert torch.equal(control, bench.run(whole, sampler()))
    assert relative(control, bench.run(bench.attached(0.2, 0.6), sampler())) > 1e-3


def test_one_patched_model_serves_many_runs(bench):
    patched = bench.attached(0.5)
    first = bench.run(patched, sampler())
    bench.run(patched, sampler("exponential", concave=True), steps=3)
    assert torch.equal(bench.run(patched, sampler()), first)


def test_an_unknown_network_is_refused_by_name(comfy):
    from asyncdiff.nodes.pixelwise.networks.families import pixelwise_network
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match="Linear has no pixel-wise timesteps: its layers"):
        pixelwise_network(torch.nn.Linear(1, 1))
