"""`weft register-user`: creates an account on the running server."""

import argparse
import getpass
import json
import sys
import time
from http import HTTPStatus
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from homeserver.cli.command import WRONG_USE, CommandError, Commands, configured, loaded, said_by_the_system
from homeserver.config import Config
from homeserver.shared_secret import registration_mac

REGISTER_PATH = "/_synapse/admin/v1/register"
LARGEST_ANSWER = 65536
ANSWER_TIMEOUT_S = 30
TRIES = 10
LONGEST_WAIT_S = 10.0
OTHER_SECRET = (
    "; it knows another registration.shared_secret than this configuration: "
    "name the one that it runs with (-c, --dev), or restart it"
)


def add(commands: Commands) -> None:
    register = commands.add_parser(
        "register-user",
        parents=[configured()],
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
    register.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    config = loaded(arguments)
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
    """What the server answers; asked again after a while if it says "too often". Raises CommandError."""
    for _ in range(TRIES):
        status, answer = _asked(url, body)
        if status != HTTPStatus.TOO_MANY_REQUESTS:
            break
        time.sleep(_seconds_to_wait(answer.get("retry_after_ms")))
    if status != HTTPStatus.OK:
        refusal = f"the server refused: {answer.get('error', status)} ({answer.get('errcode', status)})"
        raise CommandError(refusal + (OTHER_SECRET if status == HTTPStatus.FORBIDDEN else ""))
    return answer


def _seconds_to_wait(retry_after_ms: object) -> float:
    wanted = retry_after_ms / 1000 if isinstance(retry_after_ms, int) else 1.0
    return min(max(wanted, 0.0), LONGEST_WAIT_S)


def _asked(url: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
    """GET, or POST with a body; the status and the JSON object that come back. Raises CommandError."""
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
            reason = said_by_the_system(reason)
        raise CommandError(f"cannot reach the server at {url}: {reason}; is it running?") from error
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise CommandError(f"{url} answered {status} with something that is not a JSON object; is this Weft?")
    return status, answer
