"""The proof, by a secret shared with the server, that an account may be created.

The way of `/_synapse/admin/v1/register`, which admin tools of other homeservers speak already: the server
hands out a nonce, and whoever asks for an account sends an HMAC-SHA1 over it and the account's data.
"""

import hmac


def registration_mac(
    secret: str, *, nonce: str, username: str, password: str, admin: bool, user_type: str | None = None
) -> str:
    """The proof, in lower-case hex: over nonce, name, password, `admin` or `notadmin`, and any type."""
    parts = [nonce, username, password, "admin" if admin else "notadmin"]
    if user_type is not None:
        parts.append(user_type)
    return hmac.new(secret.encode(), "\0".join(parts).encode(), "sha1").hexdigest()
