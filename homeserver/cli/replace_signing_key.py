"""`weft replace-signing-key`: has the server sign with another key from now on."""

import argparse
import asyncio

from homeserver.cli.command import Commands, configured, loaded


def add(commands: Commands) -> None:
    replace = commands.add_parser(
        "replace-signing-key",
        parents=[configured()],
        help="have the stopped server sign with another key from now on",
        description="Make the key in the file signing.key of the data folder the server's key; a new one is "
        "made if there is no file. Stop all replicas before, and copy the file to each of them afterwards.",
    )
    replace.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    config = loaded(arguments)
    from homeserver.app.stores import replace_signing_key

    key = asyncio.run(replace_signing_key(config))
    print(f"the server signs with {key.key_id} from now on, the key in {config.signing_key_path}")
