"""Errors that are sentences for the user: what is wrong and what to do."""

from __future__ import annotations

from importlib import import_module
from typing import Any

STANDALONE = 'pip install ".[standalone]" in the folder of this project'
"""How to get what the library needs outside ComfyUI."""


MOST_LETTERS = 1500  # the most in a message; the embedded pipeline's vocabulary fits


PROJECT = "asyncdiff"


class AsyncDiffError(Exception):
    """The root of all errors that this project raises on purpose. Whatever a message quotes, it stays readable.

    A host prints the name of an error with the module that it is from, which inside ComfyUI is the path of a folder.
    So every error says that it is from the project itself: asyncdiff.PolicyError.
    """

    home = __module__
    """The module where the class really is, by which another process finds it again."""

    __module__ = PROJECT

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.home, cls.__module__ = cls.__module__, PROJECT

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.home, type(self).__qualname__, self.args)

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS // 2]} … {text[-MOST_LETTERS // 4 :]}"


class GridError(AsyncDiffError):
    """The σ grid is not one that a flow model can be sampled on, or not the one a trace was recorded on."""


class RetimingError(AsyncDiffError):
    """A retiming parameter (γ, bound, tail_sync, p, …) is out of range."""


class PolicyError(AsyncDiffError):
    """A policy is malformed, unreadable, or made for another model."""


class CheckpointError(PolicyError):
    """A TPM file is unreadable, incomplete, or does not fit what it is loaded for."""


class HostError(AsyncDiffError):
    """The host (a pipeline, a scheduler, a folder) cannot be driven asynchronously or cannot be loaded."""


def _again(home: str, name: str, args: tuple[Any, ...]) -> AsyncDiffError:
    """The error that was pickled."""
    error: AsyncDiffError = getattr(import_module(home), name)(*args)
    return error
