"""The parser of all commands: a complaint is one sentence, which says what was probably meant."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from ...suggestions import did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is a sentence, without the usage in front of it. Its sub-parsers are the same."""

    def error(self, message: str) -> NoReturn:
        """Say it on standard error and leave with code 2."""
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but a parser whose arguments are unknown says so itself: it knows which there are."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = (text.split("=")[0] for text in unknown if text.startswith("-"))
            meant = "".join(did_you_mean(option, self._option_string_actions) for option in options)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A choice that does not exist: the nearest one, and all of them."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        hint = did_you_mean(str(value), known)
        raise argparse.ArgumentError(action, f"there is no {value!r}{hint}; choose from {', '.join(known)}")


def add_commands(parser: argparse.ArgumentParser, name: str, shown: str) -> Any:
    """Where commands are added. Without one, the list of them is printed."""
    parser.set_defaults(run=lambda _: parser.print_help())
    return parser.add_subparsers(dest=name, metavar=shown, title="commands", prog=parser.prog)
