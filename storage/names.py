"""Stream names and the keys made of them."""

import re
from typing import Final

from .errors import StreamNameInvalid

STREAM_NAME_BYTES_MAX: Final = 500
"""LMDB holds keys of 511 bytes; a stream index key adds a separator and eight bytes to the name."""

_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_stream_name(stream: str) -> None:
    """Raise `StreamNameInvalid` unless LMDB and a terminal can both hold the name."""
    if not stream:
        raise StreamNameInvalid(stream, "it is empty")
    if _CONTROL_CHARACTER.search(stream):
        raise StreamNameInvalid(stream, "it has control characters")
    try:
        size = len(stream.encode())
    except UnicodeEncodeError as error:
        raise StreamNameInvalid(stream, f"it is not valid Unicode ({error.reason})") from error
    if size > STREAM_NAME_BYTES_MAX:
        raise StreamNameInvalid(stream, f"it takes {size} bytes and {STREAM_NAME_BYTES_MAX} fit")


def category_of(stream: str) -> str:
    """The part of a stream's name before its first dash."""
    return stream.partition("-")[0]
