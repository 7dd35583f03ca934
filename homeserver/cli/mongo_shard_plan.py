"""`weft mongo-shard-plan`: prints the shard keys for a cluster of MongoDB."""

import argparse
import json

from homeserver.cli.command import WRONG_USE, CommandError, Commands

FORBIDDEN_IN_DATABASES = frozenset('/\\. "$')
"""Characters that no name of a MongoDB database has."""


def add(commands: Commands) -> None:
    plan = commands.add_parser(
        "mongo-shard-plan",
        help="print the shard keys for a store in a sharded cluster of MongoDB",
        description="Print the shard keys of all collections, as commands for mongosh. Give them at a "
        "mongos, for an empty database, before the server is started with it; docs/data-model.md says more.",
    )
    plan.add_argument(
        "--database", metavar="NAME", default="weft", help="the one that storage.uri names (default: weft)"
    )
    plan.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from homeserver.app.stores import mongo_shard_plan

    database: str = arguments.database
    if not database or set(database) & FORBIDDEN_IN_DATABASES:
        raise CommandError(f"--database: {database!r} cannot be the name of a database", WRONG_USE)
    print(f"sh.enableSharding({json.dumps(database)})")
    for collection, fields in mongo_shard_plan():
        namespace = json.dumps(f"{database}.{collection}")
        key = ", ".join(f"{field}: 1" for field in fields)
        print(f"sh.shardCollection({namespace}, {{ {key} }})")
