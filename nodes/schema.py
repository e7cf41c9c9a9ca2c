"""A node's schema on hosts of different age, and what it answers when the host asks whether its widgets are valid."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

import nodes as core

from ..tpm.errors import AsyncDiffError

CATEGORY = f"{core.KSampler.CATEGORY}/AsyncDiff"
"""Beside core's samplers, wherever this host keeps them."""


def schema(**keywords: Any) -> io.Schema:
    """An `io.Schema` under the pack's category, without the keywords that this host does not know."""
    known = inspect.signature(io.Schema).parameters
    return io.Schema(category=CATEGORY, **{name: value for name, value in keywords.items() if name in known})


def refusal(check: Callable[..., Any], *values: Any) -> bool | str:
    """What `validate_inputs` answers: True, or the sentence of the AsyncDiffError that `check(*values)` raises.

    The host asks with None for an input that is linked to another node: its value is not known yet, so nothing is
    checked. The node checks its values when it runs.
    """
    if any(value is None for value in values):
        return True
    try:
        check(*values)
    except AsyncDiffError as error:
        return str(error)
    return True
