"""What can go wrong between servers.

FederationError
├── Refused           the configuration, or good sense, says that this server is not to be talked to
├── Unreachable       no answer came; it may be elsewhere, away, or silent
│   └── BackingOff    it did not answer lately, so it was not asked
├── RemoteError       the answer is an error
└── InvalidAnswer     the answer is none that the protocol knows
    └── TooLongAnswer     it has more bytes than wanted
"""

from homeserver.protocol.json_types import JsonObject

MAX_ERRCODE = 255
MAX_ERROR = 1000


class FederationError(Exception):
    """Base of all; `destination` is the server that was to be asked."""

    def __init__(self, destination: str, reason: str) -> None:
        super().__init__(f"{destination}: {reason}")
        self.destination = destination
        self.reason = reason


class Refused(FederationError):
    """This server is not to be talked to."""


class Unreachable(FederationError):
    """No answer came. What was asked may still have been done, if the connection broke later."""


class BackingOff(Unreachable):
    """The server has not answered lately; it is asked again in `retry_after_ms` at the soonest."""

    def __init__(self, destination: str, retry_after_ms: int) -> None:
        super().__init__(destination, f"did not answer lately, is not asked for {retry_after_ms} ms")
        self.retry_after_ms = retry_after_ms


class RemoteError(FederationError):
    """An answer with a status other than 2xx; `errcode` is M_UNKNOWN where the other server gave none."""

    def __init__(self, destination: str, status: int, content: JsonObject) -> None:
        """`content`: what the answer says, empty if that is not JSON."""
        errcode, error = content.get("errcode"), content.get("error")
        self.errcode = errcode[:MAX_ERRCODE] if isinstance(errcode, str) else "M_UNKNOWN"
        self.error = error[:MAX_ERROR] if isinstance(error, str) else ""
        super().__init__(destination, f"{status} {self.errcode} {self.error}")
        self.status = status
        self.content = content


class InvalidAnswer(FederationError):
    """An answer that cannot be used."""


class TooLongAnswer(InvalidAnswer):
    """An answer of more bytes than wanted."""
