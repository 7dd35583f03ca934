"""Events that are sent later, unless their sender thinks better of it (MSC4140).

A client plans its leaving of a call this way before it joins, and puts it off every few seconds: when it is
heard of no more, the event is sent. What may be sent is decided then, not when it is scheduled. A state
event that would overwrite what somebody else has set meanwhile is cancelled.

Each event is one record. It changes by compare-and-set, and is marked before it is sent, so that it is
either cancelled or sent. Its delay id is a transaction of the room's log: sent again after a crash, it is
there once.
"""

import asyncio
import hmac
from secrets import token_bytes

import orjson
import structlog
from msgspec.structs import replace

from homeserver.clock import Clock
from homeserver.errors import MatrixError, forbidden, invalid_param, not_found
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import SigningKey
from homeserver.rate_limits import RateLimits
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.sending import Sending
from homeserver.users.accounts import Accounts, check_not_suspended, check_unlocked
from storage.collection import Collection
from storage.errors import AlreadyExists, StoreUnavailable
from storage.log import transaction_digest
from storage.records.delayed_events import DelayedEvent

log = structlog.get_logger(__name__)

KEPT_MS = 7 * 24 * 3600 * 1000
"""How long it can be asked what became of an event."""
KEPT_OF_USER = 100
"""Of so many, the last ones."""
FORGOTTEN_AT_ONCE = 20
GIVE_UP_MS = 3600 * 1000
"""How long an event is tried that this server cannot send now."""
SEND_SECONDS = 30.0


