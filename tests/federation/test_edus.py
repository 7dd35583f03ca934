"""EDUs of other servers: what they say of their own users, and what they may not say.

HARDENING 5, 14, 15 and 34.
"""

from typing import Any

import pytest
from msgspec.structs import replace

import federation.received_messages
from federation.edus import Edus
from homeserver.config.options import Rate, RateLimits
from homeserver.metrics import GcPauses
from homeserver.protocol.identifiers import server_name_of
from storage.errors import StoreUnavailable
from storage.log import Kind
from storage.records.received_messages import RECEIVED_MESSAGES, ReceivedMessage
from tests.client_api.conftest import Client
from tests.client_api.crypto_device import log_in
from tests.client_api.test_receipts import ephemeral
from tests.federation.servers import Homeserver, OtherServer
from tests.federation.visitor import Visitor


class Sending:
    """What the other server sends; EDUs come in as from its transactions."""

    def __init__(self, server: Homeserver, other: OtherServer) -> None:
        self._server = server
        self._origin = other.name

    @property
    def edus(self) -> Edus:
        assert self._server.app.federation is not None
        return self._server.app.federation.edus

    async def edu(self, edu_type: Any, content: Any) -> None:
        await self.edus.receive(self._origin, {"edu_type": edu_type, "content": content})

    async def typing(self, room_id: str, user_id: str, *, typing: bool = True) -> None:
        await self.edu("m.typing", {"room_id": room_id, "user_id": user_id, "typing": typing})

    async def read(self, room_id: str, event_id: str, *user_ids: str, **data: Any) -> None:
        receipt = {"event_ids": [event_id], "data": {"ts": 1000, **data}}
        await self.edu("m.receipt", {room_id: {"m.read": dict.fromkeys(user_ids, receipt)}})

    async def message(self, sender: str, message_id: str, messages: Any) -> None:
        content = {"sender": sender, "type": "m.test", "message_id": message_id, "messages": messages}
        await self.edu("m.direct_to_device", content)


@pytest.fixture
def sending(server: Homeserver, other: OtherServer) -> Sending:
    return Sending(server, other)


async def shut_out(alice: Client, room_id: str, server_name: str) -> None:
    await alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": [server_name]})
    await alice.sync()


async def test_typing_of_another_servers_user_is_shown_until_it_ends(
    sending: Sending, alice: Client, visitor: Visitor, room_id: str
) -> None:
    await sending.typing(room_id, visitor.user_id)
    content = ephemeral(await alice.sync(), room_id, "m.typing")
    assert content == {"user_ids": [visitor.user_id]}
    await sending.typing(room_id, visitor.user_id, typing=False)
    assert ephemeral(await alice.sync(), room_id, "m.typing") == {"user_ids": []}
    assert sending.edus.dropped.total() == 0


async def test_receipts_of_another_servers_users_are_shown(
    sending: Sending, alice: Client, visitor: Visitor, room_id: str
) -> None:
    first, second = await alice.send(room_id, "first"), await alice.send(room_id, "second")
    await alice.sync()
    await sending.read(room_id, second, visitor.user_id)
    content = ephemeral(await alice.sync(), room_id, "m.receipt")
    assert content == {second: {"m.read": {visitor.user_id: {"ts": 1000}}}}
    # One that goes back, and the same once more, change nothing; one for a thread is another one.
    await sending.read(room_id, first, visitor.user_id)
    await sending.read(room_id, second, visitor.user_id)
    assert ephemeral(await alice.sync(), room_id, "m.receipt") is None
    await sending.read(room_id, first, visitor.user_id, thread_id="main")
    content = ephemeral(await alice.sync(), room_id, "m.receipt")
    assert content == {first: {"m.read": {visitor.user_id: {"ts": 1000, "thread_id": "main"}}}}
    assert sending.edus.dropped.total() == 0


async def test_a_server_is_believed_the_time_of_a_receipt_up_to_now(
    sending: Sending, alice: Client, visitor: Visitor, room_id: str
) -> None:
    event_id = await alice.send(room_id)
    await alice.sync()
    await sending.read(room_id, event_id, visitor.user_id, ts=9_000_000_000_000_000)
    content = ephemeral(await alice.sync(), room_id, "m.receipt")
    assert content is not None
    assert content[event_id]["m.read"][visitor.user_id]["ts"] < 4_000_000_000_000


