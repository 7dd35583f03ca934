"""Application services: programs that act for users of their own (spec: application-service "Registration").

Each is described by a registration file. They may register and log in users of theirs; events are not sent
to them yet.
"""

import hmac
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from homeserver.config.reading import ConfigError, Problem
from homeserver.errors import MatrixError

OPTION = "application_services"


class Namespace(msgspec.Struct, frozen=True):
    """Ids that a service is interested in; of exclusive ones nobody else may make any."""

    exclusive: bool
    regex: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ValueError(f"{self.regex!r} is no regular expression: {error}") from error

    def holds(self, id: str) -> bool:
        return re.match(self.regex, id) is not None


class Namespaces(msgspec.Struct, frozen=True):
    users: tuple[Namespace, ...] = ()


class ApplicationService(msgspec.Struct, frozen=True):
    """What a registration file says, as far as it is known here."""

    id: str
    as_token: str
    sender_localpart: str
    namespaces: Namespaces


class ApplicationServices:
    """Those that the configuration names."""

    def __init__(self, services: Iterable[ApplicationService], server_name: str) -> None:
        self._services = tuple(services)
        self._server_name = server_name

    def __bool__(self) -> bool:
        return bool(self._services)

    def of_token(self, token: str) -> ApplicationService | None:
        """The service that this is the token of."""
        found = None
        for service in self._services:
            if hmac.compare_digest(service.as_token.encode(), token.encode()):
                found = service
        return found

    def is_reserved(self, user_id: str, but_for: ApplicationService | None = None) -> bool:
        """Whether only a service, other than the given one, may make this user."""
        return any(
            user_id == self._sender(service)
            or any(namespace.exclusive and namespace.holds(user_id) for namespace in service.namespaces.users)
            for service in self._services
            if service is not but_for
        )

    def may_be(self, service: ApplicationService, user_id: str) -> bool:
        """Whether a service may act for a user: its own one, or one in its namespaces."""
        return user_id == self._sender(service) or any(
            namespace.holds(user_id) for namespace in service.namespaces.users
        )

    def _sender(self, service: ApplicationService) -> str:
        return f"@{service.sender_localpart}:{self._server_name}"


def exclusive() -> MatrixError:
    """For a service that asks for a user who is not its own."""
    return MatrixError(400, "M_EXCLUSIVE", "This user is not in the application service's namespaces")


def read_application_services(paths: Iterable[str]) -> list[ApplicationService]:
    """Raises ConfigError with a line for each file that cannot be used."""
    services: list[ApplicationService] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            service = msgspec.yaml.decode(Path(path).read_bytes(), type=ApplicationService)
        except OSError as error:
            problems.append(Problem(path, OPTION, f"cannot be read: {error.strerror}; correct the path"))
        except (msgspec.MsgspecError, ValueError) as error:
            problems.append(Problem(path, OPTION, f"is no registration file: {error}"))
        else:
            if any(service.id == other.id or service.as_token == other.as_token for other in services):
                problems.append(Problem(path, OPTION, "another file has the same id or as_token"))
            services.append(service)
    if problems:
        raise ConfigError(problems)
    return services
