"""Prompts as the denoiser reads them: encoded by a CLIP when they are needed, or given as CONDITIONING by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import comfy.model_management
import torch

from ...tpm.errors import HostError
from .. import fingerprints

Conditioning: TypeAlias = list[Any]
"""ComfyUI's: [[context (1, n, C), {"pooled_output": (1, P), …}], …]."""

MOST_KEPT = 128  # encoded prompts in memory


class PromptCache:
    """CONDITIONING by prompt, and which prompts can be sampled in one run."""

    def __init__(self, names: Sequence[str], encode: Callable[[str], Conditioning], negative: Conditioning) -> None:
        self.names, self.negative = list(dict.fromkeys(names)), negative
        self._encode = encode
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()

    @classmethod
    def from_clip(cls, clip: Any, names: Sequence[str], negative: Conditioning | None, words: str) -> PromptCache:
        """Prompts encoded by a CLIP, each once; as many as are kept before the first is needed.

        ``words`` is the negative prompt, for want of a ``negative``. A prompt that the CLIP refuses is refused here.
        """
        for name in dict.fromkeys([*names, words]):
            clip.tokenize(name)

        def encode(name: str) -> Conditioning:
            comfy.model_management.throw_exception_if_processing_interrupted()
            with torch.inference_mode():
                encoded: Conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(name))
            return encoded

        texts = cls(names, encode, encode(words) if negative is None else negative)
        for name in texts.names[:MOST_KEPT]:
            texts[name]
        return texts

    @classmethod
    def given(
        cls, names: Sequence[str], conditionings: Sequence[Conditioning], negative: Conditioning | None, cfg: float
    ) -> PromptCache:
        """A CONDITIONING for each prompt. Raises HostError unless each has its own, and a negative if it counts."""
        if len(names) != len(conditionings):
            raise HostError(
                f"There are {len(conditionings)} conditionings but {len(names)} prompts; write one line for each, in"
                " their order: it is what the reward models judge by."
            )
        if len(set(names)) < len(names):
            raise HostError("Two conditionings have the same line of prompts; write a line of its own for each.")
        if negative is None and cfg != 1:
            raise HostError("Connect a negative conditioning, or set cfg to 1: a cfg other than 1 needs it.")
        by_name = dict(zip(names, conditionings, strict=True))
        return cls(names, by_name.__getitem__, conditionings[0] if negative is None else negative)

    def __getitem__(self, name: str) -> Conditioning:
        """The CONDITIONING of a prompt."""
        if name not in self._kept:
            self._kept[name] = self._encode(name)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]

    def runs(self, names: Sequence[str]) -> list[list[int]]:
        """The places of the prompts that can be one run, run by run.

        SD3 and Flux attend to text and image together, so texts of different length cannot be made equal by
        repetition, as ComfyUI does for cross-attention: the longer ones would weigh more.
        """
        kinds: dict[Any, list[int]] = {}
        for place, name in enumerate(names):
            kinds.setdefault(_kind(name, self[name]), []).append(place)
        return list(kinds.values())

    def joined(self, names: Sequence[str]) -> Conditioning:
        """One CONDITIONING with a row for each prompt; a single row where all are the same."""
        if len(set(names)) == 1:
            return self[names[0]]
        entries = [self[name][0] for name in names]
        extra = dict(entries[0][1])
        if extra.get("pooled_output") is not None:
            extra["pooled_output"] = torch.cat([entry[1]["pooled_output"] for entry in entries])
        return [[torch.cat([entry[0] for entry in entries]), extra]]

    def widths(self) -> tuple[int, int]:
        """Widths of the context and of the pooled output; 1 where the model's texts have none, which counts as zero."""
        context, extra = self[self.names[0]][0]
        pooled = extra.get("pooled_output")
        return 1 if context is None else context.shape[-1], 1 if pooled is None else pooled.shape[-1]

    def describe(self) -> dict[str, str]:
        """Which texts they are, as JSON: those that were given, or the first of those that are encoded."""
        first = {f"conditioning of “{self.names[0]}”": fingerprints.of_conditioning(self[self.names[0]])}
        return first | {"negative": fingerprints.of_conditioning(self.negative)}


def _kind(name: str, conditioning: Conditioning) -> Any:
    """Equal for prompts that one run can hold; the name itself where it can hold no other."""
    if len(conditioning) != 1 or conditioning[0][0] is None or len(conditioning[0][0]) != 1:
        return name
    context, extra = conditioning[0]
    others: Mapping[str, Any] = {key: value for key, value in extra.items() if key != "pooled_output"}
    if not all(value is None or isinstance(value, bool | int | float | str) for value in others.values()):
        return name
    pooled = extra.get("pooled_output")
    return tuple(context.shape), pooled is not None and tuple(pooled.shape), tuple(sorted(others.items()))
