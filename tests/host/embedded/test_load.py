"""Load Embedded Pipeline: its CLIP against transformers, its errors, and stock graphs on its outputs."""

import shutil

import pytest
import torch

from support.paths import EMBEDDED

pytestmark = pytest.mark.host
PROMPT = "a large striped red circle above a small blue square on a starry background"
PROMPTS = [PROMPT, "", "ring", "A tiny Violet donut", "a photo of a box to the left of a green star with confetti"]


@pytest.fixture(scope="module")
def embedded(comfy):
    from asyncdiff.nodes import nodes_embedded

    return nodes_embedded


@pytest.fixture(autouse=True)
def as_the_executor():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def pipeline(embedded):
    with torch.inference_mode():
        return embedded.LoadEmbeddedPipeline.execute().result


@pytest.fixture(scope="module")
def clip(pipeline):
    return pipeline[1]


@pytest.fixture(scope="module")
def reference(comfy):
    return reference_of(EMBEDDED)


def reference_of(folder):
    """Context and pooled output of a prompt as StableDiffusion3Pipeline makes them, by transformers alone."""
    from transformers import CLIPTextModelWithProjection, CLIPTokenizerFast

    tokenizers = [CLIPTokenizerFast.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")]
    encoders = [
        CLIPTextModelWithProjection.from_pretrained(folder / name).float().eval()
        for name in ("text_encoder", "text_encoder_2")
    ]

    def encode(prompt):
        outputs = []
        for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
            tokens = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
            outputs.append(encoder(tokens.input_ids, output_hidden_states=True))
        context = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        return context, torch.cat([output.text_embeds for output in outputs], -1)

    encode.tokenizers = tokenizers
    return encode


def run_node(node, *inputs):
    """First output of a stock node, whichever of the two node APIs this host has written it in."""
    if hasattr(node, "execute"):
        return node.execute(*inputs).result[0]
    return getattr(node(), node.FUNCTION)(*inputs)[0]


def encode(clip, prompt):
    [[context, extra]] = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    return context, extra["pooled_output"]


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) < 1e-5 * max(1, float(other.abs().max()))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_and_outputs_are_those_of_transformers(clip, reference, prompt):
    tokens = clip.tokenize(prompt)
    for name, tokenizer in zip("lg", reference.tokenizers, strict=True):
        expected = tokenizer(prompt, padding="max_length", truncation=True).input_ids
        assert [[token for token, _ in block] for block in tokens[name]] == [expected]
    assert_equal(encode(clip, prompt), reference(prompt))


def test_sizes_are_those_of_the_folder(embedded, tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    folder = shutil.copytree(EMBEDDED, tmp_path / "copy")
    config = CLIPTextConfig.from_pretrained(EMBEDDED / "text_encoder_2")
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, "projection_dim": 32}
    resized = CLIPTextModelWithProjection(CLIPTextConfig(**config.to_dict() | sizes))
    resized.half().save_pretrained(folder / "text_encoder_2")
    context, pooled = encode(embedded.load_clip(folder), PROMPT)
    assert_equal((context, pooled), reference_of(folder)(PROMPT))
    assert (context.shape[-1], pooled.shape[-1]) == (192, 96)


def test_weights_scale_the_difference_to_the_empty_prompt(clip, reference):
    context, pooled = encode(clip, "a (red:1.5) circle")
    (plain, plain_pooled), (empty, _) = reference("a red circle"), reference("")
    expected = plain.clone()
    expected[:, 2] = empty[:, 2] + 1.5 * (plain[:, 2] - empty[:, 2])
    assert_equal((context, pooled), (expected, plain_pooled))
    assert_equal(encode(clip, "a (red:1.0) circle"), (plain, plain_pooled))


def test_punctuation_is_not_a_word(clip, reference):
    assert_equal(encode(clip, "a red circle, a \\(blue\\) square."), reference("a red circle a blue square"))


def test_unknown_words_are_all_named(clip):
    from asyncdiff.tpm.embedded.vocabulary import PromptError

    with pytest.raises(PromptError, match=r'"dragon".*, "cirle" \(did you mean "circle"\?\)\.'):
        clip.tokenize("a (red:1.2) ((dragon)) and a (cirle:0.8)")
    with pytest.raises(PromptError, match="embedding"):
        clip.tokenize("a circle embedding:foo")


