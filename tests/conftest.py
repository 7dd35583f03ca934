"""Fixtures for tests of all kinds."""

pytest_plugins = ["tests.real_parts.kafka"]
