"""Files for TLS: read where they are needed, and tried before that to say what is wrong with them."""

import ssl
from pathlib import Path


class WrongFile(ValueError):
    """A file cannot be used; the message names it and says what to do."""


def served_with(certificate: str, key: str) -> ssl.SSLContext:
    """The server's side of TLS. Raises WrongFile."""
    for path in (certificate, key):
        _check_readable(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password of its own an encrypted key would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise WrongFile(f"{key} is not the key of {certificate}; name the two that go together") from None
        raise WrongFile(
            f"{certificate} and {key} cannot be used ({_reason(error)}); both must be PEM files, the first "
            "with the server's certificate at its head, the second with its key, not encrypted"
        ) from None
    return context


def trusting(authorities: str) -> ssl.SSLContext:
    """The client's side of TLS that believes these authorities alone. Raises WrongFile."""
    _check_readable(authorities)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise WrongFile(
            f"{authorities} holds no certificates ({_reason(error)}); it must be a PEM file"
        ) from None
    return context


def _check_readable(path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise WrongFile(
            f"cannot read {path}: {error.strerror}; name a file that the server's user can read"
        ) from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "not PEM").replace("_", " ").lower()
