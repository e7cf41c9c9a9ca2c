"""Which failures are the user's to mend, as sentences."""

from __future__ import annotations

from ...errors import STANDALONE, AsyncDiffError

OUT_OF_MEMORY = "There is not enough memory for this. Try a smaller --batch, a smaller --size or --dtype bfloat16."
_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "failed to allocate",
    "invalid buffer size",
)
_OF_THE_EXTRA = (
    "torch",
    "numpy",
    "PIL",
    "safetensors",
    "transformers",
    "diffusers",
    "accelerate",
    "tqdm",
    "sentencepiece",
)


def sentence(error: Exception) -> str | None:
    """What to tell the user, or None where it is a defect whose traceback is wanted."""
    if isinstance(error, AsyncDiffError):
        return str(error)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _OF_THE_EXTRA:
        return f"The package {error.name} is not installed; the command line needs it: {STANDALONE}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read or written: {error.strerror}."
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is memory running out, on the host or on a device (torch raises RuntimeErrors for both)."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS)
