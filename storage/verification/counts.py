"""Counts by name in bounded memory: names share the buckets, so that a few more are looked at than need be."""

from typing import Final

BUCKETS: Final = 4_096


class Counts:
    """How many there are of each name, or rather of all the names of a bucket."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS

    def add(self, name: str, number: int) -> None:
        """There are so many more."""
        self._counts[hash(name) % BUCKETS] += number

    def beyond(self, other: "Counts") -> "Surplus":
        """The names of which this counted more than the other."""
        pairs = zip(self._counts, other._counts, strict=True)
        return Surplus({bucket for bucket, (mine, others) in enumerate(pairs) if mine > others})


class Surplus:
    """Names of which there are too many, and some others that share their buckets."""

    def __init__(self, buckets: set[int]) -> None:
        self._buckets = buckets

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def __contains__(self, name: str) -> bool:
        return hash(name) % BUCKETS in self._buckets
