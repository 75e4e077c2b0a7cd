"""The fields of a row as columns: which SQL type, how a value goes there and back, and what a query may ask of it.

The SQL types are the database's own where those lose nothing and sort as LMDB views do. A datetime is text, in UTC and
of a fixed width when it is aware, since no SQL type holds aware and naive ones alike. On SQLite a decimal is text, too,
and compared as a number. What is nested is JSON.
"""

import enum
import math
import types
import typing
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from operator import attrgetter
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import attrs
from sqlalchemy.types import UserDefinedType

from ..storage.ordered_key import sorting_key
from .sql_json import from_json, revived, to_json

Dialect: TypeAlias = Literal["sqlite", "postgresql"]
Translation: TypeAlias = Callable[[Any], Any]

INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 63) - 1
DECIMAL_COLLATION: Final = "eventsrc_decimal"
"""By which our connections to SQLite compare decimals; nothing that is stored depends on it."""
PLAIN_DIGITS_MAX: Final = 40
"""Digits of a decimal key before it is written with an exponent, on SQLite."""
_DECIMALS: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
_MICROSECOND: Final = timedelta(microseconds=1)
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
    """A column type by its name. Values pass through as the driver takes and gives them."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


class NoSuchValue(Exception):
    """No row can have this value in this column."""


@attrs.frozen
class Column:
    """One field of a row class, as a column. `kind` is a key of `_SQL_TYPES`; `members` are those of an enum."""

    field: str
    kind: str
    is_nullable: bool
    members: type[enum.Enum] | None
    dialect: Dialect

    @property
    def sql_type(self) -> SqlType:
        """Its SQL type."""
        return SqlType(_SQL_TYPES[self.kind][self.dialect == "postgresql"])

    @property
    def is_compared_by_sql(self) -> bool:
        """Whether the database can compare and sort its values."""
        return self.kind != "json"

    @property
    def is_compared_roughly(self) -> bool:
        """Whether what the database finds has to be looked at once more."""
        return self.kind == "decimal" and self.dialect == "sqlite"

    def encoder(self) -> Translation | None:
        """Makes a value of the field a parameter; None where it is one."""
        value_of = attrgetter("value")
        encode = _ENCODERS[self.dialect].get(self.kind)
        if self.members is not None:
            encode = value_of if encode is None else _chain(value_of, encode)
        return _unless_none(encode)

    def key_encoder(self) -> Translation | None:
        """The same for a key, of which equal values must give one parameter."""
        return _key_decimal(self.dialect) if self.kind == "decimal" else self.encoder()

    def decoder(self) -> Translation | None:
        """Makes what the driver gives a value of the field; None where it is one."""
        decode = _DECODERS[self.dialect].get(self.kind)
        if self.members is not None:
            decode = self.members if decode is None else _chain(decode, self.members)
        return _unless_none(decode)

    def plain(self) -> Translation | None:
        """Makes what the driver gives plain data, as the serializer takes it."""
        decode = _DECODERS[self.dialect].get(self.kind)
        to_plain = _PLAIN.get(self.kind)
        if decode is None or to_plain is None:
            return _unless_none(decode or to_plain)
        return _unless_none(_chain(decode, to_plain))

    def equals(self, value: Any) -> list[Any]:
        """The parameters that equal a value which is not None, as Python sees it."""
        if self.members is not None:
            return [member.value for member in self.members if member == value]
        try:
            return [self._parameter(_EXACT[self.kind](value))]
        except NoSuchValue:
            return []

    def key_equals(self, value: Any) -> list[Any]:
        """The same for a key."""
        if self.kind != "decimal":
            return [] if value is None else self.equals(value)
        try:
            return [_key_decimal(self.dialect)(_exact_decimal(value))]
        except NoSuchValue:
            return []

    def key_parameter(self, value: Any) -> Any:
        """The parameter for a key, of the value that its bytes in a form that sorts stand for."""
        match self.kind:
            case "integer":
                return int(value)
            case "boolean":
                return bool(value)
            case "decimal":
                return _key_decimal(self.dialect)(Decimal(value))
            case "text" | "bytes":
                return value
            case _:
                return self._parameter(value)

    def bound(self, value: Any, *, is_low: bool) -> Any:
        """The parameter for an end of a range; None where it bounds nothing. Raises `NoSuchValue`."""
        if isinstance(value, enum.Enum):
            value = value.value
        match self.kind:
            case "integer":
                return _integer_bound(value, is_low)
            case "float":
                return _float_bound(value, is_low)
            case _:
                return self._parameter(_EXACT[self.kind](value))

    def _parameter(self, value: Any) -> Any:
        encode = _ENCODERS[self.dialect].get(self.kind)
        return value if encode is None else encode(value)


def column_of(row_class: type, field: "attrs.Attribute[Any]", dialect: Dialect) -> Column:
    """The column for a field of a row class."""
    try:
        hint = typing.get_type_hints(row_class).get(field.name, Any)
    except NameError:
        # A name that only a type checker knows; cattrs could not have prepared it either, unless by a hook.
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
    # JSON has a null of its own, and a field of any type may be None.
    return kind, kind == "json", None


def _common_kind(values: list[Any]) -> str:
    classes = {type(value) for value in values}
    return _KINDS[classes.pop()] if classes in ({str}, {int}) else "json"


def _chain(first: Translation, second: Translation) -> Translation:
    return lambda value: second(first(value))


def _unless_none(translate: Translation | None) -> Translation | None:
    if translate is None:
        return None
    return lambda value: None if value is None else translate(value)


# --- values to parameters and back ---


def _number(value: float) -> float:
    # SQLite would store NaN as NULL.
    if value != value:
        raise ValueError("NaN has no place in an SQLite column")
    return value


def _datetime_text(value: datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(UTC)
    return value.isoformat(timespec="microseconds")


def _key_decimal(dialect: Dialect) -> Translation:
    def encode(value: Decimal) -> Any:
        """Equal ones, however they are written, as one text."""
        if dialect == "postgresql":
            return value
        if not value:
            return "0"
        shortest = _DECIMALS.normalize(value)
        return format(shortest, "f") if abs(shortest.adjusted()) < PLAIN_DIGITS_MAX else str(shortest)

    return encode


def compare_decimals(one: str, other: str) -> int:
    """-1, 0 or 1; NaN comes last."""
    first, second = sorting_key(Decimal(one)), sorting_key(Decimal(other))
    return (first > second) - (first < second)


_ENCODERS: Final[dict[Dialect, dict[str, Translation]]] = {
    "sqlite": {
        "float": _number,
        "datetime": _datetime_text,
        "date": date.isoformat,
        "timedelta": lambda value: value // _MICROSECOND,
        "decimal": str,
        "uuid": str,
        "json": to_json,
    },
    "postgresql": {
        "datetime": _datetime_text,
        "timedelta": lambda value: value // _MICROSECOND,
        "json": to_json,
    },
}
_DECODERS: Final[dict[Dialect, dict[str, Translation]]] = {
    "sqlite": {
        "boolean": bool,
        "datetime": datetime.fromisoformat,
        "date": date.fromisoformat,
        "timedelta": lambda value: timedelta(microseconds=value),
        "decimal": Decimal,
        "uuid": UUID,
        "json": from_json,
    },
    "postgresql": {
        "datetime": datetime.fromisoformat,
        "timedelta": lambda value: timedelta(microseconds=value),
        "json": revived,
    },
}
_PLAIN: Final[dict[str, Translation]] = {
    "datetime": datetime.isoformat,
    "date": date.isoformat,
    "timedelta": lambda value: [value.days, value.seconds, value.microseconds],
    "decimal": str,
    "uuid": str,
}


# --- what a query compares with ---


def _exactly(*classes: type) -> Translation:
    def check(value: Any) -> Any:
        if type(value) not in classes and not (isinstance(value, classes) and not isinstance(value, bool | datetime)):
            raise NoSuchValue
        return value

    return check


def _number_of(value: Any) -> Any:
    """A number, which NaN is not."""
    if not isinstance(value, int | float | Decimal):
        raise NoSuchValue
    if value.is_nan() if isinstance(value, Decimal) else value != value:
        raise NoSuchValue
    return value


def _exact_integer(value: Any) -> int:
    if not INT_MIN <= _number_of(value) <= INT_MAX or int(value) != value:
        raise NoSuchValue
    return int(value)


def _exact_float(value: Any) -> float:
    try:
        number = float(_number_of(value))
    except OverflowError:
        raise NoSuchValue from None
    if number != value:
        raise NoSuchValue
    return number


def _exact_boolean(value: Any) -> bool:
    if _number_of(value) not in (0, 1):
        raise NoSuchValue
    return bool(value)


def _exact_text(value: Any) -> str:
    if not isinstance(value, str):
        raise NoSuchValue
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NoSuchValue from None
    return str.__str__(value)


def _exact_decimal(value: Any) -> Decimal:
    return Decimal(_number_of(value))


def _integer_bound(value: Any, is_low: bool) -> int | None:
    if _number_of(value) > INT_MAX:
        if is_low:
            raise NoSuchValue
        return None
    if value < INT_MIN:
        if is_low:
            return None
        raise NoSuchValue
    rounded: int = math.ceil(value) if is_low else math.floor(value)
    return rounded


def _float_bound(value: Any, is_low: bool) -> float:
    try:
        number = float(_number_of(value))
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if is_low and number < value:
        return math.nextafter(number, math.inf)
    if not is_low and number > value:
        return math.nextafter(number, -math.inf)
    return number


_EXACT: Final[dict[str, Translation]] = {
    "integer": _exact_integer,
    "float": _exact_float,
    "text": _exact_text,
    "boolean": _exact_boolean,
    "bytes": _exactly(bytes),
    "datetime": _exactly(datetime),
    "date": _exactly(date),
    "timedelta": _exactly(timedelta),
    "decimal": _exact_decimal,
    "uuid": _exactly(UUID),
}
