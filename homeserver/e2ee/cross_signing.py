"""Cross-signing keys and signatures: checked against the keys that are known, then published.

spec: client-server "Cross-signing", POST /keys/device_signing/upload, POST /keys/signatures/upload
"""

from collections.abc import Mapping, Sequence

from homeserver.e2ee.identities import CROSS_SIGNING, DEVICE, SIGNATURE, Draft, Identities, Identity
from homeserver.e2ee.key_objects import (
    MASTER,
    SELF_SIGNING,
    USAGES,
    USER_SIGNING,
    CrossSigningKey,
    body_of,
    check_cross_signing_key,
    invalid_signature,
    signatures_by,
    too_many,
    verify,
    with_signatures,
)
from homeserver.errors import MatrixError, forbidden, invalid_param, missing_param, not_found
from homeserver.protocol.json_types import JsonObject
from storage.collection import Collection
from storage.records.accounts import Device

MAX_SIGNED_OBJECTS = 500
"""In one upload of signatures."""
MAX_SIGNED_USERS = 10_000
"""Whose master keys one user may have signed."""

NewKeys = Mapping[str, CrossSigningKey]
"""By usage."""


class CrossSigning:
    """Publishes cross-signing keys and signatures of local users."""

    def __init__(self, identities: Identities, devices: Collection[Device]) -> None:
        self._identities = identities
        self._devices = devices

    # Keys

    async def needs_authorisation(self, user_id: str, uploaded: Mapping[str, JsonObject]) -> bool:
        """Whether this upload would change keys that the user has. Raises 400 for malformed ones."""
        keys = _check_all(user_id, uploaded)
        return _changes_keys(await self._identities.get(user_id), keys)

    async def upload(self, user_id: str, uploaded: Mapping[str, JsonObject], *, authorised: bool) -> None:
        """Publish cross-signing keys, by usage.

        Raises 400 M_INVALID_SIGNATURE unless the master key signed the others, M_MISSING_PARAM when
        there is none, 403 when a public key is a device's id, or when keys that are there would be
        changed and the user was not asked.
        """
        keys = _check_all(user_id, uploaded)
        for key in keys.values():
            if await self._devices.get(user_id, key.public_key) is not None:
                raise forbidden("Key ID in use")

        def change(identity: Identity) -> Sequence[Draft]:
            if not authorised and _changes_keys(identity, keys):
                raise forbidden("The cross-signing keys have been changed meanwhile")
            published = _published(identity, keys)
            if published == identity.keys:
                return ()
            content = {usage: key.json for usage, key in published.items()}
            return (Draft(CROSS_SIGNING, "", content),)

        await self._identities.change(user_id, change)

    async def check_device_id(self, user_id: str, device_id: str) -> None:
        """Raises 403 for the id of a new device that is one of the user's cross-signing keys."""
        keys = (await self._identities.get(user_id)).keys
        if any(key.public_key == device_id for key in keys.values()):
            raise forbidden("The device id is a cross-signing key")

    async def forget(self, user_id: str) -> None:
        """Withdraw the keys of a user who is gone."""

        def change(identity: Identity) -> Sequence[Draft]:
            return (Draft(CROSS_SIGNING, "", None),) if identity.keys else ()

        await self._identities.change(user_id, change)

    # Signatures

    async def sign(
        self, user_id: str, signed: Mapping[str, Mapping[str, JsonObject]]
    ) -> dict[str, dict[str, JsonObject]]:
        """Publish a user's signatures on keys, by owner and key (or device) id.

        Returns the errors of those that failed, by owner and key. Raises 400 for too many.
        """
        if sum(map(len, signed.values())) > MAX_SIGNED_OBJECTS:
            raise too_many(f"At most {MAX_SIGNED_OBJECTS} signed keys at once")
        failures: dict[str, dict[str, JsonObject]] = {}
        # Whom nothing is signed of need not be looked up: they may be very many.
        signed = {owner: objects for owner, objects in signed.items() if objects}
        identities = await self._identities.newest(list(signed))

        def change(identity: Identity) -> Sequence[Draft]:
            failures.clear()
            signing = _Signing(identity)
            for owner, objects in signed.items():
                for key_id, key in objects.items():
                    try:
                        if owner == user_id:
                            signing.sign_own(key_id, key)
                        else:
                            signing.sign_other(identities[owner], key_id, key)
                    except MatrixError as error:
                        failure = {"errcode": error.errcode, "error": error.error}
                        failures.setdefault(owner, {})[key_id] = failure
            return signing.drafts()

        await self._identities.change(user_id, change)
        return failures


def _check_all(user_id: str, uploaded: Mapping[str, JsonObject]) -> NewKeys:
    return {usage: check_cross_signing_key(key, usage, user_id) for usage, key in uploaded.items()}


def _changes_keys(identity: Identity, keys: NewKeys) -> bool:
    """Whether the user has a master key, and the upload holds any other key than those that are there.

    spec: POST /keys/device_signing/upload, "User-Interactive Authentication MUST be performed …"
    """
    if MASTER not in identity.keys:
        return False
    for usage, key in keys.items():
        present = identity.keys.get(usage)
        if present is None or body_of(present.json) != body_of(key.json):
            return True
    return False


