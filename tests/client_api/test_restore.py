"""A backup is put back: what clients know of the lost store is not continued by the restored one."""

from urllib.parse import quote

from homeserver.app.stores import begin_epoch
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import ALGORITHM, CryptoDevice, restart
from tests.client_api.sliding import Sliding


async def test_a_restored_store_is_not_taken_for_the_lost_one(
    server: Server, alice: Client, bob: Client
) -> None:
    """HARDENING 33, 44. The log has grown again beyond what was lost when the client comes back."""
    device, asking = CryptoDevice(bob), CryptoDevice(alice)
    await device.upload(one_time=3, device_keys=device.device_keys())
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    kept = await alice.send(room, "kept")

    await server.stop()
    backup = server.data.copy()
    await server.start()
    lost = [await alice.send(room, f"lost {n}") for n in range(3)]
    handed_out = await asking.claim(device)
    await alice.sync(full=True)
    before = alice.next_batch
    assert before is not None

    await server.stop()
    server.data.put_back(backup)
    await begin_epoch(server.config)
    await restart(server, alice, bob)
    new = [await bob.send(room, f"new {n}") for n in range(5)]
    body = await alice.sync(since=before)
    shown = [event["event_id"] for event in body["rooms"]["join"][room]["timeline"]["events"]]
    assert [event_id for event_id in shown if event_id in {kept, *lost, *new}] == [kept, *new]
    assert bob.user_id in body["device_lists"]["changed"]
    assert (await bob.sync(full=True))["device_one_time_keys_count"] == {ALGORITHM: 0}
    assert handed_out is not None and await asking.claim(device) is None

    later = await bob.send(room, "later")
    (event,) = (await alice.sync())["rooms"]["join"][room]["timeline"]["events"]
    assert event["event_id"] == later
    query = {"dir": "b", "from": before}
    refused = await alice.call("GET", f"/rooms/{quote(room)}/messages", query=query, expect=400)
    assert refused.errcode == "M_INVALID_PARAM"


async def test_messages_for_devices_reach_a_client_of_sliding_sync_that_has_seen_more(
    server: Server, alice: Client, bob: Client
) -> None:
    """Such a client keeps where it is in them for itself, and begins its connection anew with that."""

    async def tell(n: int) -> None:
        message = {alice.user_id: {alice.device_id: {"n": n}}}
        await bob.put(f"/sendToDevice/m.x/{n}", {"messages": message})

    await server.stop()
    backup = server.data.copy()
    await server.start()
    await restart(server, alice, bob)
    for n in range(3):
        await tell(n)
    lost = (await Sliding(alice, extensions={"to_device": {"enabled": True}}).poll())["extensions"]
    assert len(lost["to_device"]["events"]) == 3
    seen = lost["to_device"]["next_batch"]

    await server.stop()
    server.data.put_back(backup)
    await begin_epoch(server.config)
    await restart(server, alice, bob)
    await tell(3)
    again = Sliding(alice, extensions={"to_device": {"enabled": True, "since": seen}})
    came = (await again.poll())["extensions"]["to_device"]
    assert [event["content"]["n"] for event in came["events"]] == [3]
    again.request["extensions"]["to_device"]["since"] = came["next_batch"]
    assert (await again.poll())["extensions"]["to_device"]["events"] == []
