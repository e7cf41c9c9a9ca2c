"""Several γ of γ Sweep as one batch: the same pictures, decisions and reports as one by one, in fewer calls."""

from types import SimpleNamespace

import pytest
import torch

from support import other_latents, stand_ins, sweeps

pytestmark = pytest.mark.host

CLOSE = 2e-5
GAMMAS = "0, 0.5, 1, 2"


def pictures(latent):
    """Of a video all frames, one after the other."""
    return latent[:, :3].movedim(1, -1).flatten(0, -4)


@pytest.fixture
def swept(comfy, model, monkeypatch):
    """Runs the node; gives its latents, the sizes of the network's batches, and the traces."""
    from asyncdiff.nodes.retiming import sweep

    node = sweeps.forgetful(monkeypatch)
    monkeypatch.setattr(comfy.VAEDecode, "decode", lambda self, vae, latent: (pictures(latent["samples"]),))
    traces, batches = [], []
    original = sweep.Made
    monkeypatch.setattr(sweep, "Made", lambda latent, trace: (traces.append(trace), original(latent, trace))[1])
    handle = model.model.diffusion_model.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    inputs = sweeps.inputs_of(model, steps=6)

    def go(gammas=GAMMAS, **changes):
        batches.clear()
        traces.clear()
        given = {**inputs, **changes}
        latents = node.execute(**given, gammas=gammas).args[2]["samples"]
        return latents, list(batches), list(traces)

    yield go
    handle.remove()


def same_decisions(traces, others):
    for one, other in zip(traces, others, strict=True):
        assert one.sigmas == other.sigmas
        for name in ("t_star", "deviation"):
            for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
                assert torch.allclose(torch.tensor(a), torch.tensor(b), atol=1e-5)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
@pytest.mark.parametrize("settings", [{}, {"velocity_coupling": 1.0}, {"cfg": 3.0, "tail_sync": 1}])
def test_a_batch_of_strengths_gives_the_pictures_of_one_by_one(swept, sampler, settings):
    expected, one_by_one, traces = swept(sampler_name=sampler, **settings)
    found, at_once, decided = swept(sampler_name=sampler, gammas_at_once=4, **settings)
    assert torch.allclose(found, expected, atol=CLOSE * expected.abs().max())
    assert (found[0] - found[3]).abs().max() > 100 * CLOSE
    assert len(at_once) < len(one_by_one) / 3
    assert sum(at_once) < sum(one_by_one)  # the first evaluation is known from the sweep before
    same_decisions(decided, traces)
    assert all("one batch" in trace.notes[-1] for trace in decided)


def test_a_tpm_decides_for_each_share_from_its_own_latent(swept, models, tpm):
    from asyncdiff.tpm.policies import Learned

    expected, _, traces = swept(policy=Learned(tpm), model=models["sd35"])
    found, _, decided = swept(policy=Learned(tpm), model=models["sd35"], gammas_at_once=4)
    assert torch.allclose(found, expected, atol=CLOSE * expected.abs().max())
    same_decisions(decided, traces)


def test_every_image_of_a_batch_has_its_own_noise_at_every_strength(swept):
    latent = {"samples": torch.zeros(3, 16, 8, 8)}
    texts = [[torch.cat([stand_ins.conditioning(n)[0][0] for n in range(3)]), {
        "pooled_output": torch.cat([stand_ins.conditioning(n)[0][1]["pooled_output"] for n in range(3)])}]]  # fmt: skip
    for given in ({}, {"positive": texts, "cfg": 2.0}, {"latent_image": latent | {"batch_index": [4, 0, 4]}}):
        expected, _, _ = swept("0, 1", **{"latent_image": latent, **given})
        found, batches, _ = swept("0, 1", **{"latent_image": latent, **given}, gammas_at_once=2)
        assert max(batches) >= 6
        assert torch.allclose(found, expected, atol=CLOSE * expected.abs().max())


def test_an_inpainting_mask_is_everybodys(swept):
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    latent = {"samples": torch.randn(1, 16, 8, 8), "noise_mask": mask}
    expected, _, _ = swept("0, 1", latent_image=latent)
    found, _, _ = swept("0, 1", latent_image=latent, gammas_at_once=2)
    assert torch.allclose(found, expected, atol=CLOSE * expected.abs().max())


