"""`weft check-config`: says what is wrong with the configuration, or what is in effect."""

import argparse

from homeserver.cli.command import Commands, configured, loaded
from homeserver.config.documents import effective


def add(commands: Commands) -> None:
    check = commands.add_parser(
        "check-config", parents=[configured()], help="check the configuration and show it, secrets masked"
    )
    check.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    print(effective(loaded(arguments)), end="")
