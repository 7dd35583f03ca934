// One person's account over several devices, and what other people see of it.
import assert from "node:assert/strict";

import { picture } from "./support/picture.mjs";
import { register, scenario, step, until } from "./support/scenario.mjs";

const NEW_PASSWORD = "another horse, another battery";

function refused(promise, errcode) {
    return assert.rejects(promise, (error) => {
        assert.equal(error.errcode, errcode);
        return true;
    });
}

await scenario(async () => {
    const alice = await step("alice registers", () => register("alice"));
    const laptop = await step("alice logs in on a laptop", () => alice.another("laptop"));
    const bob = await step("bob registers", () => register("bob"));
    await step("all devices sync", () => Promise.all([alice, laptop, bob].map((device) => device.start())));

    await step("a wrong password and a taken name are refused", async () => {
        const visitor = laptop.client;
        const identifier = { type: "m.id.user", user: alice.userId };
        await refused(
            visitor.loginRequest({ type: "m.login.password", identifier, password: "no" }),
            "M_FORBIDDEN",
        );
        const [localPart] = alice.userId.slice(1).split(":");
        assert.equal(await visitor.isUsernameAvailable(localPart), false);
        assert.equal(await visitor.isUsernameAvailable(`${localPart}-free`), true);
    });

    await step("both devices are listed, and a new name for one is shown", async () => {
        await laptop.client.setDeviceDetails(alice.deviceId, { display_name: "old phone" });
        const { devices } = await alice.client.getDevices();
        const names = Object.fromEntries(devices.map((device) => [device.device_id, device.display_name]));
        assert.deepEqual(names, { [alice.deviceId]: "old phone", [laptop.deviceId]: "laptop" });
    });

    await step("name, picture and a field of her own are on alice's profile", async () => {
        const { content_uri: url } = await alice.client.uploadContent(Buffer.from(picture([200, 0, 80])), {
            type: "image/png",
            name: "me.png",
        });
        await alice.client.setDisplayName("Alice in Wonderland");
        await alice.client.setAvatarUrl(url);
        const profile = await bob.client.getProfileInfo(alice.userId);
        assert.deepEqual([profile.displayname, profile.avatar_url], ["Alice in Wonderland", url]);
        const shown = await bob.download(url);
        assert.equal(shown.type, "image/png");
        assert.deepEqual(Buffer.from(shown.bytes), Buffer.from(picture([200, 0, 80])));

        assert.equal(await alice.client.doesServerSupportExtendedProfiles(), true);
        await alice.client.setExtendedProfileProperty("org.example.motto", "curiouser and curiouser");
        assert.equal(
            await bob.client.getExtendedProfileProperty(alice.userId, "org.example.motto"),
            "curiouser and curiouser",
        );
    });

    await step("settings saved on one device appear on the other", async () => {
        await alice.client.setAccountData("org.example.theme", { dark: true });
        await until(
            "the setting",
            () => laptop.client.getAccountData("org.example.theme")?.getContent().dark,
        );
    });

    await step("a room tag and a push rule appear on the other device", async () => {
        const roomId = await alice.createRoom({ name: "Garden" });
        await until("the room", () => laptop.room(roomId));
        await alice.client.setRoomTag(roomId, "m.favourite", { order: 0.25 });
        await until("the tag", () => laptop.room(roomId).tags["m.favourite"]?.order === 0.25);
        await alice.client.setRoomMutePushRule("global", roomId, true);
        await until(
            "the muted room",
            () => laptop.client.getRoomPushRule("global", roomId)?.rule_id === roomId,
        );
        await alice.client.setRoomMutePushRule("global", roomId, false);
        await until("the room no longer muted", () => !laptop.client.getRoomPushRule("global", roomId));
    });

    await step("bob finds alice in the directory once they share a room", async () => {
        const roomId = await bob.createRoom({ invite: [alice.userId] });
        await alice.acceptInvite(roomId);
        await until("alice in the search", async () => {
            const { results } = await bob.client.searchUserDirectory({ term: "Wonderland" });
            return results.some(
                (user) => user.user_id === alice.userId && user.display_name === "Alice in Wonderland",
            );
        });
    });

    await step("a token is refreshed, again if the answer was lost, until the new one is used", async () => {
        const session = await laptop.client.loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: alice.userId },
            password: alice.password,
            refresh_token: true,
        });
        assert.ok(session.expires_in_ms > 0);
        const lost = await laptop.client.refreshToken(session.refresh_token);
        assert.notEqual(lost.access_token, session.access_token);
        const renewed = await laptop.client.refreshToken(session.refresh_token);
        const tablet = alice.sibling({ ...session, access_token: renewed.access_token });
        assert.equal((await tablet.client.whoami()).device_id, session.device_id);
        await assert.rejects(laptop.client.refreshToken(session.refresh_token));
        await tablet.client.logout(true);
    });

    await step("a deleted device is told that it is logged out", async () => {
        const lost = await (await alice.another("lost")).start();
        const told = new Promise((resolve) => lost.client.once("Session.logged_out", resolve));
        await alice.authenticate((auth) => alice.client.deleteDevice(lost.deviceId, auth ?? undefined));
        const error = await told;
        assert.deepEqual([error.errcode, Boolean(error.data.soft_logout)], ["M_UNKNOWN_TOKEN", false]);
    });

    await step("after a change of password only the new one logs in, and other devices are out", async () => {
        const told = new Promise((resolve) => laptop.client.once("Session.logged_out", resolve));
        await alice.authenticate((auth) => alice.client.setPassword(auth, NEW_PASSWORD, true));
        await told;
        await refused(alice.another("with the old password"), "M_FORBIDDEN");
        alice.password = NEW_PASSWORD;
        const tablet = await alice.another("tablet");
        assert.equal((await tablet.client.whoami()).user_id, alice.userId);
    });

    await step("logging out everywhere ends every session", async () => {
        const token = alice.client.getAccessToken();
        await alice.client.http.authedRequest("POST", "/logout/all");
        const ghost = alice.sibling({
            user_id: alice.userId,
            device_id: alice.deviceId,
            access_token: token,
        });
        await refused(ghost.client.whoami(), "M_UNKNOWN_TOKEN");
    });

    await step("a deactivated account cannot log in and leaves its rooms", async () => {
        const roomId = await bob.createRoom({ name: "Office" });
        const carol = await (await register("carol")).start();
        await bob.client.invite(roomId, carol.userId);
        await carol.acceptInvite(roomId);
        carol.client.stopClient();
        await carol.authenticate((auth) => carol.client.deactivateAccount(auth ?? undefined, true));
        await until("carol gone", () => bob.room(roomId).getMember(carol.userId)?.membership === "leave");
        await assert.rejects(carol.another("again"));
    });
});
