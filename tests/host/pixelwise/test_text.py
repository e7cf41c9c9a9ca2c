"""Phrases → positions by the host's real tokenizers, and the same run in ComfyUI and in diffusers."""

import random
import unicodedata
from types import SimpleNamespace

import pytest
import torch

from support.pixelwise_runs import relative

pytestmark = pytest.mark.host
PROMPT = "a photo of a fluffy cat and a (brown dog:1.3), a second cat"


class Clip:
    """A CLIP whose tokenizer is the host's and whose encoder is not needed."""

    def __init__(self, tokenizer, **encoders):
        self._tokenizer, self.cond_stage_model = tokenizer, SimpleNamespace(**encoders)

    def tokenize(self, text, **options):
        return self._tokenizer.tokenize_with_weights(text, **options)

    def ids(self, name):
        return [entry[0] for block in self.tokenize(PROMPT)[name] for entry in block]


def items(clip, length, *phrases):
    from asyncdiff.nodes.pixelwise.tokens import phrase_items

    return phrase_items(clip, PROMPT, [(phrase, 0.5, occurrence) for phrase, occurrence in phrases], length)


def words(clip, name, places, offset=0):
    """The ids that a phrase was found at."""
    return [clip.ids(name)[place - offset] for place in places]


def test_one_clip_encoder(comfy):
    import comfy.sd1_clip

    clip = Clip(comfy.sd1_clip.SD1Tokenizer())
    cat, dog = items(clip, 77, ("fluffy cat", 1), ("brown dog", 1))
    expected = [entry[0] for entry in clip.tokenize("fluffy cat")["l"][0][1:3]]
    assert words(clip, "l", cat.tokens) == expected
    assert min(dog.tokens) > max(cat.tokens)
    first, second = items(clip, 77, ("cat", 1), ("cat", 2))
    assert (first.name, second.name) == ("cat", "cat #2")
    assert first.tokens < second.tokens


def test_a_prompt_of_two_blocks(comfy):
    import comfy.sd1_clip

    from asyncdiff.nodes.pixelwise.tokens import phrase_items

    clip = Clip(comfy.sd1_clip.SD1Tokenizer())
    [item] = phrase_items(clip, "very " * 90 + "old cat", [("old cat", 0.5, 1)], 154)
    assert all(77 < place < 154 for place in item.tokens)


def test_sdxl_has_two_encoders_and_one_context(comfy):
    import comfy.sdxl_clip

    clip = Clip(comfy.sdxl_clip.SDXLTokenizer())
    [cat] = items(clip, 77, ("fluffy cat", 1))
    assert words(clip, "g", cat.tokens) == words(clip, "l", cat.tokens)


@pytest.mark.parametrize("t5", [True, False])
def test_sd3_joins_clip_and_t5(comfy, t5):
    from comfy.text_encoders.sd3_clip import SD3Tokenizer

    clip = Clip(SD3Tokenizer(), clip_l=object(), clip_g=object(), t5xxl=object() if t5 else None)
    length = len(clip.ids("t5xxl")) if t5 else 0
    [cat] = items(clip, 77 + length, ("fluffy cat", 1))
    lower, upper = ([p for p in cat.tokens if (p >= 77) == late] for late in (False, True))
    assert words(clip, "g", lower) == [entry[0] for entry in clip.tokenize("fluffy cat")["g"][0][1:3]]
    assert bool(upper) == t5
    if t5:
        wanted = [entry[0] for entry in clip.tokenize("fluffy cat")["t5xxl"][0]]
        assert words(clip, "t5xxl", upper, 77) == wanted[: len(upper)]


def test_flux_reads_the_t5_alone(comfy):
    from comfy.text_encoders.flux import FluxTokenizer

    clip = Clip(FluxTokenizer())
    length = len(clip.ids("t5xxl"))
    [dog] = items(clip, length, ("brown dog", 1))
    wanted = [entry[0] for entry in clip.tokenize("brown dog")["t5xxl"][0]]
    assert words(clip, "t5xxl", dog.tokens) == wanted[: len(dog.tokens)]


