"""The command ``asyncdiff``: parse, hand over to the library, print. Errors are one sentence and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import embedded, score
from .bench import command as bench
from .inspect import command as inspect
from .panel import command as panel
from .pixelwise import command as pixelwise
from .pixelwise import evaluate as pixelwise_evaluate
from .shared.errors import sentence
from .shared.parser import Parser, add_commands
from .shared.terminal import leave_quietly, readable_output
from .training import calibrate, evaluate, search, train

COMMANDS = (panel, train, search, calibrate, evaluate, inspect, score, embedded, bench, pixelwise, pixelwise_evaluate)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands. Nothing heavy is imported for it."""
    parser = Parser(prog="asyncdiff", description="Asynchronous timestep conditioning for diffusion and flow models.")
    parser.add_argument("--version", action="version", version=f"asyncdiff {_version()}")
    commands = add_commands(parser, "command", "COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 2 for an error that the user can mend, 130 after Ctrl-C."""
    with readable_output():
        try:
            code = _run(argv)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
            leave_quietly()
            return 0
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
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
