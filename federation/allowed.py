"""Which servers the configuration lets this one talk to."""

from homeserver.config.options import Federation
from homeserver.protocol.server_acl import ServerAcl, compile_acl


def allowed_servers(options: Federation) -> ServerAcl:
    """The rule of the configuration. It is met like that of a room: names that try to dodge it are denied."""
    allow = options.allow if options.enabled else ()
    return compile_acl({"allow": list(allow), "deny": list(options.deny)})
