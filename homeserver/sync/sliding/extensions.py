"""The extensions of sliding sync: to-device, e2ee, account data, receipts, typing (MSC3884 and others)."""

from collections.abc import Iterable, Mapping

import orjson

from homeserver.rooms.ephemeral import Typing
from homeserver.rooms.outline import Outline
from homeserver.rooms.room import Room
from homeserver.since_tokens import SyncToken, decode_received, encode_received
from homeserver.sync.device_lists import DeviceLists
from homeserver.sync.engine import DeviceKeyCounts
from homeserver.sync.room_section import receipts_event
from homeserver.sync.sliding.request import Extension, Extensions
from homeserver.sync.to_device import PAGE, ToDeviceQueue
from homeserver.users.account_data import AccountData
from homeserver.users.users import User


class Looked:
    """The rooms that a client looks at: by list, and by subscription."""

    def __init__(self) -> None:
        self.by_list: dict[str, set[str]] = {}
        self.subscribed: set[str] = set()
        self.joined: dict[str, Room | Outline] = {}
        """Of those with nothing new perhaps but the outline."""

    def chosen(self, extension: Extension) -> dict[str, Room | Outline]:
        """The joined rooms that an extension is for; "*" stands for all lists or all subscriptions."""
        names = extension.lists
        room_ids: set[str] = set()
        for name, ids in self.by_list.items():
            if names is None or "*" in names or name in names:
                room_ids |= ids
        wanted = extension.rooms
        if wanted is None or "*" in wanted:
            room_ids |= self.subscribed
        else:
            room_ids |= self.subscribed & set(wanted)
        return {room_id: self.joined[room_id] for room_id in room_ids if room_id in self.joined}


class ExtensionSections:
    """Makes the `extensions` of an answer."""

    def __init__(
        self,
        *,
        to_device: ToDeviceQueue,
        device_lists: DeviceLists,
        key_counts: DeviceKeyCounts,
        account_data: AccountData,
        typing: Typing,
        epoch: str,
    ) -> None:
        self._to_device = to_device
        self._device_lists = device_lists
        self._key_counts = key_counts
        self._account_data = account_data
        self._typing = typing
        self._epoch = epoch

    async def sections(
        self,
        user: User,
        device_id: str,
        wanted: Extensions,
        looked: Looked,
        behind: Mapping[str, int],
        since: SyncToken | None,
        upto: SyncToken,
    ) -> tuple[dict[str, bytes], bool]:
        """(name → JSON, whether any of them is news).

        `behind`: up to where the client has those rooms that it did not have up to `since`.
        """
        sections: dict[str, bytes] = {}
        news = False
        if wanted.to_device.enabled:
            sections["to_device"], some = await self._messages(user, device_id, wanted, upto)
            news |= some
        if wanted.e2ee.enabled:
            sections["e2ee"], some = await self._e2ee(user, device_id, since, upto)
            news |= some
        if wanted.account_data.enabled:
            rooms = looked.chosen(wanted.account_data)
            body = self._account_data_json(user, rooms, behind, since, upto)
            if body is not None:
                sections["account_data"] = body
                news = True
        if wanted.receipts.enabled:
            body = self._receipts(user, looked.chosen(wanted.receipts), behind, since, upto)
            if body is not None:
                sections["receipts"] = body
                news = True
        if wanted.typing.enabled:
            body = self._typing_json(looked.chosen(wanted.typing), behind, since)
            if body is not None:
                sections["typing"] = body
                news = True
        return sections, news

    async def _messages(
        self, user: User, device_id: str, wanted: Extensions, upto: SyncToken
    ) -> tuple[bytes, bool]:
        after = 0
        if wanted.to_device.since is not None:
            after = decode_received(wanted.to_device.since, self._epoch)
            self._to_device.acknowledge(user, device_id, after)
        limit = max(1, min(wanted.to_device.limit, PAGE))
        messages, reached = await self._to_device.waiting(user, device_id, after, upto.user, limit)
        next_batch = encode_received(reached, self._epoch).encode()
        body = b'{"next_batch":"%b","events":[%b]}' % (next_batch, b",".join(messages))
        return body, bool(messages)

    async def _e2ee(
        self, user: User, device_id: str, since: SyncToken | None, upto: SyncToken
    ) -> tuple[bytes, bool]:
        counts = await self._key_counts.counts(user.user_id, device_id)
        parts = [
            b'"device_one_time_keys_count":' + orjson.dumps(counts.one_time),
            b'"device_unused_fallback_key_types":' + orjson.dumps(list(counts.unused_fallback)),
        ]
        news = False
        if since is not None:
            changes = await self._device_lists.since(user, since, upto)
            if changes:
                news = True
                shown = {"changed": sorted(changes.changed), "left": sorted(changes.left)}
                parts.append(b'"device_lists":' + orjson.dumps(shown))
        return b"{" + b",".join(parts) + b"}", news

    def _account_data_json(
        self,
        user: User,
        rooms: Iterable[str],
        behind: Mapping[str, int],
        since: SyncToken | None,
        upto: SyncToken,
    ) -> bytes | None:
        after = since.user if since is not None else None
        everything = self._events(user, "", after, upto.user)
        by_room: list[bytes] = []
        for room_id in rooms:
            events = self._events(user, room_id, 0 if room_id in behind else after, upto.user)
            if events:
                by_room.append(orjson.dumps(room_id) + b":[" + b",".join(events) + b"]")
        if not everything and not by_room:
            return None
        return b'{"global":[%b],"rooms":{%b}}' % (b",".join(everything), b",".join(by_room))

    def _events(self, user: User, room_id: str, after: int | None, upto: int) -> list[bytes]:
        return [
            b'{"type":' + orjson.dumps(type) + b',"content":' + content + b"}"
            for type, content in self._account_data.changes(user, room_id, after, upto)
        ]

    def _receipts(
        self,
        user: User,
        rooms: Mapping[str, Room | Outline],
        behind: Mapping[str, int],
        since: SyncToken | None,
        upto: SyncToken,
    ) -> bytes | None:
        found: list[bytes] = []
        for room_id, room in rooms.items():
            if isinstance(room, Outline):
                continue
            after = 0 if since is None else behind.get(room_id, since.rooms[room.shard])
            event = receipts_event(room, after, upto.rooms[room.shard], user.user_id)
            if event is not None:
                found.append(orjson.dumps(room_id) + b":" + event)
        return b'{"rooms":{' + b",".join(found) + b"}}" if found else None

    def _typing_json(
        self, rooms: Iterable[str], behind: Mapping[str, int], since: SyncToken | None
    ) -> bytes | None:
        found: list[bytes] = []
        for room_id in rooms:
            if since is None:
                shown = bool(self._typing.users(room_id))
            else:
                after = 0 if room_id in behind else since.ephemeral
                shown = self._typing.changed.get(room_id, 0) > after
            if shown:
                found.append(orjson.dumps(room_id) + b":" + self._typing.event(room_id))
        return b'{"rooms":{' + b",".join(found) + b"}}" if found else None
