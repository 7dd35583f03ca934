"""The pure protocol core: functions of values, with no I/O, no clock and nothing of the server's own.

values          identifiers, json_types, canonical_json, globs
events          events (read, and made), signing (hashes and signatures), redaction
rooms           room_versions (all that differs between them), event_auth, power_levels, state_resolution,
                visibility (of history), server_acl
push rules      push_rules (as a value), predefined_push_rules, stored_push_rules, push_ruleset (both
                together), push_rule_edits, push_evaluation (what they say about an event)
"""
