"""Numbers as people read them."""

from __future__ import annotations


def signed(value: float, digits: int, kind: str = "f") -> str:
    """A number with its sign and so many `digits`; zero has no sign, minus is a real minus. kind: as in `format`."""
    text = f"{value:+.{digits}{kind}}"
    return text[1:] if float(text) == 0 else minus(text)


def minus(text: str) -> str:
    """The text of a number with a real minus in place of the hyphen."""
    return text.replace("-", "−")


def strength(gamma: float) -> str:
    """The strength γ in labels of pictures and charts."""
    return f"strength γ = {gamma:g}"


def mean_deviation(value: float) -> str:
    """The mean of D over the steps of a run in labels of pictures."""
    return f"mean deviation D = {signed(value, 2)}"
