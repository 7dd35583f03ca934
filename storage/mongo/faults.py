"""What the driver's errors mean to the callers of the port."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pymongo.errors import (
    BulkWriteError,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

from storage.errors import OutcomeUnknown, StoreRefused, StoreUnavailable

DUPLICATE_KEY = 11000
REFUSED = frozenset({13, 18, 8000})
"""Unauthorized, AuthenticationFailed, and what a hosted service says instead."""


@contextmanager
def reading() -> Iterator[None]:
    """Turns the driver's errors into the port's, in an operation that changes nothing."""
    try:
        yield
    except PyMongoError as error:
        raise unavailable(error) from error


@contextmanager
def writing() -> Iterator[None]:
    """The same in one that writes, which may have been done although it failed."""
    try:
        yield
    except PyMongoError as error:
        raise (unavailable if was_not_sent(error) else outcome_unknown)(error) from error


def was_not_sent(error: PyMongoError) -> bool:
    """Whether the server cannot have seen the operation."""
    return isinstance(error, (ServerSelectionTimeoutError, WaitQueueTimeoutError, InvalidOperation))


def duplicate(error: PyMongoError) -> Mapping[str, Any] | None:
    """What the server says of the unique value that a write was refused for; None if that is not the reason.

    The documents before the refused one are stored, and acknowledged like a write that succeeded.
    """
    if isinstance(error, BulkWriteError):
        refused = error.details["writeErrors"][-1:]
        confirmed = not error.details["writeConcernErrors"]
        return refused[0] if confirmed and refused and refused[0]["code"] == DUPLICATE_KEY else None
    return error.details if isinstance(error, DuplicateKeyError) else None


def unavailable(error: PyMongoError) -> StoreUnavailable:
    return StoreUnavailable(f"MongoDB cannot do it now: {said(error)}")


def outcome_unknown(error: PyMongoError) -> OutcomeUnknown:
    return OutcomeUnknown(f"MongoDB did not confirm it: {said(error)}")


def opening_error(error: PyMongoError, where: str) -> StoreRefused | StoreUnavailable:
    """Why the store at `where` cannot be opened, and what to do about it."""
    code = error.code if isinstance(error, OperationFailure) else None
    if code in REFUSED:
        return StoreRefused(
            f"MongoDB at {where} does not let Weft in: storage.uri must name a user, a password and their "
            f"authSource, and the user needs the roles readWrite and dbAdmin on the database ({said(error)})"
        )
    if isinstance(error, OperationFailure):
        return StoreUnavailable(f"MongoDB at {where} cannot be set up: {said(error)}")
    return StoreUnavailable(
        f"MongoDB at {where} cannot be reached: start it, or correct storage.uri ({said(error)})"
    )


def no_primary(where: str) -> StoreUnavailable:
    """A replica set that is not one yet, or has lost its majority."""
    return StoreUnavailable(
        f"MongoDB at {where} answers, and has no primary: if its replica set is new, give rs.initiate() in "
        "mongosh, else bring back its other members (rs.status() names them)"
    )


def said(error: PyMongoError) -> str:
    """The gist of the driver's message, which can run to a page, as one line."""
    details = getattr(error, "details", None)
    message = details.get("errmsg") if isinstance(details, dict) else None
    text = str(message or error)
    return text.partition(", Timeout:")[0].partition(", full error:")[0].replace("\n", " ")
