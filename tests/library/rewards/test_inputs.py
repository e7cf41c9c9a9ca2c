"""What the metrics see: pictures, tokens, and everything that can be wrong with them."""

import json

import numpy as np
import pytest
import regex
import torch
from PIL import Image

from asyncdiff.tpm.rewards import catalogue, pictures, words
from asyncdiff.tpm.rewards.base import RewardError
from asyncdiff.tpm.rewards.pictures import as_pictures, crop_processor, crop_torchvision, letterbox, open_picture
from asyncdiff.tpm.rewards.scoring import Judged, ResidualNoise, score_all

MERGES = ["c a", "ca t</w>", "r e", "re d</w>", "d o", "do g", "dog s</w>", "h a", "' s</w>"]
BERT = [
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
    ",",
    "'",
    "!",
    "s",
    "e",
    "##t",
    "##oile",
]


def picture(width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    letters = list(byte_letters().values())
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(m.split()) for m in MERGES)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
    (folder / "vocab.txt").write_text("\n".join(BERT))
    return folder


def byte_letters():
    """OpenAI's printable letter for every byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def plain_clip_tokens(text, folder):
    """OpenAI's tokeniser of already clean text, written as a loop over merges in their order."""
    table = json.loads((folder / "vocab.json").read_text())
    tokens = []
    for word in regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", text):
        parts = [byte_letters()[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        for left, right in (merge.split() for merge in MERGES):
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == (left, right):
                    parts[at : at + 2] = [left + right]
                at += 1
        tokens += [table[part] for part in parts]
    return [table["<|startoftext|>"], *tokens[:75], table["<|endoftext|>"]]


# ------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A red  cat's\thats, 42!", "a red cat's hats, 42!"),
        ("Two &amp;amp; DOGS", "two & dogs"),
        ("étoile 猫 🐱", "étoile 猫 🐱"),
        ("e\u0301toile", "étoile"),
        ("the cat\u2019s \u201chat\u201d", 'the cat\'s "hat"'),
        ("", ""),
        ("   \n ", ""),
        ("cat " * 500, ("cat " * 500).strip()),
    ],
)
def test_the_references_clean_and_encode_like_this(text, cleaned, vocabulary):
    assert words.clean(text) == cleaned
    expected = plain_clip_tokens(cleaned, vocabulary)
    assert words.ClipTokens(vocabulary, cleaned=True)(text) == expected + [0] * (77 - len(expected))


def test_the_processors_tokens_are_not_mended(vocabulary):
    tokens = words.ClipTokens(vocabulary, cleaned=False)
    expected = plain_clip_tokens("two &amp; red dogs", vocabulary)
    assert tokens("Two  &amp; RED dogs") == expected + [tokens.end] * (77 - len(expected))
    assert tokens("Two &amp; dogs") != words.ClipTokens(vocabulary, cleaned=True)("Two &amp; dogs")


def test_bert_tokens(vocabulary):
    tokens = words.BertTokens(vocabulary / "vocab.txt")
    spelled = [
        "[CLS]",
        "a",
        "red",
        "cat",
        "'",
        "s",
        "hat",
        ",",
        "two",
        "dog",
        "##s",
        "[UNK]",
        "e",
        "##t",
        "##oile",
        "[SEP]",
    ]
    spelled = [word for word in spelled if word not in ("e", "##t", "##oile")]
    expected = [BERT.index(word) for word in spelled]
    assert tokens("A red CAT's hat, two dogs zebra") == expected + [0] * (35 - len(expected))
    assert tokens("étoile")[1:4] == [BERT.index("e"), BERT.index("##t"), BERT.index("##oile")]
    long = tokens("cat " * 99)
    assert (len(long), long[0], long[-1]) == (35, BERT.index("[CLS]"), BERT.index("[SEP]"))
    assert tokens("")[:3] == [BERT.index("[CLS]"), BERT.index("[SEP]"), 0]
    assert tokens("[ENC]")[1] == len(BERT) + 1


def test_a_wrong_vocabulary_is_a_sentence(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 1}')
    (tmp_path / "merges.txt").write_text("a b")
    with pytest.raises(RewardError, match="does not hold CLIP's vocabulary"):
        words.ClipTokens(tmp_path, cleaned=True)
    (tmp_path / "vocab.txt").write_text("a\nb")
    with pytest.raises(RewardError, match="not BERT's vocabulary"):
        words.BertTokens(tmp_path / "vocab.txt")


