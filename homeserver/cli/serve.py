"""`weft serve`: runs the server."""

import argparse
import resource
from contextlib import suppress

from homeserver import logs
from homeserver.cli.command import Commands, configured, loaded

ENOUGH_FILES = 65536


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "serve", parents=[configured()], help="run the server until it is interrupted"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    config = loaded(arguments)
    # The server is imported here, so that the other commands start at once.
    import uvloop

    from homeserver.app.serving import serve

    logs.configure(config.log.level, config.log.format)
    _allow_many_connections()
    with suppress(KeyboardInterrupt):
        uvloop.run(serve(config))


def _allow_many_connections() -> None:
    """Each waiting client holds a file descriptor, and the usual soft limit is 1024: raise it if one may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
