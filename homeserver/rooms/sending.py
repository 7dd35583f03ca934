"""Putting messages and state into a room (spec: client-server "Sending events to a room", "Redactions")."""

from collections.abc import Awaitable, Callable

import orjson

from homeserver.bus.consumer import Consumer
from homeserver.errors import MatrixError, bad_json, forbidden, invalid_param, not_found, too_large
from homeserver.protocol.events import MAX_EVENT_BYTES
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.authoring import (
    Author,
    EventTemplate,
    Transaction,
    check_content,
    same_state,
)
from homeserver.rooms.membership import Membership
from homeserver.rooms.posting import post
from homeserver.rooms.redaction import may_redact
from homeserver.rooms.relations import Relations
from homeserver.rooms.room import Room, RoomHead
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.users.accounts import suspended
from storage.log import transaction_digest

NEVER_REDACTED = ("m.room.create", "m.room.server_acl")
"""Without its content the one denies the room its version and creator, the other all servers."""


class Sending:
    """Events of local users into rooms this server is in."""

    def __init__(
        self,
        rooms: Rooms,
        author: Author,
        aliases: Aliases,
        membership: Membership,
        relations: Relations,
        pruned: Consumer,
    ) -> None:
        self._rooms = rooms
        self._author = author
        self._aliases = aliases
        self._membership = membership
        self._relations = relations
        self._pruned = pruned

    async def room_of(self, room_id: str) -> Room:
        """The room. Raises 403: an unknown room is one that the user is not in."""
        room = await self._rooms.get(room_id)
        if room is None:
            raise forbidden("You are not in this room")
        return room

    async def check(self, room_id: str, type: str, state_key: str | None, content: JsonObject) -> Room:
        """The room. Raises MatrixError for what could be sent at no time, whatever becomes of the room."""
        room = await self.room_of(room_id)
        _check_form(type, state_key, content)
        if len(orjson.dumps(content)) > MAX_EVENT_BYTES:
            raise too_large("The event would be too large")
        return room

    async def send(
        self,
        room_id: str,
        sender: str,
        type: str,
        content: JsonObject,
        *,
        device_id: str,
        txn_id: str,
        ts: int | None = None,
        redact_only_own: bool = False,
        delayed: bool = False,
    ) -> str:
        """Send a message event once per (user, device, room, type, transaction id); its event id.

        `delayed`: it has waited, with its delay id for a transaction id.
        """
        if type == "m.room.redaction":
            redacts = content.get("redacts")
            if not isinstance(redacts, str):
                raise invalid_param("content.redacts must name the event to redact")
            return await self.redact(
                room_id,
                sender,
                redacts,
                content,
                device_id=device_id,
                txn_id=txn_id,
                ts=ts,
                only_own=redact_only_own,
                delayed=delayed,
            )
        room = await self.room_of(room_id)
        _check_form(type, None, content)
        transaction = _transaction(sender, device_id, f"send {room_id} {type}", txn_id, delayed)

        async def attempt() -> str:
            async with self._relations.checked(room, sender, type, content):
                return await self._submit(room, EventTemplate(type, sender, content, ts=ts), transaction)

        return await self._once(room, transaction, attempt)

    async def send_state(
        self,
        room_id: str,
        sender: str,
        type: str,
        state_key: str,
        content: JsonObject,
        ts: int | None = None,
        *,
        delay_id: str | None = None,
    ) -> str:
        """Set a state key; setting it to what it is already makes no new event.

        With the `delay_id` under which it has waited, it is done once.
        """
        room = await self.room_of(room_id)
        _check_form(type, state_key, content)
        transaction: Transaction | None = None
        if delay_id is not None:
            transaction = _transaction(sender, "", f"state {room_id} {type}", delay_id, delayed=True)
        if type == "m.room.canonical_alias" and state_key == "":
            await self._aliases.check_canonical(room, content)

        async def attempt() -> str:
            if type == "m.room.member":
                return await self._membership.within(transaction).put(room_id, sender, state_key, content)
            template = EventTemplate(type, sender, content, state_key=state_key, ts=ts)
            return await self._submit(room, template, transaction)

        return await (attempt() if transaction is None else self._once(room, transaction, attempt))

    async def redact(
        self,
        room_id: str,
        sender: str,
        event_id: str,
        content: JsonObject,
        *,
        device_id: str,
        txn_id: str,
        ts: int | None = None,
        only_own: bool = False,
        delayed: bool = False,
    ) -> str:
        """Redact an event of this room (`only_own`: the sender is suspended and may only redact their own).

        Raises 404 for one that is not in it, 403 without the power.
        """
        room = await self.room_of(room_id)
        check_content(content)
        if not isinstance(content.get("reason", ""), str):
            raise bad_json("reason must be a string")
        target = await self._target(room, event_id)
        if target is None:
            raise not_found("There is no such event in this room")
        if target.type in NEVER_REDACTED:
            raise forbidden(f"Events of the type {target.type} are not redacted")
        target_sender = target.sender
        if only_own and target_sender != sender:
            raise suspended()
        content = {name: value for name, value in content.items() if name != "redacts"}
        if room.version.redacts_in_content:
            content["redacts"] = event_id
        key = (target.type, target.state_key) if target.state_key is not None else None
        template = EventTemplate(
            "m.room.redaction", sender, content, redacts=event_id, redacts_key=key, ts=ts
        )

        def decide(head: RoomHead) -> list[EventTemplate]:
            if not may_redact(room.version, head.lookup, sender, target_sender):
                raise forbidden("You may not redact this event")
            return [template]

        transaction = _transaction(sender, device_id, f"redact {room_id} {event_id}", txn_id, delayed)

        async def attempt() -> str:
            return (await post(self._rooms, self._author, room, decide, transaction))[0]

        redaction_id = await self._once(room, transaction, attempt)
        await self._pruned.settled(room.shard)
        return redaction_id

    async def _target(self, room: Room, event_id: str) -> RoomEvent | None:
        """An event of the room, or of its state only, as that was told when this server came in."""
        found = room.find(event_id) or (await self._rooms.stored.by_id(room.room_id, [event_id])).get(
            event_id
        )
        if found is not None:
            return found
        return next((event for event in room.head.state.values() if event.event_id == event_id), None)

    async def _once(self, room: Room, transaction: Transaction, attempt: Callable[[], Awaitable[str]]) -> str:
        """The event that an attempt makes, or where it is refused, that of an earlier one of the transaction.

        Whoever has not heard the answer asks again, and may by then not be let any more.
        """
        try:
            return await attempt()
        except MatrixError:
            earlier = await self._rooms.log.by_txn(room.shard, transaction.digest)
            if earlier is None or earlier.event_id is None:
                raise
            return earlier.event_id

    async def _submit(self, room: Room, template: EventTemplate, transaction: Transaction | None) -> str:
        unchanged: list[str] = []

        def decide(head: RoomHead) -> list[EventTemplate]:
            if same_state(head, template):
                unchanged[:] = [head.state[template.type, template.state_key or ""].event_id]
                return []
            return [template]

        return (await post(self._rooms, self._author, room, decide, transaction) or unchanged)[0]


def _check_form(type: str, state_key: str | None, content: JsonObject) -> None:
    """Raises 400 for what no room takes from anybody."""
    check_content(content)
    if type == "m.room.create":
        raise invalid_param("m.room.create is the event that a room begins with; no other is sent")
    if type == "m.room.message" and state_key is None:
        _check_message(content)


def _check_message(content: JsonObject) -> None:
    """Raises 400 for a message that clients could not show (spec: client-server "Instant Messaging")."""
    if not isinstance(content.get("msgtype"), str) or not isinstance(content.get("body"), str):
        raise bad_json("m.room.message: msgtype and body must be strings")


def _transaction(user_id: str, device_id: str, endpoint: str, txn_id: str, delayed: bool) -> Transaction:
    digest = transaction_digest(user_id, device_id, endpoint, txn_id)
    return Transaction(digest, delay_id=txn_id) if delayed else Transaction(digest, device_id, txn_id)
