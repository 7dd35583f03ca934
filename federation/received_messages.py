"""Which messages for devices have come from other servers: each is delivered once, however often it comes.

The log knows of one that is still in it. A server that did not hear that its transaction was taken sends it
again, be it days later, when the device has long had the message.

spec: server-server "Send-to-device messaging"
"""

from homeserver.clock import Clock
from homeserver.users.tokens import digest_of
from storage.collection import Collection
from storage.records.received_messages import ReceivedMessage

REMEMBERED_MS = 7 * 24 * 3600 * 1000
FORGOTTEN_AT_ONCE = 20


class ReceivedMessages:
    """Remembers them for a week."""

    def __init__(self, received: Collection[ReceivedMessage], now: Clock) -> None:
        self._received = received
        self._now = now

    async def has(self, sender: str, message_id: str) -> bool:
        """Whether the message was delivered before. Raises StoreError."""
        return await self._received.get(_digest(sender, message_id)) is not None

    async def note(self, sender: str, message_id: str) -> None:
        """It is delivered. Forgets some of those that came long ago. Raises StoreError."""
        now = self._now()
        for old in await self._received.find("by_expiry", before=now + 1, limit=FORGOTTEN_AT_ONCE):
            await self._received.delete(old.digest)
        record = ReceivedMessage(digest=_digest(sender, message_id), expires_ts=now + REMEMBERED_MS)
        await self._received.put(record)


def _digest(sender: str, message_id: str) -> str:
    """Ids are for each server to choose, and the sender says which it is."""
    return digest_of(f"{sender}\0{message_id}")
