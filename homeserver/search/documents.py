"""What of an event can be found by searching (spec: client-server "Server Side Search")."""

from typing import Final

import orjson

from homeserver.protocol.json_types import JsonObject
from homeserver.search.words import filed_words
from storage.log import Entry
from storage.search import SearchDocument

BODY: Final = "content.body"
NAME: Final = "content.name"
TOPIC: Final = "content.topic"
KEYS: Final = (BODY, NAME, TOPIC)

KEY_OF_TYPE: Final = {"m.room.message": BODY, "m.room.name": NAME, "m.room.topic": TOPIC}


def is_searched(entry: Entry) -> bool:
    """Whether it is an event of a type that can be found: a message, or the room's name or topic."""
    if entry.type == "m.room.message":
        return entry.key is None
    return entry.key == "" and entry.type in KEY_OF_TYPE


def document_of(entry: Entry, now: int) -> SearchDocument | None:
    """The document of an event, None when there are no words in it (any more)."""
    if not is_searched(entry) or not entry.body or entry.event_id is None or entry.type is None:
        return None
    words = filed_words(text_of(entry.type, orjson.loads(entry.body)["content"]))
    if not words:
        return None
    return SearchDocument(
        event_id=entry.event_id,
        room_id=entry.stream,
        sender=entry.sender or "",
        key=KEY_OF_TYPE[entry.type],
        # Other servers may send from the future.
        ts=min(entry.ts, now),
        words=words,
    )


def text_of(type: str, content: JsonObject) -> str:
    """What is read of an event of a type that can be found."""
    return "\n".join(_texts(KEY_OF_TYPE[type], content))


def _texts(key: str, content: JsonObject) -> list[str]:
    texts = [content.get(key.removeprefix("content."))]
    if key == TOPIC:
        texts += _plain_topics(content)
    return list(dict.fromkeys(text for text in texts if isinstance(text, str)))


def _plain_topics(content: JsonObject) -> list[object]:
    """The `text/plain` representations in `m.topic`."""
    rich = content.get("m.topic")
    representations = rich.get("m.text") if isinstance(rich, dict) else None
    return [
        representation.get("body")
        for representation in (representations if isinstance(representations, list) else ())
        if isinstance(representation, dict) and representation.get("mimetype", "text/plain") == "text/plain"
    ]
