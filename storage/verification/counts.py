"""Counts by name in bounded memory: names share buckets, so a few names are checked needlessly."""

from typing import Final

BUCKETS: Final = 4_096


class Counts:
    """Counts entries by name; all names of a bucket are counted together."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS

    def add(self, name: str, number: int) -> None:
        """Add `number` entries of a name."""
        self._counts[hash(name) % BUCKETS] += number

    def beyond(self, other: "Counts") -> "Surplus":
        """The names of which this has a higher count than `other`."""
        pairs = zip(self._counts, other._counts, strict=True)
        return Surplus({bucket for bucket, (mine, others) in enumerate(pairs) if mine > others})


class Surplus:
    """A set of the names with too many entries, and the other names in their buckets."""

    def __init__(self, buckets: set[int]) -> None:
        self._buckets = buckets

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def __contains__(self, name: str) -> bool:
        return hash(name) % BUCKETS in self._buckets
