"""The command ``asyncdiff``: parse, hand over to the library, print. Errors are one sentence and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import embedded, score
from .bench import command as bench
from .inspect import command as inspect
from .panel import command as panel
from .pixelwise import command as pixelwise
from .pixelwise import evaluate as pixelwise_evaluate
from .shared.errors import sentence
from .training import calibrate, evaluate, search, train

COMMANDS = (panel, train, search, calibrate, evaluate, inspect, score, embedded, bench, pixelwise, pixelwise_evaluate)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is a sentence, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists the options)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands. Nothing heavy is imported for it."""
    parser = _Parser(prog="asyncdiff", description="Asynchronous timestep conditioning for SD3.5 and Flux.")
    parser.add_argument("--version", action="version", version=f"asyncdiff {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 2 for an error that the user can mend, 130 after Ctrl-C."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except Exception as error:
        text = sentence(error)
        if text is None:
            raise
        print(f"asyncdiff {args.command}: {text}", file=sys.stderr)
        return 2
    return 0


def _version() -> str:
    from ... import __version__

    return __version__
