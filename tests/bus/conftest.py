"""Members of a bus on a real Kafka."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from homeserver.config.options import Bus as BusOptions
from tests.bus.members import Member, options, prefix

Join = Callable[..., Awaitable[Member]]


@pytest.fixture
def bus_options(kafka_bootstrap: str) -> BusOptions:
    """A bus with topics of its own."""
    return options(kafka_bootstrap, prefix())


@pytest.fixture
async def join(bus_options: BusOptions) -> AsyncIterator[Join]:
    """Starts a member; all of them are closed at the end."""
    members: list[Member] = []

    async def start(name: str = "a", bus_options: BusOptions = bus_options, **how: object) -> Member:
        member = Member(bus_options, name, **how)  # type: ignore[arg-type]
        members.append(member)
        await member.bus.start(member)
        return member

    yield start
    for member in members:
        await member.bus.close()
