"""Messages for devices as values: who sends them, how large they may be, and how they go to other servers.

spec: client-server "Send-to-Device messaging"; server-server "Send-to-device messaging"
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import orjson

from homeserver.e2ee.key_objects import too_many
from homeserver.errors import invalid_param, too_large
from homeserver.outbox import Message
from homeserver.protocol.identifiers import check_user_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from storage.log import transaction_digest

MAX_MESSAGE_BYTES = 64 * 1024
"""Of one event's JSON; messages that carry keys have one to four thousand."""
MAX_MESSAGES = 10_000
"""In one request, wildcards counted by the devices they stand for."""
MAX_REQUEST_BYTES = 32 * 1024 * 1024
"""Of all the events that one request makes."""
MAX_ID_BYTES = 255
EDU_BYTES = 64 * 1024
"""Of the messages that go together in one EDU, but for the last of them."""

Messages = Mapping[str, Mapping[str, JsonObject]]
"""User → device (or `*`) → content."""


class Sender(NamedTuple):
    """Who sends, and in which transaction."""

    user_id: str
    device_id: str
    txn_id: str


def check_names(sender: Sender, type: str) -> None:
    """Raises 400 for a type or a transaction id that is too long."""
    if len(type.encode()) > MAX_ID_BYTES or len(sender.txn_id.encode()) > MAX_ID_BYTES:
        raise invalid_param(f"Event type and transaction id may have {MAX_ID_BYTES} bytes at most")


def event_of(sender: str, type: str, content: JsonObject) -> bytes:
    """The event's JSON, as devices get it. Raises 413."""
    body = orjson.dumps({"content": content, "sender": sender, "type": type})
    if len(body) > MAX_MESSAGE_BYTES:
        raise too_large(f"A message may have {MAX_MESSAGE_BYTES} bytes at most")
    return body


def edus_of(sender: Sender, type: str, messages: Messages) -> dict[str, list[Message]]:
    """The EDUs m.direct_to_device for the servers of these users; the same ones for the same request.

    Raises InvalidIdentifier for what is no user id, 400 and 413 beyond the limits.
    """
    if sum(map(len, messages.values())) > MAX_MESSAGES:
        raise too_many(f"At most {MAX_MESSAGES} messages at once")
    by_server: dict[str, dict[str, Mapping[str, JsonObject]]] = {}
    for user_id, of_user in messages.items():
        by_server.setdefault(server_name_of(check_user_id(user_id)), {})[user_id] = of_user
    return {
        server: [
            _message(sender, type, server, number, part)
            for number, part in enumerate(_parts(sender, type, of_server))
        ]
        for server, of_server in by_server.items()
    }


def _parts(sender: Sender, type: str, messages: Messages) -> Iterator[dict[str, dict[str, JsonObject]]]:
    """The messages in parts of a size that goes well in one EDU."""
    part: dict[str, dict[str, JsonObject]] = {}
    size = 0
    for user_id, of_user in messages.items():
        for device_id, content in of_user.items():
            part.setdefault(user_id, {})[device_id] = content
            size += len(event_of(sender.user_id, type, content))
            if size >= EDU_BYTES:
                yield part
                part, size = {}, 0
    if part:
        yield part


def _message(sender: Sender, type: str, server: str, number: int, messages: Messages) -> Message:
    endpoint = f"sendToDevice\0{type}\0{server}\0{number}"
    txn = transaction_digest(sender.user_id, sender.device_id, endpoint, sender.txn_id)
    content = {"sender": sender.user_id, "type": type, "message_id": txn.hex(), "messages": messages}
    return Message(txn, {"edu_type": "m.direct_to_device", "content": content})
