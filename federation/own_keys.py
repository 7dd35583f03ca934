"""What this server says of its own keys (spec: server-server#publishing-keys)."""

from collections.abc import Mapping, Sequence

from homeserver.clock import Clock
from homeserver.protocol.json_types import JsonObject
from homeserver.protocol.signing import SigningKey, VerifyKey, sign_json
from storage.records.server_key import RetiredKey

VALID_MS = 24 * 3600 * 1000
"""Others ask again after a day: as long as it takes until all have heard of a key that was replaced."""


class OwnKeys:
    """The key that signs now, and those that did."""

    def __init__(self, server_name: str, key: SigningKey, retired: Sequence[RetiredKey], now: Clock) -> None:
        self.server_name = server_name
        self._key = key
        self._retired = retired
        self._now = now
        self._answer: JsonObject = {}
        self._renew_at = 0

    def answer(self) -> JsonObject:
        """The body of /_matrix/key/v2/server, which holds for half a day at least."""
        now = self._now()
        if now >= self._renew_at:
            self._renew_at = now + VALID_MS // 2
            # Ordered as canonical JSON is, for those who check the signature of what they got as it came.
            self._answer = self.signed(
                {
                    "old_verify_keys": {
                        old.key_id: {"expired_ts": old.expired, "key": old.verify_key}
                        for old in sorted(self._retired, key=lambda old: old.key_id)
                    },
                    "server_name": self.server_name,
                    "valid_until_ts": now + VALID_MS,
                    "verify_keys": {self._key.key_id: {"key": self._key.verify_key_base64}},
                }
            )
        return self._answer

    def signed(self, content: JsonObject) -> JsonObject:
        """With this server's signature."""
        return sign_json(content, self.server_name, self._key)

    def verify_keys(self) -> Mapping[str, VerifyKey]:
        """By which this server's own events are checked when they come back to it."""
        return {
            **{old.key_id: VerifyKey(old.verify_key, old.expired) for old in self._retired},
            self._key.key_id: VerifyKey(self._key.verify_key_base64),
        }
