"""The order that a query asks for, in SQL: what it is sorted by, and which rows come after one."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
import sqlalchemy

from .columns import DECIMAL_COLLATION, Column, SqlType

Condition = sqlalchemy.ColumnElement[bool]
Part: TypeAlias = Callable[[Any], Any]
"""Makes of a stored value, or of one that is given, what rows are sorted by."""


def nearest_double(decimal: Any) -> Any:
    """The number that a decimal's text stands for, nearly."""
    return sqlalchemy.cast(decimal, SqlType("REAL"))


def zone_first(time: Any) -> Any:
    """Sorts times with a zone, whose texts are longer, before those without one."""
    # In parentheses, as an index wants it.
    return (-sqlalchemy.func.length(time, type_=sqlalchemy.Integer)).self_group()


def _itself(value: Any) -> Any:
    return value


def by_all_digits(decimal: Any) -> Any:
    """The number that a decimal's text stands for."""
    return sqlalchemy.collate(decimal, DECIMAL_COLLATION)


def parts_of(column: Column) -> tuple[Part, ...]:
    """What the values of a column are sorted by: by the second those that are level in the first."""
    if column.is_compared_roughly:
        # There is an index for the first alone: nothing that is stored depends on our collation.
        return nearest_double, by_all_digits
    return (zone_first, _itself) if column.kind == "datetime" else (_itself,)


@attrs.frozen
class SortedBy:
    """One part of an order."""

    column: Column
    stored: Any
    part: Part
    descending: bool
    nulls_move: bool
    """Whether the database puts None elsewhere than first, unless it is told."""
    is_key: bool

    @property
    def compared(self) -> Any:
        """What of the stored value the rows are sorted by."""
        return self.part(self.stored)

    @property
    def ordered(self) -> Any:
        """It as a part of ORDER BY."""
        ordered = self.compared.desc() if self.descending else self.compared.asc()
        if self.nulls_move:
            return ordered.nulls_last() if self.descending else ordered.nulls_first()
        return ordered

    def parameter(self, row: Any) -> Any:
        """What a row has there; None for None."""
        encode = self.column.encoder(is_key=self.is_key)
        value = getattr(row, self.column.field)
        value = value if encode is None else encode(value)
        if value is None:
            return None
        return self.part(sqlalchemy.literal(value, self.column.sql_type))

    def is_beyond(self, value: Any) -> Any:
        """Whether a row comes after one that has this value."""
        if value is None:
            return sqlalchemy.false() if self.descending else self.compared.is_not(None)
        if self.descending:
            beyond = self.compared < value
            return sqlalchemy.or_(beyond, self.compared.is_(None)) if self.column.is_nullable else beyond
        return self.compared > value

    def is_equal(self, value: Any) -> Any:
        """Whether a row is level with one that has this value."""
        return self.compared.is_(None) if value is None else self.compared == value


def after(order: Sequence[SortedBy], row: Any) -> Condition:
    """Whether a row comes after this one, in this order."""
    values = [by.parameter(row) for by in order]
    is_descending = order[0].descending
    # Compared as a whole, the row is found by an index; part by part, all that comes before it is looked at once more.
    # But nothing is beyond None then, nor None beyond anything, which is right only where None comes first.
    may_meet_none = any(value is None for value in values)
    may_meet_none |= is_descending and any(by.column.is_nullable for by in order)
    if not may_meet_none and all(by.descending == is_descending for by in order):
        stored, given = sqlalchemy.tuple_(*(by.compared for by in order)), sqlalchemy.tuple_(*values)
        return stored < given if is_descending else stored > given
    condition: Condition = sqlalchemy.false()
    for by, value in zip(reversed(order), reversed(values), strict=True):
        condition = sqlalchemy.or_(by.is_beyond(value), sqlalchemy.and_(by.is_equal(value), condition))
    return condition
