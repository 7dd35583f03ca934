"""Whose devices a client must look up again (spec: client-server "Tracking the device list for a user")."""

from bisect import bisect_right
from typing import NamedTuple

from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.shard_writer import Append
from homeserver.users.users import User
from storage.log import Entry, Kind

CHANGES_KEPT = 10_000


class DeviceListChanges(NamedTuple):
    changed: set[str]
    left: set[str]

    def __bool__(self) -> bool:
        return bool(self.changed or self.left)


class DeviceLists:
    """Follows the DEVICE_LIST entries of the room shards, and the joins that make users share rooms."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._changes: dict[int, list[tuple[int, str]]] = {}
        self._complete_after: dict[int, int] = {}
        rooms.follow(self._on_entry)

    async def announce(self, user: User, now: int) -> None:
        """Tell everybody who shares a room with the user that the user's devices or keys changed."""
        shards = {self._rooms.shards.of_room(room_id) for room_id in user.rooms("join")}
        shards.add(self._rooms.shards.of_room(user.user_id))
        entry = Entry(kind=Kind.DEVICE_LIST, stream=user.user_id, type="", key=user.user_id, ts=now)
        for shard in sorted(shards):
            await self._rooms.writers[shard].submit(Append([entry]))

    def _on_entry(self, shard: int, entry: Entry, room: Room | None, view: RoomEvent | None) -> None:
        if entry.kind is not Kind.DEVICE_LIST:
            return
        changes = self._changes.setdefault(shard, [])
        changes.append((entry.seq, entry.stream))
        if len(changes) > 2 * CHANGES_KEPT:
            self._complete_after[shard] = changes[CHANGES_KEPT - 1][0]
            del changes[:CHANGES_KEPT]

    async def since(self, user: User, after: tuple[int, ...], upto: tuple[int, ...]) -> DeviceListChanges:
        """What changed for `user` between two positions (of each room shard)."""
        changed: set[str] = set()
        left: set[str] = set()
        candidates: set[str] = set()
        for shard in self._rooms.shards.room_shards():
            candidates.update(await self._changed_users(user, shard, after[shard], upto[shard]))
        for user_id in candidates:
            if user_id == user.user_id or self.share_room(user, user_id):
                changed.add(user_id)
        await self._membership_changes(user, after, upto, changed, left)
        return DeviceListChanges(changed, left - changed)

    def share_room(self, user: User, other: str) -> bool:
        """Whether both are joined to some room in memory; rooms not loaded are loaded by `since`."""
        return any(
            (room := self._rooms.cached(room_id)) is not None and other in room.joined
            for room_id in user.rooms("join")
        )

    async def _changed_users(self, user: User, shard: int, after: int, upto: int) -> set[str]:
        if after >= upto:
            return set()
        complete_after = self._complete_after.get(shard, self._rooms.started_at[shard])
        if after >= complete_after:
            changes = self._changes.get(shard, [])
            start = bisect_right(changes, after, key=lambda change: change[0])
            end = bisect_right(changes, upto, key=lambda change: change[0])
            found = {user_id for _, user_id in changes[start:end]}
        else:
            found = await self._look_up(user, shard, after)
        if found:
            for room_id in user.rooms("join"):
                await self._rooms.get(room_id)
        return found

    async def _look_up(self, user: User, shard: int, after: int) -> set[str]:
        """For a client that was away since before this process began: ask for each user it shares with."""
        sharing = {user.user_id}
        for room_id in user.rooms("join"):
            room = await self._rooms.get(room_id)
            if room is not None:
                sharing |= room.joined
        found: set[str] = set()
        for user_id in sharing:
            refs = await self._rooms.log.current(shard, user_id, Kind.DEVICE_LIST)
            if any(ref.seq > after for ref in refs):
                found.add(user_id)
        return found

    async def _membership_changes(
        self,
        user: User,
        after: tuple[int, ...],
        upto: tuple[int, ...],
        changed: set[str],
        left: set[str],
    ) -> None:
        for room_id, ref in user.memberships.items():
            shard = self._rooms.shards.of_room(room_id)
            low, high = after[shard], upto[shard]
            if ref.membership == "join":
                last = self._rooms.activity.get(room_id, 0)
                if last <= low and low >= self._rooms.started_at[shard]:
                    continue
                room = await self._rooms.get(room_id)
                if room is None:
                    continue
                if ref.since > low:
                    changed |= room.joined
                    continue
                for event in _member_changes(room, low, high):
                    who = event.state_key or ""
                    if event.membership == "join":
                        changed.add(who)
                    elif not self.share_room(user, who):
                        left.add(who)
            elif low < ref.position <= high and ref.membership in ("leave", "ban"):
                room = await self._rooms.get(room_id)
                if room is not None:
                    left |= {who for who in room.joined if not self.share_room(user, who)}


def _member_changes(room: Room, low: int, high: int) -> list[RoomEvent]:
    """Member events between two positions that changed the membership (not only the profile)."""
    if low >= room.timeline_after:
        recent = room.timeline[room.first_after(low) : room.first_after(high)]
    else:
        recent = [event for event in room.head.state.values() if low < event.position <= high]
    return [
        event
        for event in recent
        if event.type == "m.room.member"
        and event.unsigned().get("prev_content", {}).get("membership") != event.membership
    ]
