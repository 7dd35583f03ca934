"""The errors that the domain raises and every API answers with (spec: "Standard error response").

MatrixError carries the HTTP status, the errcode and a sentence for people; the constructors below
name the common ones, so that the same fault has the same answer on every path.
"""

from typing import Any


class MatrixError(Exception):
    """An error that is told to the client as it is: `status`, `errcode`, `error` and extra fields."""

    def __init__(self, status: int, errcode: str, error: str, **extra: Any) -> None:
        super().__init__(f"{status} {errcode}: {error}")
        self.status = status
        self.errcode = errcode
        self.error = error
        self.extra = extra


def forbidden(error: str) -> MatrixError:
    return MatrixError(403, "M_FORBIDDEN", error)


def not_found(error: str) -> MatrixError:
    return MatrixError(404, "M_NOT_FOUND", error)


def invalid_param(error: str) -> MatrixError:
    return MatrixError(400, "M_INVALID_PARAM", error)


def missing_param(error: str) -> MatrixError:
    return MatrixError(400, "M_MISSING_PARAM", error)


def bad_json(error: str) -> MatrixError:
    return MatrixError(400, "M_BAD_JSON", error)


def too_large(error: str) -> MatrixError:
    return MatrixError(413, "M_TOO_LARGE", error)


def no_identity_server() -> MatrixError:
    """Of requests that concern somebody who is known by an e-mail address or a phone number only."""
    return MatrixError(400, "M_SERVER_NOT_TRUSTED", "This server works with no identity server")


def limit_exceeded(retry_after_ms: int) -> MatrixError:
    return MatrixError(429, "M_LIMIT_EXCEEDED", "Too many requests", retry_after_ms=retry_after_ms)


def unavailable(error: str, retry_after_ms: int = 1000) -> MatrixError:
    """The server cannot do it now (store full, queue full); trying again later may help."""
    return MatrixError(503, "M_UNKNOWN", error, retry_after_ms=retry_after_ms)
