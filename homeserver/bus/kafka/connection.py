"""How Kafka is reached: what all clients of it are given, and what is wrong when it is not."""

import logging
import ssl
from collections.abc import Mapping
from typing import Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import create_conn
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from homeserver.bus.bus import BusUnavailable
from homeserver.config.options import Bus as BusOptions

REQUEST_MS = 5_000
"""How long an answer of a broker is waited for."""
BACKOFF_MS = 250

# The library says at each attempt and for each connection that a broker is away: KafkaBus says it once.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class Connection(msgspec.Struct, frozen=True):
    """Some of the brokers, and how they are spoken to."""

    servers: tuple[str, ...]
    security: Mapping[str, Any] = {}

    @classmethod
    def of(cls, options: BusOptions) -> "Connection":
        """As configured. Raises BusUnavailable when the TLS files cannot be read."""
        servers = tuple(options.uri.removeprefix("kafka://").split(","))
        security: dict[str, Any] = {}
        if options.tls.enabled:
            security["ssl_context"] = _tls_context(options)
        if options.sasl.user is not None:
            security |= {
                "sasl_mechanism": options.sasl.mechanism,
                "sasl_plain_username": options.sasl.user,
                "sasl_plain_password": options.sasl.password,
            }
        protocol = "SSL" if options.tls.enabled else "PLAINTEXT"
        security["security_protocol"] = protocol if options.sasl.user is None else f"SASL_{protocol}"
        return cls(servers, security)

    def options(self, request_ms: int = REQUEST_MS) -> dict[str, Any]:
        """What every client of the library takes."""
        return {
            "bootstrap_servers": list(self.servers),
            "client_id": "weft",
            "request_timeout_ms": request_ms,
            "retry_backoff_ms": BACKOFF_MS,
            **self.security,
        }

    async def check(self) -> None:
        """Connect to one of the brokers. Raises BusUnavailable with what to do about it."""
        problem = ""
        for server in self.servers:
            host, _, port = server.rpartition(":")
            options: dict[str, Any] = {"request_timeout_ms": REQUEST_MS, **self.security}
            try:
                connection = await create_conn(host.strip("[]"), int(port), **options)
            except (OSError, TimeoutError, UnicodeError, KafkaError) as error:
                problem = f"{server}: {explained(error)}"
            else:
                connection.close()
                return
        raise BusUnavailable(problem)

    async def cluster(self) -> str:
        """What the brokers call themselves together; "" if nothing. Raises BusUnavailable."""
        await self.check()
        admin = AIOKafkaAdminClient(**self.options())
        try:
            await admin.start()
            return str((await admin.describe_cluster())["cluster_id"] or "")
        except (KafkaError, OSError, TimeoutError) as error:
            raise BusUnavailable(explained(error)) from error
        finally:
            await admin.close()


def explained(error: BaseException) -> str:
    """What an error of the library or the network means, and which option to look at."""
    match error:
        case SaslAuthenticationFailed():
            return "the broker refuses the name or the password; look at bus.sasl.user and bus.sasl.password"
        case UnsupportedSaslMechanismError() | IllegalSaslStateError():
            return "the broker wants another way to log in; look at bus.sasl.mechanism and bus.uri"
        case ssl.SSLCertVerificationError():
            return f"the broker's certificate is not trusted ({error.verify_message}); look at bus.tls.ca"
        case ssl.SSLError():
            return (
                "the broker does not speak TLS as expected; look at bus.tls.enabled and the port in bus.uri"
            )
        case TopicAuthorizationFailedError() | ClusterAuthorizationFailedError():
            return "the broker does not allow it; give the user in bus.sasl.user access to the topics"
        case GroupAuthorizationFailedError():
            return "the broker does not allow it; let the user in bus.sasl.user join the group"
        case OSError() | TimeoutError():
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no answer in time"
            return f"no broker can be reached ({reason}); is Kafka running, and is bus.uri right?"
        case _:
            text = str(error) or type(error).__name__
            return f"{text}; is Kafka running, and are bus.uri, bus.tls and bus.sasl right?"


def _tls_context(options: BusOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise BusUnavailable(
            f"bus.tls.ca: no certificates can be read from {options.tls.ca}: {error}"
        ) from error
    if options.tls.certificate is not None:
        try:
            context.load_cert_chain(options.tls.certificate, options.tls.key)
        except (OSError, ssl.SSLError) as error:
            files = f"{options.tls.certificate} and {options.tls.key}"
            raise BusUnavailable(
                f"bus.tls.certificate: no certificate with its key can be read from {files}: {error}"
            ) from error
    return context