def test_a_language_models_chat_is_seen_through(comfy):
    flux = pytest.importorskip("comfy.text_encoders.flux")
    if not hasattr(flux, "KleinTokenizer"):
        pytest.skip("this ComfyUI has no Flux.2 Klein")
    clip = Clip(flux.KleinTokenizer())
    length = len(clip.ids("qwen3_4b"))
    dog, first, second = items(clip, length, ("brown dog", 1), ("cat", 1), ("cat", 2))
    reader = clip._tokenizer.qwen3_4b.tokenizer
    texts = [reader.decode(words(clip, "qwen3_4b", item.tokens)).strip() for item in (dog, first, second)]
    assert texts == ["brown dog", "cat", "cat"]
    assert first.tokens < second.tokens
    from asyncdiff.tpm.pixelwise.errors import RegionError

    with pytest.raises(RegionError, match="'assistant' is not in the prompt"):
        items(clip, length, ("assistant", 1))


def test_an_absent_phrase_is_named_and_an_encoder_of_another_length_refused(comfy):
    import comfy.sd1_clip

    from asyncdiff.tpm.errors import HostError
    from asyncdiff.tpm.pixelwise.errors import RegionError

    clip = Clip(comfy.sd1_clip.SD1Tokenizer())
    with pytest.raises(RegionError, match="'horse' is not in the prompt"):
        items(clip, 77, ("horse", 1))
    with pytest.raises(RegionError, match=r"'fluffy cat' occurs 1 time\(s\)"):
        items(clip, 77, ("fluffy cat", 2))
    with pytest.raises(HostError, match="gives 64 tokens where its tokenizer gives 77"):
        items(clip, 64, ("cat", 1))


# --------------------------------------------------------------------------------- places in the text, not equal ids


def loaded(name):
    """A CLIP with one of core's tokenizers, the tokenizer whose tokens are its context, and how it decodes them."""
    import comfy.sd1_clip
    import comfy.sdxl_clip
    from comfy.text_encoders import flux
    from comfy.text_encoders.sd3_clip import SD3Tokenizer

    made = {
        "sd1": (comfy.sd1_clip.SD1Tokenizer, "l", "clip_l"),
        "sdxl": (comfy.sdxl_clip.SDXLTokenizer, "l", "clip_l"),
        "sd3": (SD3Tokenizer, "t5xxl", "t5xxl"),
        "flux": (flux.FluxTokenizer, "t5xxl", "t5xxl"),
    }
    if hasattr(flux, "KleinTokenizer"):
        made["klein"] = (flux.KleinTokenizer, "qwen3_4b", "qwen3_4b")
    if name not in made:
        pytest.skip("this ComfyUI has no Flux.2 Klein")
    kind, key, part = made[name]
    tokenizer = kind()
    clip = Clip(tokenizer, clip_l=object(), clip_g=object(), t5xxl=object() if name == "sd3" else None)
    return clip, key, getattr(tokenizer, part).tokenizer


def seen(name, text, phrase, occurrence=1):
    """What the tokens of a phrase say, in the encoder whose tokens are the end of the context."""
    from asyncdiff.nodes.pixelwise.tokens import phrase_items

    clip, key, reader = loaded(name)
    ids = [entry[0] for block in clip.tokenize(text)[key] for entry in block]
    offset = 77 if name == "sd3" else 0
    [item] = phrase_items(clip, text, [(phrase, 0.5, occurrence)], offset + len(ids))
    return reader.decode([ids[place - offset] for place in item.tokens if place >= offset]).strip(), item.tokens


