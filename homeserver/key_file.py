"""The file with the key that signs this server's events and requests.

One line, `ed25519 <version> <unpadded base64 of the seed>`: the form other homeservers use too, so a server
that moves to Weft can bring its key along. Whoever has this key can speak in the server's name.
"""

import os
import secrets
import string
from pathlib import Path

from homeserver.protocol.signing import ALGORITHM, SigningKey, decode_base64, encode_base64


class KeyFileError(Exception):
    """The key file cannot be used; the message says why and what to do."""


def load_or_create(path: Path) -> SigningKey:
    """The key in the file at `path`; a new one is made, readable by its owner alone, if there is no file.

    Raises KeyFileError when the file is open to everybody, is damaged, or cannot be read or written.
    """
    try:
        if not path.exists():
            _create(path)
        mode = path.stat().st_mode
        text = path.read_text("ascii")
    except UnicodeDecodeError as error:
        raise KeyFileError(_damaged(path)) from error
    except OSError as error:
        raise KeyFileError(
            f"cannot use the signing key {path}: {error.strerror}; "
            "the file and its folder have to belong to the server's user"
        ) from error
    if mode & 0o007:
        raise KeyFileError(f"every user of this machine can reach the signing key; run: chmod 600 {path}")
    try:
        algorithm, version, seed = text.split()
        if algorithm != ALGORITHM:
            raise ValueError(f"unknown algorithm {algorithm!r}")
        return SigningKey.from_seed(version, decode_base64(seed))
    except ValueError as error:
        raise KeyFileError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    return (
        f"the signing key {path} is damaged; restore it from a backup "
        f"(one line: {ALGORITHM} a_Xk3d <43 characters of base64>)"
    )


def _create(path: Path) -> None:
    """Write a new key under another name first, so that no half-written file is ever taken for the key."""
    version = "a_" + "".join(secrets.choice(string.ascii_letters) for _ in range(4))
    key = SigningKey.generate(version)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{ALGORITHM} {version} {encode_base64(key.seed)}\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
