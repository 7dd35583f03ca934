"""A backup is put back: what clients know of the lost store is not continued by the restored one."""

from urllib.parse import quote

from homeserver.app.stores import begin_epoch
from tests.client_api.conftest import Client, Server
from tests.client_api.crypto_device import CryptoDevice, restart


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
    assert (await bob.sync(full=True))["device_one_time_keys_count"] == {}
    assert handed_out is not None and await asking.claim(device) is None

    later = await bob.send(room, "later")
    (event,) = (await alice.sync())["rooms"]["join"][room]["timeline"]["events"]
    assert event["event_id"] == later
    query = {"dir": "b", "from": before}
    refused = await alice.call("GET", f"/rooms/{quote(room)}/messages", query=query, expect=400)
    assert refused.errcode == "M_INVALID_PARAM"