TOKENIZERS = ["sd1", "sdxl", "sd3", "flux", "klein"]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ('says "hello world"', "hello world"),
        ('a sign,"hello world".', "hello world"),
        ("a cat,dog", "cat"),
        ("a cat,dog", "dog"),
        ("a hot-dog on a plate", "hot-dog"),
        ("a hot-dog on a plate", "plate"),
        ("(a cat:1.2)and(a dog:0.8)", "a dog"),
        ("a [cat], a (dog)", "dog"),
        ("wow! a cat! really!", "cat"),
        ("a photo of\nthe dog's bone", "dog"),
        ("a \\(round\\) table", "table"),
    ],
)
def test_a_phrase_is_found_by_its_place(comfy, name, text, phrase):
    found, _ = seen(name, text, phrase)
    assert found.replace(" ", "").strip(',."()[]') == phrase.replace(" ", "")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_unknown_signs_have_their_own_place(comfy, name):
    """To T5 both are the same unknown piece."""
    places = [seen(name, "a 🦊 and a 🐱", phrase)[1] for phrase in ("🦊", "and", "🐱")]
    assert not set(places[0]) & set(places[2])
    half = 1 if name != "sd3" else 2  # CLIP's and T5's places
    assert max(places[0][: len(places[0]) // half]) < min(places[1])
    assert places[2][-1] > max(places[1])


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("phrase", ["🐶", "do", "Horse"])
def test_what_is_not_there_is_refused(comfy, name, phrase):
    from asyncdiff.tpm.pixelwise.errors import RegionError

    with pytest.raises(RegionError, match="is not in the prompt"):
        seen(name, "a 🦊 and a dog", phrase)


def letters(text):
    return "".join(sign for sign in unicodedata.normalize("NFKC", text).lower() if sign.isalnum())


@pytest.mark.parametrize("name", ["sd1", "flux", "klein"])
def test_every_word_of_any_prompt_is_found(comfy, name):
    """Words and signs of many kinds, beside each other in many ways; what T5 does not know decodes to <unk>."""
    from asyncdiff.nodes.pixelwise.tokens import streams
    from asyncdiff.tpm.pixelwise.tokens import located

    clip, _, reader = loaded(name)
    draw = random.Random(1)
    for _ in range(40):
        words = draw.choices(WORDS, k=5)
        text = "".join(word + draw.choice(BETWEEN) for word in words)
        [stream] = streams(clip, text)
        for word in words:
            [places] = located([stream], [(word, 1)])
            found = reader.decode([stream.ids[stream.places.index(place)] for place in places])
            assert letters(found) == letters(word) or "<unk>" in found, (text, word)


WORDS = [
    "cat",
    "hot-dog",
    "hello world",
    '"hello"',
    "Chihuahua",
    "🦊",
    "👩\u200d🚀",
    "x-ray's",
    "don't",
    "café",
    "naïve",
]
WORDS += ["猫", "3.5", "T-shirt", "[blue]", "red", "fluffy", "e.g.", "#1", "“quote”", "🐱"]
BETWEEN = [" ", ", ", ",", " and a ", "; ", ". ", "/", "\n", " - ", "—"]


def test_signs_that_share_a_token_are_refused(comfy):
    from asyncdiff.tpm.pixelwise.errors import RegionError

    with pytest.raises(RegionError, match="'🐱' together with its neighbours"):
        seen("flux", "a 🦊🐱 here", "🐱")
    assert seen("sd1", "a 🦊🐱 here", "🐱")[1] == (4,)


# ------------------------------------------------------------------------------------------- ComfyUI and diffusers


CAPTION = "a large striped red circle above a small dotted blue star on a starry background"


class Both:
    """The embedded pipeline on both hosts, with one noise, one grid and one encoded prompt."""

    def __init__(self):
        from asyncdiff.nodes.nodes_embedded import FOLDER, load_pipeline
        from asyncdiff.tpm.hosts.diffusers.loading import load_pipeline as load_diffusers

        self.model, self.clip, _ = load_pipeline(FOLDER)
        self.texts = [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in (CAPTION, "")]
        self.pipe = load_diffusers(str(FOLDER))[0]
        self.pipe.scheduler.set_timesteps(6)
        self.sigmas = self.pipe.scheduler.sigmas.clone()
        self.noise = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(2))

    def comfy(self, model, sampler, images=slice(1)):
        """The latent, as diffusers has it."""
        import comfy.sample

        with torch.no_grad():
            latent = comfy.sample.sample_custom(
                model, self.noise[images], 3.0, sampler, self.sigmas, *self.texts, torch.zeros_like(self.noise[images]),
                disable_pbar=True,
            )  # fmt: skip
        return self.model.get_model_object("latent_format").process_in(latent)

    def diffusers(self, images=slice(1)):
        """The pipeline adds a silent T5 to prompts of its own; here it gets ComfyUI's."""
        embeds = {}
        for prefix, [[context, extra]] in zip(("", "negative_"), self.texts, strict=True):
            pooled = extra["pooled_output"]
            embeds |= {f"{prefix}prompt_embeds": context.repeat(len(self.noise[images]), 1, 1)}
            embeds |= {f"{prefix}pooled_prompt_embeds": pooled.repeat(len(self.noise[images]), 1)}
        return self.pipe(
            latents=self.noise[images].clone(), height=128, width=128, num_inference_steps=6, guidance_scale=3.0,
            output_type="latent", **embeds,
        ).images  # fmt: skip


@pytest.fixture(scope="module")
def both(comfy):
    pytest.importorskip("diffusers")
    return Both()


def test_comfyui_and_diffusers_make_the_same_latent(both):
    """The same noise, encoded prompt and masks: the same end, pixel by pixel."""
    import comfy.samplers

    from asyncdiff.nodes.pixelwise.patch import attach
    from asyncdiff.nodes.pixelwise.sampler import PixelwiseSampler
    from asyncdiff.tpm.hosts.diffusers.pixelwise import Pixelwise, pixelwise
    from asyncdiff.tpm.pixelwise.requests import Drawn, Regions

    upper, lower = torch.zeros(128, 128), torch.zeros(128, 128)
    upper[:64, 32:96], lower[80:, 32:96] = 1, 1
    regions = Regions((Drawn("upper", 0.6, upper), Drawn("lower", 0.3, lower)))
    stock = both.comfy(both.model, comfy.samplers.ksampler("euler"))
    assert relative(stock, both.diffusers()) < 1e-4
    for concave in (False, True):
        here = both.comfy(attach(both.model, regions), PixelwiseSampler("quadratic", concave))
        with pixelwise(both.pipe, [upper, lower], [0.6, 0.3], Pixelwise(concave=concave)):
            there = both.diffusers()
        assert relative(here, there) < 1e-4
        assert relative(here, stock) > 1e-2


def test_comfyui_and_diffusers_find_the_same_regions(both):
    """Static regions: the attention of a whole ordinary run, layer by layer and step by step."""
    from asyncdiff.nodes.pixelwise.patch import attach
    from asyncdiff.nodes.pixelwise.sampler import PixelwiseSampler
    from asyncdiff.nodes.pixelwise.tokens import phrase_items
    from asyncdiff.tpm.hosts.diffusers.attention import captured
    from asyncdiff.tpm.pixelwise.regions import from_attention
    from asyncdiff.tpm.pixelwise.requests import Regions

    length = both.texts[0][0][0].shape[1]
    items = phrase_items(both.clip, CAPTION, [("red circle", 0.6, 1), ("blue star", 0.3, 1)], length)
    regions = Regions(items, static=True, text_length=length)
    both.comfy(attach(both.model, regions), PixelwiseSampler("quadratic"))
    with captured(both.pipe, regions.tokens) as capture:
        both.diffusers()
    masks = from_attention(capture.maps, regions.strengths, (16, 16))
    [labels] = {tuple(step.flatten().tolist()) for step in regions.seen.labels}
    assert torch.equal(torch.tensor(labels).view(16, 16), masks[0, 0] * 1 + masks[0, 1] * 2)
    assert set(labels) == {0, 1, 2}


def test_comfyui_and_diffusers_follow_the_same_attention(both, monkeypatch):
    """Dynamic regions, two images and more timesteps than are told exactly: one latent, alone or in a batch."""
    from asyncdiff.nodes.pixelwise.patch import attach
    from asyncdiff.nodes.pixelwise.sampler import PixelwiseSampler
    from asyncdiff.nodes.pixelwise.tokens import phrase_items
    from asyncdiff.tpm.hosts.diffusers.pixelwise import pixelwise
    from asyncdiff.tpm.hosts.diffusers.regions import Phrases
    from asyncdiff.tpm.pixelwise import timestep_rows
    from asyncdiff.tpm.pixelwise.requests import Regions

    length = both.texts[0][0][0].shape[1]
    items = phrase_items(both.clip, CAPTION, [("red circle", 0.6, 1), ("blue star", 0.3, 1)], length)
    regions = Regions(items, text_length=length)
    exact = both.comfy(attach(both.model, regions), PixelwiseSampler("quadratic"), slice(2))
    for most in (timestep_rows.MOST_EXACT, 4):
        monkeypatch.setattr(timestep_rows, "MOST_EXACT", most)
        here = both.comfy(attach(both.model, regions), PixelwiseSampler("quadratic"), slice(2))
        with pixelwise(both.pipe, Phrases(regions.tokens), regions.strengths):
            there = both.diffusers(slice(2))
            alone = [both.diffusers(slice(n, n + 1)) for n in range(2)]
        assert relative(here, there) < 1e-4
        assert relative(torch.cat(alone), there) < 1e-4
        assert relative(here[:1], both.comfy(attach(both.model, regions), PixelwiseSampler("quadratic"))) < 1e-4
    assert relative(here, exact) > 1e-5
