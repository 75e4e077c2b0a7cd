"""Values as bytes that sort as the values do."""

import itertools
import math
import random
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from eventsrc.storage.ordered_key import NotOrdered, decode_value, encode_key, encode_value, sorting_key

NUMBERS: list[Any] = [
    *(0, 1, -1, 2**53, 2**53 + 1, 2**63, 2**64 + 1, 2**120, 2**120 + 1, -(2**120) - 1, 10**400, -(10**400), 10**401),
    *(0.0, -0.0, 1.0, 0.1, -0.5, 5e-324, -5e-324, 1.7976931348623157e308, math.inf, -math.inf, True, False),
    *map(Decimal, ("1.0", "1.00", "1E0", "0.1", "-0.00", "0.10000000000000000555", "1e-400", "-1e-400", "1e-401")),
    *map(Decimal, ("1e400", "1e999999", "-1e999999", "1e-999999", "Infinity", "12345678901234567890.1234567890123")),
    *(Decimal(f"12345678901234567890.{tail}") for tail in ("12345678901234567890", "12345678901234567891", "1")),
]


def test_numbers_of_every_type_are_one_order_and_equal_ones_one_key() -> None:
    chance = random.Random(7)
    numbers = [
        *NUMBERS,
        *(Decimal(chance.randint(-(10**30), 10**30)).scaleb(chance.randint(-40, 9)) for _ in range(60)),
    ]
    encoded = [(number, encode_value(number)) for number in numbers]
    for (one, its_bytes), (other, other_bytes) in itertools.product(encoded, repeat=2):
        assert (its_bytes < other_bytes, its_bytes == other_bytes) == (one < other, one == other), (one, other)
        assert its_bytes == other_bytes or not other_bytes.startswith(its_bytes), "nor is one the beginning of another"


def test_values_come_back() -> None:
    texts = ["", "a", "a\0b", "\0", "\ud800", "ä\U0010ffff"]
    when = datetime(2024, 5, 1, 12, tzinfo=UTC)
    for value in [
        *NUMBERS,
        *texts,
        None,
        b"\0\xff",
        when,
        when.replace(tzinfo=None),
        when.date(),
        timedelta(days=-3, microseconds=1),
    ]:
        encoded = encode_value(value)
        assert decode_value(b"x" + encoded + b"y", 1) == (value, 1 + len(encoded))


def test_times_of_any_zone_are_in_their_order() -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert encode_value(noon) == encode_value(noon.astimezone(timezone(timedelta(hours=9))))
    assert encode_value(noon) < encode_value(datetime(2024, 5, 1, 9, tzinfo=timezone(timedelta(hours=-4))))


@pytest.mark.parametrize("value", [math.nan, Decimal("NaN"), Decimal("sNaN"), {}, [1]])
def test_what_has_no_order_is_no_key(value: Any) -> None:
    with pytest.raises(NotOrdered):
        encode_key((value,))


def test_sorting_in_memory_has_a_place_for_more() -> None:
    values = [[2], None, math.nan, "a", 7, [1, "b"], [1], (1, None), Decimal("sNaN")]
    assert [repr(value) for value in sorted(values, key=sorting_key)] == [
        *("None", "7", "nan", "Decimal('sNaN')", "'a'", "[1]", "(1, None)", "[1, 'b']", "[2]"),
    ]
