"""The pure protocol core: functions of values, with no I/O, no clock and nothing of the server's own.

Identifiers, canonical JSON, room versions, events with their hashes and signatures, redaction,
power levels, authorisation rules, state resolution, and what is decided from state alone.
"""
