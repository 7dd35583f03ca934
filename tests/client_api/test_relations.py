"""Relations, edits, reactions, threads (spec: client-server "Aggregations of child events" and on)."""

import asyncio
from functools import partial
from typing import Any

import pytest

from tests.client_api.conftest import Client, Server


def related(rel_type: str, event_id: str, **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": event_id, **more}}


def text(body: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body, **more}


def edit(event_id: str, body: str) -> dict[str, Any]:
    return text(f"* {body}", **{"m.new_content": text(body)}, **related("m.replace", event_id))


async def bundle_of(client: Client, room_id: str, event_id: str) -> dict[str, Any]:
    event = await client.get(f"/rooms/{room_id}/event/{event_id}")
    return event.get("unsigned", {}).get("m.relations", {})


async def test_newest_edit_by_the_sender_is_bundled(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    event_id = await alice.send(room_id, "one")
    await alice.send(room_id, edit(event_id, "two"))
    newest = await alice.send(room_id, edit(event_id, "three"))
    await bob.send(room_id, edit(event_id, "hijacked"))
    bundle = await bundle_of(bob, room_id, event_id)
    assert bundle["m.replace"]["event_id"] == newest
    page = await bob.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 20})
    original = next(e for e in page["chunk"] if e["event_id"] == event_id)
    assert original["content"]["body"] == "one"
    assert original["unsigned"]["m.relations"]["m.replace"]["event_id"] == newest


async def test_redacting_the_newest_edit_brings_back_the_one_before(alice: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id, "one")
    second = await alice.send(room_id, edit(event_id, "two"))
    third = await alice.send(room_id, edit(event_id, "three"))
    await alice.redact(room_id, third)
    assert (await bundle_of(alice, room_id, event_id))["m.replace"]["event_id"] == second


async def test_same_reaction_twice_is_refused_until_redacted(alice: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id)
    reaction = related("m.annotation", event_id, key="👍")
    first = await alice.send(room_id, reaction, type="m.reaction")
    reply = await alice.call("PUT", f"/rooms/{room_id}/send/m.reaction/again", reaction, expect=400)
    assert reply.errcode == "M_DUPLICATE_ANNOTATION"
    await alice.redact(room_id, first)
    await alice.send(room_id, reaction, type="m.reaction")


