"""Events that are sent later (MSC4140, not in the specification): scheduled, put off, cancelled, listed.

They are scheduled by the endpoints that send events, too (`client_api.events`): that is how most apps do it.
"""

from typing import Annotated

import msgspec

from client_api.http import Auth, Call, get, post, put
from homeserver.errors import MatrixError, forbidden, missing_param
from homeserver.protocol.json_types import JsonObject
from homeserver.rooms.delayed_events import DelayedEvents
from homeserver.rooms.due_events import DueEvents
from homeserver.users.accounts import check_not_suspended
from rest.answers import Result
from rest.routes import Routes
from storage.records.delayed_events import DelayedEvent

UNSTABLE = "/_matrix/client/unstable/org.matrix.msc4140"
DELAY = "org.matrix.msc4140.delay"
MEMBER = "m.room.member"


class Scheduling:
    """Takes events to be sent later from the endpoints where they come in."""

    def __init__(self, delayed: DelayedEvents, due: DueEvents) -> None:
        self._delayed = delayed
        self._due = due

    async def schedule(
        self,
        call: Call,
        content: JsonObject,
        delay: int,
        *,
        state_key: str | None = None,
        txn_id: str | None = None,
        ts: int | None = None,
    ) -> Result:
        """The answer to a request for an event of the room and the type in its path."""
        account, event_type = call.session.account, call.path("event_type")
        if event_type != "m.room.redaction":
            check_not_suspended(account)
        if account.is_guest and event_type == MEMBER and state_key is not None:
            # What guests may do about membership depends on when they do it.
            raise forbidden("Guests change memberships at once")
        event = await self._delayed.schedule(
            call.path("room_id"),
            call.user_id,
            event_type,
            content,
            delay,
            device_id=call.session.device_id,
            state_key=state_key,
            txn_id=txn_id,
            ts=ts,
        )
        if event.due is not None:
            self._due.scheduled(event.due)
        return {"delay_id": event.delay_id}


class NewDelayedEvent(msgspec.Struct):
    """The body that schedules an event. The MSC called `delay_ms` `delay` for a time, as apps still do."""

    content: JsonObject
    delay_ms: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)] | None = None
    delay: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)] | None = None
    state_key: str | None = None


class Action(msgspec.Struct):
    action: str


class DelayedEventRoutes(Routes):
    def __init__(self, delayed: DelayedEvents, scheduling: Scheduling) -> None:
        self._delayed = delayed
        self._scheduling = scheduling
        self._actions = {"cancel": delayed.cancel, "restart": delayed.restart, "send": delayed.send}

    @put(
        f"{UNSTABLE}/rooms/{{room_id}}/delayed_event/{{event_type}}/{{txn_id}}",
        quick=True,
        auth=Auth.GUEST,
        limit="message",
    )
    async def schedule(self, call: Call) -> Result:
        new = call.json(NewDelayedEvent)
        delay = new.delay_ms or new.delay
        if delay is None:
            raise missing_param("delay_ms is missing")
        return await self._scheduling.schedule(
            call, new.content, delay, state_key=new.state_key, txn_id=call.path("txn_id")
        )

    @get(f"{UNSTABLE}/delayed_events", auth=Auth.GUEST, limit="request")
    async def scheduled(self, call: Call) -> Result:
        return {"delayed_events": [_shown(event) for event in await self._delayed.scheduled(call.user_id)]}

    @get(f"{UNSTABLE}/delayed_events/{{delay_id}}", auth=Auth.GUEST, limit="request")
    async def one(self, call: Call) -> Result:
        return _shown(await self._delayed.get(call.path("delay_id"), call.user_id))

    # The service that lets people into a call does these for them (MSC4195). It has nothing but the delay id.

    @post(f"{UNSTABLE}/delayed_events/{{delay_id}}/{{action}}", auth=Auth.OPTIONAL, limit="request")
    async def act(self, call: Call) -> Result:
        if call.path("action") not in self._actions:
            raise MatrixError(404, "M_UNRECOGNIZED", "The actions are cancel, restart and send")
        return await self._act(call, call.path("action"))

    @post(f"{UNSTABLE}/delayed_events/{{delay_id}}", auth=Auth.OPTIONAL, limit="request")
    async def act_as_said(self, call: Call) -> Result:
        """The same as it was in the MSC before, and as apps still do it."""
        action = call.json(Action).action
        if action not in self._actions:
            raise MatrixError(400, "M_INVALID_PARAM", "The actions are cancel, restart and send")
        return await self._act(call, action)

    async def _act(self, call: Call, action: str) -> Result:
        session = call.optional_session
        await self._actions[action](call.path("delay_id"), session.user_id if session is not None else None)
        return {}


def _shown(event: DelayedEvent) -> JsonObject:
    """An event as its sender is told of it: in the words of the MSC, and in earlier ones that apps read."""
    shown: JsonObject = {
        "delay_id": event.delay_id,
        "room_id": event.room_id,
        "type": event.type,
        "delay_ms": event.delay,
        "delay": event.delay,
        "scheduled_at": event.since,
        "running_since": event.since,
        "content": msgspec.Raw(event.content),
    }
    rest = {
        "state_key": event.state_key,
        "error": event.error,
        "event_id": event.event_id,
        "finalised_ts": event.ended_ts,
    }
    return shown | {name: value for name, value in rest.items() if value is not None}
