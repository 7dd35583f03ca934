"""What this server says to others apart from the events of rooms."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from homeserver.protocol.json_types import JsonObject


class Message(NamedTuple):
    """An EDU that must arrive."""

    txn: bytes
    """Digest of the transaction that it is part of: repeated, it is not sent twice."""
    edu: JsonObject


class Outbox(Protocol):
    """Takes EDUs for other servers."""

    def tell(self, servers: Iterable[str], edu_type: str, key: str, content: JsonObject) -> None:
        """Soon, if a server can be reached; of the same type and key the newest counts. May be lost."""
        ...

    async def send(self, messages: Mapping[str, Sequence[Message]]) -> None:
        """To each server these, in this order, each at least once, however long that takes.

        They are safe when it returns. Raises MatrixError 503.
        """
        ...


class NoOutbox:
    """Of a server that has nothing to do with others."""

    def tell(self, servers: Iterable[str], edu_type: str, key: str, content: JsonObject) -> None:
        pass

    async def send(self, messages: Mapping[str, Sequence[Message]]) -> None:
        pass
