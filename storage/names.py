"""Stream names and the keys made of them."""

import re
from typing import Final

from .errors import StreamNameInvalid

STREAM_NAME_BYTES_MAX: Final = 494
"""LMDB holds keys of 511 bytes; that of an expiry, the longest, adds a separator and two numbers of eight bytes."""

OWN_PREFIX: Final = "eventsrc."
"""Before names that are not a program's: limits are about its own streams and tags."""
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_stream_name(stream: str) -> None:
    """Raise `StreamNameInvalid` unless LMDB and a terminal can both hold the name."""
    try:
        check_stored_name(stream)
    except ValueError as error:
        raise StreamNameInvalid(stream, str(error)) from error


def check_stored_name(name: str) -> None:
    """Raise `ValueError`, which says why, unless the name of a stream or of an event's type can be a key."""
    if not name:
        raise ValueError("it is empty")
    if _CONTROL_CHARACTER.search(name):
        raise ValueError("it has control characters")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"it is not valid Unicode ({error.reason})") from error
    if size > STREAM_NAME_BYTES_MAX:
        raise ValueError(f"it takes {size} bytes and {STREAM_NAME_BYTES_MAX} fit")


def category_of(stream: str) -> str:
    """The part of a stream's name before its first dash."""
    return stream.partition("-")[0]
