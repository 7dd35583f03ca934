"""Password hashing: argon2id on a small pool of threads (the GIL is released while hashing)."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from homeserver.errors import unavailable

MAX_WAITING = 200

T = TypeVar("T")


class Passwords:
    """`memory_kib` and `time_cost` are argon2's; OWASP's minimum is 19 MiB and 2."""

    def __init__(self, *, memory_kib: int, time_cost: int) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="password")
        self._waiting = 0
        self._never = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        return await self._in_pool(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Takes as long for an account without a password as for one with."""
        ok = await self._in_pool(self._check, stored or self._never, password)
        return ok and stored is not None

    def _check(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_pool(self, function: Callable[..., T], *args: str) -> T:
        if self._waiting >= MAX_WAITING:
            raise unavailable("Too many logins at once")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False)
