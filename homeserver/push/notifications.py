"""What a user was notified of, newest first (spec: client-server "Listing Notifications").

Nothing is kept for this: the newest events of the user's rooms are read backwards and judged by the
push rules as they are now. The rooms are merged by position within each shard, and the shards by the
events' time; a token says how far each shard has been read. One request looks at `MAX_EXAMINED` events
at most, and its token goes on from there.
"""

from collections import deque
from collections.abc import AsyncIterator
from heapq import heappop, heappush
from typing import NamedTuple

import orjson

from homeserver.clock import Clock
from homeserver.errors import invalid_param
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.push_evaluation import Verdict
from homeserver.push.rules import UserPushRules
from homeserver.push.unread import read_upto
from homeserver.push.verdicts import Verdicts
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.room import Room
from homeserver.rooms.room_event import RoomEvent
from homeserver.rooms.rooms import Rooms
from homeserver.rooms.threads import thread_of
from homeserver.rooms.visibility import Visibility
from homeserver.since_tokens import base36, from_base36
from homeserver.users.ignoring import ignored_by
from homeserver.users.users import User, Users
from storage.log import Kind

MAX_EXAMINED = 2_000
MAX_ROOMS = 1_000
"""How many of a user's rooms are looked at: those in which something happened last."""
PAGE = 50
TOKEN = "n1"
MAX_TOKEN = 4096


class Notification(NamedTuple):
    room: Room
    event: RoomEvent
    verdict: Verdict
    read: bool

    def json(self, now: int) -> JsonObject:
        return {
            "actions": list(self.verdict.actions),
            "event": orjson.loads(self.event.render(now)),
            "read": self.read,
            "room_id": self.room.room_id,
            "ts": self.event.ts,
        }


class Notifications:
    """Lists what local users were notified of."""

    def __init__(
        self,
        rooms: Rooms,
        users: Users,
        visibility: Visibility,
        rules: UserPushRules,
        verdicts: Verdicts,
        *,
        epoch: str,
        now: Clock,
    ) -> None:
        self._rooms = rooms
        self._users = users
        self._visibility = visibility
        self._rules = rules
        self._verdicts = verdicts
        self._epoch = epoch
        self._now = now

    async def page(self, user_id: str, *, start: str | None, limit: int, highlights_only: bool) -> JsonObject:
        """The next notifications below a token. Raises 400 for a token that is none."""
        user = await self._users.get(user_id)
        below = self._decode(start) if start else [tail + 1 for tail in self._rooms.tails()]
        ignored = ignored_by(user)
        found: list[Notification] = []
        examined = 0
        exhausted = True
        async for room, event in self._newest_first(user, below):
            if len(found) == limit or examined == MAX_EXAMINED:
                exhausted = False
                break
            examined += 1
            below[room.shard] = event.position
            if event.sender in ignored or event.is_redacted or user_id in event.newcomers:
                continue
            verdict = self._verdicts.of(room, event, self._rules.of(user))
            if verdict.notify and (verdict.highlight or not highlights_only):
                found.append(Notification(room, event, verdict, await self._is_read(user, room, event)))
        now = self._now()
        answer: JsonObject = {"notifications": [notification.json(now) for notification in found]}
        if not exhausted:
            answer["next_token"] = self._encode(below)
        return answer

    async def _is_read(self, user: User, room: Room, event: RoomEvent) -> bool:
        marks = read_upto(room, user.user_id)
        if event.position <= marks.pop(None, 0):
            return True
        return bool(marks) and event.position <= marks.get(
            await thread_of(self._rooms.stored, room, event), 0
        )

    # Reading backwards

    async def _newest_first(self, user: User, below: list[int]) -> AsyncIterator[tuple[Room, RoomEvent]]:
        """Events of the user's rooms below a position of each shard."""
        activity = self._rooms.activity
        rooms = sorted(user.rooms("join"), key=lambda room_id: -activity.get(room_id, 0))[:MAX_ROOMS]
        by_shard: dict[int, list[str]] = {}
        for room_id in rooms:
            by_shard.setdefault(self._rooms.shards.of_room(room_id), []).append(room_id)
        sources = [
            self._of_shard(user, shard, of_shard, below[shard]) for shard, of_shard in by_shard.items()
        ]
        heads = [(head, source) for source in sources if (head := await anext(source, None)) is not None]
        while heads:
            newest = max(range(len(heads)), key=lambda i: heads[i][0][1].ts)
            head, source = heads[newest]
            yield head
            following = await anext(source, None)
            if following is None:
                del heads[newest]
            else:
                heads[newest] = (following, source)

    async def _of_shard(
        self, user: User, shard: int, room_ids: list[str], below: int
    ) -> AsyncIterator[tuple[Room, RoomEvent]]:
        """Events of some rooms of one shard by position; since the user joined each of them."""
        heap: list[tuple[int, str]] = []
        for room_id in room_ids:
            with LeftOutIfBroken(room_id):
                newest = await self._newest_position(shard, room_id, below)
                if newest is not None:
                    heappush(heap, (-newest, room_id))
        pages: dict[str, deque[RoomEvent]] = {}
        while heap:
            negative, room_id = heappop(heap)
            position = -negative
            ref = user.memberships.get(room_id)
            if ref is None or ref.membership != "join":
                continue
            room: Room | None = None
            page = pages.get(room_id)
            with LeftOutIfBroken(room_id):
                room = await self._rooms.get(room_id)
                if not page and room is not None:
                    since = await self._visibility.joined_since(room, user)
                    page = pages[room_id] = deque(
                        await self._rooms.stored.page(
                            room_id, after=since, before=position + 1, newest_first=True, limit=PAGE
                        )
                    )
            if room is None:
                continue
            if page and page[0].position == position:
                event = page.popleft()
                yield room, event
                # Where the next one is, is not known yet when the page has ended.
                heappush(heap, (-page[0].position if page else 1 - position, room_id))
            elif page:
                heappush(heap, (-page[0].position, room_id))

    async def _newest_position(self, shard: int, room_id: str, below: int) -> int | None:
        room = self._rooms.cached(room_id)
        if room is not None and (i := room.first_after(below - 1)) > 0:
            return room.timeline[i - 1].position
        page = await self._rooms.log.page(
            shard, room_id, kind=Kind.EVENT, before=below, newest_first=True, limit=1
        )
        return page[0].position if page else None

    # Tokens

    def _encode(self, below: list[int]) -> str:
        return f"{TOKEN}_{self._epoch}_{'.'.join(map(base36, below))}"

    def _decode(self, token: str) -> list[int]:
        kind, _, rest = token[:MAX_TOKEN].partition("_")
        epoch, _, positions = rest.partition("_")
        below = [from_base36(position) for position in positions.split(".")] if kind == TOKEN else []
        if epoch != self._epoch or len(below) != self._rooms.shards.rooms:
            raise invalid_param("from: not a token of this list")
        return below
