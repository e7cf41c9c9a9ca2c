"""The four metrics against plain formulas: small random weights in the official files' layouts, generated vocabularies.

Each parity has a control: the same weights with one thing wrong must give another score.
"""

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from asyncdiff.tpm.rewards import clip_score, hps, image_reward, pick_score
from asyncdiff.tpm.rewards.base import RewardError
from asyncdiff.tpm.rewards.clip import Clip, Tower
from asyncdiff.tpm.rewards.image_reward import MEAN, STD, Blip
from asyncdiff.tpm.rewards.pictures import crop_processor, crop_torchvision, letterbox
from reference.weights import Draw, hugging_face, official_blip_weights, open_clip_weights

EXACT = 2e-6  # float32 sums in another order; the full-size bar is held by a command with the reference packages
REWARD_BAR = 5e-6  # of the largest reward, which four layers and a head have amplified; in float64 it is 1e-12
PROMPTS = ["a red cat's hat", "Two DOGS, 3 cats & one étoile", "a red cat's hat"]
TINY = Clip(Tower(32, 64, 2, 4), Tower(48, 96, 2, 4), projection=24, activation="gelu", vocabulary=521, patch=56)
TINY_BLIP = Blip(
    Tower(48, 96, 2, 4), Tower(32, 64, 2, 4), head=(20, 12, 10, 8, 1), vocabulary=60, positions=40, patch=56
)
BERT_WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "cat",
    "hat",
    "dog",
    "##s",
    "two",
    "3",
    "&",
    "'",
    ",",
    "s",
    "one",
    "e",
    "##t",
    "##oile",
    "cats",
]


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(1)
    sizes = [(231, 301), (301, 229), (224, 224)]  # the first leaves a margin of 67: the crops differ
    coarse = [torch.rand(1, 3, 12, 12, generator=generator) for _ in sizes]
    images = [F.interpolate(c, size, mode="bicubic")[0].clamp(0, 1) for c, size in zip(coarse, sizes, strict=True)]
    return [Image.fromarray((image * 255).byte().permute(1, 2, 0).contiguous().numpy()) for image in images]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    merges = ["c a", "ca t</w>", "r e", "re d</w>", "d o", "do g", "dog s</w>", "h a"]
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + n for n in range(256 - len(kept))]
    letters = [chr(code) for code in (*kept, *others)]
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(m.split()) for m in merges)][: TINY.vocabulary - 2]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges[: len(tokens) - 514]]))
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS))
    return folder


# ---------------------------------------------------------------------------------------------- plain formulas


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def linear(t, name, x, joint="."):
    return x @ t[f"{name}{joint}weight"].T + t[f"{name}{joint}bias"]


def norm(t, name, x, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]


def attend(q, k, v, heads, bias=0.0):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
    return (weights @ v).transpose(-3, -2).flatten(-2)


def open_clip_tower(t, prefix, x, tower, act, bias=0.0):
    for number in range(tower.layers):
        p = f"{prefix}transformer.resblocks.{number}."
        q, k, v = linear(t, f"{p}attn.in_proj", norm(t, f"{p}ln_1", x, 1e-5), "_").chunk(3, -1)
        x = x + linear(t, f"{p}attn.out_proj", attend(q, k, v, tower.heads, bias))
        x = x + linear(t, f"{p}mlp.c_proj", act(linear(t, f"{p}mlp.c_fc", norm(t, f"{p}ln_2", x, 1e-5))))
    return x


def patches(weight, pixels):
    side = weight.shape[-1]
    cut = pixels.unfold(2, side, side).unfold(3, side, side)  # n, 3, rows, columns, side, side
    return torch.einsum("ncijab,dcab->nijd", cut, weight).flatten(1, 2)


