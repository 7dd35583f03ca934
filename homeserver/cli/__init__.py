"""The command `weft`.

Exit codes: 0 done; 1 it failed; 2 the command line or the configuration is wrong. (Of `weft doctor`: 0 all is
well, 1 there are warnings, 2 something is wrong.) Errors are one line each on standard error, with what to do
about them. Where nobody takes what a command says (`weft check-config | head -1`), it ends with 1 and says
nothing of that.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from homeserver import __version__
from homeserver.bus.bus import BusUnavailable
from homeserver.cli import (
    check_config,
    doctor,
    generate_config,
    mongo_shard_plan,
    register_user,
    replace_signing_key,
    restored,
    serve,
)
from homeserver.cli.command import FAILED, WRONG_USE, CommandError, said_by_the_system
from homeserver.config import ConfigError
from homeserver.key_file import KeyFileError
from storage.errors import StoreError

COMMANDS = (
    serve,
    generate_config,
    check_config,
    doctor,
    mongo_shard_plan,
    replace_signing_key,
    restored,
    register_user,
)
"""A module for each, in the order in which `--help` lists them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        try:
            return _run(arguments)
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        _write_nowhere(sys.stdout, sys.stderr)
        return FAILED
    except OSError as error:
        _write_nowhere(sys.stdout)
        return _complain(f"standard output: {said_by_the_system(error)}", FAILED)


def _write_nowhere(*streams: TextIO) -> None:
    """Have what is left to be written vanish: Python would try once more at its end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())


def _run(arguments: Sequence[str] | None) -> int:
    """Run one command; the exit code. Raises BrokenPipeError when nobody takes what it says."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int | None = parsed.run(parsed)
    except ConfigError as error:
        return _complain(str(error), WRONG_USE)
    except CommandError as error:
        return _complain(str(error), error.code)
    except (KeyFileError, StoreError, BusUnavailable) as error:
        return _complain(str(error), FAILED)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _complain(said_by_the_system(error), FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", FAILED)
    return code or 0


def _complain(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"weft: {line}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="weft", description="Weft, a Matrix homeserver.", epilog="See also: weft COMMAND --help"
    )
    parser.add_argument("--version", action="version", version=f"weft {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
