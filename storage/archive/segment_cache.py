"""The segments of an archive that were opened last, with their records, in a bounded number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from ..record import HASH_SIZE_BYTES

SEGMENT_CACHE_BYTES_MAX: Final = 64 << 20
"""Of the records that one cache keeps: four segments of the largest events, or some 1,000 of events of 200 bytes."""


class SegmentCache:
    """Finds the records of a segment by their hashes. Any thread may use it.

    What was asked for longest ago makes room; the segment that was put last is kept, however large it is.
    """

    def __init__(self, size_bytes_max: int = SEGMENT_CACHE_BYTES_MAX) -> None:
        self._size_bytes_max = size_bytes_max
        self._lock = threading.Lock()
        self._records: OrderedDict[int, Mapping[bytes, bytes]] = OrderedDict()
        self.size_bytes = 0
        """Of all records that are kept."""

    def get(self, number: int) -> Mapping[bytes, bytes] | None:
        """The records of a segment; None where they are not kept."""
        with self._lock:
            records = self._records.get(number)
            if records is not None:
                self._records.move_to_end(number)
            return records

    def put(self, number: int, records: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Keep the records of a segment, and return them by their hashes."""
        by_hash = {record[-HASH_SIZE_BYTES:]: record for record in records}
        with self._lock:
            self._drop(number)
            self._records[number] = by_hash
            self.size_bytes += _size_bytes(by_hash)
            while self.size_bytes > self._size_bytes_max and len(self._records) > 1:
                self._drop(next(iter(self._records)))
        return by_hash

    def drop(self, number: int) -> None:
        """Keep a segment no longer."""
        with self._lock:
            self._drop(number)

    def clear(self) -> None:
        """Keep none."""
        with self._lock:
            self._records.clear()
            self.size_bytes = 0

    def _drop(self, number: int) -> None:
        self.size_bytes -= _size_bytes(self._records.pop(number, {}))


def _size_bytes(records: Mapping[bytes, bytes]) -> int:
    return sum(map(len, records.values()))
