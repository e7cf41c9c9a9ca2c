from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from asyncdiff.tpm.embedded.codec import SCALE, SHIFT, Stem, draw_images, to_raw
from asyncdiff.tpm.embedded.denoiser import FlowTraining, Scenes, new_transformer
from asyncdiff.tpm.embedded.evaluate import seam_ratio
from asyncdiff.tpm.embedded.export import silent_t5
from asyncdiff.tpm.embedded.judge import Judge, agreement
from asyncdiff.tpm.embedded.loop import Draw, Plan, fit
from asyncdiff.tpm.embedded.render import render
from asyncdiff.tpm.embedded.text import TextStack, TextTraining, new_tokenizer
from asyncdiff.tpm.embedded.vocabulary import (
    BACKGROUNDS,
    COLORS,
    LAYOUTS,
    PATTERNS,
    SHAPES,
    SIZES,
    WORDS,
    PromptError,
    check_prompt,
    read,
    words_of,
)
from asyncdiff.tpm.embedded.world import Scene, canonical_caption, caption, sample_scene
from asyncdiff.tpm.embedded.worlds import EASY
from asyncdiff.tpm.hosts.diffusers.loading import is_silent
from asyncdiff.tpm.statistics import bootstrap
from support.paths import EMBEDDED


def scenes(count: int, seed: int = 0, held_out: bool = False) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, held_out) for _ in range(count)]


# --- the world ----------------------------------------------------------------------------------------------------


def test_canonical_captions_say_exactly_the_scene():
    for scene in scenes(200):
        reading = read(canonical_caption(scene))
        assert reading.background == BACKGROUNDS[scene.background]
        assert len(reading.objects) == len(scene.items)
        for words, item in zip(reading.objects, scene.items, strict=True):
            assert (words.shape, words.color, words.size) == (SHAPES[item.shape], COLORS[item.color], SIZES[item.size])
            assert (words.pattern or "solid") == PATTERNS[item.pattern]
        expected = {"single": None, "horizontal": "left", "vertical": "above"}[LAYOUTS[scene.layout]]
        assert reading.relation == expected


def test_every_paraphrase_is_true_and_in_the_vocabulary():
    rng = np.random.default_rng(3)
    for scene in scenes(400, seed=3):
        text = caption(rng, scene)
        check_prompt(text)
        assert agreement(perfect_reader(scene), 0, read(text)) == (1.0, pytest.approx(1.0)), text


def perfect_reader(scene: Scene) -> dict[str, torch.Tensor]:
    def sure(index: int, classes: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([index]), classes).float().clamp_min(1e-12).log()

    known = {"layout": sure(scene.layout, 3), "background": sure(scene.background, 4)}
    for slot in (0, 1):
        item = scene.items[min(slot, len(scene.items) - 1)]
        for kind, members in (("shape", SHAPES), ("color", COLORS), ("pattern", PATTERNS), ("size", SIZES)):
            known[f"{kind}{slot}"] = sure(getattr(item, kind), len(members))
    return known


def test_a_wrong_caption_is_noticed():
    scene = next(s for s in scenes(50) if len(s.items) == 2 and s.items[0].color != s.items[1].color)
    words = canonical_caption(scene).split()
    swapped = [COLORS[(COLORS.index(w) + 1) % len(COLORS)] if w in COLORS else w for w in words]
    assert agreement(perfect_reader(scene), 0, read(" ".join(swapped)))[0] == pytest.approx(0.8)


def test_held_out_triples_never_appear_in_training_scenes():
    assert not any(item.held_out for scene in scenes(500) for item in scene.items)
    assert all(any(item.held_out for item in scene.items) for scene in scenes(50, held_out=True))


def test_rendering_is_a_function_of_the_scene():
    some = scenes(6)
    first, mask, dots = render(some)
    again, _, _ = render(some)
    alone, _, _ = render(some[3:4])
    assert torch.equal(first, again)
    assert torch.equal(first[3], alone[0])
    assert first.shape == (6, 3, 128, 128)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert float(mask.amax((1, 2)).min()) == 1
    dotted = [BACKGROUNDS[scene.background] in ("starry", "confetti") for scene in some]
    assert [count > 0 for count in dots.tolist()] == dotted


@pytest.mark.parametrize(
    ("prompt", "words"), [("", ""), ("A RED circle!", "a red circle"), ("a star, stars", "a star stars")]
)
def test_known_prompts_pass_without_their_punctuation(prompt, words):
    assert check_prompt(prompt) == words


