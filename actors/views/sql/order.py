"""The order that a query asks for, in SQL: what it is sorted by, and which rows come after one."""

from collections.abc import Sequence
from typing import Any

import attrs
import sqlalchemy

from .columns import Column

Condition = sqlalchemy.ColumnElement[bool]


@attrs.frozen
class SortedBy:
    """One part of an order."""

    column: Column
    compared: Any
    descending: bool
    nulls_move: bool
    """Whether the database puts None elsewhere than first, unless it is told."""
    is_key: bool

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
        given = sqlalchemy.literal(value, self.column.sql_type)
        return sqlalchemy.cast(given, self.compared.type) if isinstance(self.compared, sqlalchemy.Cast) else given

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
    condition: Condition = sqlalchemy.false()
    for by in reversed(order):
        value = by.parameter(row)
        condition = sqlalchemy.or_(by.is_beyond(value), sqlalchemy.and_(by.is_equal(value), condition))
    return condition
