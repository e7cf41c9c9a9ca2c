"""A node's schema on hosts of different age."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

import nodes as core

CATEGORY = f"{core.KSampler.CATEGORY}/AsyncDiff"
"""Beside core's samplers, wherever this host keeps them."""


def schema(**keywords: Any) -> io.Schema:
    """An `io.Schema` under the pack's category, without the keywords that this host does not know."""
    known = inspect.signature(io.Schema).parameters
    return io.Schema(category=CATEGORY, **{name: value for name, value in keywords.items() if name in known})
