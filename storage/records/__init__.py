"""The record types that lie beside the log, one module per domain, each ending in its specs."""
