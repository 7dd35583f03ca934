// A matrix-js-sdk client with its Rust crypto, as one device of one person.
import "./runtime.mjs";

import { createClient } from "matrix-js-sdk";
import { InteractiveAuth } from "matrix-js-sdk/lib/interactive-auth.js";
import { until } from "./scenario.mjs";

const PASSWORD = "a horse, a battery & a stäple";

// As in real clients, and longer than the patience of `until`, so that a lost wake-up is a failure.
export const LONG_POLL_MS = 30_000;

export class Device {
    constructor(world, client, userId, password = PASSWORD) {
        this.world = world;
        this.client = client;
        this.userId = userId;
        this.password = password;
        this.secretStorageKey = null;
    }

    // Creates an account the way a sign-up form does: asks for the flows, then passes their stages.
    static async register(world, localPart) {
        const visitor = new Device(world, connect(world, {}), null);
        const account = await visitor.authenticate((auth) =>
            visitor.client.registerRequest({
                username: localPart,
                password: PASSWORD,
                initial_device_display_name: "phone",
                auth: auth ?? undefined,
            }),
        );
        return Device.loggedIn(world, account);
    }

    static loggedIn(world, account, password = PASSWORD) {
        const device = new Device(world, null, account.user_id, password);
        device.client = connect(world, {
            userId: account.user_id,
            deviceId: account.device_id,
            accessToken: account.access_token,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) =>
                    device.secretStorageKey ? [Object.keys(keys)[0], device.secretStorageKey] : null,
            },
        });
        world.devices.push(device);
        return device;
    }

    // The same person logs in with the password on one more device.
    async another(deviceName) {
        const account = await connect(this.world, {}).loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: this.userId },
            password: this.password,
            initial_device_display_name: deviceName,
        });
        return Device.loggedIn(this.world, account, this.password);
    }

    // A session of the same person that somebody else has logged in.
    sibling(account) {
        return Device.loggedIn(this.world, { user_id: this.userId, ...account }, this.password);
    }

    get deviceId() {
        return this.client.getDeviceId();
    }

    get crypto() {
        return this.client.getCrypto();
    }

    // Starts encryption and the sync loop, and waits for the first sync. `options` go to startClient.
    async start(options = {}) {
        await this.client.initRustCrypto({ useIndexedDB: false });
        await this.client.startClient({
            initialSyncLimit: 20,
            pollTimeout: LONG_POLL_MS,
            lazyLoadMembers: true,
            threadSupport: true,
            ...options,
        });
        await until("the first sync", () => ["PREPARED", "SYNCING"].includes(this.client.getSyncState()));
        return this;
    }

    // Performs a request that may ask who we are (user-interactive authentication).
    authenticate(makeRequest) {
        const dialogue = new InteractiveAuth({
            matrixClient: this.client,
            doRequest: makeRequest,
            stateUpdated: (stage, status) => {
                if (stage !== "m.login.password" || status.errcode) {
                    throw new Error(`cannot pass the stage ${stage}: ${JSON.stringify(status)}`);
                }
                const identifier = { type: "m.id.user", user: this.userId };
                dialogue.submitAuthDict({ type: stage, identifier, password: this.password });
            },
            requestEmailToken: () => Promise.reject(new Error("no e-mail here")),
        });
        return dialogue.attemptAuth();
    }

    room(roomId) {
        return this.client.getRoom(roomId);
    }

    membership(roomId) {
        return this.room(roomId)?.getMyMembership();
    }

    // Creates a room and waits until it is shown here.
    async createRoom(settings) {
        const { room_id: roomId } = await this.client.createRoom(settings);
        await until("the new room", () => this.membership(roomId) === "join");
        return roomId;
    }

    // A private room with Megolm switched on from its first moment.
    createEncryptedRoom(settings) {
        const encryption = {
            type: "m.room.encryption",
            state_key: "",
            content: { algorithm: "m.megolm.v1.aes-sha2" },
        };
        return this.createRoom({ preset: "private_chat", initial_state: [encryption], ...settings });
    }

    // Waits for the invite, joins, and waits until the room is shown as joined.
    async acceptInvite(roomId) {
        await until("an invite", () => this.membership(roomId) === "invite");
        await this.client.joinRoom(roomId);
        await until("the joined room", () => this.membership(roomId) === "join");
    }

    async say(roomId, text) {
        const { event_id: eventId } = await this.client.sendTextMessage(roomId, text);
        return eventId;
    }

    // The events shown in the room's main timeline, oldest first.
    timeline(roomId) {
        return this.room(roomId)?.getLiveTimeline().getEvents() ?? [];
    }

    // The texts shown in the room, edits applied, oldest first; what cannot be decrypted shows as a lock.
    texts(roomId) {
        return this.timeline(roomId)
            .filter((event) => event.isDecryptionFailure() || event.getType() === "m.room.message")
            .filter((event) => !event.isRedacted() && !event.isRelation("m.replace"))
            .map((event) => (event.isDecryptionFailure() ? "🔒" : event.getContent().body));
    }

    // Waits for an event that `test` accepts, decrypted.
    seesEvent(roomId, what, test) {
        return until(what, () =>
            this.timeline(roomId).find(
                (event) => !event.isBeingDecrypted() && event.getId()?.startsWith("$") && test(event),
            ),
        );
    }

    // Waits for a text message; gives its event.
    seesText(roomId, text) {
        return this.seesEvent(
            roomId,
            `text ${text} in ${JSON.stringify(this.texts(roomId))}`,
            (event) => event.getType() === "m.room.message" && event.getContent().body === text,
        );
    }

    // Fetches media the way an <img> of a client does today: the authenticated endpoint with the token.
    async download(mxc) {
        const url = this.client.mxcUrlToHttp(mxc, undefined, undefined, undefined, false, true, true);
        const response = await fetch(url, {
            headers: { Authorization: `Bearer ${this.client.getAccessToken()}` },
        });
        if (!response.ok) throw new Error(`GET ${url} -> ${response.status} ${await response.text()}`);
        return {
            bytes: new Uint8Array(await response.arrayBuffer()),
            type: response.headers.get("content-type"),
        };
    }
}

function connect(world, credentials) {
    return createClient({
        baseUrl: world.baseUrl,
        fetchFn: recorder(world),
        timelineSupport: true,
        ...credentials,
    });
}

// fetch() that remembers what was asked and answered, for the report of a failed step. While the `world` is
// `gone`, its devices reach nobody.
function recorder(world) {
    return async (resource, options) => {
        if (world.gone) throw new TypeError("the network is down");
        const path = new URL(resource).pathname;
        const request = { method: options?.method ?? "GET", path };
        if (!path.endsWith("/sync")) world.remember(request);
        const response = await fetch(resource, options);
        request.status = response.status;
        if (!response.ok) {
            request.answer = (await response.clone().text()).slice(0, 300);
            if (path.endsWith("/sync")) world.remember(request);
        }
        return response;
    };
}