# ---------------------------------------------------------------------------------------------------- pictures


def cubic(x):
    x = abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


def resampling(n_in, n_out, antialias=True):
    """The matrix of a bicubic resize (n_out, n_in), the kernel widened where it shrinks."""
    scale = n_in / n_out
    stretch = max(scale, 1) if antialias else 1
    centres = (np.arange(n_out) + 0.5) * scale
    weights = cubic((np.arange(n_in)[None] + 0.5 - centres[:, None]) / stretch)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(400, 260), (250, 333), (224, 224), (224, 120), (100, 60)])
def test_the_letterbox_is_a_widened_bicubic_with_bars(size):
    width, height = size
    values = np.asarray(picture(width, height)) / 255
    new = [round(length * 224 / max(size)) for length in (height, width)]
    shrunk = resampling(height, new[0]) @ values.transpose(2, 0, 1) @ resampling(width, new[1]).T
    if max(size) == 224:
        shrunk = values.transpose(2, 0, 1)
    boxed = np.zeros((3, 224, 224))
    top, left = (224 - new[0]) // 2, (224 - new[1]) // 2
    boxed[:, top : top + new[0], left : left + new[1]] = shrunk
    expected = (boxed - np.reshape(pictures.MEAN, (3, 1, 1))) / np.reshape(pictures.STD, (3, 1, 1))
    seen = letterbox(picture(width, height)).numpy()
    assert np.abs(seen - expected).max() < 1e-4
    if max(size) > 300:
        tall, wide = resampling(height, new[0], antialias=False), resampling(width, new[1], antialias=False)
        aliased = tall @ values.transpose(2, 0, 1) @ wide.T
        assert np.abs(aliased - shrunk).max() > 0.1


def test_the_crops_of_odd_margins_differ_by_a_pixel():
    image = picture(227, 224)  # already the right short side: the margin of 3 alone decides
    rows = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    rounded = pictures.normalise(rows[:, :, 2:226])  # round(1.5) is 2
    floored = pictures.normalise(rows[:, :, 1:225])  # 3 // 2 is 1
    assert torch.equal(crop_torchvision(image), rounded)
    assert torch.equal(crop_processor(image), floored)


def test_the_processors_crop_is_transformers_own():
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor
    except ImportError:
        from transformers import CLIPImageProcessor as Processor
    processor = Processor()
    for image in (picture(301, 229), picture(200, 331), picture(640, 480)):
        expected = torch.as_tensor(np.array(processor(images=image, return_tensors="np")["pixel_values"][0]))
        assert (crop_processor(image) - expected).abs().max() < 1e-5


def test_tensors_are_rounded_as_a_file_would_be():
    images = torch.tensor([-0.2, 0.5 / 255 + 1e-4, 0.5, 1.7]).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert [image.getpixel((0, 0))[0] for image in as_pictures(images)] == [0, 1, 128, 255]
    gray, alpha = torch.rand(1, 1, 4, 4), torch.rand(1, 4, 4, 4)
    assert as_pictures(gray)[0].mode == as_pictures(alpha)[0].mode == "RGB"
    assert as_pictures(alpha)[0].tobytes() == as_pictures(alpha[:, :3])[0].tobytes()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.full((1, 3, 8, 8), float("nan")), "Image 1 holds NaN"),
        (torch.zeros(1, 2, 8, 8), "has shape"),
        (torch.zeros(1, 3, 0, 8), "has shape"),
    ],
)
def test_tensors_that_are_no_images(images, words):
    with pytest.raises(RewardError, match=words):
        as_pictures(images)


def test_one_pixel_is_fine_and_a_hair_is_not():
    for prepare in (crop_torchvision, crop_processor, letterbox):
        assert prepare(picture(1, 1)).shape == (3, 224, 224)
        with pytest.raises(RewardError, match="too elongated"):
            prepare(picture(1, 65))
    with pytest.raises(RewardError, match="needs 32 pixels"):
        ResidualNoise().score([picture(1, 1)], [""])


