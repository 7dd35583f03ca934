"""Which messages for devices have come from other servers: each is delivered once, however often it comes.

The log knows of one that is still in it. A server that did not hear that its transaction was taken sends it
again, be it days later, when the device has long had the message.

spec: server-server "Send-to-device messaging"
"""

import random

from homeserver.clock import Clock
from homeserver.protocol.identifiers import server_name_of
from homeserver.users.tokens import digest_of
from storage.collection import Collection
from storage.records.received_messages import ReceivedMessage

REMEMBERED_MS = 7 * 24 * 3600 * 1000
MOST_OF_SERVER = 20_000
"""Messages of one server; of more the newest, and some that have not been forgotten yet."""
FORGOTTEN_AT_ONCE = 20
COUNTED_ONCE_IN = 10
"""To count them takes as long as there are many."""


class ReceivedMessages:
    """Remembers them for a week, as far as a server does not send too many."""

    def __init__(
        self, received: Collection[ReceivedMessage], now: Clock, *, rng: random.Random | None = None
    ) -> None:
        self._received = received
        self._now = now
        self._rng = rng or random.Random()

    async def has(self, sender: str, message_id: str) -> bool:
        """Whether the message was delivered before. Raises StoreError."""
        return await self._received.get(_digest(sender, message_id)) is not None

    async def note(self, sender: str, message_id: str) -> None:
        """It is delivered. Forgets some of those that came long ago. Raises StoreError."""
        now, server = self._now(), server_name_of(sender)
        digest = _digest(sender, message_id)
        await self._received.put(
            ReceivedMessage(digest=digest, expires_ts=now + REMEMBERED_MS, server_name=server)
        )
        old = await self._received.find("by_expiry", before=now + 1, limit=FORGOTTEN_AT_ONCE)
        if self._rng.randrange(COUNTED_ONCE_IN) == 0:
            old += await self._too_many(server)
        for each in old:
            await self._received.delete(each.digest)

    async def _too_many(self, server: str) -> list[ReceivedMessage]:
        """Some of the oldest of a server, if there are more than are remembered."""
        excess = await self._received.count("by_server", (server,)) - MOST_OF_SERVER
        if excess <= 0:
            return []
        return await self._received.find("by_server", (server,), limit=min(excess, FORGOTTEN_AT_ONCE))


def _digest(sender: str, message_id: str) -> str:
    """Ids are for each server to choose, and the sender says which it is."""
    return digest_of(f"{sender}\0{message_id}")
