"""ComfyUI as a studio: the pictures of the nodes, a noise per seed, whatever is sampled beside it."""

import pytest
import torch

from support import stand_ins
from support.training_parts import PROMPTS, SIDE, conditionings, vae

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("comfy")]

STEPS = 3
CLOSE = 1e-4  # batched and single runs differ by rounding


@pytest.fixture(scope="module")
def model(comfy):
    return stand_ins.load(stand_ins.sd35())


@pytest.fixture(scope="module")
def decoder(comfy):
    return vae()


@pytest.fixture
def make(model, decoder):
    from asyncdiff.nodes.training.prompt_cache import PromptCache
    from asyncdiff.nodes.training.sampler import Sampling
    from asyncdiff.nodes.training.studio import HostStudio

    def go(texts=None, model=model, **sampling):
        texts = texts or PromptCache.given(PROMPTS, conditionings(), stand_ins.conditioning(99), 2.0)
        settings = {"cfg": 2.0, "width": SIDE, "height": SIDE} | sampling
        return HostStudio(model, decoder, texts, Sampling(**settings))

    return go


@pytest.fixture
def studio(make):
    return make()


@pytest.fixture
def node_path(comfy, model, decoder):
    """One picture through the functions behind KSampler and VAE Decode."""

    def go(seed, policy=None, retiming=None, prompt=0, sampler="euler"):
        from asyncdiff.nodes.retiming.patch import attach

        patched = model if policy is None else attach(model, policy, retiming)
        latent = {"samples": torch.zeros(1, 16, SIDE // 8, SIDE // 8)}
        positive, negative = stand_ins.conditioning(prompt), stand_ins.conditioning(99)
        with torch.inference_mode():
            (latent,) = comfy.common_ksampler(patched, seed, STEPS, 2.0, sampler, "simple", positive, negative, latent)
            return comfy.VAEDecode().decode(decoder, latent)[0].movedim(-1, 1).clone()

    return go


def constant(deviation=0.4):
    from asyncdiff.tpm.policies import Constant

    return Constant(deviation)


def retiming(**settings):
    from asyncdiff.tpm.retiming.settings import Retiming

    return Retiming(**settings)


def far(one, other):
    return float((one - other).abs().max())


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("settings", [{}, {"tail_sync": 1}, {"velocity_coupling": 1.0}])
def test_a_constant_policy_gives_the_pictures_of_the_nodes_to_the_bit(make, node_path, settings, sampler):
    studio = make(sampler_name=sampler)
    rendering = studio.render(["one"], [7], constant(), retiming(**settings), steps=STEPS)
    assert torch.equal(rendering.images, node_path(7, constant(), retiming(**settings), sampler=sampler))
    plain = studio.render(["one"], [7], steps=STEPS)
    assert plain.trace is None
    assert torch.equal(plain.images, node_path(7, sampler=sampler))
    assert far(rendering.images, plain.images) > 1e-3
    assert rendering.trace.deviation[1] == pytest.approx(0.4)
    assert rendering.trace.sigmas == studio.sigma_grid(STEPS)


def test_noise_and_text_of_an_image_are_its_own_whatever_is_beside_it(studio, node_path):
    prompts, seeds = ["three", "one", "two"], [2**62 + 1, 7, 7]
    together = studio.render(prompts, seeds, constant(), steps=STEPS).images
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        alone = node_path(seed, constant(), prompt=PROMPTS.index(prompt))
        assert far(together[row], alone[0]) < CLOSE
    assert far(together[1], together[2]) > 10 * CLOSE
    assert far(together[0], together[1]) > 10 * CLOSE


def test_texts_of_different_length_are_sampled_in_runs_of_their_own(make, studio):
    from asyncdiff.nodes.training.prompt_cache import PromptCache

    longer = [stand_ins.conditioning(n, tokens=16 if n == 1 else 8) for n in range(4)]
    mixed = make(PromptCache.given(PROMPTS, longer, stand_ins.conditioning(99), 2.0))
    assert mixed.texts.runs(["two", "one", "three"]) == [[0], [1, 2]]
    rendering = mixed.render(["two", "one", "three"], [1, 2, 3], constant(), steps=STEPS)
    alone = [mixed.render([p], [s], constant(), steps=STEPS).images for p, s in (("two", 1), ("one", 2), ("three", 3))]
    assert far(rendering.images, torch.cat(alone)) < CLOSE
    assert rendering.trace.deviation[1] == pytest.approx(0.4)
    assert studio.texts.runs(["two", "one", "three"]) == [[0, 1, 2]]


def test_what_a_rollout_keeps_outlives_the_executors_inference_mode(studio):
    from asyncdiff.tpm.policies.network import TPM
    from asyncdiff.tpm.retiming.settings import Retiming
    from asyncdiff.tpm.training.grpo.rollout import Sample, roll_out
    from asyncdiff.tpm.training.stopwatch import Stopwatch

    with torch.inference_mode():
        with torch.inference_mode(False):
            tpm = TPM(studio.tpm_config(width=16, layers=1))
        samples = [Sample("one", 1, action, 0) for action in (5, 6)]
        batch = roll_out(studio, tpm, samples, STEPS, Retiming(bound=0.5), Stopwatch())
    step = batch.steps[0]
    kept = [step.x, step.v, step.times, step.r, batch.text.context, batch.text.pooled, batch.images]
    assert not any(part.is_inference() for part in kept)
    assert len(batch.steps) == STEPS - 1
    assert step.r[0] != step.r[1]
    tokens = tpm.encode_text(batch.text, 2)
    a, b = tpm(step.x, step.v, step.x - step.sigma * step.v, step.times, tokens)
    (a.sum() + b.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in tpm.parameters() if p.grad is not None)


def test_a_rollout_over_texts_that_cannot_be_one_run_says_what_to_do(make):
    from asyncdiff.nodes.training.prompt_cache import PromptCache
    from asyncdiff.tpm.errors import HostError
    from asyncdiff.tpm.training.grpo.rollout import Recorder

    texts = [stand_ins.conditioning(n, tokens=8 + n) for n in range(4)]
    studio = make(PromptCache.given(PROMPTS, texts, None, 1.0), cfg=1.0)
    recorder = object.__new__(Recorder)
    recorder.backbone = "sd3"
    with pytest.raises(HostError, match="prompts_per_iteration to 1"):
        studio.render(["one", "two"], [1, 2], recorder, steps=STEPS)


def test_an_interrupted_render_leaves_the_studio_and_the_model_clean(comfy, studio, model, node_path, monkeypatch):
    from comfy import model_management as management

    from asyncdiff.nodes.training import sampler as module

    expected = studio.render(["one"], [7], constant(), steps=STEPS).images
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 2:
            management.interrupt_current_processing(value=True)
        management.throw_exception_if_processing_interrupted()

    with monkeypatch.context() as patch:
        patch.setattr(module, "_stop_if_asked", stop)
        with pytest.raises(management.InterruptProcessingException):
            studio.render(["one"], [7], constant(-0.4), steps=STEPS)
    assert len(calls) == 2
    assert not management.processing_interrupted()
    assert torch.equal(studio.render(["one"], [7], constant(), steps=STEPS).images, expected)
    assert torch.equal(studio.render(["one"], [7], steps=STEPS).images, node_path(7))


def test_what_it_says_of_itself_changes_with_whatever_makes_a_picture(make, studio):
    from asyncdiff.nodes.training.prompt_cache import PromptCache

    described = studio.describe()
    assert make().describe() == described
    other = stand_ins.sd35()
    other = {name: value * 1.01 if name == "context_embedder.weight" else value for name, value in other.items()}
    texts = PromptCache.given(PROMPTS, conditionings()[::-1], stand_ins.conditioning(99), 2.0)
    for changed in (make(model=stand_ins.load(other)), make(texts), make(cfg=3.0), make(width=128)):
        assert changed.describe() != described


def test_prompts_are_encoded_once_and_refused_before_anything_runs():
    from asyncdiff.nodes.training.prompt_cache import MOST_KEPT, PromptCache

    class Clip:
        def __init__(self):
            self.encoded = []

        def tokenize(self, text):
            if "!" in text:
                raise ValueError(text)
            return text

        def encode_from_tokens_scheduled(self, text):
            self.encoded.append(text)
            return stand_ins.conditioning(len(text))

    clip = Clip()
    texts = PromptCache.from_clip(clip, ["a", "b", "a"], None, "")
    assert sorted(clip.encoded) == ["", "a", "b"]
    texts["a"], texts["b"]
    assert len(clip.encoded) == 3
    many = [str(n) for n in range(MOST_KEPT + 5)]
    texts = PromptCache.from_clip(clip, many, None, "")
    texts[many[-1]], texts[many[-1]], texts[many[1]]
    assert clip.encoded.count(many[-1]) == 1
    with pytest.raises(ValueError, match="!"):
        PromptCache.from_clip(clip, [*many, "!"], None, "")


@pytest.mark.parametrize(
    ("names", "negative", "cfg", "reason"),
    [
        (PROMPTS[:3], True, 2.0, "4 conditionings but 3 prompts"),
        (("one", "two", "one", "four"), True, 2.0, "same line of prompts"),
        (PROMPTS, False, 2.0, "Connect a negative conditioning"),
    ],
)
def test_conditionings_that_do_not_fit_are_a_sentence(names, negative, cfg, reason):
    from asyncdiff.nodes.training.prompt_cache import PromptCache
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match=reason):
        PromptCache.given(names, conditionings(), stand_ins.conditioning(99) if negative else None, cfg)


def test_models_that_have_no_run_to_retime_are_refused(comfy, make, model):
    from comfy import model_sampling

    from asyncdiff.tpm.errors import HostError

    class OneStep(model_sampling.ModelSamplingDiscrete, model_sampling.IMG_TO_IMG):
        pass

    restoring = model.clone()
    restoring.add_object_patch("model_sampling", OneStep(None))
    with pytest.raises(HostError, match="sample it without this node"):
        make(model=restoring)


def test_a_family_without_a_word_of_its_own_has_the_hosts_name(make, model):
    class Other(type(model.model)):
        pass

    stranger = model.clone()
    stranger.model = object.__new__(Other)
    stranger.model.__dict__ = model.model.__dict__
    assert make(model=stranger).backbone == "Other"


def test_runs_that_start_alike_share_their_first_evaluation_and_count_it(make):
    shared, alone = make(), make()
    alone._share = lambda *_: None
    expected = alone.render(["one"] * 3, [7, 7, 7], constant(), steps=STEPS).images
    merged = shared.render(["one"] * 3, [7, 7, 7], constant(), steps=STEPS).images
    assert shared.saved_evaluations == 2  # one sample stands for three
    assert far(merged, expected) < CLOSE
    again = shared.render(["one"] * 3, [7, 7, 7], constant(0.2), steps=STEPS).images
    assert shared.saved_evaluations == 5
    assert far(again, merged) > CLOSE
    shared.render(["one", "two"], [7, 8], constant(), steps=STEPS)
    assert shared.saved_evaluations == 5  # other texts, other noises
    shared.render(["one", "two"], [7, 8], steps=STEPS + 1)
    assert shared.saved_evaluations == 7  # the first step of a longer run is the same
    assert alone.saved_evaluations == 0