def test_files_that_are_no_pictures(tmp_path, monkeypatch):
    Image.new("I;16", (40, 40)).save(tmp_path / "deep.png")
    with pytest.raises(RewardError, match="more than 8 bits"):
        open_picture(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("no")
    with pytest.raises(RewardError, match="cannot be read as an image"):
        open_picture(tmp_path / "text.png")
    picture(64, 64).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(RewardError, match="cannot be read as an image"):
        open_picture(tmp_path / "cut.png")
    picture(64, 64).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(RewardError, match="too large"):
        open_picture(tmp_path / "huge.png")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_ordinary_mode_opens_as_rgb(mode, tmp_path):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture(8, 8).convert(mode).save(path)
    assert open_picture(path).mode == "RGB"


# ----------------------------------------------------------------------------------------------------- scoring


class Brightness:
    def __init__(self):
        self.chunks = []

    def score(self, pictures, prompts):
        self.chunks.append((len(pictures), list(prompts)))
        return torch.tensor([np.asarray(p).mean() / 255 for p in pictures], dtype=torch.float32)


def test_metric_after_metric_in_chunks():
    opened, done, metrics = [], [], [Brightness(), Brightness()]
    openers = {name: lambda name=name, m=m: opened.append(name) or m for name, m in zip("ab", metrics, strict=True)}
    images = torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    scores = score_all(openers, images, "p", chunk=2, progress=done.append)
    assert opened == ["a", "b"]
    assert done == [2, 2, 1, 2, 2, 1]
    assert metrics[0].chunks == [(2, ["p", "p"]), (2, ["p", "p"]), (1, ["p"])]
    assert scores["a"] == pytest.approx(torch.linspace(0, 1, 5), abs=0.002)


def test_counts_must_agree():
    with pytest.raises(RewardError, match="3 images but 2 prompts"):
        score_all({"a": Brightness}, torch.zeros(3, 3, 4, 4), ["x", "y"])
    with pytest.raises(RewardError, match="no images"):
        score_all({"a": Brightness}, torch.zeros(0, 3, 4, 4), "x")


def test_a_score_that_is_not_finite_names_its_image():
    class Broken:
        def score(self, pictures, prompts):
            return torch.tensor([1.0, float("nan")])

    with pytest.raises(RewardError, match="a gave nan for image 2"):
        score_all({"a": Broken}, torch.zeros(2, 3, 4, 4), "x")


def test_a_judge_is_a_metric_like_any_other():
    class Judge:
        def score(self, images, prompts):
            return {"alignment": images.mean((1, 2, 3)), "other": torch.zeros(1)}

    scores = score_all({"judge": lambda: Judged(Judge(), "alignment")}, [picture(8, 8), picture(9, 5, 1)], ["a", "b"])
    assert scores["judge"] == pytest.approx([np.asarray(p).mean() / 255 for p in (picture(8, 8), picture(9, 5, 1))])


# --------------------------------------------------------------------------------------------------- catalogue


def test_a_missing_file_names_file_folder_and_source(tmp_path):
    with pytest.raises(
        RewardError, match=r"HPS_v2\.1_compressed\.pt in .*get it from huggingface\.co/xswu/HPSv2"
    ) as caught:
        catalogue.open_metric("hps-v2.1", tmp_path)
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "ImageReward.pt").touch()
    with pytest.raises(RewardError, match=r"ImageReward needs vocab\.txt.*bert-base-uncased"):
        catalogue.open_metric("image-reward", tmp_path)
    with pytest.raises(RewardError, match="There is no metric x; there are image-reward"):
        catalogue.open_metric("x", tmp_path)
    with pytest.raises(RewardError, match="not bfloat16"):
        catalogue.open_metric("image-reward", tmp_path, dtype="bfloat16")


def test_the_vocabulary_is_found_where_people_put_it(tmp_path, vocabulary):
    (tmp_path / "ImageReward.pt").touch()
    assert catalogue.find_words("image-reward", tmp_path / "ImageReward.pt", tmp_path, vocabulary) == vocabulary
    own = tmp_path / "bert-base-uncased"
    own.mkdir()
    (own / "vocab.txt").touch()
    assert catalogue.find_words("image-reward", tmp_path / "ImageReward.pt", tmp_path, None) == own
