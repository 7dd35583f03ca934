"""E-mail addresses and telephone numbers, each in the one form in which it is compared.

spec: appendices "3PID Types"
"""

import re
from typing import NamedTuple

from homeserver.errors import MatrixError, invalid_param

MAX_BYTES = 500
"""Of an e-mail address. None that is longer can be written to."""

_EMAIL = re.compile(r"[^\s<>]+@[^\s<>@]+")
_TELEPHONE = re.compile(r"[0-9]{1,15}")


class Address(NamedTuple):
    medium: str
    address: str


def canonical(medium: str, address: str) -> Address:
    """Raises 400 M_THREEPID_MEDIUM_NOT_SUPPORTED, and M_INVALID_PARAM for what is no address."""
    if medium == "email":
        folded = address.casefold()
        if _EMAIL.fullmatch(folded) and len(folded.encode()) <= MAX_BYTES:
            return Address(medium, folded)
        raise invalid_param("address: an e-mail address such as alice@example.org")
    if medium == "msisdn":
        number = address.removeprefix("+")
        if _TELEPHONE.fullmatch(number):
            return Address(medium, number)
        raise invalid_param("address: a telephone number of digits only, with the code of its country")
    raise MatrixError(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "medium: email or msisdn")
