// Rooms as a chat client shows them: directory, history, threads, mentions, search, spaces, bans, upgrades.
import assert from "node:assert/strict";

import { register, scenario, step, until } from "./support/scenario.mjs";

const numbers = (count) => Array.from({ length: count }, (_, index) => `message ${index + 1}`);

await scenario(async () => {
    const [alice, bob, carol] = await step("three people register and sync", () =>
        Promise.all(["alice", "bob", "carol"].map(async (name) => (await register(name)).start())),
    );
    const everybody = [alice, bob, carol];
    const word = `garden${alice.deviceId.toLowerCase()}`;

    const roomId = await step("a public room is found in the directory and joined by its alias", async () => {
        const created = await alice.createRoom({
            preset: "public_chat",
            visibility: "public",
            room_alias_name: word,
            name: word,
            topic: "Roses and weeds",
        });
        const { chunk } = await bob.client.publicRooms({ limit: 10, filter: { generic_search_term: word } });
        assert.deepEqual(
            chunk.map((room) => [room.room_id, room.name, room.topic, room.num_joined_members]),
            [[created, word, "Roses and weeds", 1]],
        );
        for (const guest of [bob, carol]) {
            await guest.client.joinRoom(chunk[0].canonical_alias);
            await until("the room", () => guest.membership(created) === "join");
            assert.equal(guest.room(created).name, word);
        }
        for (const device of everybody)
            await until("three members", () => device.room(created).getJoinedMemberCount() === 3);
        return created;
    });

    await step("an unnamed room is called after its members", async () => {
        await bob.client.setDisplayName("Bob the Builder");
        await carol.client.setDisplayName("Carol Singer");
        const created = await alice.createRoom({ invite: [bob.userId, carol.userId] });
        await bob.acceptInvite(created);
        await until("the name", () => alice.room(created).name === "Bob the Builder and Carol Singer");
    });

    await step("history is fetched page by page back to the beginning", async () => {
        const written = numbers(60);
        for (const text of written) await alice.say(roomId, text);
        const laptop = await (await bob.another("laptop")).start();
        await until("the room", () => laptop.texts(roomId).at(-1) === written.at(-1));
        assert.ok(laptop.texts(roomId).length < written.length);
        for (let page = 0; laptop.room(roomId).oldState.paginationToken && page < 20; page += 1) {
            await laptop.client.scrollback(laptop.room(roomId), 25);
        }
        assert.deepEqual(laptop.texts(roomId), written);
        assert.equal(laptop.timeline(roomId)[0].getType(), "m.room.create");
        laptop.client.stopClient();
    });

    await step("a link to an old message opens the timeline around it", async () => {
        const laptop = await (await bob.another("laptop")).start();
        await until("the room", () => laptop.room(roomId));
        const old = await alice.seesText(roomId, "message 20");
        const set = laptop.room(roomId).getUnfilteredTimelineSet();
        const timeline = await laptop.client.getEventTimeline(set, old.getId());
        for (const backwards of [true, false]) {
            await laptop.client.paginateEventTimeline(timeline, { backwards, limit: 10 });
        }
        const shown = timeline.getEvents().map((event) => event.getContent().body);
        assert.deepEqual(shown, numbers(30).slice(9));
        laptop.client.stopClient();
    });

    await step("jump to date finds the message", async () => {
        const event = await bob.seesText(roomId, "message 50");
        const found = await bob.client.timestampToEvent(roomId, event.getTs(), "f");
        assert.equal(found.origin_server_ts, event.getTs());
    });

    await step("search finds words in messages and gives their surroundings", async () => {
        await alice.say(roomId, "the hedgehog sleeps under the compost");
        await alice.say(roomId, "do not wake it");
        await bob.seesText(roomId, "do not wake it");
        await until("the hit", async () => {
            const found = await bob.client.searchRoomEvents({
                term: "hedgehog",
                filter: { rooms: [roomId] },
            });
            if (found.count !== 1) return false;
            const around = found.results[0].context.getTimeline().map((event) => event.getContent().body);
            assert.deepEqual(around, [
                "message 60",
                "the hedgehog sleeps under the compost",
                "do not wake it",
            ]);
            return true;
        });
    });

    await step("a mention is counted apart from other messages", async () => {
        const count = (kind) => carol.room(roomId).getUnreadNotificationCount(kind);
        await carol.client.sendReadReceipt(carol.timeline(roomId).at(-1));
        await until("nothing unread", () => count("total") === 0 && count("highlight") === 0);
        await alice.say(roomId, "nobody in particular");
        await alice.client.sendMessage(roomId, {
            msgtype: "m.text",
            body: "Carol Singer, look",
            "m.mentions": { user_ids: [carol.userId] },
        });
        await until("two messages, one mention", () => count("total") === 2 && count("highlight") === 1);
        await carol.client.sendReadReceipt(await carol.seesText(roomId, "Carol Singer, look"));
        await until("nothing unread", () => count("total") === 0 && count("highlight") === 0);
    });

    const rootId = await step("a thread gathers its replies and its own unread count", async () => {
        const root = await alice.say(roomId, "what shall we plant?");
        await bob.seesText(roomId, "what shall we plant?");
        await carol.client.sendReadReceipt(await carol.seesText(roomId, "what shall we plant?"));
        for (const text of ["beans", "peas"]) {
            await bob.client.sendEvent(roomId, root, "m.room.message", { msgtype: "m.text", body: text });
        }
        const thread = await until("the thread", () => carol.room(roomId).getThread(root));
        await until(
            "two replies",
            () => thread.length === 2 && thread.replyToEvent?.getContent().body === "peas",
        );
        const unread = () => carol.room(roomId).getThreadUnreadNotificationCount(root, "total");
        await until("two unread in the thread", () => unread() === 2);
        assert.equal(carol.texts(roomId).includes("beans"), false);
        await carol.client.sendReadReceipt(thread.replyToEvent);
        await until("the thread read", () => unread() === 0);
        return root;
    });

    await step("the thread list of a new device shows it", async () => {
        const laptop = await (await carol.another("laptop")).start();
        await until("the room", () => laptop.room(roomId));
        await laptop.room(roomId).createThreadsTimelineSets();
        await laptop.room(roomId).fetchRoomThreads();
        const [thread] = laptop.room(roomId).getThreads();
        assert.deepEqual([thread.id, thread.length], [rootId, 2]);
        laptop.client.stopClient();
    });

    await step("a poll is voted on", async () => {
        const { event_id: pollId } = await alice.client.sendEvent(roomId, "m.poll.start", {
            "m.text": [{ body: "tea or coffee?" }],
            "m.poll": {
                kind: "m.disclosed",
                question: { "m.text": [{ body: "tea or coffee?" }] },
                answers: [
                    { "m.id": "tea", "m.text": [{ body: "tea" }] },
                    { "m.id": "coffee", "m.text": [{ body: "coffee" }] },
                ],
            },
        });
        await bob.seesEvent(roomId, "the poll", (event) => event.getId() === pollId);
        await bob.client.sendEvent(roomId, "m.poll.response", {
            "m.selections": ["tea"],
            "m.relates_to": { rel_type: "m.reference", event_id: pollId },
        });
        await until("the vote", async () => {
            const { events } = await alice.client.relations(roomId, pollId, "m.reference", "m.poll.response");
            return events.length === 1 && events[0].getSender() === bob.userId;
        });
    });

    await step("messages of an ignored person are not shown", async () => {
        await carol.client.setIgnoredUsers([bob.userId]);
        await until("the list", () => carol.client.isUserIgnored(bob.userId));
        await bob.say(roomId, "you cannot hear me");
        await alice.say(roomId, "but you hear me");
        await carol.seesText(roomId, "but you hear me");
        assert.equal(carol.texts(roomId).includes("you cannot hear me"), false);
        await carol.client.setIgnoredUsers([]);
    });

    await step("topic, pins and power are changed by who may, and refused to who may not", async () => {
        await alice.client.setRoomTopic(roomId, "Only roses");
        await until(
            "the topic",
            () =>
                bob.room(roomId).currentState.getStateEvents("m.room.topic", "")?.getContent().topic ===
                "Only roses",
        );
        await assert.rejects(bob.client.setRoomTopic(roomId, "Only weeds"), { errcode: "M_FORBIDDEN" });
        await alice.client.setPowerLevel(roomId, bob.userId, 50);
        await until("power", () => bob.room(roomId).getMember(bob.userId).powerLevel === 50);
        await bob.client.sendStateEvent(roomId, "m.room.pinned_events", { pinned: [rootId] }, "");
        await until(
            "the pin",
            () =>
                carol.room(roomId).currentState.getStateEvents("m.room.pinned_events", "")?.getContent()
                    .pinned[0] === rootId,
        );
    });

    await step("a banned person is out, is told why, and cannot return until pardoned", async () => {
        await bob.client.ban(roomId, carol.userId, "trampled the beans");
        await until("banned", () => carol.membership(roomId) === "ban");
        assert.equal(
            carol.room(roomId).getMember(carol.userId).events.member.getContent().reason,
            "trampled the beans",
        );
        await assert.rejects(carol.client.joinRoom(roomId), { httpStatus: 403 });
        await bob.client.unban(roomId, carol.userId);
        await carol.client.joinRoom(roomId);
        await until("back", () => carol.membership(roomId) === "join");
    });

    await step("a knock is answered", async () => {
        const rules = { type: "m.room.join_rules", state_key: "", content: { join_rule: "knock" } };
        const closed = await alice.createRoom({ name: "Shed", initial_state: [rules] });
        await bob.client.knockRoom(closed, { reason: "I bring a spade" });
        await until("the knock", () => alice.room(closed).getMember(bob.userId)?.membership === "knock");
        await until("own knock", () => bob.membership(closed) === "knock");
        await alice.client.invite(closed, bob.userId);
        await bob.acceptInvite(closed);
    });

    const space = await step("a space lists its rooms, and its members may enter them", async () => {
        const [, serverName] = alice.userId.split(/:(.*)/);
        const created = await alice.createRoom({
            name: "Village",
            preset: "public_chat",
            creation_content: { type: "m.space" },
        });
        const restricted = {
            type: "m.room.join_rules",
            state_key: "",
            content: { join_rule: "restricted", allow: [{ type: "m.room_membership", room_id: created }] },
        };
        const hall = await alice.createRoom({ name: "Hall", initial_state: [restricted] });
        await alice.client.sendStateEvent(
            created,
            "m.space.child",
            { via: [serverName], suggested: true },
            hall,
        );
        await assert.rejects(carol.client.joinRoom(hall), { errcode: "M_FORBIDDEN" });
        await carol.client.joinRoom(created);
        const { rooms } = await carol.client.getRoomHierarchy(created, 10);
        assert.deepEqual(
            rooms.map((room) => room.name),
            ["Village", "Hall"],
        );
        assert.equal(rooms[0].children_state[0].state_key, hall);
        await carol.client.joinRoom(hall);
        await until("inside", () => carol.membership(hall) === "join");
        return created;
    });

    await step("the summary of a room can be seen before joining", async () => {
        const summary = await bob.client.getRoomSummary(space);
        assert.deepEqual(
            [summary.name, summary.num_joined_members, summary.room_type],
            ["Village", 2, "m.space"],
        );
    });

    await step("an upgraded room takes its name, topic and alias along", async () => {
        const { replacement_room: next } = await alice.client.upgradeRoom(roomId, "12");
        await until("the tombstone", () => {
            const tombstone = bob.room(roomId).currentState.getStateEvents("m.room.tombstone", "");
            return tombstone?.getContent().replacement_room === next;
        });
        await bob.client.joinRoom(next);
        await until("the new room", () => bob.membership(next) === "join");
        const room = bob.room(next);
        assert.equal(room.getVersion(), "12");
        assert.equal(room.name, word);
        assert.equal(room.findPredecessor().roomId, roomId);
        const { room_id: resolved } = await bob.client.getRoomIdForAlias(room.getCanonicalAlias());
        assert.equal(resolved, next);
    });
});
