"""An internet for each test, and a clock."""

from collections.abc import AsyncIterator

import pytest

from tests.federation_transport.network import Internet, Time


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    internet = Internet()
    await internet.start()
    yield internet
    await internet.close()


@pytest.fixture
def time() -> Time:
    return Time()
