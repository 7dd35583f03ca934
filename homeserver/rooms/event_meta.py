"""The server's own notes on an EVENT entry (`Entry.meta`); short names, since every event carries them."""

import msgspec


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
    base: int | None = msgspec.field(default=None, name="b")
    """The state before the event, where that is not the room's at the position before: the room's at this
    one, but for `delta`."""
    delta: tuple[tuple[str, str, str | None], ...] = msgspec.field(default=(), name="s")
    """Type, state key, and the event there (None: none)."""
    state_key: str | None = msgspec.field(default=None, name="y")
    """Of a state event that did not become current, when it came, under this state key."""
    relay: bool = msgspec.field(default=False, name="o")
    """Another server's event that came into the room by this one, which tells the others in the room."""


_decoder = msgspec.json.Decoder(EventMeta)
_encoder = msgspec.json.Encoder()
_EMPTY = EventMeta()


def decode_meta(raw: bytes) -> EventMeta:
    return _decoder.decode(raw) if raw else _EMPTY


def encode_meta(meta: EventMeta) -> bytes:
    raw = _encoder.encode(meta)
    return b"" if raw == b"{}" else raw
