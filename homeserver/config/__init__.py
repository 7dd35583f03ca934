"""The configuration: its options, how it is read, and what is generated from it.

`options` declares every option, `units` the kinds of value, `reading` makes a `Config` from a YAML file and
the environment, `documents` makes the sample file, the reference and the JSON Schema.
"""

from homeserver.config.options import Config
from homeserver.config.reading import ConfigError, load

__all__ = ["Config", "ConfigError", "load"]
