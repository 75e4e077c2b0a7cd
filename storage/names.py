"""Checks of the names of streams, event types and tags, which become LMDB keys."""

import re
from typing import Final

from .errors import StreamNameInvalid

STREAM_NAME_BYTES_MAX: Final = 494
"""LMDB keys have at most 511 bytes. The longest key, that of an expiry, adds a separator and two 8-byte numbers."""

OWN_PREFIX: Final = "eventsrc."
"""The prefix of names that belong to the runtime; the limits on streams and tags do not apply to them."""
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_stream_name(stream: str) -> None:
    """Raise `StreamNameInvalid` unless the name can be an LMDB key and has no control characters."""
    try:
        check_stored_name(stream)
    except ValueError as error:
        raise StreamNameInvalid(stream, str(error)) from error


def check_stored_name(name: str) -> None:
    """Raise `ValueError`, with the reason, unless the name of a stream, an event type or a tag can be a key."""
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


def aggregate_id_of(stream: str) -> str:
    """The part of a stream's name after its first dash."""
    return stream.partition("-")[2]
