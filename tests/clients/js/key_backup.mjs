// Keys kept on the server, sealed: a third device opens the secret storage and reads the old messages.
import assert from "node:assert/strict";

import { decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/recovery-key.js";
import { RustBackupManager } from "matrix-js-sdk/lib/rust-crypto/backup.js";

import { register, scenario, step, until } from "./support/scenario.mjs";

const OLD = ["the first secret", "the second secret", "the third secret"];
const MORE = "written after the restore";
// Clients spread their uploads over ten seconds to spare a server with millions of users.
RustBackupManager.maxBackupLoopStartDelayMillis = 0;

const DIFFERENT_KEY = new Uint8Array(32).fill(7);

// Waits until the backup on the server holds this many sessions. Asks the server, as the library caches.
async function backedUp(device, sessions) {
    await until(`${sessions} sessions in the backup`, async () => {
        const { count } = await device.client.http.authedRequest("GET", "/room_keys/version");
        return count === sessions;
    });
}

// Whether this device shows exactly these texts after fetching the room's history.
async function showsHistory(device, roomId, expected) {
    await device.client.scrollback(device.room(roomId), 50);
    await until(`${expected} in ${device.texts(roomId)}`, () => {
        const shown = device.texts(roomId);
        return expected.length === shown.length && expected.every((text, index) => shown[index] === text);
    });
}

// What a client does when its owner types the recovery key: it signs this device with the keys it finds.
async function enterRecoveryKey(device, recoveryKey) {
    device.secretStorageKey = decodeRecoveryKey(recoveryKey);
    assert.equal(await device.crypto.userHasCrossSigningKeys(device.userId, true), true);
    await device.crypto.bootstrapCrossSigning({});
    assert.equal(await device.crypto.isCrossSigningReady(), true);
}

await scenario(async () => {
    const [alice, bob] = await step("alice and bob register and sync", async () => {
        const people = [await register("alice"), await register("bob")];
        return Promise.all(people.map((person) => person.start()));
    });
    const laptop = await step("alice logs in on a laptop", async () =>
        (await alice.another("laptop")).start(),
    );

    const recoveryKey = await step("alice sets up cross-signing, secret storage and key backup", async () => {
        await alice.crypto.bootstrapCrossSigning({
            authUploadDeviceSigningKeys: (makeRequest) => alice.authenticate(makeRequest),
        });
        const key = await alice.crypto.createRecoveryKeyFromPassphrase("correct horse battery staple");
        alice.secretStorageKey = key.privateKey;
        await alice.crypto.bootstrapSecretStorage({
            createSecretStorageKey: async () => key,
            setupNewSecretStorage: true,
            setupNewKeyBackup: true,
        });
        assert.equal(await alice.crypto.isSecretStorageReady(), true);
        assert.equal(
            await alice.crypto.getActiveSessionBackupVersion(),
            (await alice.crypto.getKeyBackupInfo()).version,
        );
        return key.encodedPrivateKey;
    });

    await step("the laptop hears of the backup without being told the key", async () => {
        await until(
            "the default key in account data",
            () => laptop.client.getAccountData("m.secret_storage.default_key")?.getContent().key,
        );
        assert.equal(await laptop.crypto.getSessionBackupPrivateKey(), null);
    });

    const roomId = await step("alice and bob talk in an encrypted room", async () => {
        const created = await alice.createEncryptedRoom({ invite: [bob.userId] });
        await bob.acceptInvite(created);
        await until(
            "bob in the room",
            () => alice.room(created).getMember(bob.userId)?.membership === "join",
        );
        await alice.say(created, OLD[0]);
        await bob.seesText(created, OLD[0]);
        await bob.say(created, OLD[1]);
        await alice.seesText(created, OLD[1]);
        await alice.say(created, OLD[2]);
        await bob.seesText(created, OLD[2]);
        return created;
    });

    await step("both sessions are uploaded to the backup", () => backedUp(alice, 2));

    await step("alice loses both devices", async () => {
        await laptop.client.logout(true);
        await bob.client.sendTyping(roomId, false);
        alice.client.stopClient();
    });

    const tablet = await step("a new login sees only locks in the history", async () => {
        const device = await (await alice.another("tablet")).start();
        await until("the room", () => device.room(roomId));
        await showsHistory(device, roomId, ["🔒", "🔒", "🔒"]);
        return device;
    });

    await step("a wrong recovery key opens nothing", async () => {
        tablet.secretStorageKey = DIFFERENT_KEY;
        await assert.rejects(tablet.crypto.loadSessionBackupPrivateKeyFromSecretStorage());
        assert.equal(await tablet.crypto.getSessionBackupPrivateKey(), null);
    });

    await step("the recovery key makes the new device a verified one", async () => {
        await enterRecoveryKey(tablet, recoveryKey);
        await until("the tablet as verified, at bob", async () => {
            const status = await bob.crypto.getDeviceVerificationStatus(alice.userId, tablet.deviceId);
            return status?.signedByOwner;
        });
    });

    await step("the backup is restored and the history becomes readable", async () => {
        await tablet.crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        assert.deepEqual(await tablet.crypto.restoreKeyBackup(), { total: 2, imported: 2 });
        await showsHistory(tablet, roomId, OLD);
    });

    await step("the restored device goes on filling the same backup", async () => {
        await tablet.crypto.checkKeyBackupAndEnable();
        await tablet.say(roomId, MORE);
        await bob.seesText(roomId, MORE);
        await backedUp(tablet, 3);
    });

    await step("a fourth device reads everything from the backup on its own, on demand", async () => {
        const desktop = await (await alice.another("desktop")).start();
        await enterRecoveryKey(desktop, recoveryKey);
        await desktop.crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        await desktop.crypto.checkKeyBackupAndEnable();
        await until("the room", () => desktop.room(roomId));
        await showsHistory(desktop, roomId, [...OLD, MORE]);
    });

    await step("a reset makes a new backup version that starts with what the device has", async () => {
        const before = await tablet.crypto.getActiveSessionBackupVersion();
        await tablet.crypto.resetKeyBackup();
        const after = await tablet.crypto.getKeyBackupInfo();
        assert.notEqual(after.version, before);
        assert.equal(await tablet.crypto.getActiveSessionBackupVersion(), after.version);
        await backedUp(tablet, 3);
    });

    await step("key storage switched off leaves no backup and no secret on the server", async () => {
        await tablet.crypto.disableKeyStorage();
        assert.equal(await tablet.crypto.getKeyBackupInfo(), null);
        const sealed = await tablet.client.getAccountDataFromServer("m.megolm_backup.v1");
        assert.deepEqual(sealed ?? {}, {});
        assert.equal(await tablet.crypto.isSecretStorageReady(), false);
    });
});