async def test_same_reaction_twice_is_refused_however_many_others_reacted_since(
    alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.rooms.relations.MAX_ANNOTATIONS", 2)
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    event_id = await alice.send(room_id)
    reaction = related("m.annotation", event_id, key="👍")
    await alice.send(room_id, reaction, type="m.reaction")
    for key in "123":
        await bob.send(room_id, related("m.annotation", event_id, key=key), type="m.reaction")
    reply = await alice.call("PUT", f"/rooms/{room_id}/send/m.reaction/again", reaction, expect=400)
    assert reply.errcode == "M_DUPLICATE_ANNOTATION"


async def test_others_react_alike_and_the_same_user_otherwise(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    event_id = await alice.send(room_id)
    reaction = related("m.annotation", event_id, key="👍")
    sent = [
        await alice.send(room_id, reaction, type="m.reaction"),
        await bob.send(room_id, reaction, type="m.reaction"),
        await alice.send(room_id, related("m.annotation", event_id, key="👎"), type="m.reaction"),
        await alice.send(room_id, reaction, type="org.example.reaction"),
    ]
    there = await bob.get(f"/_matrix/client/v1/rooms/{room_id}/relations/{event_id}/m.annotation")
    assert [event["event_id"] for event in there["chunk"]] == sent[::-1]


async def test_of_same_reactions_at_the_same_time_one_is_there(alice: Client) -> None:
    """Somebody taps twice, or on two devices."""
    room_id = await alice.create_room()
    event_id = await alice.send(room_id)
    reaction = related("m.annotation", event_id, key="👍")
    replies = await asyncio.gather(
        *(alice.call("PUT", f"/rooms/{room_id}/send/m.reaction/{n}", reaction, expect=None) for n in range(5))
    )
    assert sorted(reply.status for reply in replies) == [200, 400, 400, 400, 400]
    assert {reply.errcode for reply in replies} == {None, "M_DUPLICATE_ANNOTATION"}


async def test_reaction_whose_answer_was_lost_may_be_sent_again(alice: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id)
    reaction = related("m.annotation", event_id, key="👍")
    first = await alice.send(room_id, reaction, type="m.reaction", txn="once")
    assert await alice.send(room_id, reaction, type="m.reaction", txn="once") == first


async def test_thread_is_summed_up_on_its_root_and_listed(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    quiet = await alice.send(room_id, "no thread")
    root = await alice.send(room_id, "root")
    other = await alice.send(room_id, "other root")
    await bob.send(room_id, text("first", **related("m.thread", root)))
    await alice.send(room_id, text("elsewhere", **related("m.thread", other)))
    last = await bob.send(room_id, text("last", **related("m.thread", root)))
    summary = (await bundle_of(bob, room_id, root))["m.thread"]
    assert (summary["count"], summary["latest_event"]["event_id"]) == (2, last)
    assert summary["current_user_participated"] is True
    threads = await bob.get(f"/_matrix/client/v1/rooms/{room_id}/threads")
    assert [event["event_id"] for event in threads["chunk"]] == [root, other]
    mine = await bob.get(f"/_matrix/client/v1/rooms/{room_id}/threads", query={"include": "participated"})
    assert [event["event_id"] for event in mine["chunk"]] == [root]
    hers = await alice.get(f"/_matrix/client/v1/rooms/{room_id}/threads", query={"include": "participated"})
    assert [event["event_id"] for event in hers["chunk"]] == [root, other], "who began it has part in it"
    assert await bundle_of(bob, room_id, quiet) == {}


async def test_reply_that_comes_while_a_thread_is_summed_up_is_not_missed_afterwards(
    server: Server, monkeypatch: pytest.MonkeyPatch, alice: Client
) -> None:
    room_id = await alice.create_room()
    root = await alice.send(room_id, "root")
    await alice.send(room_id, text("first", **related("m.thread", root)))
    stored = server.app.ground.rooms.stored
    read = stored.children

    async def overtaken(*args: Any, **options: Any) -> Any:
        children = await read(*args, **options)
        if options["rel_type"] == "m.thread":
            monkeypatch.undo()
            await alice.send(room_id, text("second", **related("m.thread", root)))
        return children

    monkeypatch.setattr(stored, "children", overtaken)
    await bundle_of(alice, room_id, root)
    assert (await bundle_of(alice, room_id, root))["m.thread"]["count"] == 2


async def listed_threads(client: Client, room_id: str, limit: int) -> list[str]:
    """The roots that five pages at most have."""
    seen: list[str] = []
    start: dict[str, str] = {}
    for _ in range(5):
        page = await client.get(
            f"/_matrix/client/v1/rooms/{room_id}/threads", query={"limit": limit, **start}
        )
        seen += [event["event_id"] for event in page["chunk"]]
        if "next_batch" not in page:
            break
        start = {"from": page["next_batch"]}
    return seen


@pytest.mark.parametrize("kept", [2, 100], ids=["from the log", "in memory"])
async def test_of_a_page_only_relations_that_are_bundled_are_read(
    server: Server, monkeypatch: pytest.MonkeyPatch, alice: Client, kept: int
) -> None:
    monkeypatch.setattr("homeserver.rooms.room.TIMELINE_KEPT", kept)
    room_id = await alice.create_room()
    edited, root, named, *others = [await alice.send(room_id, f"{n}") for n in range(6)]
    for event_id in (edited, root, *others):
        await alice.send(room_id, related("m.annotation", event_id, key="👍"), type="m.reaction")
    newest = await alice.send(room_id, edit(edited, "edited"))
    reply = await alice.send(room_id, text("reply", **related("m.thread", root)))
    corrected = await alice.send(room_id, edit(reply, "corrected"))
    reference = await alice.send(room_id, text("see", **related("m.reference", named)))
    stored = server.app.ground.rooms.stored
    read = stored.children
    asked: list[tuple[str, str]] = []

    async def noted(room_id: str, parent: str, **options: Any) -> Any:
        asked.append((parent, options["rel_type"]))
        return await read(room_id, parent, **options)

    monkeypatch.setattr(stored, "children", noted)
    page = await alice.get(f"/rooms/{room_id}/messages", query={"dir": "b", "limit": 50})
    bundles = {
        event["event_id"]: event["unsigned"]["m.relations"]
        for event in page["chunk"]
        if "m.relations" in event["unsigned"]
    }
    assert bundles.keys() == {edited, root, named, reply}
    assert bundles[edited]["m.replace"]["event_id"] == newest
    assert bundles[named] == {"m.reference": {"chunk": [{"event_id": reference}]}}
    latest = bundles[root]["m.thread"]["latest_event"]
    for replied in (bundles[reply], latest["unsigned"]["m.relations"]):
        assert replied["m.replace"]["event_id"] == corrected
    assert set(asked) == {
        (edited, "m.replace"),
        (reply, "m.replace"),
        (root, "m.thread"),
        (named, "m.reference"),
    }


async def test_threads_list_pages_without_repeating(alice: Client) -> None:
    room_id = await alice.create_room()
    roots = [await alice.send(room_id, f"root {i}") for i in range(5)]
    for root in roots:
        await alice.send(room_id, text("reply", **related("m.thread", root)))
    assert await listed_threads(alice, room_id, 2) == roots[::-1]


async def test_threads_are_looked_at_together(
    server: Server, monkeypatch: pytest.MonkeyPatch, alice: Client, bob: Client
) -> None:
    monkeypatch.setattr("homeserver.rooms.room.TIMELINE_KEPT", 2)
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    roots = [await alice.send(room_id, f"root {i}") for i in range(10)]
    for root in roots:
        await alice.send(room_id, text("reply", **related("m.thread", root)))
    await bob.send(room_id, text("mine", **related("m.thread", roots[3])))
    stored = server.app.ground.rooms.stored
    by_id, children, reads = stored.by_id, stored.children, 0

    async def counted(read: Any, *args: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*args, **options)

    monkeypatch.setattr(stored, "by_id", partial(counted, by_id))
    monkeypatch.setattr(stored, "children", partial(counted, children))
    path = f"/_matrix/client/v1/rooms/{room_id}/threads"
    threads = await bob.get(path, query={"include": "participated"})
    assert [event["event_id"] for event in threads["chunk"]] == [roots[3]]
    assert reads <= 3, "all roots, what bob said, the summary of the thread"


async def test_threads_behind_very_many_replies_are_reached(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.rooms.relations.THREAD_SCAN", 2)
    monkeypatch.setattr("homeserver.rooms.relations.MAX_SCANS", 2)
    room_id = await alice.create_room()
    roots = [await alice.send(room_id, f"root {i}") for i in range(2)]
    for root in roots:
        for _ in range(5):
            await alice.send(room_id, text("reply", **related("m.thread", root)))
    assert await listed_threads(alice, room_id, 5) == roots[::-1]


async def test_thread_is_listed_whose_last_replies_were_all_redacted(alice: Client) -> None:
    room_id = await alice.create_room()
    root = await alice.send(room_id, "root")
    replies = [await alice.send(room_id, text("reply", **related("m.thread", root))) for _ in range(22)]
    for reply in replies[1:]:
        await alice.redact(room_id, reply)
    threads = await alice.get(f"/_matrix/client/v1/rooms/{room_id}/threads")
    assert [event["event_id"] for event in threads["chunk"]] == [root]


async def test_whoever_took_back_all_they_said_in_a_thread_has_not_taken_part(
    alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    root = await alice.send(room_id, "root")
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    said = [await bob.send(room_id, {"msgtype": "m.text", "body": str(n), **thread}) for n in range(2)]
    await alice.send(room_id, {"msgtype": "m.text", "body": "mine", **thread})
    path, query = f"/_matrix/client/v1/rooms/{room_id}/threads", {"include": "participated"}
    for listed, event_id in ((1, said[0]), (1, said[1]), (0, None)):
        chunk = (await bob.get(path, query=query))["chunk"]
        assert len(chunk) == listed
        summaries = [event["unsigned"]["m.relations"]["m.thread"] for event in chunk]
        assert all(summary["current_user_participated"] for summary in summaries)
        if event_id is not None:
            await bob.redact(room_id, event_id)


async def test_thread_off_a_reply_is_refused(alice: Client) -> None:
    room_id = await alice.create_room()
    root = await alice.send(room_id)
    reply = await alice.send(room_id, text("reply", **related("m.thread", root)))
    await alice.call(
        "PUT",
        f"/rooms/{room_id}/send/m.room.message/nested",
        text("nested", **related("m.thread", reply)),
        expect=400,
    )


async def test_relations_are_paged_filtered_and_recursed(alice: Client) -> None:
    room_id = await alice.create_room()
    root = await alice.send(room_id)
    replies = [await alice.send(room_id, text(f"{i}", **related("m.thread", root))) for i in range(3)]
    reaction = await alice.send(room_id, related("m.annotation", replies[0], key="x"), type="m.reaction")
    base = f"/_matrix/client/v1/rooms/{room_id}/relations/{root}"
    first = await alice.get(f"{base}/m.thread", query={"limit": 2})
    assert [event["event_id"] for event in first["chunk"]] == replies[:0:-1]
    second = await alice.get(f"{base}/m.thread", query={"limit": 2, "from": first["next_batch"]})
    assert [event["event_id"] for event in second["chunk"]] == replies[:1]
    everything = await alice.get(base, query={"recurse": "true"})
    assert {event["event_id"] for event in everything["chunk"]} == {*replies, reaction}
    assert everything["recursion_depth"] >= 3, "the least that the specification asks for"
    for path, recursed in (("m.thread/m.reaction", []), ("m.annotation/m.reaction", [reaction])):
        assert (await alice.get(f"{base}/{path}"))["chunk"] == []
        found = (await alice.get(f"{base}/{path}", query={"recurse": "true"}))["chunk"]
        assert [event["event_id"] for event in found] == recursed


async def test_pages_of_recursed_relations_are_filled_with_what_is_wanted(alice: Client) -> None:
    room_id = await alice.create_room()
    root = await alice.send(room_id)
    reply = await alice.send(room_id, text("in the thread", **related("m.thread", root)))
    wanted = [
        await alice.send(room_id, related("m.annotation", reply, key=f"{n}"), type="m.reaction")
        for n in range(3)
    ]
    for n in range(3):
        await alice.send(room_id, text(f"later {n}", **related("m.thread", root)))
    path = f"/_matrix/client/v1/rooms/{room_id}/relations/{root}/m.annotation"
    query: dict[str, Any] = {"recurse": "true", "limit": 2}
    first = await alice.get(path, query=query)
    assert [event["event_id"] for event in first["chunk"]] == wanted[:0:-1]
    second = await alice.get(path, query={**query, "from": first["next_batch"]})
    assert [event["event_id"] for event in second["chunk"]] == wanted[:1]
    assert "next_batch" not in second


async def test_who_took_part_in_a_thread_long_ago_still_did(
    alice: Client, bob: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.rooms.relations.REPLIES", 2)
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    root = await alice.send(room_id)
    for client in (bob, alice, alice, alice, alice):
        await client.send(room_id, text("reply", **related("m.thread", root)))
    threads = await bob.get(f"/_matrix/client/v1/rooms/{room_id}/threads", query={"include": "participated"})
    assert [event["event_id"] for event in threads["chunk"]] == [root]


@pytest.mark.parametrize("dir", ["b", "f"])
async def test_recursed_relations_of_very_many_are_all_reached(
    alice: Client, monkeypatch: pytest.MonkeyPatch, dir: str
) -> None:
    monkeypatch.setattr("homeserver.rooms.relations.MAX_CHILDREN", 5)
    room_id = await alice.create_room()
    root = await alice.send(room_id)
    sent = []
    for n in range(13):
        sent.append(await alice.send(room_id, text(f"{n}", **related("m.thread", root))))
        if n % 4 == 3:
            sent.append(await alice.send(room_id, related("m.annotation", sent[-1], key="x"), "m.reaction"))
    seen: list[str] = []
    start: dict[str, str] = {}
    for _ in range(10):
        page = await alice.get(
            f"/_matrix/client/v1/rooms/{room_id}/relations/{root}",
            query={"recurse": "true", "limit": 3, "dir": dir, **start},
        )
        seen += [event["event_id"] for event in page["chunk"]]
        if "next_batch" not in page:
            break
        start = {"from": page["next_batch"]}
    assert seen == (sent if dir == "f" else sent[::-1])


async def test_relations_of_an_event_in_another_room_are_not_found(alice: Client, bob: Client) -> None:
    room_id = await alice.create_room()
    event_id = await alice.send(room_id)
    other = await bob.create_room()
    await bob.call("GET", f"/_matrix/client/v1/rooms/{other}/relations/{event_id}", expect=404)
    await bob.call("GET", f"/_matrix/client/v1/rooms/{room_id}/relations/{event_id}", expect=404)


async def test_hardening_35_bundles_tell_former_members_of_nothing_after_they_left(
    alice: Client, bob: Client
) -> None:
    room_id = await alice.create_room(preset="public_chat")
    await bob.join(room_id)
    root = await alice.send(room_id, "one")
    seen = await alice.send(room_id, text("two", **related("m.thread", root)))
    await bob.leave(room_id)
    await alice.send(room_id, edit(root, "s3cret"))
    await alice.send(room_id, edit(seen, "s3cret"))
    await alice.send(room_id, text("s3cret", **related("m.thread", root)))
    await alice.send(room_id, text("s3cret", **related("m.reference", root)))
    assert set(await bundle_of(alice, room_id, root)) == {"m.replace", "m.thread", "m.reference"}
    bundle = await bundle_of(bob, room_id, root)
    assert set(bundle) == {"m.thread"}
    assert (bundle["m.thread"]["count"], bundle["m.thread"]["latest_event"]["event_id"]) == (1, seen)
    for path in ("messages?dir=b&limit=20", f"context/{root}?limit=20", "initialSync?limit=20"):
        assert "s3cret" not in str(await bob.get(f"/rooms/{room_id}/{path}")), path
    for path in (f"relations/{root}", "threads"):
        assert "s3cret" not in str(await bob.get(f"/_matrix/client/v1/rooms/{room_id}/{path}")), path
    left = {"room": {"include_leave": True, "timeline": {"limit": 20}}}
    assert "s3cret" not in str(await bob.sync(full=True, filter=left))