def open_clip_cosine(t, shape, pixels, tokens, act=F.gelu):
    x = patches(t["visual.conv1.weight"], pixels)
    x = torch.cat([t["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + t["visual.positional_embedding"]
    x = open_clip_tower(t, "visual.", norm(t, "visual.ln_pre", x, 1e-5), shape.vision, act)
    seen = norm(t, "visual.ln_post", x[:, 0], 1e-5) @ t["visual.proj"]
    causal = torch.full((77, 77), float("-inf")).triu(1)
    x = t["token_embedding.weight"][tokens] + t["positional_embedding"]
    x = norm(t, "ln_final", open_clip_tower(t, "", x, shape.text, act, causal), 1e-5)
    read = x[torch.arange(len(x)), tokens.argmax(-1)] @ t["text_projection"]
    return (seen / seen.norm(dim=-1, keepdim=True) * (read / read.norm(dim=-1, keepdim=True))).sum(-1)


def blip_reward(t, shape, pixels, tokens):
    p = "blip.visual_encoder."
    x = patches(t[f"{p}patch_embed.proj.weight"], pixels) + t[f"{p}patch_embed.proj.bias"]
    x = torch.cat([t[f"{p}cls_token"].expand(len(x), -1, -1), x], 1) + t[f"{p}pos_embed"]
    for number in range(shape.vision.layers):
        b = f"{p}blocks.{number}."
        q, k, v = linear(t, f"{b}attn.qkv", norm(t, f"{b}norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(t, f"{b}attn.proj", attend(q, k, v, shape.vision.heads))
        x = x + linear(t, f"{b}mlp.fc2", F.gelu(linear(t, f"{b}mlp.fc1", norm(t, f"{b}norm2", x, 1e-6))))
    seen, p = norm(t, f"{p}norm", x, 1e-6), "blip.text_encoder."
    bias = torch.where(tokens == 0, -10000.0, 0.0)[:, None, None]
    x = t[f"{p}embeddings.word_embeddings.weight"][tokens]
    x = x + t[f"{p}embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = norm(t, f"{p}embeddings.LayerNorm", x, 1e-12)
    for number in range(shape.text.layers):
        b = f"{p}encoder.layer.{number}."
        for kind, memory, added in (("attention", None, bias), ("crossattention", seen, 0.0)):
            source = x if memory is None else memory
            parts = (
                linear(t, f"{b}{kind}.self.query", x),
                *(linear(t, f"{b}{kind}.self.{name}", source) for name in ("key", "value")),
            )
            y = linear(t, f"{b}{kind}.output.dense", attend(*parts, shape.text.heads, added))
            x = norm(t, f"{b}{kind}.output.LayerNorm", x + y, 1e-12)
        y = linear(t, f"{b}output.dense", F.gelu(linear(t, f"{b}intermediate.dense", x)))
        x = norm(t, f"{b}output.LayerNorm", x + y, 1e-12)
    x = x[:, 0]
    for number in (0, 2, 4, 6, 7):
        x = linear(t, f"mlp.layers.{number}", x)
    return (x[:, 0] - MEAN) / STD


# ------------------------------------------------------------------------------------------------------ parity


@pytest.fixture(scope="module")
def hps_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("hps") / "HPS_v2_compressed.pt"
    torch.save({"epoch": 1, "name": "x", "state_dict": open_clip_weights(TINY)}, path)
    return path


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "model.safetensors"
    save_file(hugging_face(TINY), path)
    return path


@pytest.fixture(scope="module")
def blip_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("blip") / "ImageReward.pt"
    torch.save(official_blip_weights(TINY_BLIP), path)
    return path


def expected_cosine(pictures, prepare, tokens, act=F.gelu):
    pixels = torch.stack([prepare(picture) for picture in pictures])
    return open_clip_cosine(open_clip_weights(TINY), TINY, pixels, torch.tensor([tokens(p) for p in PROMPTS]), act)


def test_hps_is_the_plain_formula(hps_file, words, pictures):
    metric = hps.load(hps_file, words, shape=TINY)
    expected = expected_cosine(pictures, letterbox, metric._tokens)
    assert expected.std() > 1e-3
    assert metric.score(pictures, PROMPTS) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(TINY, activation="quick_gelu"),
        replace(TINY, epsilon=1e-4),
        replace(TINY, text=replace(TINY.text, heads=2)),
        replace(TINY, vision=replace(TINY.vision, heads=2)),
    ],
    ids=["activation", "epsilon", "text heads", "vision heads"],
)
def test_a_wrong_configuration_of_hps_is_noticed(wrong, hps_file, words, pictures):
    metric = hps.load(hps_file, words, shape=wrong)
    expected = expected_cosine(pictures, letterbox, metric._tokens)
    assert (metric.score(pictures, PROMPTS) - expected).abs().max() > 10 * EXACT


def test_a_wrong_preparation_of_hps_is_noticed(hps_file, words, pictures):
    metric = hps.load(hps_file, words, shape=TINY)
    expected = expected_cosine(pictures, crop_torchvision, metric._tokens)
    difference = (metric.score(pictures, PROMPTS) - expected).abs()
    assert difference[:2].min() > 10 * EXACT


def test_clip_score_is_the_plain_formula_with_quick_gelu(clip_file, words, pictures):
    metric = clip_score.load(clip_file, words, shape=replace(TINY, activation="quick_gelu"))
    expected = expected_cosine(pictures, crop_torchvision, metric._tokens, quick_gelu)
    assert metric.score(pictures, PROMPTS) == pytest.approx(expected, abs=EXACT)
    other = expected_cosine(pictures, crop_torchvision, metric._tokens)
    assert (metric.score(pictures, PROMPTS) - other).abs().max() > 10 * EXACT


def test_pick_score_is_scaled_and_crops_as_its_processor(clip_file, words, pictures):
    metric = pick_score.load(clip_file, words, shape=TINY)
    scale = math.exp(3.1)
    expected = scale * expected_cosine(pictures, crop_processor, metric._tokens)
    assert metric.score(pictures, PROMPTS) == pytest.approx(expected, abs=EXACT * scale)
    shifted = scale * expected_cosine(pictures, crop_torchvision, metric._tokens)
    assert (metric.score(pictures, PROMPTS) - shifted).abs().max() > 10 * EXACT * scale


def test_image_reward_is_the_plain_formula(blip_file, words, pictures):
    metric = image_reward.load(blip_file, words, shape=TINY_BLIP)
    expected, size = expected_reward(metric, pictures)
    assert (metric.score(pictures, PROMPTS) - expected).abs().max() < REWARD_BAR * size
    pixels, tokens = reward_input(metric, pictures)
    exactly = metric.module.double()(pixels, tokens, (tokens != 0).long())
    assert (exactly - expected).abs().max() < 1e-12 * size


@pytest.mark.parametrize("wrong", ["epsilon", "heads", "decoder", "mask", "first token"])
def test_a_wrong_configuration_of_image_reward_is_noticed(wrong, blip_file, words, pictures, monkeypatch):
    shapes = {
        "epsilon": replace(TINY_BLIP, vision_epsilon=1e-5),
        "heads": replace(TINY_BLIP, text=replace(TINY_BLIP.text, heads=2)),
    }
    metric = image_reward.load(blip_file, words, shape=shapes.get(wrong, TINY_BLIP))
    expected, size = expected_reward(metric, pictures)
    tokens, read = metric._tokens, metric.module.text.forward
    if wrong == "decoder":
        monkeypatch.setattr(metric.module.text, "forward", lambda **given: read(**{**given, "is_decoder": True}))
    if wrong == "mask":
        monkeypatch.setattr(tokens, "pad", -1)
    if wrong == "first token":
        monkeypatch.setattr(metric, "_tokens", EncFirst(tokens))
    assert (metric.score(pictures, PROMPTS) - expected).abs().max() > 1000 * REWARD_BAR * size


class EncFirst:
    """[ENC] in place of [CLS], as BLIP's own pre-training has it and ImageReward has not."""

    def __init__(self, tokens):
        self.tokens, self.pad = tokens, tokens.pad

    def __call__(self, text):
        return [len(BERT_WORDS) + 1, *self.tokens(text)[1:]]


def reward_input(metric, pictures):
    pixels = torch.stack([crop_torchvision(picture) for picture in pictures]).double()
    return pixels, torch.tensor([metric._tokens(prompt) for prompt in PROMPTS])


def expected_reward(metric, pictures):
    """In float64, and the largest of them: the formula in float32 would bring more rounding than the metric does."""
    weights = {name: value.to(torch.float64) for name, value in official_blip_weights(TINY_BLIP).items()}
    expected = blip_reward(weights, TINY_BLIP, *reward_input(metric, pictures))
    return expected, expected.abs().max()


# ------------------------------------------------------------------------------------------- behaviour, bad files


def test_half_precision_stays_close_and_is_compared_in_float32(hps_file, blip_file, words, pictures):
    """How close depends on how a processor sums in half precision: to a hundredth, and nearer than bfloat16 comes."""
    for load in (
        lambda dtype: hps.load(hps_file, words, dtype, TINY),
        lambda dtype: image_reward.load(blip_file, words, dtype, TINY_BLIP),
    ):
        exact, half, coarse = (
            load(dtype).score(pictures, PROMPTS) for dtype in (torch.float32, torch.float16, torch.bfloat16)
        )
        assert half.dtype == torch.float32
        assert (half - exact).abs().max() < 1e-2 * exact.abs().max()
        assert 2 * (half - exact).abs().max() < (coarse - exact).abs().max()


def test_a_prompt_is_embedded_once(hps_file, words, pictures, monkeypatch):
    metric = hps.load(hps_file, words, shape=TINY)
    seen, embed = [], metric.module.get_text_features
    monkeypatch.setattr(
        metric.module, "get_text_features", lambda input_ids: seen.append(len(input_ids)) or embed(input_ids=input_ids)
    )
    first = metric.score(pictures, PROMPTS)
    assert torch.equal(metric.score(pictures, PROMPTS), first)
    assert seen == [2]


def test_projections_lie_in_memory_as_in_each_reference(hps_file, clip_file, words):
    for metric, turned in (
        (hps.load(hps_file, words, shape=TINY), True),
        (hps.load(hps_file, words, torch.float16, TINY), True),
        (clip_score.load(clip_file, words, shape=TINY), True),
        (pick_score.load(clip_file, words, shape=TINY), False),
    ):
        for projection in (metric.module.visual_projection, metric.module.text_projection):
            assert projection.weight.T.is_contiguous() == turned
            assert projection.weight.is_contiguous() != turned


def test_missing_weights_are_named(tmp_path, words):
    weights = open_clip_weights(TINY)
    del weights["visual.ln_post.bias"]
    torch.save({"state_dict": weights}, tmp_path / "HPS_v2_compressed.pt")
    with pytest.raises(RewardError, match=r"vision_model\.post_layernorm\.bias missing"):
        hps.load(tmp_path / "HPS_v2_compressed.pt", words, shape=TINY)


def test_a_file_of_another_metric_is_refused(hps_file, clip_file, blip_file, words):
    with pytest.raises(RewardError, match="not have open_clip's layout"):
        hps.load(clip_file, words, shape=TINY)
    for load in (clip_score.load, pick_score.load):
        with pytest.raises(RewardError, match="missing"):
            load(hps_file, words, shape=TINY)
    with pytest.raises(RewardError, match="missing"):
        image_reward.load(clip_file, words, shape=TINY_BLIP)
    with pytest.raises(RewardError, match="has shape"):
        clip_score.load(clip_file, words, shape=replace(TINY, projection=32))


@pytest.mark.parametrize("name", ["ImageReward.pt", "ImageReward.safetensors"])
def test_a_truncated_file_is_a_sentence(name, blip_file, tmp_path, words):
    path = tmp_path / name
    if name.endswith(".pt"):
        path.write_bytes(blip_file.read_bytes()[:5000])
    else:
        save_file({"a": torch.ones(2000)}, path)
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RewardError, match=r"not a complete file of weights.*huggingface\.co/THUDM/ImageReward"):
        image_reward.load(path, words, shape=TINY_BLIP)


def test_a_file_that_would_run_code_is_refused(tmp_path, words):
    torch.save({"state_dict": Draw(0)}, tmp_path / "HPS_v2_compressed.pt")
    with pytest.raises(RewardError, match="not a complete file of weights"):
        hps.load(tmp_path / "HPS_v2_compressed.pt", words, shape=TINY)


def test_a_vocabulary_that_is_too_large_is_refused(clip_file, words):
    with pytest.raises(RewardError, match="521 tokens, the model 300"):
        pick_score.load(clip_file, words, shape=replace(TINY, vocabulary=300))


# ------------------------------------------------------------------------------------ sizes read from the tensors

SMALL_L = Clip(Tower(64, 256, 1, 1), Tower(128, 512, 2, 2), 24, "quick_gelu", vocabulary=521)
SMALL_H = Clip(Tower(64, 256, 3, 1), Tower(80, 320, 4, 1), 24, "gelu", vocabulary=521)
SMALL_BLIP = Blip(Tower(64, 256, 2, 1), Tower(64, 256, 1, 1), head=(20, 12, 10, 8, 1), vocabulary=24)


@pytest.fixture(scope="module")
def sized_files(tmp_path_factory):
    """A small model of each metric, in the official one's proportions."""
    folder = tmp_path_factory.mktemp("sized")
    save_file(hugging_face(SMALL_L), folder / "clip-score.safetensors")
    save_file(hugging_face(SMALL_H), folder / "pick-score.safetensors")
    save_file(open_clip_weights(SMALL_H), folder / "hps-v2.safetensors")
    save_file(open_clip_weights(SMALL_L), folder / "other-open-clip.safetensors")
    save_file(official_blip_weights(SMALL_BLIP), folder / "image-reward.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "module", "shape"),
    [
        ("clip-score", clip_score, SMALL_L),
        ("pick-score", pick_score, SMALL_H),
        ("hps-v2", hps, SMALL_H),
        ("image-reward", image_reward, SMALL_BLIP),
    ],
)
def test_sizes_are_read_from_the_tensors(name, module, shape, sized_files, words, pictures):
    file = sized_files / f"{name}.safetensors"
    found, given = module.load(file, words), module.load(file, words, shape=shape)
    assert torch.equal(found.score(pictures, PROMPTS), given.score(pictures, PROMPTS))


@pytest.mark.parametrize(
    ("name", "module", "reason"),
    [
        ("pick-score", clip_score, "4 layers of 80 and 3 layers of 64 instead of 24 layers of 1024 and 12 layers"),
        ("clip-score", pick_score, "2 layers of 128 and 1 layers of 64 instead of 32 layers of 1280 and 24 layers"),
        ("other-open-clip", hps, "another model"),
        ("hps-v2", clip_score, "missing"),
        ("pick-score", hps, "not have open_clip's layout"),
        ("clip-score", image_reward, "missing"),
        ("image-reward", pick_score, "missing"),
    ],
)
def test_a_file_of_another_metric_is_refused_at_any_size(name, module, reason, sized_files, words):
    with pytest.raises(RewardError, match=reason):
        module.load(sized_files / f"{name}.safetensors", words)


@pytest.mark.parametrize("lost", ["vision_model.encoder.layers.1.", "text_projection.weight", "logit_scale"])
def test_a_lost_layer_or_tensor_is_noticed_at_any_size(lost, sized_files, words, tmp_path):
    weights = hugging_face(SMALL_L)
    save_file({name: value for name, value in weights.items() if not name.startswith(lost)}, tmp_path / "m.safetensors")
    with pytest.raises(RewardError, match=r"missing|another model"):
        clip_score.load(tmp_path / "m.safetensors", words)
