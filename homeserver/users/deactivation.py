"""The end of an account (spec: client-server "Account deactivation").

That an account shall end is written to the user's log first. From there it is carried out by a
consumer of the log, so that a crash half-way only delays it: it leaves all rooms, rejects all invites,
forgets the account data and, when asked to erase, the profile; whoever else keeps something of the
account drops it too (`on_deactivated`). The request itself waits until nobody can use the account any
more.

A name is never given out again: the account stays, with nothing in it.
"""

from collections.abc import Awaitable, Callable, Sequence

import orjson
import structlog

from homeserver.clock import Clock
from homeserver.errors import MatrixError
from homeserver.rooms.broken_rooms import LeftOutIfBroken
from homeserver.rooms.membership import Membership
from homeserver.users.account_data import AccountData
from homeserver.users.accounts import Accounts
from homeserver.users.profiles import Profiles
from homeserver.users.sessions import Sessions
from homeserver.users.users import User, Users
from storage.log import Entry, Kind, Log

log = structlog.get_logger(__name__)

PAGE = 500

DEACTIVATED = "deactivated"
"""Notice type in a user's log; the body says whether all is to be erased."""

CatchUp = Callable[[], Awaitable[None]]
"""Has all rooms followed to where they are now, at whichever replica things happened in them."""
OnDeactivated = Callable[[str, bool], Awaitable[None]]
"""Called with the user id and whether the user asked for erasure; perhaps more than once."""


class Deactivation:
    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        users: Users,
        membership: Membership,
        account_data: AccountData,
        profiles: Profiles,
        log_port: Log,
        catch_up: CatchUp,
        now: Clock,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._users = users
        self._membership = membership
        self._account_data = account_data
        self._profiles = profiles
        self._log = log_port
        self._catch_up = catch_up
        self._now = now
        self.on_deactivated: list[OnDeactivated] = []

    async def deactivate(self, user_id: str, *, erase: bool) -> None:
        """End an account. Returns once it is closed; the rest follows."""
        body = orjson.dumps({"erase": erase})
        notice = Entry(kind=Kind.NOTICE, stream=user_id, type=DEACTIVATED, key="", body=body, ts=self._now())
        await self._users.append(user_id, [notice])
        await self._close(user_id, erase)

    def wants(self, entry: Entry) -> bool:
        return entry.kind is Kind.NOTICE and entry.type == DEACTIVATED

    async def handle(self, shard: int, entry: Entry) -> None:
        """Carry out what the log says."""
        user_id, erase = entry.stream, bool(orjson.loads(entry.body)["erase"])
        await self._close(user_id, erase)
        await self._catch_up()
        user = await self._users.get(user_id)
        for membership in ("join", "invite", "knock"):
            await self._leave(user_id, user.rooms(membership))
        await self._forget_account_data(user)
        if erase:
            await self._profiles.erase(user_id)
        for on_deactivated in self.on_deactivated:
            await on_deactivated(user_id, erase)

    async def _close(self, user_id: str, erase: bool) -> None:
        account = await self._accounts.get(user_id)
        if account is None:
            return
        await self._accounts.update(user_id, deactivated=True, erased=account.erased or erase, password=None)
        await self._sessions.end_all(user_id)

    async def _leave(self, user_id: str, room_ids: Sequence[str]) -> None:
        for room_id in room_ids:
            with LeftOutIfBroken(room_id):
                try:
                    await self._membership.leave(room_id, user_id)
                except MatrixError as error:
                    if error.status == 503:
                        raise
                    # A room that cannot be left (nobody is in it any more, its policy server is away) must
                    # not hold up the others.
                    log.warning("room not left", user=user_id, room=room_id, error=error.error)

    async def _forget_account_data(self, user: User) -> None:
        """Delete it for those who follow the log, then what the log still has of it."""
        for (room_id, type), datum in list(user.account_data.items()):
            if datum.content:
                await self._account_data.set(user.user_id, type, None, room_id)
        after: int | None = None
        while entries := await self._log.page(
            user.shard, user.user_id, kind=Kind.ACCOUNT_DATA, after=after, limit=PAGE
        ):
            after = entries[-1].position
            await self._log.remove(user.shard, [entry.seq for entry in entries if entry.body])
