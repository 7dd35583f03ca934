"""The client-server API: one module per module of the spec; each route parses, authorizes, calls the domain."""
