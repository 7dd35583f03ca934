"""The command `weft`.

Exit codes: 0 done; 1 it failed; 2 the command line or the configuration is wrong. (Of `weft doctor`: 0 all is
well, 1 there are warnings, 2 something is wrong.) Errors are one line each on standard error, with what to do
about them.
"""

import argparse
import asyncio
import getpass
import json
import os
import resource
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from homeserver import __version__, logs
from homeserver.bus.bus import BusUnavailable
from homeserver.config import Config, ConfigError, load
from homeserver.config.documents import effective, sample
from homeserver.config.units import Secret
from homeserver.doctor.findings import Finding, fail, worst
from homeserver.key_file import KeyFileError
from homeserver.shared_secret import registration_mac
from storage.errors import StoreError

FAILED = 1
WRONG_USE = 2

REGISTER_PATH = "/_synapse/admin/v1/register"
LARGEST_ANSWER = 65536
ANSWER_TIMEOUT_S = 30
ENOUGH_FILES = 65536
FORBIDDEN_IN_DATABASES = frozenset('/\\. "$')
"""Characters that no name of a MongoDB database has."""


class CommandError(Exception):
    """A command cannot be carried out; the message is for the person who gave it."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int | None = parsed.run(parsed)
    except ConfigError as error:
        return _complain(str(error), WRONG_USE)
    except CommandError as error:
        return _complain(str(error), error.code)
    except (KeyFileError, StoreError, BusUnavailable) as error:
        return _complain(str(error), FAILED)
    except OSError as error:
        return _complain(_said_by_the_system(error), FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", FAILED)
    return code or 0


def _complain(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"weft: {line}", file=sys.stderr)
    return code


def _said_by_the_system(error: OSError) -> str:
    """Without its number, which tells people nothing."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="weft", description="Weft, a Matrix homeserver.", epilog="See also: weft COMMAND --help"
    )
    parser.add_argument("--version", action="version", version=f"weft {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    configured = argparse.ArgumentParser(add_help=False)
    configured.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        help="the configuration; without it, only the WEFT_… variables of the environment count",
    )
    configured.add_argument(
        "--dev",
        action="store_true",
        help="development mode: open registration, no rate limits, a known shared secret, "
        "server name localhost unless given; on the loopback address only",
    )

    serve = commands.add_parser("serve", parents=[configured], help="run the server until it is interrupted")
    serve.set_defaults(run=_serve)

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
    generate.set_defaults(run=_generate_config)

    check = commands.add_parser(
        "check-config", parents=[configured], help="check the configuration and show it, secrets masked"
    )
    check.set_defaults(run=_check_config)

    doctor = commands.add_parser(
        "doctor",
        parents=[configured],
        help="look for what is wrong, and say how to mend it",
        description="Look at configuration, files, addresses, store, bus and replicas, whether the server "
        "runs or not. Ends with 0 if all is well, 1 after warnings, 2 if something is wrong.",
    )
    doctor.add_argument("--json", action="store_true", help="print a list of findings for machines")
    doctor.set_defaults(run=_doctor)

    plan = commands.add_parser(
        "mongo-shard-plan",
        help="print the shard keys for a store in a sharded cluster of MongoDB",
        description="Print the shard keys of all collections, as commands for mongosh. Give them at a "
        "mongos, for an empty database, before the server is started with it; docs/data-model.md says more.",
    )
    plan.add_argument(
        "--database", metavar="NAME", default="weft", help="the one that storage.uri names (default: weft)"
    )
    plan.set_defaults(run=_mongo_shard_plan)

    replace = commands.add_parser(
        "replace-signing-key",
        parents=[configured],
        help="have the stopped server sign with another key from now on",
        description="Make the key in the file signing.key of the data folder the server's key; a new one is "
        "made if there is no file. Stop all replicas before, and copy the file to each of them afterwards.",
    )
    replace.set_defaults(run=_replace_signing_key)

    restored = commands.add_parser(
        "restored",
        parents=[configured],
        help="say that the store was restored from a backup, before any server is started on it",
        description="Have the restored store count as another one than was lost: what clients, replicas and "
        "readers of Kafka know of it is told apart from what it has. Stop all servers before.",
    )
    restored.set_defaults(run=_restored)

    register = commands.add_parser(
        "register-user",
        parents=[configured],
        help="create an account on the running server",
        description="Create an account on the running server, by registration.shared_secret. "
        "Asks for the password unless told where to read it.",
    )
    register.add_argument("user", metavar="USER", help="the name: alice, or @alice:example.org")
    register.add_argument("--admin", action="store_true", help="make it a server administrator")
    register.add_argument(
        "--password-file", metavar="FILE", help="read the password from FILE, or from standard input for -"
    )
    register.add_argument(
        "--url", help="where the server answers, if not at the first address that the configuration names"
    )
    register.set_defaults(run=_register_user)
    return parser


def _load(arguments: argparse.Namespace) -> Config:
    environ: Mapping[str, str] = os.environ
    if arguments.dev and arguments.config is None:
        environ = {"WEFT_SERVER_NAME": "localhost", **environ}
    return load(arguments.config, environ, development=arguments.dev)


# serve


def _serve(arguments: argparse.Namespace) -> None:
    config = _load(arguments)
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


# generate-config, check-config


def _generate_config(arguments: argparse.Namespace) -> None:
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