class DelayedEvents:
    """What can be done with events that wait."""

    def __init__(
        self,
        records: Collection[DelayedEvent],
        rooms: Rooms,
        sending: Sending,
        accounts: Accounts,
        limits: RateLimits,
        key: SigningKey,
        now: Clock,
        *,
        max_delay_ms: int,
        max_scheduled: int,
    ) -> None:
        self._records = records
        self._rooms = rooms
        self._sending = sending
        self._accounts = accounts
        self._limits = limits
        self._secret = hmac.new(key.seed, b"weft delayed events", "sha256").digest()
        self._now = now
        self._max_delay_ms = max_delay_ms
        self._max_scheduled = max_scheduled

    async def schedule(
        self,
        room_id: str,
        user_id: str,
        type: str,
        content: JsonObject,
        delay: int,
        *,
        device_id: str,
        state_key: str | None = None,
        txn_id: str | None = None,
        ts: int | None = None,
    ) -> DelayedEvent:
        """Have an event sent `delay` ms from now, once per (user, device, room, type, transaction id).

        Raises 403 for a delay that is too long, 429 when too many of the user's events wait.
        """
        if delay <= 0:
            raise invalid_param("The delay must be longer than nothing")
        if delay > self._max_delay_ms:
            raise forbidden(f"Events are delayed by {self._max_delay_ms:d} ms at most")
        room = await self._sending.check(room_id, type, state_key, content)
        delay_id = self._delay_id(user_id, device_id, f"{room_id} {type}", txn_id)
        if (known := await self._records.get(delay_id)) is not None:
            return known
        await self._check_room_for_another(user_id)
        if state_key is not None:
            # What was set before, be it at another replica, is no news.
            await self._rooms.catch_up(room)
        present = await self._present(room_id, type, state_key)
        now = self._now()
        event = DelayedEvent(
            delay_id=delay_id,
            shard=self._rooms.shards.of_room(room_id),
            user_id=user_id,
            room_id=room_id,
            type=type,
            state_key=state_key,
            content=orjson.dumps(content),
            delay=delay,
            since=now,
            due=now + delay,
            ts=ts,
            replaces=present.event_id if present is not None else None,
        )
        try:
            await self._records.insert(event)
        except AlreadyExists:
            return await self.get(delay_id, user_id)
        return event

    def _delay_id(self, user_id: str, device_id: str, endpoint: str, txn_id: str | None) -> str:
        """An id that nobody can guess: who has it may do with the event what its sender may."""
        digest = transaction_digest(user_id, device_id, endpoint, txn_id) if txn_id else token_bytes(16)
        return hmac.new(self._secret, digest, "sha256").hexdigest()

    async def _check_room_for_another(self, user_id: str) -> None:
        scheduled = await self._records.find("by_user", (user_id,), limit=self._max_scheduled)
        if len(scheduled) >= self._max_scheduled:
            due = scheduled[0].due or 0
            retry_after_ms = max(due - self._now(), 1000)
            raise MatrixError(
                429, "M_LIMIT_EXCEEDED", "Too many of your events wait", retry_after_ms=retry_after_ms
            )

    # What waits

    async def scheduled(self, user_id: str) -> list[DelayedEvent]:
        """The user's events that wait, the next one first."""
        found = await self._records.find("by_user", (user_id,), limit=self._max_scheduled)
        return [event for event in found if not event.sending and not await self._ended_by_another(event)]

    async def get(self, delay_id: str, user_id: str | None) -> DelayedEvent:
        """One of the user's, or for None, whoever knows the id, anybody's; it may have ended. Raises 404."""
        event = await self._records.get(delay_id)
        if event is not None and event.due is not None and await self._ended_by_another(event):
            event = await self._records.get(delay_id)
        if event is None or (user_id is not None and event.user_id != user_id):
            raise not_found("There is no such delayed event")
        return event

    # What is done with one. The MSC has 409 where an event has ended otherwise. Call clients take 404 for the
    # sign to schedule another one, as they must after their device was asleep, and know nothing of 409.

    async def restart(self, delay_id: str, user_id: str | None) -> None:
        """Begin the delay anew. Raises 404."""
        while True:
            event = await self.get(delay_id, user_id)
            if event.due is None or event.sending:
                raise not_found("The delayed event has been sent or cancelled")
            now = self._now()
            if await self._records.replace_if(event, replace(event, since=now, due=now + event.delay)):
                return

    async def cancel(self, delay_id: str, user_id: str | None) -> None:
        """Never send it; nothing to do for one that was cancelled or failed. Raises 404."""
        while True:
            event = await self.get(delay_id, user_id)
            if event.event_id is not None or event.sending:
                raise not_found("The delayed event has been sent")
            if event.due is None or await self._end(event):
                return

    async def send(self, delay_id: str, user_id: str | None) -> None:
        """Send it now; nothing to do for one that was sent. Raises 404.

        It waits on where sending it raises something.
        """
        while True:
            event = await self.get(delay_id, user_id)
            if event.event_id is not None:
                return
            if event.due is None:
                raise not_found("The delayed event has been cancelled")
            self._limits.charge("message", event.user_id)
            marked = replace(event, sending=True)
            if event.sending or await self._records.replace_if(event, marked):
                break
        try:
            event_id = await self._deliver(marked)
        except MatrixError:
            await self._records.replace_if(marked, replace(marked, sending=False))
            raise
        await self._end(marked, event_id=event_id)

    async def send_due(self, event: DelayedEvent) -> bool:
        """Send one whose time has come, and note what became of it; False if it has to be looked at again.

        Raises StoreUnavailable.
        """
        marked = replace(event, sending=True)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                if await self._ended_by_another(event):
                    return True
                if not event.sending:
                    if not await self._records.replace_if(event, marked):
                        return False
                    self._limits.charge("message", event.user_id)
                event_id = await self._deliver(marked)
        except StoreUnavailable:
            raise
        except Exception as failure:
            error = failure
            if not isinstance(error, MatrixError):
                log.exception("delayed event not sent", room=event.room_id, user=event.user_id)
                error = MatrixError(500, "M_UNKNOWN", "Internal server error")
            if error.status == 503 and self._now() < (event.due or 0) + GIVE_UP_MS:
                return False
            told = {"errcode": error.errcode, "error": error.error}
            return await self._end(marked, error=told) or await self._end(event, error=told)
        return await self._end(marked, event_id=event_id)

    async def _deliver(self, event: DelayedEvent) -> str:
        """Put it into its room, if that has not been done; the event id. Raises MatrixError."""
        account = await self._accounts.get(event.user_id)
        if account is None or account.deactivated:
            raise forbidden("The account has ended")
        check_unlocked(account)
        content = orjson.loads(event.content)
        if event.type != "m.room.redaction" or event.state_key is not None:
            check_not_suspended(account)
        if event.state_key is not None:
            return await self._sending.send_state(
                event.room_id,
                event.user_id,
                event.type,
                event.state_key,
                content,
                ts=event.ts,
                delay_id=event.delay_id,
            )
        return await self._sending.send(
            event.room_id,
            event.user_id,
            event.type,
            content,
            device_id="",
            txn_id=event.delay_id,
            ts=event.ts,
            redact_only_own=account.suspended,
            delayed=True,
        )

    async def _ended_by_another(self, event: DelayedEvent) -> bool:
        """Whether somebody else has set by now what this event would set; it is cancelled, then."""
        if event.sending:
            return False
        present = await self._present(event.room_id, event.type, event.state_key)
        if present is None or present.event_id == event.replaces or present.sender == event.user_id:
            return False
        await self._end(event)
        return True

    async def _present(self, room_id: str, type: str, state_key: str | None) -> RoomEvent | None:
        """The event that stands under this type and state key."""
        room = await self._rooms.get(room_id) if state_key is not None else None
        return room.head.state.get((type, state_key or "")) if room is not None else None

    # The end

    async def _end(
        self, event: DelayedEvent, *, event_id: str | None = None, error: dict[str, str] | None = None
    ) -> bool:
        """Note what became of an event: sent, failed, or cancelled; False if it is not as it was any more.

        The content of one that was sent is in the room alone, where it can be redacted.
        """
        now = self._now()
        content = b"{}" if event_id is not None else event.content
        ended = replace(
            event,
            content=content,
            due=None,
            sending=False,
            ended_ts=now,
            event_id=event_id,
            error=error,
        )
        if not await self._records.replace_if(event, ended):
            return False
        forgotten = await self._records.find("by_end", before=now - KEPT_MS, limit=FORGOTTEN_AT_ONCE)
        kept = await self._records.count("ended_of_user", (event.user_id,))
        if kept > KEPT_OF_USER:
            forgotten += await self._records.find(
                "ended_of_user", (event.user_id,), limit=kept - KEPT_OF_USER
            )
        for old in forgotten:
            await self._records.delete(old.delay_id)
        return True

    async def forget_user(self, user_id: str, erase: bool) -> None:
        """Drop all that an account has here, which has ended."""
        for index in ("by_user", "ended_of_user"):
            await self._records.delete_where(index, (user_id,))
