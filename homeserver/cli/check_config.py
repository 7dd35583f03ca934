"""`weft check-config`: says what is wrong with the configuration, or what is in effect."""

import argparse

from homeserver.cli.command import Commands, configured, loaded
from homeserver.config.documents import effective
from homeserver.users.application_services import read_application_services


def add(commands: Commands) -> None:
    check = commands.add_parser(
        "check-config", parents=[configured()], help="check the configuration and show it, secrets masked"
    )
    check.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    config = loaded(arguments)
    read_application_services(config.application_services)
    print(effective(config), end="")
