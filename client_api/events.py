"""Sending events, and reading a room's state and history (spec: client-server "Getting events for a
room", "Sending events to a room", "Redactions", "Event context")."""

from secrets import token_hex

import orjson

from client_api.delayed_events import DELAY, Scheduling
from client_api.http import Auth, Call, get, post, put
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.guests import Guests
from homeserver.rooms.history import History
from homeserver.rooms.sending import Sending
from homeserver.rooms.state_reader import StateReader
from homeserver.rooms.timestamp_to_event import TimestampToEvent
from homeserver.users.accounts import check_not_suspended
from rest.answers import Answer, Result
from rest.routes import Routes

REDACTION = "m.room.redaction"
MEMBER = "m.room.member"


def _timestamp(call: Call) -> int | None:
    """`ts` is for application services only (spec: application-service "Timestamp massaging")."""
    if call.session.account.appservice is None or call.query("ts") is None:
        return None
    return call.int_query("ts", 0)


class SendRoutes(Routes):
    def __init__(self, sending: Sending, guests: Guests, scheduling: Scheduling) -> None:
        self._sending = sending
        self._guests = guests
        self._scheduling = scheduling

    @put("/rooms/{room_id}/send/{event_type}/{txn_id}", quick=True, auth=Auth.GUEST, limit="message")
    async def send(self, call: Call) -> Result:
        if call.query(DELAY) is not None:
            return await self._scheduling.schedule(
                call, call.content(), call.int_query(DELAY), txn_id=call.path("txn_id"), ts=_timestamp(call)
            )
        account, event_type = call.session.account, call.path("event_type")
        if event_type != REDACTION:
            check_not_suspended(account)
        event_id = await self._sending.send(
            call.path("room_id"),
            call.user_id,
            event_type,
            call.content(),
            device_id=call.session.device_id,
            txn_id=call.path("txn_id"),
            ts=_timestamp(call),
            redact_only_own=account.suspended,
        )
        return b'{"event_id":' + orjson.dumps(event_id) + b"}"

    @put(
        "/rooms/{room_id}/state/{event_type}/{state_key}",
        quick=True,
        auth=Auth.GUEST,
        limit="message",
        good_standing=True,
    )
    async def set_state(self, call: Call) -> Result:
        return await self._set_state(call, call.path("state_key"))

    @put(
        "/rooms/{room_id}/state/{event_type}",
        "/rooms/{room_id}/state/{event_type}/",
        quick=True,
        auth=Auth.GUEST,
        limit="message",
        good_standing=True,
    )
    async def set_state_without_key(self, call: Call) -> Result:
        return await self._set_state(call, "")

    async def _set_state(self, call: Call, state_key: str) -> Result:
        room_id, event_type, content = call.path("room_id"), call.path("event_type"), call.content()
        if event_type == MEMBER:
            membership = content.get("membership")
            if call.session.account.is_guest:
                await self._guests.check_change(room_id, call.user_id, state_key, membership)
            if membership in ("join", "knock", "invite"):
                call.charge("invite" if membership == "invite" else "join")
        if call.query(DELAY) is not None:
            return await self._scheduling.schedule(
                call, content, call.int_query(DELAY), state_key=state_key, ts=_timestamp(call)
            )
        event_id = await self._sending.send_state(
            room_id, call.user_id, event_type, state_key, content, ts=_timestamp(call)
        )
        return {"event_id": event_id}

    @put("/rooms/{room_id}/redact/{event_id}/{txn_id}", quick=True, limit="message")
    async def redact(self, call: Call) -> Result:
        return await self._redact(call, call.content(), call.path("txn_id"))

    @post("/_matrix/client/r0/rooms/{room_id}/redact/{event_id}", quick=True, limit="message")
    async def redact_without_transaction(self, call: Call) -> Result:
        """As it was before there were transactions. Element for iOS takes back reactions so."""
        return await self._redact(call, call.json(JsonObject), token_hex(8))

    async def _redact(self, call: Call, content: JsonObject, txn_id: str) -> Result:
        event_id = await self._sending.redact(
            call.path("room_id"),
            call.user_id,
            call.path("event_id"),
            content,
            device_id=call.session.device_id,
            txn_id=txn_id,
            ts=_timestamp(call),
            only_own=call.session.account.suspended,
        )
        return {"event_id": event_id}


class StateRoutes(Routes):
    def __init__(self, state: StateReader) -> None:
        self._state = state

    @get("/rooms/{room_id}/state", auth=Auth.GUEST)
    async def state(self, call: Call) -> Result:
        return await self._state.state(call.path("room_id"), call.user_id)

    @get("/rooms/{room_id}/state/{event_type}/{state_key}", auth=Auth.GUEST)
    async def state_event(self, call: Call) -> Result:
        return await self._state_event(call, call.path("state_key"))

    @get(
        "/rooms/{room_id}/state/{event_type}",
        "/rooms/{room_id}/state/{event_type}/",
        auth=Auth.GUEST,
    )
    async def state_event_without_key(self, call: Call) -> Result:
        return await self._state_event(call, "")

    async def _state_event(self, call: Call, state_key: str) -> Result:
        return await self._state.state_event(
            call.path("room_id"),
            call.user_id,
            call.path("event_type"),
            state_key,
            whole=call.query("format") == "event",
        )

    @get("/rooms/{room_id}/members", auth=Auth.GUEST)
    async def members(self, call: Call) -> Result:
        return await self._state.members(
            call.path("room_id"),
            call.user_id,
            at=call.query("at"),
            membership=call.query("membership"),
            not_membership=call.query("not_membership"),
        )

    @get("/rooms/{room_id}/joined_members")
    async def joined_members(self, call: Call) -> Result:
        return await self._state.joined_members(call.path("room_id"), call.user_id)


class HistoryRoutes(Routes):
    def __init__(self, history: History, timestamp_to_event: TimestampToEvent, *, max_page: int) -> None:
        self._history = history
        self._timestamp_to_event = timestamp_to_event
        self._max_page = max_page

    @get("/rooms/{room_id}/messages", auth=Auth.GUEST)
    async def messages(self, call: Call) -> Result:
        return await self._history.messages(
            call.path("room_id"),
            call.session,
            backwards=call.choice_query("dir", "b", "f") == "b",
            start=call.query("from"),
            end=call.query("to"),
            limit=call.int_query("limit", 10, least=0, most=self._max_page),
            filter_json=call.query("filter"),
        )

    @get("/rooms/{room_id}/context/{event_id}", auth=Auth.GUEST)
    async def context(self, call: Call) -> Result:
        return await self._history.context(
            call.path("room_id"),
            call.session,
            call.path("event_id"),
            limit=call.int_query("limit", 10, least=0, most=self._max_page),
            filter_json=call.query("filter"),
        )

    @get("/rooms/{room_id}/event/{event_id}", auth=Auth.GUEST)
    async def event(self, call: Call) -> Result:
        return Answer(await self._history.event(call.path("room_id"), call.session, call.path("event_id")))

    @get("/_matrix/client/v1/rooms/{room_id}/timestamp_to_event", limit="request")
    async def timestamp_to_event(self, call: Call) -> Result:
        return await self._timestamp_to_event.find(
            call.path("room_id"),
            call.user_id,
            ts=call.int_query("ts"),
            forwards=call.choice_query("dir", "b", "f") == "f",
        )
