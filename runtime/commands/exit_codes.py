"""The exit codes of the commands of `eventsrc`; 0 is success."""

from typing import Final

EXIT_ERROR: Final = 1
"""The command failed; the reason is on standard error."""
EXIT_REFUSED: Final = 1
"""A part of the request was refused."""
EXIT_USAGE: Final = 2
"""The arguments exclude each other, or one is missing; the same code as that of `argparse`."""
EXIT_DAMAGED: Final = 2
"""A verification found damage."""
EXIT_UNREAD: Final = 141
"""The reader of the output has closed it: 128 and the number of SIGPIPE, which ends other programs."""
EXIT_INTERRUPTED: Final = 130
"""Ended by Ctrl-C: 128 and the number of SIGINT."""
