"""Tokenisation as each reference does it, on the `tokenizers` package, so that no version of transformers matters."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import parse_json, read_text
from .base import RewardError
from .catalogue import CLIP_WORDS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CLIP_LENGTH, BERT_LENGTH = 77, 35
START, END = "<|startoftext|>", "<|endoftext|>"
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BLIP_ADDED = ("[DEC]", "[ENC]")
MOST_WORDS = 10**6
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_QUOTES = str.maketrans({**dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("“”„‟", '"')})

Tokens = Callable[[str], list[int]]


def clean(text: str) -> str:
    """Mended, unescaped, single-spaced, lower case: `basic_clean` and `whitespace_clean` of OpenAI's CLIP.

    ftfy mends the text where it is installed; the stand-in composes characters and straightens quotes.
    """
    text = html.unescape(html.unescape(_mended(text)))
    return " ".join(text.split()).lower()


class ClipTokens:
    """CLIP's byte-pair encoding: start, at most 75 tokens, end, padding to 77.

    ``cleaned`` follows OpenAI's and open_clip's own code (`clean`, padding 0); otherwise the Hugging Face tokenizer
    (no ftfy, padding with the end token).
    """

    def __init__(self, folder: Path, *, cleaned: bool) -> None:
        vocabulary, merges = _read_bpe(folder)
        self.size, self.end = max(vocabulary.values()) + 1, vocabulary[END]
        self._start, self._pad = vocabulary[START], 0 if cleaned else self.end
        self._cleaned = cleaned
        self._encoder = _bpe(vocabulary, merges, cleaned=cleaned)

    def __call__(self, text: str) -> list[int]:
        """The 77 token numbers of ``text``."""
        text = clean(text) if self._cleaned else text
        body = self._encoder.encode(text, add_special_tokens=False).ids[: CLIP_LENGTH - 2]
        tokens = [self._start, *body, self.end]
        return tokens + [self._pad] * (CLIP_LENGTH - len(tokens))


class BertTokens:
    """bert-base-uncased with BLIP's two extra tokens; 35 tokens, [CLS] first (ImageReward does not use [ENC])."""

    pad = 0

    def __init__(self, file: Path) -> None:
        vocabulary = _read_words(file)
        self.pad = vocabulary["[PAD]"]
        self._encoder = _wordpiece(vocabulary)
        self.size = len(vocabulary) + len(_BLIP_ADDED)

    def __call__(self, text: str) -> list[int]:
        """The 35 token numbers of ``text``."""
        return list(self._encoder.encode(text).ids)


def _mended(text: str) -> str:
    try:
        from ftfy import fix_text
    except ModuleNotFoundError:
        return unicodedata.normalize("NFC", text).translate(_QUOTES)
    return str(fix_text(text))


def _bpe(vocabulary: dict[str, int], merges: list[tuple[str, str]], *, cleaned: bool) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    model = models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=END)
    encoder = Tokenizer(model)
    if not cleaned:
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        encoder.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    encoder.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    encoder.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in (START, END)])
    return encoder


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    encoder = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    encoder.normalizer = normalizers.BertNormalizer(lowercase=True)
    encoder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    around = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    encoder.post_processor = processors.BertProcessing(*around)
    encoder.add_special_tokens([*_BERT_SPECIAL, *_BLIP_ADDED])
    encoder.enable_truncation(BERT_LENGTH)
    encoder.enable_padding(length=BERT_LENGTH, pad_id=vocabulary["[PAD]"], pad_token="[PAD]")
    return encoder


def _read_bpe(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's token numbers and its merges, of which each joins two tokens to a third."""
    vocabulary = parse_json(read_text(folder / CLIP_WORDS[0], RewardError), RewardError, str(folder / CLIP_WORDS[0]))
    lines = read_text(folder / CLIP_WORDS[1], RewardError).split("\n")
    try:
        numbers = {str(token): _whole(number) for token, number in dict(vocabulary).items()}
        merges = [_pair(line) for line in lines if line.strip() and not line.startswith("#version")]
        if not {START, END} <= numbers.keys():
            raise ValueError(f"no {START} and {END}")
        if len(set(numbers.values())) < len(numbers):
            raise ValueError("two tokens have one number")
        odd = next((pair for pair in merges if not {*pair, "".join(pair)} <= numbers.keys()), None)
        if odd:
            raise ValueError(f"it merges {odd[0]} and {odd[1]}, which are no tokens")
    except (ValueError, TypeError) as cause:
        raise RewardError(f"{folder} does not hold CLIP's vocabulary ({cause}); get its two files again.") from cause
    return numbers, merges


def _whole(number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MOST_WORDS:
        raise ValueError(f"{number!r} is no token's number")
    return number


def _pair(line: str) -> tuple[str, str]:
    left, right = line.split()
    return left, right


def _read_words(file: Path) -> dict[str, int]:
    lines = read_text(file, RewardError).removesuffix("\n").split("\n")  # other separators of Unicode are tokens
    vocabulary = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    absent = [token for token in _BERT_SPECIAL if token not in vocabulary]
    if absent:
        raise RewardError(f"{file} is not BERT's vocabulary (no {', '.join(absent)}); get its vocab.txt again.")
    return vocabulary