def test_unknown_words_are_named_with_the_vocabulary_and_a_suggestion():
    with pytest.raises(PromptError) as caught:
        check_prompt("a red cirle beside a zebra")
    text = str(caught.value)
    assert '"cirle" (did you mean "circle"?)' in text
    assert '"zebra"' in text
    assert "triangle" in text
    assert '"red"' not in text


def test_every_word_is_one_token_and_captions_fit():
    tokenizer = new_tokenizer(EASY.tokens)
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in WORDS)
    rng = np.random.default_rng(5)
    longest = max(len(words_of(caption(rng, scene))) for scene in scenes(500, seed=5))
    assert longest + 2 <= EASY.tokens


# --- training -----------------------------------------------------------------------------------------------------


def test_captions_alone_teach_the_text_encoders_something():
    torch.manual_seed(0)
    training = TextTraining(TextStack.new(EASY.tokens), EASY)

    def loss() -> float:
        with torch.no_grad():
            return float(training.loss(Draw.of(9, "check", 0), 64))

    before = loss()
    optimizer = torch.optim.AdamW(training.parameters(), lr=2e-3)
    for step in range(12):
        optimizer.zero_grad()
        training.loss(Draw.of(0, "text", step), 32).backward()
        optimizer.step()
    assert loss() < 0.9 * before


def test_the_denoiser_trains_on_frozen_text_and_repeatable_scenes():
    torch.manual_seed(0)
    stem, text = Stem().fit(seed=0, images=48), TextStack.new(EASY.tokens)
    training = FlowTraining(stem, text, new_transformer(1), Scenes(EASY, stem, seed=0, count=24))
    training.loss(Draw.of(0, "denoiser", 0), 4).backward()
    assert all(parameter.grad is None for parameter in text.parameters())
    assert any(parameter.grad is not None for parameter in training.transformer.parameters())
    batches = [Scenes(EASY, stem, seed=0, count=24).batch(Draw.of(0, "denoiser", 1), 4) for _ in range(2)]
    assert torch.equal(batches[0][0], batches[1][0])
    assert batches[0][1] == batches[1][1]
    assert batches[0][0].shape == (4, 16, 16, 16)


def test_a_silent_t5_says_nothing_and_is_known_for_it():
    t5, tokenizer = silent_t5()
    tokens = tokenizer(["a red circle"], padding="max_length", max_length=16, return_tensors="pt")
    assert not t5(tokens["input_ids"])[0].any()
    assert is_silent(t5)
    t5.encoder.final_layer_norm.weight.data.fill_(0.1)
    assert not is_silent(t5)
    assert not is_silent(None)


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def loss(self, draw: Draw, batch: int) -> torch.Tensor:
        x = draw.normal(batch, 4)
        return (self.layer(x)[:, 0] - x.sum(1)).square().mean()


