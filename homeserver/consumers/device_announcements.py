"""Passes on the word that a user's identity keys changed, to those who share rooms with the user.

The change is in the user's log; others follow room shards. An entry that is handled twice, after a
crash, makes clients look once too often. What one upload changes is several entries, and one word.
"""

from collections.abc import Sequence

from homeserver.e2ee.identities import DEVICE, QUIET, SIGNATURE
from homeserver.errors import MatrixError
from homeserver.sync.device_lists import DeviceLists
from storage.errors import StoreUnavailable
from storage.log import Entry, Kind


class DeviceAnnouncements:
    """The handler behind the consumer "device_announcements" of the user shards."""

    def __init__(self, device_lists: DeviceLists) -> None:
        self._device_lists = device_lists

    @staticmethod
    def wants(entry: Entry) -> bool:
        # A signature on another's key is nobody else's business. Other servers have lists of all devices.
        is_news = entry.meta != QUIET or entry.type == DEVICE
        return entry.kind is Kind.DEVICE_LIST and entry.type != SIGNATURE and is_news

    async def handle(self, shard: int, entries: Sequence[Entry]) -> None:
        """Raises StoreUnavailable when it must be tried again, however often."""
        changes: dict[str, list[int]] = {}
        for entry in entries:
            changes.setdefault(entry.stream, []).append(entry.seq)
        news_here = {entry.stream for entry in entries if entry.meta != QUIET}
        try:
            await self._device_lists.announce(changes, only_elsewhere=changes.keys() - news_here)
        except MatrixError as error:
            raise StoreUnavailable(error.error) from error
