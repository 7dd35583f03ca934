"""`weft restored`: says that the store was restored from a backup."""

import argparse
import asyncio

from homeserver.cli.command import Commands, configured, loaded


def add(commands: Commands) -> None:
    restored = commands.add_parser(
        "restored",
        parents=[configured()],
        help="say that the store was restored from a backup, before any server is started on it",
        description="Have the restored store count as another one than was lost: what clients, replicas and "
        "readers of Kafka know of it is told apart from what it has. Stop all servers before.",
    )
    restored.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    config = loaded(arguments)
    from homeserver.app.stores import begin_epoch

    asyncio.run(begin_epoch(config))
    print("the store counts as another one from now on: start the server")
