"""The receipt: what the sender of a command gets back."""

from typing import Any

import msgspec


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """That a command took effect and is on disk.

    `version` and `position` are those of its last event (of the stream as it was, where it made none); `events` are the
    events themselves. `duplicate` tells that the idempotency key was known: these are the events of the first time.
    """

    stream: str
    version: int
    position: int
    events: tuple[Any, ...]
    duplicate: bool = False
