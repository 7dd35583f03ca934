"""Account data: what clients keep about a user, global or for one room (spec: client-server "Client Config").

Each piece is an entry of the user's log under (type, room). A change that depends on what is there
(tags, push rules) is made when it is committed, so two devices never overwrite each other's.

Some global types are stored in another form than clients see, or are there for users who never set
them (push rules, which are stored as the difference from the defaults). `shown` says how for each of
them; whatever goes out to clients passes through `get` or `changes`.
"""

from collections.abc import Callable, Iterator, Mapping

import orjson

from homeserver.clock import Clock
from homeserver.errors import invalid_param
from homeserver.protocol.json_types import JsonObject
from homeserver.shard_writer import Appended, Drafts
from homeserver.users.users import User, Users
from storage.log import Entry, Kind

MAX_BYTES = 512 * 1024
MAX_KEYS = 20_000
MAX_ALL_BYTES = 16 * 1024 * 1024
"""Of all that is kept for one user: it is in memory whenever the user is here."""
MAX_TYPE_BYTES = 255

Change = Callable[[JsonObject], JsonObject | None]
"""From the content that is there ({} for none) to the new one; None deletes it."""

Shown = Callable[[str, bytes], bytes]
"""From a user id and the stored content, b"" for none, to the content that clients see."""


class AccountData:
    """Reads and changes account data of local users; `shown` is by type, for global data."""

    def __init__(self, users: Users, now: Clock, *, shown: Mapping[str, Shown]) -> None:
        self._users = users
        self._now = now
        self._shown = shown

    async def get(self, user_id: str, type: str, room_id: str = "") -> JsonObject | None:
        """A piece as clients see it, None when there is none."""
        content = self._content(await self._users.get(user_id), type, room_id)
        return orjson.loads(content) if content else None

    def changes(self, user: User, room_id: str, after: int | None, upto: int) -> Iterator[tuple[str, bytes]]:
        """(type, content as clients see it) of what changed in the user's log after `after`, up to `upto`.

        With `after` None: all there is. What was deleted since has the content {}.
        """
        for (where, type), datum in user.account_data.items():
            if where == room_id and (after or 0) < datum.seq <= upto:
                content = self._content(user, type, room_id)
                if content or after is not None:
                    yield type, content or b"{}"
        if after is None and room_id == "":
            for type, shown in self._shown.items():
                if ("", type) not in user.account_data:
                    yield type, shown(user.user_id, b"")

    def _content(self, user: User, type: str, room_id: str) -> bytes:
        datum = user.account_data.get((room_id, type))
        stored = datum.content if datum is not None else b""
        shown = self._shown.get(type) if room_id == "" else None
        return stored if shown is None else shown(user.user_id, stored)

    async def set(self, user_id: str, type: str, content: JsonObject | None, room_id: str = "") -> None:
        """Replace (or with None delete) a piece. Raises 400 beyond the limits."""
        await self.change(user_id, type, lambda _: content, room_id)

    async def change(self, user_id: str, type: str, change: Change, room_id: str = "") -> None:
        """Make a piece what `change` says of it; an unchanged one makes no entry. Raises 400."""
        user = await self._users.get(user_id)
        if len(type.encode()) > MAX_TYPE_BYTES:
            raise invalid_param(f"An account data type may have {MAX_TYPE_BYTES} bytes at most")
        if (room_id, type) not in user.account_data and len(user.account_data) >= MAX_KEYS:
            raise invalid_param("Too much account data")
        await self._users.submit(user_id, _Change(user, type, room_id, change, self._now()))


class _Change:
    """The proposal behind `AccountData.change`."""

    def __init__(self, user: User, type: str, room_id: str, change: Change, now: int) -> None:
        self._user = user
        self._type = type
        self._room_id = room_id
        self._change = change
        self._now = now

    def build(self, drafts: Drafts, next_seq: int) -> list[Appended]:
        key = f"{self._user.user_id}\0{self._room_id}\0{self._type}"
        old: bytes
        if key in drafts:
            old = drafts[key]
        else:
            datum = self._user.account_data.get((self._room_id, self._type))
            old = datum.content if datum is not None else b""
        content = self._change(orjson.loads(old) if old else {})
        new = b"" if content is None else orjson.dumps(content)
        if len(new) > MAX_BYTES:
            raise invalid_param(f"Account data may have {MAX_BYTES} bytes at most")
        if len(new) > len(old) and self._user.account_data_bytes + len(new) - len(old) > MAX_ALL_BYTES:
            raise invalid_param("Too much account data")
        if new == old:
            return []
        drafts[key] = new
        entry = Entry(
            kind=Kind.ACCOUNT_DATA,
            stream=self._user.user_id,
            type=self._type,
            key=self._room_id,
            body=new,
            ts=self._now,
            seq=next_seq,
        )
        return [Appended(entry)]

    def result(self) -> None:
        return None

    def duplicate(self, existing: Entry) -> None:
        return None
