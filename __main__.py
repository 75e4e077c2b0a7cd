"""`python -m eventsrc` is the command `eventsrc`."""

import sys

from .runtime.command_line import main

if __name__ == "__main__":
    sys.exit(main())
