"""Checks records that come from another log: positions and versions without gaps, and unbroken hash chains."""

from collections.abc import Callable

import msgspec

from ..names import check_stored_name
from ..record import GENESIS_HASH, StoredEvent, StreamHead, content_hash, decode_record


class ChainBroken(ValueError):
    """A record does not follow from the records before it. `position` is the position that was expected."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class Chain:
    """Checks a history record by record, beginning after `position`.

    `head_of` returns the head of a stream as of `position`, None if the stream had no events yet. Memory grows with the
    number of streams met: one hash for each.
    """

    def __init__(self, position: int, head_of: Callable[[str], StreamHead | None]) -> None:
        self.position = position
        self._head_of = head_of
        self._heads: dict[str, tuple[int, bytes]] = {}
        self._names: set[str] = set()

    def follow(self, record: bytes) -> StoredEvent:
        """Check the next record, in its stored bytes, and return its event.

        Raises `ChainBroken` if the position, version or hash is not the expected one, a name is invalid, or the record
        cannot be decoded.
        """
        position = self.position + 1
        try:
            event = decode_record(record)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ChainBroken(position, f"the event cannot be decoded: {error}") from error
        if event.position != position:
            raise ChainBroken(position, f"there is position {event.position} where {position} should follow")
        version, previous_hash = self._heads.get(event.stream) or self._begin(event.stream)
        if event.version != version + 1:
            what = f"version {event.version} of {event.stream!r} is where {version + 1} should follow"
            raise ChainBroken(position, what)
        if event.hash != content_hash(previous_hash, record):
            raise ChainBroken(position, f"the event at position {position} does not have the hash that it came with")
        self._check_names(event)
        self._heads[event.stream] = event.version, event.hash
        self.position = position
        return event

    def _begin(self, stream: str) -> tuple[int, bytes]:
        self._check_name(self.position + 1, stream)
        head = self._head_of(stream)
        return (0, GENESIS_HASH) if head is None else (head.version, head.hash)

    def _check_names(self, event: StoredEvent) -> None:
        """Raise `ChainBroken` for names that the indexes cannot store; a correct hash does not make them valid."""
        for name in (event.type, *event.tags):
            if name not in self._names:
                self._check_name(event.position, name)
        self._names.add(event.type)
        if len(set(event.tags)) < len(event.tags):
            raise ChainBroken(event.position, "a tag is given twice")

    def _check_name(self, position: int, name: str) -> None:
        try:
            check_stored_name(name)
        except ValueError as error:
            raise ChainBroken(position, f"{name[:80]!r} cannot be a name: {error}") from error
