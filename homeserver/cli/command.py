"""What commands have in common: how they are told the configuration, how they say that they failed."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from homeserver.config import Config, load

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What takes the commands of `weft`, each with its options."""

FAILED = 1
WRONG_USE = 2


class CommandError(Exception):
    """A command cannot be carried out; the message is for the person who gave it."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def said_by_the_system(error: OSError) -> str:
    """What is wrong, without its number, which tells people nothing."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def configured() -> argparse.ArgumentParser:
    """The options of commands that need the configuration, for `loaded`."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        help="the configuration; without it, only the WEFT_… variables of the environment count",
    )
    options.add_argument(
        "--dev",
        action="store_true",
        help="development mode: open registration, no rate limits, a known shared secret, "
        "server name localhost unless given; on the loopback address only",
    )
    return options


def loaded(arguments: argparse.Namespace) -> Config:
    """The configuration that a command was told. Raises ConfigError."""
    environ: Mapping[str, str] = os.environ
    if arguments.dev and arguments.config is None:
        environ = {"WEFT_SERVER_NAME": "localhost", **environ}
    return load(arguments.config, environ, development=arguments.dev)
