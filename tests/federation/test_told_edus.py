"""What other servers are told of this one's users apart from events: EDUs, and who is sent them."""

from typing import Any

from tests.client_api.conftest import Client
from tests.federation.receiving import Receiving, away, taken
from tests.federation.servers import Homeserver, OtherServer
from tests.federation.visitor import Visitor
from tests.waiting import until


def by_id(receiving: Receiving) -> dict[str, Any]:
    """The messages for devices; one that is sent again has the same id, by which its server knows it."""
    return {content["message_id"]: content for content in receiving.contents("m.direct_to_device")}


async def types(client: Client, room_id: str, **body: Any) -> None:
    await client.put(f"/rooms/{room_id}/typing/{client.user_id}", body)


async def test_typing_is_told_until_it_ends_by_itself(
    alice: Client, receiving: Receiving, room_id: str
) -> None:
    await types(alice, room_id, typing=True, timeout=200)
    await until(lambda: len(receiving.contents("m.typing")) == 2)
    notice = {"room_id": room_id, "user_id": alice.user_id}
    assert receiving.contents("m.typing") == [{**notice, "typing": True}, {**notice, "typing": False}]


async def test_public_receipts_are_told(alice: Client, receiving: Receiving, room_id: str) -> None:
    event_id = await alice.send(room_id)
    path = f"/rooms/{room_id}/receipt"
    await alice.post(f"{path}/m.read.private/{event_id}")
    await alice.post(f"{path}/m.read/{event_id}", {"thread_id": "main"})
    await alice.post(f"{path}/m.read/{event_id}")
    await until(lambda: len(receiving.contents("m.receipt")) == 2)
    told = {}
    for content in receiving.contents("m.receipt"):
        receipt = content[room_id]["m.read"][alice.user_id]
        assert receipt["event_ids"] == [event_id]
        assert receipt["data"]["ts"] > 0
        told[receipt["data"].get("thread_id")] = content
    assert set(told) == {None, "main"}


async def test_servers_that_the_room_denies_are_told_nothing(
    other: OtherServer, alice: Client, visitor: Visitor, receiving: Receiving, room_id: str
) -> None:
    """HARDENING 15."""
    open_room = await alice.create_room(preset="public_chat")
    await visitor.member(open_room, "join")
    await alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": [other.name]})
    event_id = await alice.send(room_id)
    await alice.post(f"/rooms/{room_id}/receipt/m.read/{event_id}")
    await types(alice, room_id, typing=True)
    await types(alice, open_room, typing=True)
    await until(lambda: receiving.contents("m.typing"))
    assert [content["room_id"] for content in receiving.contents("m.typing")] == [open_room]
    assert receiving.contents("m.receipt") == []


async def send(client: Client, txn: str, messages: Any, **how: Any) -> Any:
    return await client.put(f"/sendToDevice/m.test/{txn}", {"messages": messages}, **how)


async def test_messages_for_devices_arrive_once_though_the_request_is_repeated(
    alice: Client, bob: Client, visitor: Visitor, receiving: Receiving
) -> None:
    messages = {
        visitor.user_id: {"PHONE": {"n": 1}, "*": {"n": 2}},
        bob.user_id: {bob.device_id: {"n": 3}},
    }
    for _ in range(2):
        await send(alice, "t1", messages)
    last = {visitor.user_id: {"PHONE": {"n": 4}}}
    await send(alice, "t2", last)
    await until(lambda: len(by_id(receiving)) == 2)
    assert [content["messages"] for content in by_id(receiving).values()] == [
        {visitor.user_id: messages[visitor.user_id]},
        last,
    ]
    assert {(content["sender"], content["type"]) for content in by_id(receiving).values()} == {
        (alice.user_id, "m.test")
    }
    assert max(map(len, by_id(receiving))) <= 32
    assert len((await bob.sync())["to_device"]["events"]) == 1


async def test_messages_for_devices_outlive_both_servers_being_away(
    server: Homeserver, other: OtherServer, alice: Client, visitor: Visitor, receiving: Receiving
) -> None:
    """HARDENING 33: to-device messages are not lost, and come in the order in which they were sent."""
    receiving.answer = away
    for number in range(3):
        await send(alice, f"t{number}", {visitor.user_id: {"PHONE": {"n": number}}})
    await server.restart()
    receiving.answer = taken
    await send(alice, "t3", {visitor.user_id: {"PHONE": {"n": 3}}})
    await other.show_life()
    await until(lambda: len(by_id(receiving)) == 4)
    sent = [content["messages"][visitor.user_id]["PHONE"]["n"] for content in by_id(receiving).values()]
    assert sent == [0, 1, 2, 3]


async def test_many_messages_go_in_edus_of_a_good_size(
    alice: Client, visitor: Visitor, receiving: Receiving
) -> None:
    devices = {f"D{number}": {"x": "y" * 10_000} for number in range(20)}
    await send(alice, "t1", {visitor.user_id: devices})
    await until(lambda: len(receiving.contents("m.direct_to_device")) == 3)
    arrived: dict[str, Any] = {}
    for content in receiving.contents("m.direct_to_device"):
        arrived |= content["messages"][visitor.user_id]
    assert arrived == devices


async def test_messages_for_other_servers_have_bounds_too(
    alice: Client, bob: Client, visitor: Visitor, receiving: Receiving
) -> None:
    """HARDENING 14: nothing is sent of a request that has too much in it."""
    large = {"PHONE": {"x": "y" * 65_536}}
    own = {bob.user_id: {bob.device_id: {}}}
    await send(alice, "t1", {visitor.user_id: large, **own}, expect=413)
    many = {f"D{number}": {} for number in range(10_001)}
    await send(alice, "t2", {visitor.user_id: many, **own}, expect=400)
    await send(alice, "t3", {"@nobody": {"*": {}}, **own}, expect=400)
    assert not (await bob.sync()).get("to_device", {}).get("events")
    assert receiving.contents("m.direct_to_device") == []
