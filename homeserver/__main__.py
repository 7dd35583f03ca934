"""`python -m homeserver` is the command `weft`."""

import sys

from homeserver.cli import main

if __name__ == "__main__":
    sys.exit(main())
