"""Event ids as they lie in the file: 32 bytes for the hashes of room versions 4 and later, text otherwise.

A packed id is found by its first eight bytes (`EVENT_PREFIX`, `TARGET_PREFIX` in `schema`), which is
as selective as the whole for a hash and keeps the indexes small; text is indexed whole, since whoever
made it may have chosen any prefix.
"""

from binascii import Error, a2b_base64, b2a_base64

Packed = bytes | str

PREFIX_BYTES = 8

# "+" and "/" are not of the URL-safe alphabet: they become something that no hash has.
_FROM_URL_SAFE = bytes.maketrans(b"-_+/", b"+/!!")
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def pack(event_id: str) -> Packed:
    """The stored form: exactly one for each id, and `unpack` gives the id back."""
    if len(event_id) == 44 and event_id[0] == "$" and event_id.isascii():
        text = event_id[1:].encode("ascii").translate(_FROM_URL_SAFE) + b"="
        try:
            packed = a2b_base64(text)
        except Error:
            return event_id
        # Characters that were skipped, or the two spare bits of the last one, would be lost.
        if b2a_base64(packed, newline=False) == text:
            return packed
    return event_id


def unpack(packed: Packed) -> str:
    if isinstance(packed, str):
        return packed
    return "$" + b2a_base64(packed, newline=False).translate(_TO_URL_SAFE, b"=").decode("ascii")


def prefix(packed: Packed) -> Packed:
    """What the id is indexed by."""
    return packed if isinstance(packed, str) else packed[:PREFIX_BYTES]
