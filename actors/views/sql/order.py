"""The order of a query in SQL: the sort expressions, and the condition for rows after a given one."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
import sqlalchemy

from .columns import DECIMAL_COLLATION, Column, SqlType

Condition = sqlalchemy.ColumnElement[bool]
Part: TypeAlias = Callable[[Any], Any]
"""Turns a stored or given value into the expression that rows are sorted by."""


def nearest_double(decimal: Any) -> Any:
    """The double nearest to the number in a decimal's text."""
    return sqlalchemy.cast(decimal, SqlType("REAL"))


def zone_first(time: Any) -> Any:
    """Sorts times with a zone, whose texts are longer, before times without one."""
    # In parentheses, as an index requires.
    return (-sqlalchemy.func.length(time, type_=sqlalchemy.Integer)).self_group()


def _itself(value: Any) -> Any:
    return value


def by_all_digits(decimal: Any) -> Any:
    """The exact number in a decimal's text."""
    return sqlalchemy.collate(decimal, DECIMAL_COLLATION)


def parts_of(column: Column) -> tuple[Part, ...]:
    """The expressions that a column's values are sorted by; the second orders values that are equal in the first."""
    if column.is_compared_roughly:
        # Only the first has an index: nothing stored depends on our collation.
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
    """Whether the database, by default, does not sort None first."""
    is_key: bool

    @property
    def compared(self) -> Any:
        """The expression of the stored value that rows are sorted by."""
        return self.part(self.stored)

    @property
    def ordered(self) -> Any:
        """The ORDER BY term."""
        ordered = self.compared.desc() if self.descending else self.compared.asc()
        if self.nulls_move:
            return ordered.nulls_last() if self.descending else ordered.nulls_first()
        return ordered

    def parameter(self, row: Any) -> Any:
        """A row's value as a sort expression; None for None."""
        encode = self.column.encoder(is_key=self.is_key)
        value = getattr(row, self.column.field)
        value = value if encode is None else encode(value)
        if value is None:
            return None
        return self.part(sqlalchemy.literal(value, self.column.sql_type))

    def is_beyond(self, value: Any) -> Any:
        """The condition that a row sorts after a row with this value."""
        if value is None:
            return sqlalchemy.false() if self.descending else self.compared.is_not(None)
        if self.descending:
            beyond = self.compared < value
            return sqlalchemy.or_(beyond, self.compared.is_(None)) if self.column.is_nullable else beyond
        return self.compared > value

    def is_equal(self, value: Any) -> Any:
        """The condition that a row sorts equal to a row with this value."""
        return self.compared.is_(None) if value is None else self.compared == value


def after(order: Sequence[SortedBy], row: Any) -> Condition:
    """The condition that a row comes after this one in this order."""
    values = [by.parameter(row) for by in order]
    is_descending = order[0].descending
    # A tuple comparison uses an index; comparing part by part scans all rows before this one again. But in a tuple
    # comparison nothing is beyond None, nor None beyond anything, which is right only if None comes first.
    may_meet_none = any(value is None for value in values)
    may_meet_none |= is_descending and any(by.column.is_nullable for by in order)
    if not may_meet_none and all(by.descending == is_descending for by in order):
        stored, given = sqlalchemy.tuple_(*(by.compared for by in order)), sqlalchemy.tuple_(*values)
        return stored < given if is_descending else stored > given
    condition: Condition = sqlalchemy.false()
    for by, value in zip(reversed(order), reversed(values), strict=True):
        condition = sqlalchemy.or_(by.is_beyond(value), sqlalchemy.and_(by.is_equal(value), condition))
    return condition
