"""Mistakes in queries of views that would otherwise find nothing are told where the query is made."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from bank_domain import Account, Deposit
from bank_views import Balances

from eventsrc import MemoryLog, QueryInvalid, Runtime, between, one_of, starting_with


@pytest.mark.parametrize(("low", "high"), [(50, "x"), (date(2026, 1, 1), 5)])
def test_a_range_between_what_cannot_be_compared(low: object, high: object) -> None:
    with pytest.raises(QueryInvalid, match=r"has no values: its ends cannot be compared\. Give two of one type"):
        between(low, high)
    between(low, None)
    between(None, high)


def test_a_range_between_times_with_a_zone_and_without_has_values() -> None:
    # All times with a zone come before those without.
    between(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: one_of(between(1, 2)),
        lambda: between(between(1, 2), 3),
        lambda: between(1, one_of(2)),
        lambda: one_of("a", starting_with("b")),
    ],
)
def test_a_criterion_within_another(make: Callable[[], object]) -> None:
    with pytest.raises(QueryInvalid, match=r"A criterion holds values, and .* is a criterion itself"):
        make()


async def test_what_is_no_value_of_a_field() -> None:
    async with Runtime.open(MemoryLog(), projections=[Balances]) as runtime:
        view = runtime.view(Balances)
        values: list[Any] = [between, int, lambda amount: amount > 5, range(5), iter([5]), (each for each in [5])]
        for value in values:
            with pytest.raises(QueryInvalid, match=r"is no value that a field can have: give a value, between"):
                view.where(amount=value)


@pytest.mark.parametrize("field", [5, ["amount"], None])
async def test_an_order_by_what_is_no_name(field: Any) -> None:
    async with Runtime.open(MemoryLog(), projections=[Balances]) as runtime:
        with pytest.raises(QueryInvalid, match=r"order_by\(\) takes names of fields"):
            runtime.view(Balances).order_by(field)


async def test_without_where_a_query_is_about_every_row() -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Balances]) as runtime:
        view = runtime.view(Balances.rows)
        assert await view.first() is None
        for name in ("bob", "ann", "eve"):
            await runtime.actor(Account, name).ask(Deposit(5), wait_for=[Balances])
        first = await view.first()
        assert first is not None
        assert first == (await view.rows())[0]
        assert await view.offset(1).rows() == (await view.rows())[1:]
