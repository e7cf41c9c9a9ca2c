"""The items of prompts: which words, how strong, from options, from AsynDM's files, or from the prompt itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AsyncDiffError
from ...files import read_json
from ...pixelwise.errors import RegionError, ScheduleError

if TYPE_CHECKING:
    from torch import Tensor

STRENGTH = 0.5
PARTS = ("item_idx", "item_k")
LAYOUT = '{"item_idx": {prompt: [token, …]}, "item_k": {prompt: [k, …]}}'


@dataclass(frozen=True)
class Items:
    """What is slowed down in one prompt."""

    names: tuple[str, ...]
    strengths: tuple[float, ...]
    tokens: tuple[tuple[int, ...], ...]  # () with masks


@dataclass(frozen=True)
class Wanted:
    """What the options ask for."""

    phrases: Sequence[str] = ()
    strengths: Sequence[float] = ()
    file: dict[str, Any] | None = None
    masks: Sequence[str] = ()  # their names


def read_items(path: Path) -> dict[str, Any]:
    """AsynDM's file of items: per prompt the token indices (without the start token) and the strengths."""
    document = read_json(path, AsyncDiffError)
    if not all(isinstance(document.get(part), dict) for part in PARTS):
        raise AsyncDiffError(f"{path} has another layout than {LAYOUT}.")
    try:
        for prompt, indices in document["item_idx"].items():
            check_entry(path, prompt, indices, document["item_k"].get(prompt))
    except ScheduleError as cause:
        raise AsyncDiffError(f"{path}: {cause}") from cause
    return {part: {prompt.strip(): entry for prompt, entry in document[part].items()} for part in PARTS}


def check_entry(path: Path, prompt: str, indices: Any, strengths: Any) -> None:
    """Raise AsyncDiffError unless a prompt has whole token indices and a k for each."""
    from ...pixelwise.schedules import check_strengths

    if (
        not isinstance(strengths, list)
        or not isinstance(indices, list)
        or len(indices) != len(strengths)
        or not indices
    ):
        raise AsyncDiffError(f"{path}: the prompt {prompt!r} needs as many item_k as item_idx, and at least one.")
    flat = [index for item in indices for index in (item if isinstance(item, list) else [item])]
    if not flat or any(isinstance(index, bool) or not isinstance(index, int) for index in flat):
        raise AsyncDiffError(f"{path}: the item_idx of {prompt!r} must be whole numbers, or lists of them.")
    check_strengths(strengths)


def find_items(pipe: Any, prompt: str, key: str, wanted: Wanted, *, embedded: bool) -> Items:
    """The items of one prompt; `key` is how a file of items spells it. Raises RegionError where there are none."""
    from ...hosts.diffusers.tokens import indexed_tokens, item_names, item_tokens

    if wanted.masks:
        return Items(tuple(wanted.masks), spread_strengths(wanted.strengths, wanted.masks), ())
    length = text_length(pipe)
    if wanted.file is not None:
        indices = of_prompt(wanted.file["item_idx"], key)
        tokens = indexed_tokens(pipe, prompt, indices, t5_length=length)
        names = item_names(pipe, prompt, indices)
        return Items(tuple(names), tuple(wanted.file["item_k"][key]), tuple(tokens))
    names = list(wanted.phrases) or named_things(prompt, embedded=embedded)
    tokens = item_tokens(pipe, prompt, names, t5_length=length)
    return Items(tuple(names), spread_strengths(wanted.strengths, names), tuple(tokens))


def of_prompt(entries: dict[str, Any], prompt: str) -> Any:
    """A prompt's entry in a file of items."""
    if prompt not in entries:
        raise RegionError(f"The file of --items has no entry for the prompt {prompt!r}; add it.")
    return entries[prompt]


def named_things(prompt: str, *, embedded: bool) -> list[str]:
    """What the prompt names: objects with their adjectives in the embedded world, else nouns."""
    from ...embedded.vocabulary import object_phrases
    from ...pixelwise.nouns import nouns

    found = object_phrases(prompt) if embedded else nouns(prompt)
    if not found:
        raise RegionError(f"No thing was found in the prompt {prompt!r}; say with --item which words are one.")
    return found


def spread_strengths(strengths: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
    """One k for each item: those of ``--k``, or a single one for all."""
    given = list(strengths) or [STRENGTH]
    if len(given) == 1:
        return tuple(given * len(names))
    if len(given) != len(names):
        raise RegionError(f"--k names {len(given)} strengths, but there are {len(names)} items: {', '.join(names)}.")
    return tuple(given)


def text_length(pipe: Any) -> int:
    """The T5 tokens of a run with this pipeline: none without T5, as `DiffusersStudio` renders."""
    from ...hosts.diffusers.tokens import T5_LENGTH

    return 0 if getattr(pipe, "text_encoder_3", None) is None else T5_LENGTH


def read_mask(path: Path) -> Tensor:
    """A picture of a region as (H, W) in [0, 1]: its alpha channel where that varies, else its brightness."""
    import numpy as np
    from torch import from_numpy

    from ...images import opened

    with opened(path, AsyncDiffError) as image:
        alpha = image.getchannel("A") if "A" in image.getbands() else None
        drawn = alpha if alpha is not None and np.asarray(alpha).min() < 255 else image.convert("L")
        return from_numpy(np.asarray(drawn, dtype=np.float32) / 255)
