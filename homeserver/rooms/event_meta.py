"""The server's own notes on an EVENT or STATE entry (`Entry.meta`); short names, as all events carry them."""

import msgspec


class Preview(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What somebody who is not in a room has been told of it, with an invite or upon a knock."""

    room_version: str = msgspec.field(name="v")
    server: str = msgspec.field(name="f")
    """Who told it."""
    state: tuple[msgspec.Raw, ...] = msgspec.field(default=(), name="s")
    """Stripped state events."""


class EventMeta(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Nothing here is ever shown as it is."""

    device_id: str | None = msgspec.field(default=None, name="d")
    """The sending device, with `txn_id`: only it is shown the transaction id."""
    txn_id: str | None = msgspec.field(default=None, name="t")
    replaces: int = msgspec.field(default=0, name="r")
    """Seq of the entry that was current under this state key before."""
    tips: tuple[str, ...] = msgspec.field(default=(), name="p")
    """The forward extremities after this event, when it is not the only one."""
    redacted_by: str | None = msgspec.field(default=None, name="x")
    """The redaction that pruned the body."""
    redacts_key: tuple[str, str] | None = msgspec.field(default=None, name="k")
    """Of a redaction: the state key under which the redacted event was set, so that it is found at once."""
    redacts: str | None = msgspec.field(default=None, name="n")
    """What a redaction redacts (empty: nothing), where it names something else first; see `named_target`."""
    base: int | None = msgspec.field(default=None, name="b")
    """The state before the event, where that is not the room's at the position before: the room's at this
    one, but for `delta`."""
    delta: tuple[tuple[str, str, str | None], ...] = msgspec.field(default=(), name="s")
    """Type, state key, and the event there (None: none)."""
    state_key: str | None = msgspec.field(default=None, name="y")
    """Of a state event that did not become current, when it came, under this state key."""
    setting: str | None = msgspec.field(default=None, name="h")
    """The room's history visibility before the event, where that is not the one at the position before."""
    newcomers: tuple[str, ...] = msgspec.field(default=(), name="u")
    """Who was in the room when the event came, and not by the state before it: they may not see it."""
    relay: bool = msgspec.field(default=False, name="o")
    """It is told by the server by way of which it came into the room, not by that of its sender: an event in
    the name of another server's user by this one, one of this server's users by another."""
    delay_id: str | None = msgspec.field(default=None, name="l")
    """Under which id the event waited to be sent; shown to its sender."""
    preview: Preview | None = msgspec.field(default=None, name="w")
    """Of a local user's membership of a room that this server is not in."""


_decoder = msgspec.json.Decoder(EventMeta)
_encoder = msgspec.json.Encoder()
_EMPTY = EventMeta()


def decode_meta(raw: bytes) -> EventMeta:
    return _decoder.decode(raw) if raw else _EMPTY


def encode_meta(meta: EventMeta) -> bytes:
    raw = _encoder.encode(meta)
    return b"" if raw == b"{}" else raw