def test_groups_are_no_larger_than_asked_for_and_known_strengths_are_not_made_again(swept):
    _, batches, _ = swept(gammas_at_once=3)
    assert max(batches) == 3
    _, batches, _ = swept("0, 0.5, 1, 2, 3", gammas_at_once=3)
    assert (set(batches), len(batches)) == ({1}, 5)
    assert swept(gammas_at_once=3)[1] == []
    assert swept(gammas_at_once=1)[1]  # those are equal to the bit, and these are not


@pytest.mark.parametrize("change", ["noisy sampler", "watched", "other batch", "memory"])
def test_where_a_batch_is_not_possible_it_is_one_by_one_to_the_bit(comfy, swept, model, change, monkeypatch, caplog):
    given = {}
    if change == "noisy sampler":
        given["sampler_name"] = "euler_ancestral"
    if change == "watched":
        given["model"] = model.clone()
        given["model"].set_model_sampler_post_cfg_function(lambda args: args["denoised"])
    if change == "other batch":
        texts = [stand_ins.conditioning(n)[0] for n in range(2)]
        pooled = torch.cat([text[1]["pooled_output"] for text in texts])
        given["positive"] = [[torch.cat([text[0] for text in texts]), {"pooled_output": pooled}]]
        given["latent_image"] = {"samples": torch.zeros(3, 16, 8, 8)}
    if change == "memory":
        from comfy import model_management, sample

        original = sample.sample

        def full(model, noise, *args, **options):
            if len(noise) > 1:
                raise model_management.OOM_EXCEPTION("full")
            return original(model, noise, *args, **options)

        monkeypatch.setattr(sample, "sample", full)
    expected, _, _ = swept("0, 1", **given)
    caplog.set_level("INFO", logger="asyncdiff")
    found, _, _ = swept("0, 1", **given, gammas_at_once=2)
    assert torch.equal(found, expected)
    assert "after the other" in caplog.text


def test_a_video_is_a_batch_as_well(comfy, swept):
    wan = {
        "model": other_latents.model("wan"), "positive": other_latents.conditioning("wan", 0), "steps": 3,
        "negative": other_latents.conditioning("wan", 1), "latent_image": {"samples": other_latents.latent("wan")},
    }  # fmt: skip
    expected, _, _ = swept("0, 1", **wan)
    found, _, _ = swept("0, 1", **wan, gammas_at_once=2)
    assert torch.allclose(found, expected, atol=CLOSE * expected.abs().max())


def test_one_live_chart_is_shown_and_every_strength_has_its_cell(swept, monkeypatch):
    from asyncdiff.nodes.retiming import explorer, live, nodes_sweep

    sent = []
    monkeypatch.setattr(nodes_sweep.GammaSweep, "hidden", SimpleNamespace(unique_id="7"), raising=False)
    monkeypatch.setattr(explorer, "previews", lambda pictures: [])
    server = SimpleNamespace(client_id="me", send_sync=lambda kind, message, _: sent.append((kind, message)))
    monkeypatch.setattr(live, "watching_server", lambda node: server if node else None)
    swept(gammas_at_once=4)
    charts = [message for kind, message in sent if kind == live.EVENT]
    assert [message["event"] for message in charts] == ["begin", *["step"] * 6, "end"]
    assert "one of 4 at once" in charts[0]["label"]
    told = [message["t_star"][0] for message in charts[1:-1]]
    cells = [message["cell"] for kind, message in sent if kind == explorer.EVENT and message["event"] == "cell"]
    assert [cell["column"] for cell in cells] == [0, 1, 2, 3]
    assert [t for [t] in cells[2]["curve"]["t_star"]] == pytest.approx(told)
    assert len({str(cell["curve"]["t_star"]) for cell in cells}) == 4


def test_an_interrupted_batch_leaves_the_model_clean(comfy, swept, model):
    from comfy import model_management

    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 3:
            raise model_management.InterruptProcessingException

    handle = model.model.diffusion_model.register_forward_pre_hook(stop)
    with pytest.raises(model_management.InterruptProcessingException):
        swept(gammas_at_once=4)
    handle.remove()
    expected, _, _ = swept()
    found, _, _ = swept(gammas_at_once=4)
    assert torch.allclose(found, expected, atol=CLOSE * expected.abs().max())
