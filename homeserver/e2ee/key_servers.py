"""The other servers, as far as keys of their users go: what they can be asked.

spec: server-server "Device Management", "End-to-End Encryption"
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from homeserver.protocol.json_types import JsonObject

Wanted = Mapping[str, Mapping[str, str]]
"""User → device → algorithm."""

T = TypeVar("T")


class NoAnswer(Exception):
    """The server gave no answer that is of use, for the reason that goes with this."""


class KeyServers(Protocol):
    """Asks servers about their users. Every method raises NoAnswer, and bounds its time."""

    async def devices(self, server: str, user_id: str) -> JsonObject:
        """GET /user/devices/{userId}."""
        ...

    async def query(self, server: str, user_ids: Sequence[str]) -> JsonObject:
        """POST /user/keys/query for all devices of users."""
        ...

    async def claim(self, server: str, wanted: Wanted) -> JsonObject:
        """POST /user/keys/claim."""
        ...


class NoKeyServers:
    """Of a server that has nothing to do with others."""

    async def devices(self, server: str, user_id: str) -> JsonObject:
        raise NoAnswer("This server does not talk to others")

    async def query(self, server: str, user_ids: Sequence[str]) -> JsonObject:
        raise NoAnswer("This server does not talk to others")

    async def claim(self, server: str, wanted: Wanted) -> JsonObject:
        raise NoAnswer("This server does not talk to others")


async def answers_within(
    seconds: float, asked: Iterable[tuple[str, "asyncio.Task[T]"]]
) -> tuple[list[T], dict[str, str]]:
    """(what the servers answered, why the others did not) after so long at most.

    Those that take longer are not ended. Raises what is no NoAnswer.
    """
    asked = list(asked)
    if asked:
        await asyncio.wait([task for _, task in asked], timeout=seconds)
    answers: list[T] = []
    failures: dict[str, str] = {}
    for server, task in asked:
        if not task.done():
            failures[server] = "The server has not answered in time"
            continue
        try:
            answers.append(task.result())
        except NoAnswer as error:
            failures[server] = str(error)
    return answers, failures