async def test_messages_for_devices_come_once(
    server: Homeserver, sending: Sending, alice: Client, visitor: Visitor
) -> None:
    second = await log_in(alice)
    messages = {alice.user_id: {alice.device_id: {"n": 1}, "*": {"n": 2}, "NONE": {"n": 3}}}
    for _ in range(2):
        await sending.message(visitor.user_id, "m1", messages)
    event = {"type": "m.test", "sender": visitor.user_id}
    for client, n in ((alice, 1), (second, 2)):
        assert (await client.sync())["to_device"]["events"] == [{**event, "content": {"n": n}}]
    await server.restart()
    await sending.message(visitor.user_id, "m1", messages)
    await sending.message(visitor.user_id, "m2", {alice.user_id: {alice.device_id: {"n": 4}}})
    assert (await alice.sync())["to_device"]["events"] == [{**event, "content": {"n": 4}}]


async def test_a_message_that_could_not_be_kept_is_to_be_sent_again(
    server: Homeserver,
    other: OtherServer,
    alice: Client,
    visitor: Visitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HARDENING 33: the keys in it come no other way."""
    content = {
        "sender": visitor.user_id,
        "type": "m.test",
        "message_id": "m1",
        "messages": {alice.user_id: {alice.device_id: {"n": 1}}},
    }
    edu = {"edu_type": "m.direct_to_device", "content": content}

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(server.app.store.log, "append", away)
        await other.send(edus=[edu], txn_id="t", expect=503)
    await other.send(edus=[edu], txn_id="t")
    assert [event["content"] for event in (await alice.sync())["to_device"]["events"]] == [{"n": 1}]


async def test_a_message_that_comes_again_after_days_was_delivered(
    server: Homeserver, sending: Sending, alice: Client, visitor: Visitor
) -> None:
    """HARDENING 33: its server may not have heard that it was taken, and the log has it no more."""
    first = {alice.user_id: {alice.device_id: {"n": 1}}}
    await sending.message(visitor.user_id, "m1", first)
    for _ in range(2):
        await alice.sync()
    store = server.app.store
    shard = store.info.shards.of_user(alice.user_id)
    stored = await store.log.page(shard, alice.user_id, kind=Kind.TO_DEVICE, limit=9)
    await store.log.remove(shard, [entry.seq for entry in stored])
    await server.restart()
    await sending.message(visitor.user_id, "m1", first)
    await sending.message(visitor.user_id, "m2", {alice.user_id: {alice.device_id: {"n": 2}}})
    assert [event["content"] for event in (await alice.sync())["to_device"]["events"]] == [{"n": 2}]


async def test_who_sends_very_many_messages_has_the_oldest_forgotten(
    server: Homeserver,
    sending: Sending,
    alice: Client,
    visitor: Visitor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HARDENING 33: ids are for others to choose, and each takes a record."""
    monkeypatch.setattr(federation.received_messages, "MOST_OF_SERVER", 3)
    monkeypatch.setattr(federation.received_messages, "COUNTED_ONCE_IN", 1)
    received = server.app.store.collection(RECEIVED_MESSAGES)
    of_another = ReceivedMessage(digest="another", expires_ts=1 << 50, server_name="another.test")
    await received.put(of_another)
    for n in range(8):
        await sending.message(visitor.user_id, f"m{n}", {alice.user_id: {alice.device_id: {"n": n}}})
    assert len((await alice.sync())["to_device"]["events"]) == 8
    assert await received.count("by_server", (server_name_of(visitor.user_id),)) == 3
    assert await received.get("another") == of_another


@pytest.mark.parametrize("who", ["@alice:{own}", "@alice:third.example.org", "@visitor:{origin}.evil", "x"])
async def test_a_server_speaks_for_its_own_users_only(
    server: Homeserver, other: OtherServer, sending: Sending, alice: Client, room_id: str, who: str
) -> None:
    """HARDENING 5: forged EDUs are dropped and counted."""
    user_id = who.format(own=server.name, origin=other.name)
    event_id = await alice.send(room_id)
    await alice.sync()
    await sending.typing(room_id, user_id)
    await sending.read(room_id, event_id, user_id)
    await sending.message(user_id, "m1", {alice.user_id: {"*": {}}})
    body = await alice.sync()
    assert ephemeral(body, room_id, "m.typing") is None
    assert ephemeral(body, room_id, "m.receipt") is None
    assert not body.get("to_device", {}).get("events")
    assert sending.edus.dropped == {"m.typing": 1, "m.receipt": 1, "m.direct_to_device": 1}


async def test_administrators_see_how_many_were_dropped(server: Homeserver, sending: Sending) -> None:
    """HARDENING 5."""
    for _ in range(2):
        await sending.edu("m.typing", "none")
    (family,) = (f for f in server.app.metrics(GcPauses()).collect() if f.name == "weft_edus_dropped")
    shown = {sample.labels["type"]: sample.value for sample in family.samples}
    assert shown == {"m.typing": 2}


async def test_who_is_not_in_the_room_neither_types_nor_reads_there(
    other: OtherServer, sending: Sending, alice: Client, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 5."""
    event_id = await alice.send(room_id)
    elsewhere = await alice.create_room()
    unseen = await alice.send(elsewhere)
    await alice.sync()
    stranger = f"@stranger:{other.name}"
    await sending.typing(room_id, stranger)
    await sending.typing(elsewhere, visitor.user_id)
    await sending.typing("!none:example.org", visitor.user_id)
    await sending.read(room_id, event_id, stranger)
    await sending.read(elsewhere, unseen, visitor.user_id)
    await sending.read(room_id, unseen, visitor.user_id)
    assert "rooms" not in await alice.sync()


async def test_a_server_that_the_room_denies_is_not_heard_there(
    other: OtherServer, sending: Sending, alice: Client, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 15: access lists hold for EDUs too."""
    event_id = await alice.send(room_id)
    await shut_out(alice, room_id, other.name)
    await sending.typing(room_id, visitor.user_id)
    await sending.read(room_id, event_id, visitor.user_id)
    assert "rooms" not in await alice.sync()
    assert sending.edus.dropped == {"m.typing": 1, "m.receipt": 1}


MALFORMED: tuple[Any, ...] = (
    None,
    [],
    "x",
    {"room_id": 1, "user_id": [], "typing": "yes"},
    {"!room:example.org": {"m.read": {"@a:b": {"event_ids": [], "data": {"ts": 0}}}}},
    {"!room:example.org": {"m.read": {"@a:b": {"event_ids": ["$x"], "data": {"ts": "now"}}}}},
    {"sender": None, "type": "m.test", "message_id": "m", "messages": {}},
    {"sender": "@a:b", "type": "m.test", "message_id": "m", "messages": {"@alice:x": {"*": [1]}}},
)


async def test_what_is_malformed_is_dropped(sending: Sending) -> None:
    """HARDENING 5."""
    types = ("m.typing", "m.receipt", "m.presence", "m.direct_to_device", "m.device_list_update")
    for edu_type in types:
        for number, content in enumerate(MALFORMED, 1):
            await sending.edu(edu_type, content)
            assert sending.edus.dropped[edu_type] == number, content


async def test_users_of_other_servers_are_held_to_the_same_limits(
    server: Homeserver, sending: Sending, alice: Client, visitor: Visitor, room_id: str
) -> None:
    """HARDENING 38."""
    events = [await alice.send(room_id, str(number)) for number in range(4)]
    await server.restart(
        replace(server.config, rate_limits=RateLimits(enabled=True, ephemeral=Rate(0.001, 3)))
    )
    await alice.sync()
    for event_id in events:
        await sending.read(room_id, event_id, visitor.user_id)
    content = ephemeral(await alice.sync(), room_id, "m.receipt")
    assert content is not None
    assert list(content) == [events[2]]
    await sending.typing(room_id, visitor.user_id)
    assert "rooms" not in await alice.sync()
    assert sending.edus.dropped == {"m.receipt": 1, "m.typing": 1}


async def test_what_is_not_known_is_passed_over(sending: Sending) -> None:
    for edu_type in (None, 1, [], "m.unheard.of"):
        await sending.edu(edu_type, {"anything": 1})
    assert sending.edus.dropped.total() == 0


async def test_messages_for_devices_have_bounds(
    sending: Sending, other: OtherServer, alice: Client, visitor: Visitor
) -> None:
    """HARDENING 14: one that is too large takes those with it that came in the same EDU."""
    large = {"x": "y" * 65_536}
    await sending.message(visitor.user_id, "m1", {alice.user_id: {alice.device_id: large}})
    await sending.message(visitor.user_id, "m" * 256, {alice.user_id: {"*": {}}})
    many = {f"D{n}": {} for n in range(10_001)}
    await sending.message(visitor.user_id, "m2", {alice.user_id: many})
    assert not (await alice.sync()).get("to_device", {}).get("events")
    assert sending.edus.dropped == {"m.direct_to_device": 3}