def _published(identity: Identity, keys: NewKeys) -> dict[str, CrossSigningKey]:
    """All of the user's keys after an upload, each with the signatures that count."""
    user_id = identity.user_id
    master = keys.get(MASTER, identity.keys.get(MASTER))
    if master is None:
        raise missing_param("There is no master key")
    published: dict[str, CrossSigningKey] = {}
    for usage in USAGES:
        key = keys.get(usage)
        present = identity.keys.get(usage)
        if key is None:
            # What another master key has signed is worth nothing.
            if present is not None and (usage == MASTER or MASTER not in keys or _same(master, identity)):
                published[usage] = present
        elif usage == MASTER:
            signatures = _device_signatures(identity, key)
            if present is not None and body_of(present.json) == body_of(key.json):
                signatures = {**signatures_by(present.json, user_id), **signatures}
            published[usage] = _with_only(key, user_id, signatures)
        else:
            verify(key.json, user_id, master.key_id, master.public_key)
            signature = signatures_by(key.json, user_id)[master.key_id]
            published[usage] = _with_only(key, user_id, {master.key_id: signature})
    return published


def _same(master: CrossSigningKey, identity: Identity) -> bool:
    present = identity.keys.get(MASTER)
    return present is not None and present.public_key == master.public_key


def _with_only(key: CrossSigningKey, user_id: str, signatures: Mapping[str, str]) -> CrossSigningKey:
    """The key with these signatures and no others."""
    json = body_of(key.json)
    return key._replace(json=with_signatures(json, user_id, signatures) if signatures else json)


def _device_signatures(identity: Identity, master: CrossSigningKey) -> dict[str, str]:
    """The signatures of the user's devices on the master key. Raises 400 for a wrong one.

    Those by keys that nobody knows prove nothing and are left out.
    """
    found: dict[str, str] = {}
    for signer, signature in signatures_by(master.json, identity.user_id).items():
        public_key = _device_key(identity, signer)
        if public_key is not None:
            verify(master.json, identity.user_id, signer, public_key)
            found[signer] = signature
    return found


def _device_key(identity: Identity, signer: str) -> str | None:
    """The public key that one of the user's devices signs with under this id."""
    device = identity.device(signer.removeprefix("ed25519:"))
    found = device["keys"].get(signer) if device is not None else None
    return found if isinstance(found, str) else None


class _Signing:
    """Signatures of one user in the making, on top of what the user has published."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._user_id = identity.user_id
        self._devices: dict[str, JsonObject] = {}
        self._master: JsonObject | None = None
        self._others: dict[str, JsonObject] = {}

    def sign_own(self, key_id: str, key: JsonObject) -> None:
        """One of the user's devices, signed by the self-signing key, or the master key, by devices.

        Raises 400 M_INVALID_SIGNATURE, 404 for a key that the user does not have.
        """
        master = self._identity.keys.get(MASTER)
        if master is not None and key_id == master.public_key:
            _check_same(key, master.json)
            signatures = _device_signatures(self._identity, CrossSigningKey(key, key_id))
            if not signatures:
                raise invalid_signature("None of your devices signed your master key")
            self._master = with_signatures(master.json, self._user_id, signatures)
            return
        device = self._devices.get(key_id) or self._identity.device(key_id)
        if device is None:
            raise not_found("You have no such device or key")
        _check_same(key, device)
        signer = self._signer(SELF_SIGNING)
        signature = self._signature(key, signer)
        own = f"ed25519:{key_id}"
        kept = {id: text for id, text in signatures_by(device, self._user_id).items() if id == own}
        signatures = {**kept, signer.key_id: signature}
        self._devices[key_id] = {**body_of(device), "signatures": {self._user_id: signatures}}

    def sign_other(self, owner: Identity, key_id: str, key: JsonObject) -> None:
        """Another user's master key, signed by the user-signing key. Raises as `sign_own`."""
        master = owner.keys.get(MASTER)
        if master is None or key_id != master.public_key:
            raise not_found("The user has no such master key")
        _check_same(key, master.json)
        signer = self._signer(USER_SIGNING)
        signature = self._signature(key, signer)
        signed = self._identity.signed
        if owner.user_id not in signed and len(signed) + len(self._others) >= MAX_SIGNED_USERS:
            raise too_many(f"You may sign the keys of {MAX_SIGNED_USERS} users at most")
        self._others[owner.user_id] = {"key_id": master.key_id, "signatures": {signer.key_id: signature}}

    def drafts(self) -> list[Draft]:
        """What to publish: only what is not there already."""
        identity = self._identity
        drafts = [
            Draft(DEVICE, device_id, device)
            for device_id, device in self._devices.items()
            if device != identity.device(device_id)
        ]
        if self._master is not None and self._master != identity.keys[MASTER].json:
            keys = {usage: key.json for usage, key in identity.keys.items()}
            drafts.append(Draft(CROSS_SIGNING, "", {**keys, MASTER: self._master}))
        for owner, signed in self._others.items():
            if signed != identity.signed.get(owner):
                drafts.append(Draft(SIGNATURE, owner, signed))
        return drafts

    def _signer(self, usage: str) -> CrossSigningKey:
        key = self._identity.keys.get(usage)
        if key is None:
            raise invalid_signature(f"You have no {usage} key")
        return key

    def _signature(self, key: JsonObject, signer: CrossSigningKey) -> str:
        verify(key, self._user_id, signer.key_id, signer.public_key)
        return signatures_by(key, self._user_id)[signer.key_id]


def _check_same(key: JsonObject, known: JsonObject) -> None:
    """Raises 400 unless the signed object is the key that is known, apart from signatures."""
    if body_of(key) != body_of(known):
        raise invalid_param("The signed key is not the one that is known")