def _check_config(arguments: argparse.Namespace) -> None:
    print(effective(_load(arguments)), end="")


# doctor


def _doctor(arguments: argparse.Namespace) -> int:
    try:
        config = _load(arguments)
    except ConfigError as error:
        findings = [fail("configuration", str(problem)) for problem in error.problems]
    else:
        from homeserver.app.serving import examined

        logs.configure("error", config.log.format)
        findings = asyncio.run(examined(config))
    if arguments.json:
        print(json.dumps([_plain(finding) for finding in findings], indent=2))
    else:
        print(*findings, sep="\n")
    return worst(findings)


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "level": finding.level.name,
        "subject": finding.subject,
        "text": finding.text,
        "remedy": finding.remedy,
    }


# mongo-shard-plan


def _mongo_shard_plan(arguments: argparse.Namespace) -> None:
    from homeserver.app.stores import mongo_shard_plan

    database: str = arguments.database
    if not database or set(database) & FORBIDDEN_IN_DATABASES:
        raise CommandError(f"--database: {database!r} cannot be the name of a database", WRONG_USE)
    print(f"sh.enableSharding({json.dumps(database)})")
    for collection, fields in mongo_shard_plan():
        namespace = json.dumps(f"{database}.{collection}")
        key = ", ".join(f"{field}: 1" for field in fields)
        print(f"sh.shardCollection({namespace}, {{ {key} }})")


# replace-signing-key


def _replace_signing_key(arguments: argparse.Namespace) -> None:
    config = _load(arguments)
    from homeserver.app.stores import replace_signing_key

    key = asyncio.run(replace_signing_key(config))
    print(f"the server signs with {key.key_id} from now on, the key in {config.signing_key_path}")


# restored


def _restored(arguments: argparse.Namespace) -> None:
    config = _load(arguments)
    from homeserver.app.stores import begin_epoch

    asyncio.run(begin_epoch(config))
    print("the store counts as another one from now on: start the server")


# register-user


def _register_user(arguments: argparse.Namespace) -> None:
    config = _load(arguments)
    secret = config.registration.shared_secret
    if secret is None:
        raise CommandError(
            "registration.shared_secret is not set; set it and restart the server "
            "(`weft generate-config` makes a random one)",
            WRONG_USE,
        )
    username = _localpart(arguments.user, config.server_name)
    password = _password(arguments.password_file)
    url = (arguments.url or _local_url(config)).rstrip("/") + REGISTER_PATH
    nonce = str(_call(url, None).get("nonce", ""))
    mac = registration_mac(secret, nonce=nonce, username=username, password=password, admin=arguments.admin)
    body = {
        "nonce": nonce,
        "username": username,
        "password": password,
        "admin": arguments.admin,
        "mac": mac,
        "inhibit_login": True,
    }
    created = _call(url, body)
    print(f"created {created.get('user_id', username)}{' (administrator)' if arguments.admin else ''}")


def _localpart(user: str, server_name: str) -> str:
    if not user.startswith("@"):
        return user
    localpart, _, server = user[1:].partition(":")
    if server != server_name:
        raise CommandError(f"{user} does not belong to this server, which is {server_name}", WRONG_USE)
    return localpart


def _password(source: str | None) -> str:
    if source is not None:
        try:
            line = sys.stdin.buffer.readline() if source == "-" else Path(source).read_bytes()
            password = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise CommandError("the password is not UTF-8 text; nothing was done") from error
    elif sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != password:
            raise CommandError("the two passwords differ; nothing was done")
    else:
        raise CommandError("no terminal to ask for the password; use --password-file FILE or -", WRONG_USE)
    if not password:
        raise CommandError("the password is empty; nothing was done")
    return password


def _local_url(config: Config) -> str:
    """Where this machine reaches the server; a server that listens everywhere is reached by the loopback."""
    address = config.listen[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"http://[{host}]:{address.port}" if ":" in host else f"http://{host}:{address.port}"


def _call(url: str, body: dict[str, Any] | None) -> dict[str, Any]:
    """GET, or POST with a body; the JSON object that comes back. Raises CommandError on anything else."""
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"--url: takes an address such as http://127.0.0.1:8008, not {url!r}", WRONG_USE)
    data = None if body is None else json.dumps(body).encode()
    # No proxy: the request carries a password and, as a rule, stays on this machine.
    opener = build_opener(ProxyHandler({}))
    try:
        request = Request(url, data, {"Content-Type": "application/json"})
        with opener.open(request, timeout=ANSWER_TIMEOUT_S) as response:
            status, text = response.status, response.read(LARGEST_ANSWER)
    except HTTPError as error:
        status, text = error.code, error.read(LARGEST_ANSWER)
    except (InvalidURL, ValueError) as error:
        raise CommandError(f"--url: {url!r} is no address of a server ({error})", WRONG_USE) from error
    except HTTPException as error:
        raise CommandError(f"{url} answered with something that is not HTTP; is this Weft?") from error
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, OSError):
            reason = _said_by_the_system(reason)
        raise CommandError(f"cannot reach the server at {url}: {reason}; is it running?") from error
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise CommandError(f"{url} answered {status} with something that is not a JSON object; is this Weft?")
    if status != 200:
        raise CommandError(
            f"the server refused: {answer.get('error', status)} ({answer.get('errcode', status)})"
        )
    return answer
