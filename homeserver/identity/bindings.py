"""Under which addresses users are published at identity servers, as far as that was done by way of this one.

spec: client-server "Adding Account Administrative Contact Information"
"""

import asyncio

from homeserver.errors import MatrixError, invalid_param
from homeserver.identity.addresses import Address
from homeserver.identity.servers import Account, IdentityServers
from homeserver.tasks import end
from storage.collection import Collection
from storage.errors import StoreError
from storage.records.accounts import Binding

MAX_BINDINGS = 100
PATIENCE_SECONDS = 3.0
"""So long an account that ends waits for identity servers; what they do later is good, too."""


class Bindings:
    """Made and ended for local users."""

    def __init__(self, bindings: Collection[Binding], identity: IdentityServers) -> None:
        self._bindings = bindings
        self._identity = identity
        self._ending: set[asyncio.Task[bool]] = set()

    async def bind(self, user_id: str, account: Account, sid: str, client_secret: str) -> None:
        """Publish the user under the address that a session at the identity server is about.

        Raises 400 for too many, and what the identity server says.
        """
        if await self._bindings.count("key", (user_id,)) >= MAX_BINDINGS:
            raise invalid_param(f"A user may be bound to {MAX_BINDINGS} addresses at most")
        address = await self._identity.bind(account, user_id, sid, client_secret)
        await self._bindings.put(Binding(user_id=user_id, id_server=account.server, **address._asdict()))

    async def unbind(self, user_id: str, address: Address, server: str | None) -> bool:
        """End that at one identity server, by default where it was made; whether that could be done.

        Raises what the identity server says.
        """
        servers = [server] if server is not None else await self._servers(user_id, address)
        ended = [await self._end(user_id, name, address) for name in servers]
        return bool(ended) and all(ended)

    async def unbind_all(self, user_id: str, server: str | None) -> bool:
        """End that for all addresses that are known; whether that could be done.

        Of an identity server that takes long the answer is not waited for.
        """
        ending = {
            asyncio.create_task(
                self._end_if_possible(user_id, server or each.id_server, Address(each.medium, each.address)),
                name="unbind",
            )
            for each in await self._of(user_id)
        }
        self._ending |= ending
        for task in ending:
            task.add_done_callback(self._ending.discard)
        if not ending:
            return True
        done, slow = await asyncio.wait(ending, timeout=PATIENCE_SECONDS)
        return not slow and all(task.result() for task in done)

    async def close(self) -> None:
        await end(self._ending)

    async def forget_user(self, user_id: str, erase: bool) -> None:
        """Of a deactivated account nothing is kept."""
        await self._bindings.delete_where("key", (user_id,))

    async def _servers(self, user_id: str, address: Address) -> list[str]:
        return [
            each.id_server
            for each in await self._of(user_id)
            if Address(each.medium, each.address) == address
        ]

    async def _of(self, user_id: str) -> list[Binding]:
        return await self._bindings.find("key", (user_id,))

    async def _end_if_possible(self, user_id: str, server: str, address: Address) -> bool:
        try:
            return await self._end(user_id, server, address)
        except (MatrixError, StoreError):
            return False

    async def _end(self, user_id: str, server: str, address: Address) -> bool:
        ended = await self._identity.unbind(server, user_id, address)
        if ended:
            await self._bindings.delete(user_id, server.lower(), *address)
        return ended