def test_a_prompt_that_does_not_fit_is_refused(clip, reference):
    from asyncdiff.tpm.embedded.vocabulary import PromptError

    words = reference.tokenizers[0].model_max_length - 2
    assert len(clip.tokenize("red " * words)["l"]) == 1
    with pytest.raises(PromptError, match=f"at most {words} words, and this prompt has {words + 1};"):
        clip.tokenize("red " * words + "(circle:1.1)")


def test_clones_and_last_layer(comfy, clip):
    clone = clip.clone()
    assert clone.patcher is not clip.patcher
    assert_equal(encode(clone, PROMPT), encode(clip, PROMPT))
    penultimate = comfy.CLIPSetLastLayer().set_last_layer(clip, -2)[0]
    assert_equal(encode(penultimate, PROMPT), encode(clip, PROMPT))
    last = comfy.CLIPSetLastLayer().set_last_layer(clip, -1)[0]
    assert not torch.equal(encode(last, PROMPT)[0], encode(clip, PROMPT)[0])
    assert_equal(encode(clip, PROMPT), encode(clone, PROMPT))


def test_the_host_can_copy_the_parts_from_their_files(pipeline):
    for patcher in (pipeline[1].patcher, pipeline[2].patcher):
        factory, arguments = patcher.cached_patcher_init[:2]
        copy = factory(*arguments, disable_dynamic=True)
        assert copy.model is not patcher.model
        for name, value in patcher.model.state_dict().items():
            assert torch.equal(copy.model.state_dict()[name], value)


def test_the_stock_sd3_text_node(clip):
    from comfy_extras.nodes_sd3 import CLIPTextEncodeSD3

    [[context, extra]] = run_node(CLIPTextEncodeSD3, clip, PROMPT, PROMPT, "", "none")
    assert_equal((context, extra["pooled_output"]), encode(clip, PROMPT))
    [[left_out, extra]] = run_node(CLIPTextEncodeSD3, clip, "", "", "", "none")
    assert left_out.shape == context.shape
    assert not left_out.any()
    assert not extra["pooled_output"].any()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_stock_graph_draws(comfy, pipeline, batch):
    from comfy_extras.nodes_sd3 import EmptySD3LatentImage

    model, clip, vae = pipeline
    positive, negative = (comfy.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, ""))
    latent = run_node(EmptySD3LatentImage, 128, 128, batch)
    sampled = comfy.KSampler().sample(model, 0, 8, 3.0, "euler", "simple", positive, negative, latent)[0]
    image = comfy.VAEDecode().decode(vae, sampled)[0]
    assert image.shape == (batch, 128, 128, 3)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert float(image.std()) > 0.05


def test_encoding_then_decoding_keeps_the_picture(comfy, pipeline):
    vae = pipeline[2]
    flat = torch.linspace(0.2, 0.8, 3).expand(1, 128, 128, 3)
    latent = comfy.VAEEncode().encode(vae, flat)[0]
    assert latent["samples"].shape == (1, 16, 16, 16)
    back = comfy.VAEDecode().decode(vae, latent)[0]
    assert back.shape == flat.shape
    assert float((back - flat).abs().mean()) < 0.2


def test_incomplete_and_damaged_folders_are_one_sentence(embedded, tmp_path):
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match="is incomplete: no transformer/"):
        embedded.load_pipeline(tmp_path)
    damage = {
        "vae/diffusion_pytorch_model.safetensors": "version https://git-lfs.github.com/spec/v1",
        "text_encoder_2/model.safetensors": "",
        "text_encoder/config.json": "{",
    }
    for number, (name, content) in enumerate(damage.items()):
        folder = shutil.copytree(EMBEDDED, tmp_path / str(number))
        (folder / name).write_text(content)
        with pytest.raises(HostError) as refusal:
            embedded.load_pipeline(folder)
        assert "\n" not in str(refusal.value)
        assert "again" in str(refusal.value)


def test_the_fingerprint_follows_the_files(embedded, tmp_path):
    folder = shutil.copytree(EMBEDDED, tmp_path / "copy")
    before = embedded.fingerprint(folder)
    assert embedded.fingerprint(folder) == before
    with (folder / "vae" / "diffusion_pytorch_model.safetensors").open("ab") as file:
        file.write(b" ")
    assert embedded.fingerprint(folder) != before
    assert embedded.LoadEmbeddedPipeline.fingerprint_inputs() == embedded.fingerprint(EMBEDDED)
