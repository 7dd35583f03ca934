"""Names for JSON as Python values."""

from typing import Any

JsonObject = dict[str, Any]
"""A JSON object: its values are as open as the protocol is."""

JsonValue = dict[str, Any] | list[Any] | str | int | float | bool | None
"""Any JSON value."""
