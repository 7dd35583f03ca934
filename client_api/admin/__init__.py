"""The admin API: what the server's administrators do, beyond what the specification has for them."""
