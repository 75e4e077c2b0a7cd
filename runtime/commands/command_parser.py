"""The parser of one command, whose options may stand anywhere."""

import argparse
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

NEGATIVE_NUMBER: Final = re.compile(r"-\d")


class CommandParser(argparse.ArgumentParser):
    """Accepts options between the positional arguments: `eventsrc compact PATH --dry-run STREAM`.

    argparse gives optional positional arguments their defaults at the first option, and then refuses those that come
    after it. Its own remedy (`parse_intermixed_args`) does not work for subcommands.
    """

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        return super().parse_known_args(None if args is None else self._options_last(args), namespace)

    def _options_last(self, arguments: Sequence[str]) -> list[str]:
        options: list[str] = []
        others: list[str] = []
        coming = iter(arguments)
        for argument in coming:
            if argument == "--":
                options += [argument, *coming]
            elif argument == "-" or not argument.startswith("-") or NEGATIVE_NUMBER.match(argument):
                others.append(argument)
            else:
                options += [argument, *islice(coming, 1 if self._takes_value(argument) else 0)]
        return [*others, *options]

    def _takes_value(self, argument: str) -> bool:
        """Whether the next argument is the value of this option, of which a beginning is enough."""
        return any(
            option.startswith(argument) and action.nargs != 0
            for action in self._actions
            for option in action.option_strings
        )
