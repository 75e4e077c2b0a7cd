"""What was read from the archive last is kept, in a bounded number of bytes."""

from eventsrc.storage.archive.segment_cache import SegmentCache


def records(number: int, count: int = 2, size_bytes: int = 40) -> list[bytes]:
    """So many records of this size, all with different hashes."""
    return [f"{number} {index}".encode().rjust(size_bytes, b"-") for index in range(count)]


def test_records_are_found_by_their_hashes() -> None:
    cache = SegmentCache()
    assert cache.get(1) is None
    assert cache.put(1, records(1)) == {record[-32:]: record for record in records(1)} == cache.get(1)
    assert cache.size_bytes == 80
    cache.drop(1)
    cache.drop(1)
    assert (cache.get(1), cache.size_bytes) == (None, 0)


def test_it_is_bounded_in_bytes_and_what_was_not_asked_for_makes_room() -> None:
    cache = SegmentCache(size_bytes_max=240)
    for number in (1, 2, 3):
        cache.put(number, records(number))
    assert cache.get(1) is not None
    cache.put(4, records(4))
    assert [number for number in range(1, 5) if cache.get(number) is None] == [2]
    cache.put(5, records(5, count=4))
    assert [number for number in range(1, 6) if cache.get(number) is None] == [1, 2, 3]
    assert cache.size_bytes == 240


def test_one_that_is_too_large_is_kept_until_the_next_comes() -> None:
    cache = SegmentCache(size_bytes_max=100)
    cache.put(1, records(1))
    cache.put(2, records(2, count=9))
    assert (cache.get(1), len(cache.get(2) or ())) == (None, 9)
    cache.put(3, records(3))
    assert (cache.get(2), cache.size_bytes) == (None, 80)


def test_the_same_segment_again_counts_once() -> None:
    cache = SegmentCache()
    cache.put(1, records(1))
    cache.put(1, records(1))
    assert cache.size_bytes == 80
    cache.clear()
    assert (cache.get(1), cache.size_bytes) == (None, 0)
