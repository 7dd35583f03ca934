"""Logging: fields come out, secrets do not."""

import io
import json
import logging
from typing import Any

import pytest
import structlog

from homeserver import logs

PLANTED = "pLaNtEd-sEcReT"


pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def lines(level: logs.Level, form: logs.Format) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, form, stream)
    return stream


def test_away_from_a_terminal_each_line_is_a_json_object_with_its_fields() -> None:
    stream = lines("info", "auto")
    structlog.get_logger().info("room_joined", room="!a:example.org", user="@b:example.org", ms=3)
    (written,) = map(json.loads, stream.getvalue().splitlines())
    assert written.pop("timestamp").endswith("Z")
    assert written == {
        "event": "room_joined",
        "level": "info",
        "room": "!a:example.org",
        "user": "@b:example.org",
        "ms": 3,
    }


def test_for_people_a_line_holds_the_event_and_its_fields() -> None:
    stream = lines("info", "console")
    structlog.get_logger().warning("room_joined", room="!a:example.org")
    assert "room_joined" in stream.getvalue()
    assert "room=!a:example.org" in stream.getvalue()


def test_less_than_the_level_is_not_logged() -> None:
    stream = lines("warning", "json")
    structlog.get_logger().info("quiet")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    [
        {"access_token": PLANTED},
        {"refreshToken": PLANTED},
        {"new_password": PLANTED},
        {"Authorization": f"Bearer {PLANTED}"},
        {"mac": PLANTED},
        {"registration_shared_secret": PLANTED},
        {"signing_key": PLANTED},
        {"content": {"body": PLANTED}},
        {"headers": {"Authorization": PLANTED}},
        {"requests": [{"auth": {"password": PLANTED}}]},
        {"path": f"/_matrix/client/v3/sync?access_token={PLANTED}&timeout=0"},
        {"header": f"Bearer {PLANTED}"},
        {"uri": f"mongodb://weft:{PLANTED}@db/weft"},
        {"deep": {"a": {"b": {"c": {"d": {"e": PLANTED}}}}}},
    ],
)
def test_secrets_are_blanked_by_their_name_and_by_their_form(
    form: logs.Format, fields: dict[str, Any]
) -> None:
    stream = lines("info", form)
    structlog.get_logger().info("something", **fields)
    assert "something" in stream.getvalue()
    assert PLANTED not in stream.getvalue()


def test_what_only_sounds_like_a_secret_stays() -> None:
    stream = lines("info", "json")
    structlog.get_logger().info("x", event_id="$abc", key_id="ed25519:a_b", tokens_left=3, password=None)
    written = json.loads(stream.getvalue())
    assert written["event_id"] == "$abc"
    assert written["key_id"] == "ed25519:a_b"
    assert written["tokens_left"] == 3
    assert written["password"] is None


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_comes_with_its_traceback_but_no_local_variables(form: logs.Format) -> None:
    stream = lines("info", form)
    hidden = PLANTED
    try:
        raise ValueError(f"bad request to /sync?access_token={hidden}")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError: bad request to /sync?access_token=[redacted]" in stream.getvalue()
    assert PLANTED not in stream.getvalue()


def test_libraries_log_the_same_way() -> None:
    stream = lines("info", "json")
    logging.getLogger("aiohttp.server").warning("refused %s", f"Bearer {PLANTED}")
    logging.getLogger("aiohttp.server").info("chatter")
    (written,) = map(json.loads, stream.getvalue().splitlines())
    assert written["event"] == "refused Bearer [redacted]"
    assert written["logger"] == "aiohttp.server"
    assert written["level"] == "warning"
