"""Named tuples as fields, in a module whose annotations are texts."""

from __future__ import annotations

from collections import namedtuple
from decimal import Decimal
from typing import Any, Generic, NamedTuple, TypeVar

import attrs
import pytest

from eventsrc import DecodingError
from eventsrc.actors.serialization.schema import schema_of
from eventsrc.actors.serialization.serializer import Serializer

T = TypeVar("T")


class Price(NamedTuple):
    amount: Decimal
    currency: str = "EUR"


class Page(NamedTuple, Generic[T]):
    items: list[T]
    total: int


Called = NamedTuple("Called", [("price", Price)])  # noqa: UP014 (a call, which is tested)
Untyped = namedtuple("Untyped", ["x", "y"])  # noqa: PYI024 (without types, which is tested)


@attrs.frozen
class Offer:
    price: Price
    prices: dict[str, Price | None]
    page: Page[Price]
    called: Called
    untyped: Untyped


OFFER = Offer(
    Price(Decimal("1.50")),
    {"x": Price(Decimal(2), "USD"), "y": None},
    Page([Price(Decimal(3))], 1),
    Called(Price(Decimal(4))),
    Untyped(1, ["z"]),
)


def test_they_come_back_with_values_of_their_types() -> None:
    serializer = Serializer()
    serializer.prepare(Offer)
    data = serializer.unstructure(OFFER)
    assert data["price"] == ["1.50", "EUR"]
    again = serializer.structure(data, Offer)
    assert again == OFFER
    assert [type(each) for each in (again.prices["x"], again.page, again.called, again.untyped)] == [
        Price,
        Page,
        Called,
        Untyped,
    ]


def test_a_field_that_was_added_at_the_end_takes_its_default() -> None:
    serializer = Serializer()
    assert serializer.structure(["1"], Price) == Price(Decimal(1), "EUR")
    for wrong in ([], ["1", "EUR", "x"]):
        with pytest.raises(DecodingError, match="does not fit Price"):
            serializer.structure(wrong, Price)


def holding(field_type: Any) -> type:
    return attrs.make_class("Holding", {"held": attrs.field(type=field_type)})


def test_a_state_has_another_shape_where_the_fields_of_one_in_it_changed() -> None:
    def made(*fields: tuple[str, Any]) -> Any:
        return NamedTuple("Span", fields)  # type: ignore[misc]

    begun, turned = made(("begin", int), ("end", int)), made(("end", int), ("begin", int))
    assert schema_of(holding(begun)) != schema_of(holding(turned))
    assert schema_of(holding(begun)) == schema_of(holding(made(("begin", int), ("end", int))))


def test_a_state_has_another_shape_where_the_fields_of_a_generic_class_in_it_changed() -> None:
    def made(*names: str) -> Any:
        fields = {name: attrs.field(type=int, default=0) for name in names}
        return attrs.make_class("Box", fields, bases=(Generic[T],))[str]  # type: ignore[index]

    assert schema_of(holding(made("count"))) != schema_of(holding(made("total")))
    assert schema_of(holding(made("count"))) == schema_of(holding(made("count")))
