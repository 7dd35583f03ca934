"""What users made of a room goes with them to the room that replaces it (spec: client-server "Room
Upgrades"): their tags, the push rules they named after it, its place among their direct chats.

This happens when a local user joins the new room, and when the old one's tombstone names a room that
they have joined before: a room may claim to replace any other, so both have to say so. What the user has
set in the new room already is left alone.
"""

from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.push_rule_edits import add_rule, set_enabled
from homeserver.protocol.push_rules import PushRuleError
from homeserver.protocol.stored_push_rules import parse_stored, stored_content
from homeserver.push.rules import PUSH_RULES, stored_rules
from homeserver.rooms.event_meta import decode_meta
from homeserver.rooms.room import Room
from homeserver.rooms.rooms import Rooms
from homeserver.users.account_data import AccountData
from homeserver.users.tags import TAGS
from homeserver.users.users import Users, membership_in
from storage.log import Entry, Kind

TOMBSTONE = "m.room.tombstone"
DIRECT = "m.direct"


class Successors:
    """The handler behind the consumer "successors"."""

    def __init__(self, rooms: Rooms, users: Users, account_data: AccountData) -> None:
        self._rooms = rooms
        self._users = users
        self._account_data = account_data

    def wants(self, entry: Entry) -> bool:
        if entry.kind is not Kind.EVENT or entry.key is None:
            return False
        if entry.type == TOMBSTONE:
            return entry.key == ""
        return entry.type == "m.room.member" and self._users.is_local(entry.key)

    async def handle(self, shard: int, entry: Entry) -> None:
        room = await self._rooms.get(entry.stream)
        if room is None or entry.key is None:
            return
        if entry.type == TOMBSTONE:
            await self._replaced(room)
        elif membership_in(entry) == "join":
            old_room_id = predecessor(room)
            if old_room_id is not None and not await self._was_joined(shard, entry):
                await self.carry_over(entry.key, old_room_id, room.room_id)

    async def _replaced(self, old: Room) -> None:
        """A room got its tombstone: its successor may have members by now."""
        new_room_id = old.state_content(TOMBSTONE).get("replacement_room")
        new = await self._rooms.get(new_room_id) if isinstance(new_room_id, str) else None
        if new is not None and predecessor(new) == old.room_id:
            for user_id in [user_id for user_id in new.joined if self._users.is_local(user_id)]:
                await self.carry_over(user_id, old.room_id, new.room_id)

    async def _was_joined(self, shard: int, entry: Entry) -> bool:
        """Whether the entry is a member's change of profile."""
        replaced = decode_meta(entry.meta).replaces
        before = await self._rooms.log.entry(shard, replaced) if replaced else None
        return before is not None and membership_in(before) == "join"

    async def carry_over(self, user_id: str, old_room_id: str, new_room_id: str) -> None:
        """Give the user's settings of the old room to the new one, if the old one is replaced by it."""
        old = await self._rooms.get(old_room_id)
        if old is None or old.state_content(TOMBSTONE).get("replacement_room") != new_room_id:
            return
        user = await self._users.get(user_id)
        change = self._account_data.change
        tags = await self._account_data.get(user_id, TAGS, old_room_id)
        if tags is not None:
            await change(user_id, TAGS, lambda content: content or tags, new_room_id)
        if stored_rules(user).own:
            await change(user_id, PUSH_RULES, lambda rules: _with_rules_of(rules, old_room_id, new_room_id))
        if user.global_data(DIRECT):
            await change(user_id, DIRECT, lambda direct: _with_direct(direct, old_room_id, new_room_id))


def predecessor(room: Room) -> str | None:
    """The room that this one says it replaces."""
    predecessor = room.state_content("m.room.create").get("predecessor")
    room_id = predecessor.get("room_id") if isinstance(predecessor, dict) else None
    return room_id if isinstance(room_id, str) else None


def _with_rules_of(content: JsonObject, old_room_id: str, new_room_id: str) -> JsonObject:
    """Stored push rules with a copy of each rule that is named after the old room."""
    rules = parse_stored(content)
    copied = rules
    for kind, own in rules.own.items():
        by_id = {rule.rule_id: rule for rule in own}
        if old_room_id in by_id and new_room_id not in by_id:
            try:
                rule = by_id[old_room_id]
                body = {
                    "actions": list(rule.actions),
                    "pattern": rule.pattern,
                    "conditions": [
                        _about(condition, old_room_id, new_room_id) for condition in rule.conditions
                    ],
                }
                copied = add_rule(copied, kind, new_room_id, body, after=old_room_id)
                copied = set_enabled(copied, kind, new_room_id, rule.enabled)
            except PushRuleError:
                # As many rules as there may be: the new room has to do with the others.
                return content
    return content if copied is rules else stored_content(copied)


def _about(condition: JsonObject, old_room_id: str, new_room_id: str) -> JsonObject:
    """The condition, about the new room where it was about the old one."""
    if condition.get("key") == "room_id" and condition.get("pattern") == old_room_id:
        return {**condition, "pattern": new_room_id}
    return condition


def _with_direct(content: JsonObject, old_room_id: str, new_room_id: str) -> JsonObject:
    """`m.direct` with the new room beside the old one."""
    return {
        who: [*room_ids, new_room_id]
        if isinstance(room_ids, list) and old_room_id in room_ids and new_room_id not in room_ids
        else room_ids
        for who, room_ids in content.items()
    }
