"""What the commands of `eventsrc` tell a shell. All is well with 0."""

from typing import Final

EXIT_ERROR: Final = 1
"""It could not be done; the reason is on standard error."""
EXIT_REFUSED: Final = 1
"""Some of what was asked for was refused."""
EXIT_USAGE: Final = 2
"""The arguments do not go together, as with `argparse`."""
EXIT_DAMAGED: Final = 2
"""A verification has found something."""
EXIT_UNREAD: Final = 141
"""Whoever read its output has stopped to: 128 and the number of SIGPIPE, which ends other programs."""
EXIT_INTERRUPTED: Final = 130
"""Ended by Ctrl-C: 128 and the number of SIGINT."""
