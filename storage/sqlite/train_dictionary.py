"""Makes the compression dictionary: `python -m storage.sqlite.train_dictionary NUMBER` writes `NUMBER.zdict`.

The samples are invented: the shapes of events, with the entry's notes behind them, as they are common
in rooms and in users' logs; what is random in life (ids, hashes, signatures, ciphertext) is random here,
from a fixed seed. A released dictionary is never made anew: a better one gets the next number.
"""

import random
import sys
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import orjson
import zstandard

SAMPLES = 24_000
DICTIONARY_BYTES = 16 * 1024

_PROSE = """
the of and a to in is you that it he was for on are as with his they I at be this have from or one
had by word but not what all were we when your can said there use an each which she do how their if
will up other about out many then them these so some her would make like him into time has look two
more write go see number no way could people my than first water been call who oil its now find long
down day did get come made may part over new sound take only little work know place year live me
back give most very thanks yes ok good morning hello meeting tomorrow server release please update
https://example.org/ lol
"""
_WORDS = _PROSE.split()


class Samples:
    """Invented events; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._servers = [f"{self.text(1)}{n}.{tld}" for n in range(20) for tld in ("org", "com", "net")]
        self._servers += ["matrix.org", "example.org", "localhost"]
        self._users = [f"@{self._letters(7)}:{self._random.choice(self._servers)}" for _ in range(300)]
        self._rooms = [f"!{self._letters(18)}:{self._random.choice(self._servers)}" for _ in range(60)]

    def _letters(self, count: int) -> str:
        return "".join(self._random.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", k=count))

    def text(self, words: int) -> str:
        return " ".join(self._random.choices(_WORDS, k=words))

    def _base64(self, count: int) -> str:
        return b64encode(self._random.randbytes(count)).decode().rstrip("=")

    def event_id(self) -> str:
        return "$" + urlsafe_b64encode(self._random.randbytes(32)).decode().rstrip("=")

    def _ts(self) -> int:
        return self._random.randrange(1_600_000_000_000, 1_900_000_000_000)

    def _mxc(self) -> str:
        return f"mxc://{self._random.choice(self._servers)}/{self._letters(24)}"

    def device_id(self) -> str:
        return self._letters(10).upper()

    def meta(self) -> bytes:
        """The server's notes on an event: of a local sender's, or none."""
        roll = self._random.random()
        if roll < 0.4:
            return b""
        txn = self._random.choice((f"m{self._ts()}.{self._random.randrange(400)}", self._letters(20)))
        return orjson.dumps({"d": self.device_id(), "t": txn})

    def pdu(self, type: str, content: dict[str, Any], state_key: str | None = None, **more: Any) -> bytes:
        sender = self._random.choice(self._users)
        if state_key == "@":
            state_key = sender
        server = sender.split(":", 1)[1]
        event: dict[str, Any] = {
            "auth_events": [self.event_id() for _ in range(self._random.choice((2, 3, 3, 3, 4)))],
            "content": content,
            "depth": self._random.randrange(1, 300_000),
            "hashes": {"sha256": self._base64(32)},
            "origin_server_ts": self._ts(),
            "prev_events": [self.event_id() for _ in range(self._random.choice((1, 1, 1, 1, 2)))],
            "room_id": self._random.choice((*self._rooms, self.event_id().replace("$", "!"))),
            "sender": sender,
            "signatures": {
                server: {f"ed25519:{self._letters(4 + self._random.randrange(4))}": self._base64(64)}
            },
            "type": type,
            **more,
        }
        if state_key is not None:
            event["state_key"] = state_key
        return orjson.dumps(event, option=orjson.OPT_SORT_KEYS)

    def message(self) -> bytes:
        content: dict[str, Any] = {"body": self.text(self._random.randrange(1, 25)), "msgtype": "m.text"}
        roll = self._random.random()
        if roll < 0.35:
            content["m.mentions"] = {}
        elif roll < 0.5:
            content["format"] = "org.matrix.custom.html"
            content["formatted_body"] = f"<p>{content['body']} <strong>{self.text(2)}</strong></p>"
            content["m.mentions"] = {"user_ids": [self._random.choice(self._users)]}
        elif roll < 0.6:
            content["m.relates_to"] = {"m.in_reply_to": {"event_id": self.event_id()}}
            content["m.mentions"] = {"user_ids": [self._random.choice(self._users)]}
        elif roll < 0.68:
            content["m.new_content"] = {"body": self.text(8), "m.mentions": {}, "msgtype": "m.text"}
            content["m.relates_to"] = {"event_id": self.event_id(), "rel_type": "m.replace"}
        elif roll < 0.76:
            content["m.relates_to"] = {
                "event_id": self.event_id(),
                "is_falling_back": True,
                "m.in_reply_to": {"event_id": self.event_id()},
                "rel_type": "m.thread",
            }
        elif roll < 0.82:
            width, height = self._random.randrange(100, 4000), self._random.randrange(100, 4000)
            content |= {
                "body": f"IMG_{self._random.randrange(10_000)}.jpg",
                "filename": "image.png",
                "info": {
                    "h": height,
                    "w": width,
                    "mimetype": self._random.choice(("image/jpeg", "image/png", "image/webp")),
                    "size": self._random.randrange(10_000, 5_000_000),
                    "thumbnail_info": {"h": 600, "w": 800, "mimetype": "image/jpeg", "size": 60_000},
                    "thumbnail_url": self._mxc(),
                    "xyz.amorgan.blurhash": self._letters(28),
                },
                "msgtype": self._random.choice(("m.image", "m.file", "m.video", "m.audio")),
                "url": self._mxc(),
            }
        elif roll < 0.86:
            content["msgtype"] = self._random.choice(("m.notice", "m.emote"))
        return self.pdu("m.room.message", content) + self.meta()

    def encrypted(self) -> bytes:
        content: dict[str, Any] = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "ciphertext": "AwgA" + self._base64(self._random.randrange(140, 500)),
            "device_id": self.device_id(),
            "sender_key": self._base64(32),
            "session_id": self._base64(32),
        }
        if self._random.random() < 0.2:
            content["m.relates_to"] = {"event_id": self.event_id(), "rel_type": "m.thread"}
        return self.pdu("m.room.encrypted", content) + self.meta()

    def reaction(self) -> bytes:
        key = self._random.choice(("👍", "👍️", "❤️", "😂", "🎉", "👀", "✅"))
        relation = {"event_id": self.event_id(), "key": key, "rel_type": "m.annotation"}
        return self.pdu("m.reaction", {"m.relates_to": relation}) + self.meta()

    def redaction(self) -> bytes:
        redacts = self.event_id()
        return self.pdu("m.room.redaction", {"reason": self.text(3), "redacts": redacts}) + self.meta()

    def member(self) -> bytes:
        membership = self._random.choices(("join", "leave", "invite", "ban", "knock"), (8, 3, 3, 1, 1))[0]
        content: dict[str, Any] = {"membership": membership}
        if membership != "leave":
            content["displayname"] = self.text(2).title()
            content["avatar_url"] = self._mxc() if self._random.random() < 0.7 else None
        elif self._random.random() < 0.2:
            content["reason"] = self.text(4)
        key = "@" if membership in ("join", "knock") else self._random.choice(self._users)
        notes = b'{"r":%d}' % self._random.randrange(100_000) if self._random.random() < 0.5 else self.meta()
        return self.pdu("m.room.member", content, key) + notes

    def state(self) -> bytes:
        users = dict.fromkeys(self._random.choices(self._users, k=3), 100)
        events = {
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.encryption": 100,
            "m.room.history_visibility": 100,
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": 100,
        }
        levels = {
            "ban": 50,
            "events": events,
            "events_default": 0,
            "historical": 100,
            "invite": 0,
            "kick": 50,
            "redact": 50,
            "state_default": 50,
            "users": users,
            "users_default": 0,
        }
        kinds: list[tuple[str, dict[str, Any]]] = [
            ("m.room.create", {"room_version": self._random.choice(("10", "11", "12"))}),
            ("m.room.power_levels", levels),
            ("m.room.join_rules", {"join_rule": self._random.choice(("invite", "public", "knock"))}),
            ("m.room.history_visibility", {"history_visibility": self._random.choice(("shared", "joined"))}),
            ("m.room.guest_access", {"guest_access": self._random.choice(("can_join", "forbidden"))}),
            ("m.room.name", {"name": self.text(3)}),
            ("m.room.topic", {"topic": self.text(9), "m.topic": {"m.text": [{"body": self.text(9)}]}}),
            ("m.room.avatar", {"url": self._mxc()}),
            ("m.room.canonical_alias", {"alias": f"#{self.text(1)}:{self._random.choice(self._servers)}"}),
            ("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}),
            ("m.space.child", {"via": [self._random.choice(self._servers)], "order": self._letters(3)}),
        ]
        type, content = self._random.choice(kinds)
        return self.pdu(type, content, "") + self.meta()

    def small(self) -> bytes:
        """Bodies of the other kinds of entries."""
        room = self._random.choice(self._rooms)
        push_rule = {
            "actions": ["notify", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}],
            "conditions": [{"kind": "event_match", "key": "content.body", "pattern": self.text(1)}],
            "default": False,
            "enabled": True,
            "rule_id": room,
        }
        olm = {
            "algorithm": "m.olm.v1.curve25519-aes-sha2",
            "ciphertext": {self._base64(32): {"body": self._base64(300), "type": 0}},
            "org.matrix.msgid": self._letters(32),
            "sender_key": self._base64(32),
        }
        to_device = {"content": olm, "sender": self._random.choice(self._users), "type": "m.room.encrypted"}
        request = {
            "content": {
                "action": "request",
                "body": {
                    "algorithm": "m.megolm.v1.aes-sha2",
                    "room_id": room,
                    "sender_key": self._base64(32),
                    "session_id": self._base64(32),
                },
                "request_id": f"m{self._ts()}.1",
                "requesting_device_id": self.device_id(),
            },
            "sender": self._random.choice(self._users),
            "type": "m.room_key_request",
        }
        values: list[dict[str, Any]] = [
            {"ts": self._ts(), "thread_id": "main"},
            {"event_id": self.event_id()},
            {"tags": {"m.favourite": {"order": 0.5}}},
            {self._random.choice(self._users): [room, self._random.choice(self._rooms)]},
            {"global": {"override": [push_rule], "content": [], "room": [push_rule], "sender": []}},
            to_device,
            to_device,
            request,
        ]
        return orjson.dumps(self._random.choice(values))

    def any(self) -> bytes:
        kinds = (
            self.message,
            self.encrypted,
            self.member,
            self.reaction,
            self.redaction,
            self.state,
            self.small,
        )
        return self._random.choices(kinds, (40, 20, 14, 8, 2, 8, 8))[0]()


def main() -> None:
    number = int(sys.argv[1])
    samples = Samples(number)
    trained = zstandard.train_dictionary(
        DICTIONARY_BYTES, [samples.any() for _ in range(SAMPLES)], k=500, d=8, level=3
    )
    path = Path(__file__).parent / "dictionaries" / f"{number}.zdict"
    path.write_bytes(trained.as_bytes())
    print(f"{path}: {len(trained.as_bytes())} bytes")


if __name__ == "__main__":
    main()
