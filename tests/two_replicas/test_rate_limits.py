"""Who goes from one replica to the other is limited all the same."""

import asyncio

import pytest

from homeserver.config import Config
from homeserver.config.options import Rate
from tests.client_api.conftest import Client
from tests.two_replicas.conftest import Replicas, with_limits


@pytest.fixture
def config(config: Config) -> Config:
    return with_limits(
        config, login_failed=Rate(0.01, 5), login_account=Rate(1000.0, 1000), login_address=Rate(1000.0, 1000)
    )


async def logs_in(client: Client, password: str) -> int:
    body = {"type": "m.login.password", "user": "alice", "password": password}
    return (await client.call("POST", "/login", body, expect=None)).status


async def told(replicas: Replicas) -> None:
    for replica in (replicas.a, replicas.b):
        replica.app.ground.shared_limits.tell()
    await asyncio.sleep(0.05)


async def test_wrong_passwords_at_both_replicas_add_up(replicas: Replicas, alice: Client) -> None:
    clients = [replicas.at(replica, alice) for replica in (replicas.a, replicas.b)]
    for guess in range(5):
        assert await logs_in(clients[guess % 2], f"guess {guess}") == 403
        await told(replicas)
    for client in clients:
        assert await logs_in(client, "correct horse") == 429


async def test_right_passwords_at_both_replicas_add_up_to_nothing(replicas: Replicas, alice: Client) -> None:
    clients = [replicas.at(replica, alice) for replica in (replicas.a, replicas.b)]
    for number in range(12):
        assert await logs_in(clients[number % 2], "correct horse") == 200
        await told(replicas)


async def test_guesses_at_the_same_moment_are_waited_for_afterwards(
    replicas: Replicas, alice: Client
) -> None:
    """Each replica lets a burst pass before it has heard of the other; the debt of both is to be paid."""
    clients = [replicas.at(replica, alice) for replica in (replicas.a, replicas.b)]
    replicas.exchange.hold(True)
    for client in clients:
        for guess in range(5):
            assert await logs_in(client, f"guess {guess}") == 403
    replicas.exchange.hold(False)
    await told(replicas)
    body = {"type": "m.login.password", "user": "alice", "password": "another guess"}
    refused = await clients[0].call("POST", "/login", body, expect=429)
    assert refused.body["retry_after_ms"] > 5 * 100_000
