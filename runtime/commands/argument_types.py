"""Parsers of the command line's options: each function reads one text, for `type=` of `argparse`."""

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Final, Protocol

from ...storage.event_query import AnyOf
from ..arguments import checked_time_ns

TIME_FORM: Final = "ISO 8601; UTC unless it has a zone"


class AddCommand(Protocol):
    """Adds a command with this help, a PATH and `--json`; the command adds its own arguments."""

    def __call__(self, name: str, help_text: str, path_help: str = ...) -> argparse.ArgumentParser: ...


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"give a whole number, not {text!r}") from None


def count(text: str) -> int:
    """A whole number, 0 or more."""
    number = _whole(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return min(number, sys.maxsize)


def metadata_pair(text: str) -> tuple[str, AnyOf]:
    """Metadata KEY=VALUE: matches VALUE as a text or as the JSON it spells.

    `3` matches the number and the text, `"3"` in quotes the text alone.
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("write KEY=VALUE")
    try:
        meant = json.loads(value)
    except ValueError:
        return key, AnyOf((value,))
    return key, AnyOf((meant,) if isinstance(meant, str) else (value, meant))


def time_ns(text: str) -> int:
    """UTC nanoseconds; a time without a zone is read as UTC, the zone in which times are printed."""
    try:
        given = datetime.fromisoformat(text)
        in_utc = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("write a time as 2026-01-31T12:00:00Z") from None
    return checked_time_ns("time", in_utc)
