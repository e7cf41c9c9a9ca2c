"""Documents that come from outside: JSON is checked field by field against the dataclass that it is to become.

Types are strict, numbers finite, and the first thing that is wrong is one sentence with file and field. What a field's
type cannot say (ranges, sizes) the dataclass checks itself when it is made, so that Python code is checked as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import AsyncDiffError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")

STRICT: dict[str, Any] = {"strict": True, "allow_inf_nan": False, "extra": "forbid"}
"""What a dataclass sets as `__pydantic_config__`: no number from a text, no NaN, no field that it does not have."""

MOST_LETTERS = 200
"""The most letters of a name."""


def build(kind: type[T], document: Any, error: type[AsyncDiffError], where: str) -> T:
    """The instance of a dataclass that a JSON document describes.

    Raises `error` with one sentence that names `where` and the field; whatever the dataclass' own checks raise is told
    with `where` in front.
    """
    from pydantic import ValidationError

    hashable: Any = kind
    try:
        made: T = _adapter(hashable).validate_json(json.dumps(document))
    except ValidationError as cause:
        raise error(f"{where}: {_sentence(cause.errors(include_url=False)[0])}; correct it.") from None
    except AsyncDiffError as cause:
        raise error(f"{where}: {cause}") from cause
    return made


def check_name(name: str, error: type[AsyncDiffError]) -> None:
    """Raise `error` unless a name can stand in a table, a picture's label and a message: one line of some letters."""
    if not name.strip() or len(name) > MOST_LETTERS or not name.isprintable():
        raise error(f"A name has 1 to {MOST_LETTERS} printable letters on one line, not {name[:40]!r}.")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _sentence(problem: ErrorDetails) -> str:
    """What is wrong, from pydantic's report."""
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("missing", "missing_argument"):
        return f"the field {place} is missing"
    if problem["type"] == "unexpected_keyword_argument":
        return f"there is no field {place}; perhaps it belongs to a newer release"
    wrong = problem["msg"].removeprefix("Input ").rstrip(".")
    return f"{f'the field {place}' if place else 'it'} {wrong}, not {_short(problem['input'])}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def as_object(document: Any, error: type[AsyncDiffError], where: str) -> Mapping[str, Any]:
    """The document, where it is a JSON object."""
    if not isinstance(document, Mapping):
        raise error(f"{where} must be a JSON object, not {_short(document)}; correct it.")
    return document
