"""The fields of a row as columns: the SQL type, the conversion of values, and what a query may compare.

A field has the database's own SQL type if the type loses nothing and sorts as LMDB views do. A datetime is a text of
fixed width, in UTC if it is aware, since no SQL type holds both aware and naive ones; naive ones sort after all aware
ones, as on LMDB. On SQLite a decimal is a text as well, compared as a number. Nested values are JSON.
"""

import enum
import types
import typing
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import attrs
from sqlalchemy.types import UserDefinedType

from .comparison import Bound, NoSuchValue, bound_of, parameter_of
from .values import DECODERS, PLAIN, Dialect, Translation, encoder_of

DECIMAL_COLLATION: Final = "eventsrc_decimal"
"""The collation by which our connections to SQLite compare decimals; nothing stored depends on it."""
_SQL_TYPES: Final[dict[str, tuple[str, str]]] = {
    "integer": ("INTEGER", "BIGINT"),
    "float": ("REAL", "DOUBLE PRECISION"),
    "text": ("TEXT", 'TEXT COLLATE "C"'),
    "boolean": ("INTEGER", "BOOLEAN"),
    "bytes": ("BLOB", "BYTEA"),
    "datetime": ("TEXT", 'TEXT COLLATE "C"'),
    "date": ("TEXT", "DATE"),
    "timedelta": ("INTEGER", "BIGINT"),
    "decimal": ("TEXT", "NUMERIC"),
    "uuid": ("TEXT", "UUID"),
    "json": ("TEXT", "JSONB"),
}
_KINDS: Final[dict[Any, str]] = {
    int: "integer",
    float: "float",
    str: "text",
    bool: "boolean",
    bytes: "bytes",
    datetime: "datetime",
    date: "date",
    timedelta: "timedelta",
    Decimal: "decimal",
    UUID: "uuid",
}


class SqlType(UserDefinedType[Any]):
    """A column type given by its name. Values pass to and from the driver unchanged."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


@attrs.frozen
class Column:
    """A field of a row class as a column. `kind` is a key of `_SQL_TYPES`; `members` is the class of an enum field."""

    field: str
    kind: str
    is_nullable: bool
    members: type[enum.Enum] | None
    dialect: Dialect

    @property
    def sql_type(self) -> SqlType:
        """The column's SQL type."""
        return SqlType(_SQL_TYPES[self.kind][self.dialect == "postgresql"])

    @property
    def is_compared_by_sql(self) -> bool:
        """Whether the database can compare and sort the column's values."""
        return self.kind != "json"

    @property
    def is_compared_roughly(self) -> bool:
        """Whether Python must check the rows that the database finds."""
        return self.kind == "decimal" and self.dialect == "sqlite"

    def encoder(self, *, is_key: bool = False) -> Translation | None:
        """The function that turns a field's value into a parameter; None if the value is one already."""
        value_of = attrgetter("value")
        encode = encoder_of(self.kind, self.dialect, is_key=is_key)
        if self.members is not None:
            encode = value_of if encode is None else _chain(value_of, encode)
        return _unless_none(encode)

    def decoder(self) -> Translation | None:
        """The function that turns the driver's value into the field's value; None if the two are the same."""
        decode = DECODERS[self.dialect].get(self.kind)
        if self.members is not None:
            decode = self.members if decode is None else _chain(decode, self.members)
        return _unless_none(decode)

    def plain(self) -> Translation | None:
        """The function that turns the driver's value into plain data for the serializer; None if they are the same."""
        decode = DECODERS[self.dialect].get(self.kind)
        to_plain = PLAIN.get(self.kind)
        if decode is None or to_plain is None:
            return _unless_none(decode or to_plain)
        return _unless_none(_chain(decode, to_plain))

    def equals(self, value: Any) -> list[Any]:
        """The parameters that equal, as in Python, a value that is not None."""
        values = [value] if self.members is None else [member.value for member in self._members_like(value)]
        parameters = []
        for each in values:
            with suppress(NoSuchValue):
                parameters.append(parameter_of(self.kind, each, self.dialect))
        return parameters

    def key_parameter(self, value: Any) -> Any:
        """The parameter for a key, the same for an enum member and its value. Raises `NoSuchValue`."""
        return parameter_of(self.kind, _plain(value), self.dialect, is_key=True)

    def bound(self, value: Any, *, is_low: bool) -> Bound | None:
        """An end of a range; None if it excludes nothing. Raises `NoSuchValue`, `NotInSql`."""
        return bound_of(self.kind, _plain(value), is_low, self.dialect)

    def _members_like(self, value: Any) -> list[enum.Enum]:
        assert self.members is not None, "a column of an enum"
        found = [member for member in self.members if member == value]
        if not found and issubclass(self.members, enum.Flag):
            # An enum class does not list combined flags as members.
            with suppress(NoSuchValue, ValueError):
                combined = self.members(parameter_of("integer", _plain(value), self.dialect))
                found += [combined] if combined == value else []
        return found


def column_of(row_class: type, field: "attrs.Attribute[Any]", dialect: Dialect) -> Column:
    """The column for a field of a row class."""
    try:
        hint = typing.get_type_hints(row_class).get(field.name, Any)
    except NameError:
        # The name is known only to type checkers; without a hook, cattrs could not have prepared it.
        hint = Any
    kind, is_nullable, members = _kind_of(hint)
    return Column(field.name, kind, is_nullable, members, dialect)


def _kind_of(hint: Any) -> tuple[str, bool, type[enum.Enum] | None]:
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        is_nullable = len(parts) < len(typing.get_args(hint))
        if len(parts) == 1:
            kind, _, members = _kind_of(parts[0])
            return kind, is_nullable, members
        return ("float" if set(parts) == {int, float} else "json"), is_nullable or set(parts) != {int, float}, None
    if origin is typing.Literal:
        values = typing.get_args(hint)
        kind = _common_kind([value for value in values if value is not None])
        return kind, None in values or kind == "json", None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        kind = _common_kind([member.value for member in hint])
        return kind, kind == "json", (None if kind == "json" else hint)
    kind = _KINDS.get(hint, "json")
    # JSON has its own null, and a field of any type may be None.
    return kind, kind == "json", None


def _common_kind(values: list[Any]) -> str:
    classes = {type(value) for value in values}
    return _KINDS[classes.pop()] if classes in ({str}, {int}) else "json"


def _plain(value: Any) -> Any:
    while isinstance(value, enum.Enum):
        value = value.value
    return value


def _chain(first: Translation, second: Translation) -> Translation:
    return lambda value: second(first(value))


def _unless_none(translate: Translation | None) -> Translation | None:
    if translate is None:
        return None
    return lambda value: None if value is None else translate(value)
