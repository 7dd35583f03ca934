"""`weft generate-config`: writes a commented configuration with fresh secrets."""

import argparse
import os
import secrets
from pathlib import Path
from typing import Any

from homeserver.cli.command import WRONG_USE, CommandError, Commands
from homeserver.config import ConfigError, load
from homeserver.config.documents import sample
from homeserver.config.units import Secret


def add(commands: Commands) -> None:
    generate = commands.add_parser(
        "generate-config", help="write a commented configuration with fresh secrets"
    )
    generate.add_argument(
        "--server-name", required=True, metavar="NAME", help="what follows the colon in user ids; permanent"
    )
    generate.add_argument("--public-url", metavar="URL", help="where clients will reach the server")
    generate.add_argument("--listen", metavar="ADDRESS:PORT", help="where to listen; commas between several")
    generate.add_argument("--data-dir", metavar="DIR", help="where the server keeps its files")
    generate.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="a new file for it, instead of standard output"
    )
    generate.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    given = {
        "server_name": arguments.server_name,
        "public_url": arguments.public_url,
        "listen": arguments.listen,
        "data_dir": arguments.data_dir,
    }
    wanted = {key: text for key, text in given.items() if text is not None}
    try:
        config = load(None, {f"WEFT_{key.upper()}": text for key, text in wanted.items()})
    except ConfigError as error:
        problem = error.problems[0]
        raise CommandError(f"--{problem.key.replace('_', '-')}: {problem.message}", WRONG_USE) from error
    chosen: dict[str, Any] = {key: getattr(config, key) for key in wanted}
    chosen["registration.shared_secret"] = Secret(secrets.token_urlsafe(32))
    text = sample(chosen)
    if arguments.output is None:
        print(text, end="")
        return
    output: Path = arguments.output
    output.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise CommandError(f"{output} exists; move it away first if you want a new one") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