def test_a_resumed_stage_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    plan = Plan(steps=6, batch=8, learning_rate=0.1, warmup=2, seed=1)
    whole = Regression()
    fit("toy", whole, whole.loss, plan, tmp_path / "whole", "cpu")

    broken = Regression()
    calls = {"n": 0}

    def dies(draw: Draw, batch: int) -> torch.Tensor:
        calls["n"] += 1
        if calls["n"] == 4:
            raise KeyboardInterrupt
        return broken.loss(draw, batch)

    monkeypatch.setattr("asyncdiff.tpm.embedded.loop.CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit("toy", broken, dies, plan, tmp_path / "broken", "cpu")
    resumed = Regression()
    fit("toy", resumed, resumed.loss, plan, tmp_path / "broken", "cpu")
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    control = Regression()
    fit("toy", control, control.loss, replace(plan, seed=2), tmp_path / "control", "cpu")
    assert not torch.equal(control.layer.weight, whole.layer.weight)


def test_the_latent_space_is_standardised_and_nearly_lossless_for_coarse_structure():
    stem = Stem().fit(seed=0, images=96)
    images = draw_images(Draw.of(1, "test", 0), 24) * 2 - 1
    latents = stem(images)
    assert latents.shape == (24, 16, 16, 16)
    assert float(latents.square().mean()) == pytest.approx(1, abs=0.15)
    error = (stem.inverse(latents) - images).square().mean() / images.var()
    assert float(error) < 0.03
    assert torch.allclose((to_raw(latents) - SHIFT) * SCALE, latents, atol=1e-5)


def test_seams_are_seen_only_where_they_are():
    smooth = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert seam_ratio(smooth) == pytest.approx(1, abs=0.05)
    blocks = torch.nn.functional.interpolate(smooth[..., :8, :8], scale_factor=8) + 0.1 * smooth
    assert seam_ratio(blocks) > 3


def test_the_bootstrap_interval_covers_a_known_mean():
    draws = np.random.default_rng(0).normal(2.0, 1.0, 400)
    interval = bootstrap(draws)
    assert interval.low < 2.0 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


# --- the shipped weights ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load(EMBEDDED)


@pytest.fixture(scope="module")
def studio():
    from asyncdiff.tpm.hosts.diffusers import DiffusersStudio

    return DiffusersStudio.load(EMBEDDED, device="cpu")


def test_the_judge_reads_real_renders(judge):
    some = scenes(64, seed=11) + scenes(64, seed=12, held_out=True)
    scores = judge.score(render(some)[0], [canonical_caption(scene) for scene in some])
    assert float(scores["attributes"].mean()) >= 0.99
    assert float(scores["alignment"].mean()) >= 0.97
    wrong = judge.score(render(some)[0], [canonical_caption(scene) for scene in reversed(some)])
    assert float(wrong["attributes"].mean()) < 0.6


def test_the_judge_measures_noise_and_detail(judge):
    some = [scene for scene in scenes(60, seed=13) if BACKGROUNDS[scene.background] == "starry"][:8]
    images, prompts = render(some)[0], [canonical_caption(scene) for scene in some]
    clean = judge.score(images, prompts)
    noisy = judge.score(
        (images + 4 / 255 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))), prompts
    )
    assert bool((noisy["noise"] > clean["noise"] + 1).all())
    plain = [scene for scene in scenes(60, seed=13) if BACKGROUNDS[scene.background] == "plain"][:8]
    flat = judge.score(render(plain)[0], [canonical_caption(scene) for scene in plain])
    assert float(clean["detail"].mean()) > 2
    assert float(flat["detail"].mean()) < 0.2


def test_the_embedded_pipeline_heeds_its_captions_and_gamma_adds_detail(studio, judge):
    from asyncdiff.tpm.policies import find_policy
    from asyncdiff.tpm.retiming.settings import Retiming

    some = [s for s in scenes(60, seed=21, held_out=True) if BACKGROUNDS[s.background] in ("starry", "confetti")][:12]
    prompts, seeds = [canonical_caption(scene) for scene in some], list(range(len(some)))
    policy = find_policy("tiny-sd35")
    images = [
        studio.render(prompts, seeds, policy, Retiming(gamma=gamma), steps=8, guidance=3.0).images
        for gamma in (0.0, 1.0, 2.0)
    ]
    asked = judge.score(images[0], prompts)["attributes"].mean()
    not_asked = judge.score(images[0], prompts[1:] + prompts[:1])["attributes"].mean()
    assert float(asked) > 0.85
    assert float(asked - not_asked) > 0.3
    detail = [float(judge.score(image, prompts)["detail"].mean()) for image in images]
    assert detail[0] < detail[1] < detail[2]


def test_diffusers_own_loader_takes_the_folder_as_it_is(judge):
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(EMBEDDED)
    pipe.set_progress_bar_config(disable=True)
    prompt = "a large red circle on a starry background"
    images = pipe(
        prompt, num_inference_steps=8, guidance_scale=3.0, height=128, width=128, output_type="pt",
        generator=torch.manual_seed(0),
    ).images  # fmt: skip
    assert images.shape == (1, 3, 128, 128)
    assert float(judge.score(images, [prompt])["attributes"]) == 1.0


def test_the_pipeline_folder_is_small():
    sizes = {path: path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 20 * 2**20


def test_the_judge_as_a_metric_refuses_a_word_that_it_would_ignore(judge):
    from PIL import Image

    from asyncdiff.tpm.embedded.judge import JudgeMetric
    from asyncdiff.tpm.embedded.vocabulary import PromptError

    metric, picture = JudgeMetric(judge), Image.new("RGB", (128, 128))
    assert metric.score([picture] * 2, ["a red circle", "a blue star"]).shape == (2,)
    with pytest.raises(PromptError, match="lighthouse"):
        metric.score([picture] * 2, ["a red circle", "a lighthouse"])
