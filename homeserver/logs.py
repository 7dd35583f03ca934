"""Logging: events with fields, for people on a terminal and as JSON lines elsewhere.

Call `configure` once at start; everywhere else `structlog.get_logger()` and
`log.info("room_joined", room=room_id, user=user_id)`. What libraries log through `logging` comes out alike.

Message content, passwords, tokens and keys must not be logged in the first place; `redact` is the net beneath
that: it blanks fields by their name, and credentials inside text by their form.
"""

import logging
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

REDACTED = "[redacted]"

_SECRET_FIELD = re.compile(
    r"(^|_)(access_?token|refresh_?token|login_?token|token|tokens|password|passwd|passphrase|secret|secrets"
    r"|authorization|cookie|mac|hmac|nonce|seed|signing_?key|private_?key|key_?material|credentials?"
    r"|content|body|ciphertext|one_time_keys|fallback_keys)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"(?P<name>\b(?:access_token|refresh_token|loginToken|password|client_secret|mac)=)[^\s&\"']+"
    r"|(?P<scheme>\bBearer )[^\s\"',]+"
    r"|(?P<uri>[a-z][a-z0-9+.-]*://)[^/@\s\"']+@",
)
_TELLTALE = re.compile("=|Bearer|://")
"""All that `_SECRET_TEXT` finds has one of these in it; most fields have none."""
_DEEPEST = 4


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor that blanks secrets; see the module's introduction."""
    return {name: _redacted(name, value, 0) for name, value in event.items()}


def _redacted(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if _is_secret(name):
        return REDACTED
    if isinstance(value, str):
        return _SECRET_TEXT.sub(_blank, value) if _TELLTALE.search(value) else value
    if isinstance(value, Mapping | list | tuple | set | frozenset) and depth == _DEEPEST:
        return "[nested too deeply]"
    if isinstance(value, Mapping):
        return {str(key): _redacted(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item, depth + 1) for item in value]
    return value


@lru_cache(maxsize=1024)
def _is_secret(field: str) -> bool:
    return _SECRET_FIELD.search(field) is not None


def _blank(found: re.Match[str]) -> str:
    if found["uri"]:
        return f"{found['uri']}{REDACTED}@"
    return f"{found['name'] or found['scheme']}{REDACTED}"


class _FromLibraries(logging.Handler):
    """Passes what libraries log through `logging` on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def configure(level: Level = "info", form: Format = "auto", stream: TextIO | None = None) -> None:
    """Set up logging of this process to `stream` (standard error by default)."""
    out = stream or sys.stderr
    on_terminal = out.isatty()
    for_people = form == "console" or (form == "auto" and on_terminal)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            *(_for_people(colours=on_terminal) if for_people else _for_machines()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_FromLibraries()]
    # Libraries tell their own story at info; it is of use when something is wrong or being looked for.
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


def _for_people(*, colours: bool) -> list[Processor]:
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain, pad_event_to=0)]


def _for_machines() -> list[Processor]:
    return [structlog.processors.JSONRenderer(_json)]


def _json(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
