"""Queries of rows: criteria by field, an order and a bound."""

import enum
import inspect
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

import attrs

from .errors import QueryInvalid


class Criterion(Protocol):
    """A condition on one field."""

    def matches(self, value: Any) -> bool:
        """Whether a row with this value meets the criterion."""


def _is_comparable(_: object, __: object, value: Any) -> None:
    for each in value if type(value) is tuple else (value,):
        if isinstance(each, Equal | OneOf | Between | StartingWith):
            raise QueryInvalid(f"A criterion holds values, and {each!r} is a criterion itself: write where(field=...).")
        if inspect.isroutine(each) or isinstance(each, type | Iterator | range):
            raise QueryInvalid(
                f"{each!r:.100} is no value that a field can have: give a value, between(low, high) or one_of(*values)."
            )
        if isinstance(each, Decimal) and each.is_snan():
            raise QueryInvalid(f"{each!r} cannot be compared with anything; Decimal('NaN') can, and equals nothing.")


@attrs.frozen
class Equal:
    """Exactly this value. A plain value in `where` means this."""

    value: Any = attrs.field(validator=_is_comparable)

    def matches(self, value: Any) -> bool:
        try:
            return bool(value == self.value)
        except ArithmeticError:
            # A signalling NaN, in a row stored by an earlier version, cannot be compared.
            return False


@attrs.frozen
class OneOf:
    """One of several values."""

    values: tuple[Any, ...] = attrs.field(validator=_is_comparable)

    def matches(self, value: Any) -> bool:
        try:
            # Not `in`, which also finds an object that does not equal itself.
            return any(bool(value == each) for each in self.values)
        except ArithmeticError:
            return False


@attrs.frozen
class Between:
    """Values from `low` to `high`, both included; None leaves that end open."""

    low: Any = attrs.field(validator=_is_comparable)
    high: Any = attrs.field(validator=_is_comparable)

    def __attrs_post_init__(self) -> None:
        low, high = _plain(self.low), _plain(self.high)
        if isinstance(low, datetime) and isinstance(high, datetime):
            return  # with a zone or without: views have an order of both
        try:
            _ = low is None or high is None or low <= high
        except ArithmeticError:
            # A NaN is in no order, and between(NaN, 5) therefore finds nothing.
            return
        except TypeError as error:
            raise QueryInvalid(
                f"between({self.low!r:.100}, {self.high!r:.100}) has no values: its ends cannot be compared. Give "
                "two of one type."
            ) from error

    def matches(self, value: Any) -> bool:
        value, low, high = _plain(value), _plain(self.low), _plain(self.high)
        if value is None:
            return False
        try:
            return bool((low is None or value >= low) and (high is None or value <= high))
        except (TypeError, ArithmeticError):
            # A text is in no range of numbers, and a naive time in no range of aware times.
            return False


def _is_text(_: object, __: object, value: Any) -> None:
    if not isinstance(value, str):
        raise QueryInvalid(f"starting_with() takes the beginning of a text, not {value!r}.")


@attrs.frozen
class StartingWith:
    """A text that begins with another."""

    prefix: str = attrs.field(validator=_is_text)

    def matches(self, value: Any) -> bool:
        return isinstance(value, str) and value.startswith(self.prefix)


def between(low: Any, high: Any) -> Between:
    """Values from `low` to `high`, both included; None leaves that end open: `amount=between(10, None)`.

    Raises `QueryInvalid` for ends that cannot be compared with each other, a signalling NaN, or what is no value.
    """
    return Between(low, high)


def one_of(*values: Any) -> OneOf:
    """One of these values: `state=one_of("open", "late")`. Raises `QueryInvalid` for a signalling NaN or no value."""
    return OneOf(values)


def starting_with(prefix: str) -> StartingWith:
    """Texts that begin with `prefix`. Raises `QueryInvalid` if `prefix` is no text."""
    return StartingWith(prefix)


@attrs.frozen
class Order:
    """Sort by a field, ascending unless `descending`."""

    field: str
    descending: bool = False


@attrs.frozen
class RowQuery:
    """A query of one table. `offset` rows are skipped; a `limit` of None means all rows.

    `last` is the last skipped row, if known: the query then returns the rows after it in the order, whatever rows
    before it were added or removed meanwhile.
    """

    criteria: Mapping[str, Criterion] = attrs.field(factory=dict[str, Criterion])
    order: tuple[Order, ...] = ()
    offset: int = 0
    limit: int | None = None
    last: Any = None

    def matches(self, row: object) -> bool:
        """Whether a row meets every criterion."""
        return all(criterion.matches(getattr(row, field)) for field, criterion in self.criteria.items())


def criteria_of(fields: frozenset[str], table: str, given: Mapping[str, Any]) -> dict[str, Criterion]:
    """Turn the keyword arguments of `where` into criteria.

    Raises `QueryInvalid` for a field that the rows do not have, and for a signalling NaN.
    """
    for field in given:
        if field not in fields:
            raise QueryInvalid(f"{table} has no field {field!r}; it has {', '.join(sorted(fields))}.")
    kinds = Equal | OneOf | Between | StartingWith
    return {field: value if isinstance(value, kinds) else Equal(value) for field, value in given.items()}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value
