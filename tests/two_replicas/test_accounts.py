"""Who may come in is the same at all replicas, and what is good once is good once at all of them."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from homeserver.config import Config
from homeserver.config.units import Secret
from homeserver.shared_secret import registration_mac
from tests.client_api.conftest import Client, Reply
from tests.client_api.test_pushers import PUSHER, pushers
from tests.two_replicas.conftest import SHARDS, Replicas

PASSWORD = {"type": "m.login.password", "user": "alice", "password": "correct horse"}
LOCK = "/_matrix/client/v1/admin/lock/"
TOKENS = "/_synapse/admin/v1/registration_tokens"


def strangers(replicas: Replicas) -> tuple[Client, Client]:
    """Nobody in particular, at A and at B."""
    nobody = replicas.client()
    return nobody, replicas.at_b(nobody)


@pytest.fixture
async def root(replicas: Replicas) -> Client:
    """An administrator, at A."""
    client = await replicas.client().register("root")
    await replicas.a.app.people.accounts.update(client.user_id, is_admin=True)
    return client


async def test_refresh_token_of_one_is_good_at_the_other_until_its_successor_is_used(
    replicas: Replicas, alice: Client
) -> None:
    at_a, at_b = strangers(replicas)
    login = await at_a.post("/login", {**PASSWORD, "refresh_token": True})
    lost = await at_b.post("/refresh", {"refresh_token": login["refresh_token"]})
    fresh = await at_a.post("/refresh", {"refresh_token": login["refresh_token"]})
    at_b.token = fresh["access_token"]
    await at_b.get("/account/whoami")
    for token in (login["refresh_token"], lost["refresh_token"]):
        refused = await at_a.call("POST", "/refresh", {"refresh_token": token}, expect=401)
        assert refused.errcode == "M_UNKNOWN_TOKEN"


async def test_openid_token_of_one_tells_the_user_at_the_other(replicas: Replicas, alice: Client) -> None:
    token = (await alice.post(f"/user/{alice.user_id}/openid/request_token"))["access_token"]
    assert await replicas.b.app.signing_in.openid.user_of(token) == alice.user_id


async def test_password_changed_at_one_ends_the_old_one_and_the_sessions_at_the_other(
    replicas: Replicas, alice: Client
) -> None:
    nobody = strangers(replicas)[1]
    second = replicas.at_b(alice)
    second.token = (await nobody.post("/login", PASSWORD))["access_token"]
    await second.get("/account/whoami")
    await alice.post("/account/password", {"new_password": "battery staple", "auth": PASSWORD})
    assert (await second.call("GET", "/account/whoami", expect=401)).errcode == "M_UNKNOWN_TOKEN"
    await nobody.call("POST", "/login", PASSWORD, expect=403)
    await nobody.post("/login", PASSWORD | {"password": "battery staple"})


async def test_locking_at_one_locks_at_the_other_at_once(
    replicas: Replicas, alice: Client, root: Client
) -> None:
    at_b = replicas.at_b(alice)
    await at_b.get("/account/whoami")
    await root.put(LOCK + alice.user_id, {"locked": True})
    refused = await at_b.call("GET", "/joined_rooms", expect=401)
    assert (refused.errcode, refused.body["soft_logout"]) == ("M_USER_LOCKED", True)
    await root.put(LOCK + alice.user_id, {"locked": False})
    await at_b.get("/joined_rooms")


async def test_account_closed_at_one_is_closed_at_the_other(replicas: Replicas, alice: Client) -> None:
    at_b, nobody = replicas.at_b(alice), strangers(replicas)[1]
    await at_b.get("/account/whoami")
    await alice.post("/account/deactivate", {"auth": PASSWORD})
    await at_b.call("GET", "/account/whoami", expect=401)
    assert (await nobody.call("POST", "/login", PASSWORD, expect=403)).errcode == "M_USER_DEACTIVATED"


async def test_room_joined_at_one_is_left_when_the_account_is_closed_at_the_other(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    """Before the other one has heard that it was joined."""
    both = (replicas.a, replicas.b)
    shard = SHARDS.of_user(alice.user_id)
    closing = next(each for each in both if each.app.ground.replica.owns(shard))
    other = next(each for each in both if each is not closing)
    room_id = await bob.create_room(preset="public_chat")
    while other.app.ground.others.elsewhere(room_id) is not None:
        room_id = await bob.create_room(preset="public_chat")
    await replicas.at(closing, alice).sync()
    replicas.exchange.hold(True)
    await replicas.at(other, alice).join(room_id)
    await replicas.at(closing, alice).post("/account/deactivate", {"auth": PASSWORD})
    for consumer in closing.app.ground.user_consumers:
        await consumer.settled(shard)
    members = await replicas.at(other, bob).get(f"/rooms/{room_id}/joined_members")
    assert list(members["joined"]) == [bob.user_id]


async def test_of_two_who_want_a_name_at_the_same_moment_one_gets_it(replicas: Replicas) -> None:
    body = {"username": "carol", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
    replies = await asyncio.gather(
        *(client.call("POST", "/register", body, expect=None) for client in strangers(replicas))
    )
    assert sorted(reply.status for reply in replies) == [200, 400]
    assert "M_USER_IN_USE" in {reply.errcode for reply in replies}


async def test_of_users_who_take_over_an_app_at_the_same_moment_one_has_it(
    replicas: Replicas, alice: Client, bob: Client
) -> None:
    both = (alice, bob)
    for attempt in range(20):
        pusher = {**PUSHER, "pushkey": f"phone{attempt}"}
        await asyncio.gather(*(user.post("/pushers/set", pusher) for user in both))
        assert sum([len(await pushers(user)) for user in both]) == attempt + 1


async def test_registration_begun_at_one_ends_at_the_other(replicas: Replicas) -> None:
    at_a, at_b = strangers(replicas)
    body = {"username": "carol", "password": "correct horse"}
    session = (await at_a.call("POST", "/register", body, expect=401)).body["session"]
    auth = {"auth": {"type": "m.login.dummy", "session": session}}
    made = await at_b.post("/register", {**body, **auth})
    assert made["user_id"] == "@carol:localhost"
    again = await at_a.call("POST", "/register", body | {"username": "dora"} | auth, expect=401)
    assert again.errcode == "M_UNKNOWN"


class TestRegistrationByToken:
    """Of a server that wants a token of everybody."""

    @pytest.fixture
    def config(self, config: Config) -> Config:
        return replace(config, registration=replace(config.registration, requires_token=True))

    async def register(self, client: Client, name: str, token: str) -> Reply:
        auth = {"type": "m.login.registration_token", "token": token}
        body = {"username": name, "password": "correct horse", "auth": auth}
        return await client.call("POST", "/register", body, expect=None)

    async def test_one_use_is_one_use_at_both(self, replicas: Replicas) -> None:
        token = (
            await replicas.a.app.signing_in.registration_tokens.create(
                "welcome", uses_allowed=1, expires_ts=None
            )
        ).token
        at_a, at_b = strangers(replicas)
        replies = await asyncio.gather(
            self.register(at_a, "carol", token), self.register(at_b, "dora", token)
        )
        assert sorted(reply.status for reply in replies) == [200, 401]


class TestRegistrationBySecret:
    @pytest.fixture
    def config(self, config: Config) -> Config:
        return replace(config, registration=replace(config.registration, shared_secret=Secret("of both")))

    async def test_challenge_of_one_is_met_at_the_other_once(self, replicas: Replicas) -> None:
        at_a, at_b = strangers(replicas)
        path = "/_synapse/admin/v1/register"
        nonce: str = (await at_a.get(path))["nonce"]

        def body(name: str) -> dict[str, Any]:
            asked = {"nonce": nonce, "username": name, "password": "correct horse", "admin": False}
            return asked | {"mac": registration_mac("of both", **asked)}

        assert (await at_b.post(path, body("carol")))["user_id"] == "@carol:localhost"
        await at_a.call("POST", path, body("dora"), expect=400)
