"""What other servers answer about the keys of their users, read.

It is taken for their own users only, and only where it has the form and the sizes that uploads here have to
have; the rest is passed over. Signatures are left for those to check who encrypt.

spec: server-server "Device Management", "End-to-End Encryption"
"""

from collections.abc import Mapping, Sequence

from homeserver.e2ee.identities import Copy
from homeserver.e2ee.key_objects import (
    MASTER,
    SELF_SIGNING,
    body_of,
    check_cross_signing_key,
    check_device_keys,
    check_named_keys,
    signatures_by,
    with_signatures,
)
from homeserver.e2ee.key_servers import NoAnswer, Wanted
from homeserver.e2ee.one_time_keys import Claimed
from homeserver.errors import MatrixError
from homeserver.protocol.canonical_json import MAX_INT
from homeserver.protocol.json_types import JsonObject, JsonValue

MAX_DEVICES = 1_000
"""Of one user; servers may tell of more."""
MAX_NAME = 255
"""Characters of a device's name."""


def copy_of_list(user_id: str, answer: JsonObject) -> Copy:
    """What an answer to `devices` says. Raises NoAnswer unless it is about the user, with a number."""
    stream_id, listed = answer.get("stream_id"), answer.get("devices")
    if (
        answer.get("user_id") != user_id
        or type(stream_id) is not int
        or abs(stream_id) > MAX_INT
        or not isinstance(listed, list)
    ):
        raise NoAnswer("The answer is no list of the user's devices")
    devices: dict[str, JsonObject] = {}
    names: dict[str, str] = {}
    for device in listed[:MAX_DEVICES]:
        device_id = device.get("device_id") if isinstance(device, dict) else None
        if isinstance(device_id, str):
            keep_device(devices, names, user_id, device_id, device.get("keys"))
            keep_name(devices, names, device_id, device.get("device_display_name"))
    keys = cross_signing_keys(user_id, answer.get("master_key"), answer.get("self_signing_key"))
    return Copy(True, stream_id, devices, names, keys)


def copies_of_query(user_ids: Sequence[str], answer: JsonObject) -> dict[str, Copy]:
    """What an answer to `query` says of each of the users who were asked about."""
    listed, masters, others = (
        _object(answer.get(name)) for name in ("device_keys", "master_keys", "self_signing_keys")
    )
    copies = {}
    for user_id in user_ids:
        devices: dict[str, JsonObject] = {}
        names: dict[str, str] = {}
        for device_id, keys in list(_object(listed.get(user_id)).items())[:MAX_DEVICES]:
            keep_device(devices, names, user_id, device_id, keys)
        cross_signing = cross_signing_keys(user_id, masters.get(user_id), others.get(user_id))
        copies[user_id] = Copy(True, None, devices, names, cross_signing)
    return copies


def keep_device(
    devices: dict[str, JsonObject], names: dict[str, str], user_id: str, device_id: str, keys: JsonValue
) -> None:
    """Take what a server says of a device in place of what was known; without keys that will do, nothing."""
    devices.pop(device_id, None)
    names.pop(device_id, None)
    if not isinstance(keys, dict) or len(devices) >= MAX_DEVICES:
        return
    try:
        devices[device_id] = check_device_keys(keys, user_id, device_id)
    except MatrixError:
        return
    keep_name(devices, names, device_id, _object(keys.get("unsigned")).get("device_display_name"))


def keep_name(
    devices: Mapping[str, JsonObject], names: dict[str, str], device_id: str, name: JsonValue
) -> None:
    if device_id in devices and isinstance(name, str):
        names[device_id] = name[:MAX_NAME]


def cross_signing_keys(user_id: str, master: JsonValue, self_signing: JsonValue) -> dict[str, JsonObject]:
    """Those of the keys that are keys of the user, with the user's own signatures."""
    keys: dict[str, JsonObject] = {}
    for usage, told in ((MASTER, master), (SELF_SIGNING, self_signing)):
        try:
            if isinstance(told, dict):
                json = check_cross_signing_key(told, usage, user_id).json
                own = signatures_by(json, user_id)
                keys[usage] = with_signatures(body_of(json), user_id, own) if own else body_of(json)
        except MatrixError:
            continue
    return keys


def claimed_of(wanted: Wanted, answer: JsonObject) -> Claimed:
    """The JSON of the keys that were asked for, by user, device and `algorithm:key_id`."""
    users = _object(answer.get("one_time_keys"))
    claimed: Claimed = {}
    for user_id, devices in wanted.items():
        for device_id, algorithm in devices.items():
            told = _object(_object(users.get(user_id)).get(device_id))
            try:
                keys = check_named_keys(told, "keys", most=1)
            except MatrixError:
                continue
            for key in keys:
                if key.algorithm == algorithm:
                    claimed.setdefault(user_id, {})[device_id] = {key.name: key.json}
    return claimed


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}
