"""A least-recently-used cache of archive segments, bounded by the bytes of their records."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from ..record import HASH_SIZE_BYTES

SEGMENT_CACHE_BYTES_MAX: Final = 64 << 20
"""The most bytes of records in one cache: 4 segments of events of 64 KiB, or about 1,300 of events of 200 bytes."""


class SegmentCache:
    """Caches the records of segments, by hash. Any thread may use it.

    The least recently used segments are evicted; the newest segment is kept, however large it is.
    """

    def __init__(self, size_bytes_max: int = SEGMENT_CACHE_BYTES_MAX) -> None:
        self._size_bytes_max = size_bytes_max
        self._lock = threading.Lock()
        self._records: OrderedDict[int, Mapping[bytes, bytes]] = OrderedDict()
        self.size_bytes = 0
        """The bytes of all cached records."""

    def get(self, number: int) -> Mapping[bytes, bytes] | None:
        """The records of a segment by their hashes; None if the segment is not cached."""
        with self._lock:
            records = self._records.get(number)
            if records is not None:
                self._records.move_to_end(number)
            return records

    def put(self, number: int, records: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Cache the records of a segment, and return them by their hashes."""
        by_hash = {record[-HASH_SIZE_BYTES:]: record for record in records}
        with self._lock:
            self._drop(number)
            self._records[number] = by_hash
            self.size_bytes += _size_bytes(by_hash)
            while self.size_bytes > self._size_bytes_max and len(self._records) > 1:
                self._drop(next(iter(self._records)))
        return by_hash

    def drop(self, number: int) -> None:
        """Remove a segment from the cache."""
        with self._lock:
            self._drop(number)

    def clear(self) -> None:
        """Remove all segments from the cache."""
        with self._lock:
            self._records.clear()
            self.size_bytes = 0

    def _drop(self, number: int) -> None:
        self.size_bytes -= _size_bytes(self._records.pop(number, {}))


def _size_bytes(records: Mapping[bytes, bytes]) -> int:
    return sum(map(len, records.values()))
