"""The keys of devices from upload to end: what /keys/upload, /keys/query and /keys/claim do."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import orjson

from homeserver.e2ee.identities import DEVICE, DEVICE_NAME, Draft, Identities, Identity, json_object
from homeserver.e2ee.key_answers import claimed_of
from homeserver.e2ee.key_objects import (
    MASTER,
    MAX_FALLBACK_KEYS,
    MAX_ONE_TIME_KEYS,
    SELF_SIGNING,
    USER_SIGNING,
    KeyPart,
    NamedKey,
    ShortKey,
    body_of,
    check_device_keys,
    named_keys,
    short_keys,
    signatures_by,
    too_many,
    verify,
)
from homeserver.e2ee.key_servers import KeyServers, Wanted, answers_within
from homeserver.e2ee.one_time_keys import Claimed, OneTimeKeys, claimed_json
from homeserver.e2ee.remote_lists import RemoteLists
from homeserver.errors import MatrixError, not_found
from homeserver.protocol.identifiers import check_user_id, server_name_of
from homeserver.protocol.json_types import JsonObject
from homeserver.sync.to_device import ToDeviceQueue
from homeserver.users.users import Users
from storage.collection import Collection
from storage.records.accounts import Device

MAX_USERS = 20_000
"""In one query."""


class KeyUpload(msgspec.Struct, kw_only=True):
    """What a device publishes, all of it optional."""

    device_keys: dict[str, KeyPart] | None = None
    one_time_keys: dict[str, KeyPart] = {}
    fallback_keys: dict[str, KeyPart] = {}


class CheckedUpload(NamedTuple):
    """Keys of the right form."""

    device_keys: JsonObject | None
    one_time: dict[str, dict[str, ShortKey]]
    """By algorithm and key id."""
    fallback: list[NamedKey]


class DeviceKeys:
    """Keys of devices: those of local users, and what other servers tell of theirs."""

    def __init__(
        self,
        identities: Identities,
        one_time_keys: OneTimeKeys,
        remote_lists: RemoteLists,
        servers: KeyServers,
        devices: Collection[Device],
        queue: ToDeviceQueue,
        users: Users,
    ) -> None:
        self._identities = identities
        self._one_time_keys = one_time_keys
        self._remote_lists = remote_lists
        self._servers = servers
        self._devices = devices
        self._queue = queue
        self._users = users

    async def upload(self, user_id: str, device_id: str, upload: KeyUpload) -> dict[str, int]:
        """Publish keys; how many one-time keys of each algorithm there are then.

        Raises 400 for malformed keys, other keys under names that are taken, and beyond the limits;
        nothing is stored then. 404 when the device has been deleted.
        """
        checked = await self.check(user_id, device_id, upload)
        await self.store(user_id, device_id, checked)
        return (await self._one_time_keys.counts(user_id, device_id)).one_time

    async def check(self, user_id: str, device_id: str, upload: KeyUpload) -> "CheckedUpload":
        """Raises 400 for malformed keys."""
        keys = upload.device_keys
        if keys is not None:
            identity = await self._identities.get(user_id)
            # Some clients bring with each upload what they published long ago.
            if keys != identity.device(device_id):
                keys = check_device_keys(keys, user_id, device_id)
                counting_signatures(identity, keys)
        return CheckedUpload(
            keys,
            short_keys(upload.one_time_keys, "one_time_keys", user_id, device_id, most=MAX_ONE_TIME_KEYS),
            named_keys(upload.fallback_keys, "fallback_keys", most=MAX_FALLBACK_KEYS),
        )

    async def store(self, user_id: str, device_id: str, upload: "CheckedUpload") -> None:
        """The rest of `upload`: identity keys last, since they are what others are told of."""
        keys, name, known = upload.device_keys, None, False
        if keys is not None:
            identity = await self._identities.get(user_id)
            present, known = identity.device(device_id), identity.knows(device_id)
            if present is None:
                device = await self._devices.get(user_id, device_id)
                if device is None:
                    raise deleted()
                name = device.display_name
            elif present["keys"] != keys["keys"]:
                # One-time keys are signed by, and of use with, the old identity only.
                await self._one_time_keys.forget(user_id, device_id)
        await self._one_time_keys.upload(user_id, device_id, upload.one_time, upload.fallback)
        if keys is not None:
            await self._publish(user_id, device_id, keys, name, known=known)

    async def _publish(
        self, user_id: str, device_id: str, keys: JsonObject, name: str | None, *, known: bool
    ) -> None:
        """`known`: whether it was known when the upload began that there is such a device."""

        def change(identity: Identity) -> Sequence[Draft]:
            if known and not identity.knows(device_id):
                raise deleted()
            present = identity.device(device_id)
            if keys == present:
                return ()
            drafts: list[Draft] = []
            signatures = counting_signatures(identity, keys)
            if present is not None and body_of(present) == body_of(keys):
                signatures = {**signatures_by(present, user_id), **signatures}
            published = {**body_of(keys), "signatures": {user_id: signatures}}
            if published != present:
                drafts.append(Draft(DEVICE, device_id, published))
            if name is not None and identity.names.get(device_id) != name:
                drafts.append(Draft(DEVICE_NAME, device_id, {"display_name": name}))
            return drafts

        await self._identities.change(user_id, change)

    async def query(
        self, viewer: str | None, wanted: Mapping[str, Sequence[str]], *, seconds: float
    ) -> bytes:
        """Keys of users, of the devices listed or of all, as JSON. `viewer` sees what only they may see.

        Other servers have so long to answer. Raises 400 for too many users or what is no user id.
        """
        if len(wanted) > MAX_USERS:
            raise too_many(f"At most {MAX_USERS} users at once")
        local, remote = self._split(wanted)
        found = await self._identities.newest(local)
        failures: dict[str, str] = {}
        if remote:
            elsewhere, failures = await self._remote_lists.get_many(remote, seconds)
            found.update(elsewhere)
        asking = await self._identities.get(viewer) if viewer is not None else None
        own = found.get(viewer) if viewer is not None else None
        return json_object(
            (
                ("device_keys", json_object((id, i.shown_devices(wanted[id])) for id, i in found.items())),
                ("master_keys", json_object((id, i.shown_master(asking)) for id, i in found.items())),
                (
                    "self_signing_keys",
                    json_object((id, i.shown_key(SELF_SIGNING)) for id, i in found.items()),
                ),
                (
                    "user_signing_keys",
                    json_object([(own.user_id, own.shown_key(USER_SIGNING))] if own is not None else ()),
                ),
                ("failures", _failures_json(failures)),
            )
        )

    async def claim(self, wanted: Wanted, *, seconds: float) -> bytes:
        """One key for each device, as JSON; other servers have so long to answer.

        Raises 400 for too many devices or what is no user id.
        """
        local, remote = self._split(wanted)
        claimed = await self._one_time_keys.claim({user_id: wanted[user_id] for user_id in local})
        by_server: dict[str, dict[str, Mapping[str, str]]] = {}
        for user_id in remote:
            by_server.setdefault(server_name_of(user_id), {})[user_id] = wanted[user_id]
        asked = [
            (server, asyncio.create_task(self._claim_from(server, of_server), name=f"claim keys of {server}"))
            for server, of_server in by_server.items()
        ]
        answers, failures = await answers_within(seconds, asked)
        for answer in answers:
            claimed.update(answer)
        return json_object(
            (
                ("one_time_keys", claimed_json(claimed)),
                ("failures", _failures_json(failures)),
            )
        )

    async def _claim_from(self, server: str, wanted: Wanted) -> Claimed:
        return claimed_of(wanted, await self._servers.claim(server, wanted))

    def _split(self, user_ids: Iterable[str]) -> tuple[list[str], list[str]]:
        """(the local ones, the others). Raises InvalidIdentifier."""
        local: list[str] = []
        remote: list[str] = []
        for user_id in user_ids:
            if self._users.is_local(user_id):
                local.append(user_id)
            else:
                remote.append(check_user_id(user_id))
        return local, remote

    # Devices that change

    async def added(self, user_id: str, device_id: str) -> None:
        """Have it known that there is a device. It has no keys yet, so it is no news but to other servers."""

        def change(identity: Identity) -> Sequence[Draft]:
            return () if identity.knows(device_id) else (Draft(DEVICE, device_id, {}, quiet=True),)

        if await self._identities.change(user_id, change):
            self._one_time_keys.begin(user_id, device_id)

    async def renamed(self, user_id: str, device_id: str, name: str) -> None:
        """Show a device's new name beside its keys."""

        def change(identity: Identity) -> Sequence[Draft]:
            if device_id not in identity.devices or identity.names.get(device_id) == name:
                return ()
            return (Draft(DEVICE_NAME, device_id, {"display_name": name}),)

        await self._identities.change(user_id, change)

    async def forget(self, user_id: str, device_id: str) -> None:
        """Drop the keys of a device that is going, and the messages that wait for it."""

        def change(identity: Identity) -> Sequence[Draft]:
            if device_id in identity.keyless:
                return (Draft(DEVICE, device_id, None, quiet=True),)
            kinds = ((DEVICE, identity.devices), (DEVICE_NAME, identity.names))
            return [Draft(kind, device_id, None) for kind, of_devices in kinds if device_id in of_devices]

        await self._identities.change(user_id, change)
        await self._one_time_keys.forget(user_id, device_id)
        await self._queue.forget(await self._users.get(user_id), device_id)


def deleted() -> MatrixError:
    return not_found("The device has been deleted")


def counting_signatures(identity: Identity, keys: JsonObject) -> dict[str, str]:
    """The owner's signatures on device keys that say something: the device's own, and by cross-signing.

    Raises 400 M_INVALID_SIGNATURE for a wrong one of the latter.
    """
    own = f"ed25519:{keys['device_id']}"
    signatures: dict[str, str] = {}
    cross_signing = {k.key_id: k.public_key for u, k in identity.keys.items() if u in (MASTER, SELF_SIGNING)}
    for signer, signature in signatures_by(keys, identity.user_id).items():
        if signer in cross_signing:
            verify(keys, identity.user_id, signer, cross_signing[signer])
        elif signer != own:
            continue
        signatures[signer] = signature
    return signatures


def _failures_json(failures: Mapping[str, str]) -> bytes:
    """Why servers did not answer."""
    return orjson.dumps({server: {"status": 503, "error": error} for server, error in failures.items()})
