"""The receipt: the answer to a command."""

from typing import Any

import msgspec


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Confirms that a command took effect and is on disk.

    `version` and `position` belong to the command's last event, or to the stream's last event if the command made none.
    `events` are the command's events. `duplicate` tells that the idempotency key was known: the events are those of the
    first time.
    """

    stream: str
    version: int
    position: int
    events: tuple[Any, ...]
    duplicate: bool = False
