"""What a query compares a column with: the equal value of the column's kind, and the ends of ranges.

A query may ask for any value, even one that no row can have.
"""

import enum
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import attrs

from .values import INT_MAX, INT_MIN, MICROSECOND, Dialect, Translation, encoder_of

_DATETIME_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_DATETIME_LAST: Final = datetime.max.replace(tzinfo=UTC)
_KNOWN: Final = (
    *(int, float, Decimal, str, bytes, date, timedelta, UUID, enum.Enum),
    *(list, tuple, dict, set, frozenset, type(None)),
)
"""No value of one of these classes equals a value of another, except numbers. For unknown classes it may: `Fraction(2)`
equals 2, and `bytearray(b"x")` equals `b"x"`."""
_SURROGATE_FIRST: Final = "\ud800"
_SURROGATE_LAST: Final = "\udfff"


class NoSuchValue(Exception):
    """No row can have this value in this column."""


class NotInSql(Exception):
    """The database cannot compare this value; Python has to."""


@attrs.frozen
class Bound:
    """An end of a range as a parameter; if it is not included, it is the first value beyond the range."""

    parameter: Any
    is_included: bool = True


def parameter_of(kind: str, value: Any, dialect: Dialect, *, is_key: bool = False) -> Any:
    """The parameter that equals a value, as in Python. Raises `NoSuchValue`."""
    exact = _EXACT[kind](value)
    if kind == "text" and _first_odd(exact, dialect) < len(exact):
        raise NoSuchValue
    return _encoded(kind, exact, dialect, is_key)


def bound_of(kind: str, value: Any, is_low: bool, dialect: Dialect) -> Bound | None:
    """An end of a range; None if it excludes nothing. Raises `NoSuchValue` if the range is empty, `NotInSql`."""
    if kind == "text":
        return _text_bound(_text(value), is_low, dialect)
    if kind == "decimal":
        exact = _exact_decimal(value)
        try:
            return Bound(_encoded(kind, exact, dialect))
        except NoSuchValue:
            # The value has more digits than the database takes.
            raise NotInSql from None
    if kind in _BOUNDS:
        return _BOUNDS[kind](value, is_low)
    return Bound(parameter_of(kind, value, dialect))


def _encoded(kind: str, exact: Any, dialect: Dialect, is_key: bool = False) -> Any:
    encode = encoder_of(kind, dialect, is_key=is_key)
    try:
        return exact if encode is None else encode(exact)
    except (ValueError, OverflowError):
        raise NoSuchValue from None


# --- values ---


def _exactly(wanted: type) -> Translation:
    def check(value: Any) -> Any:
        # A datetime is an instance of date, but equals no date.
        if not isinstance(value, wanted) or (wanted is date and isinstance(value, datetime)):
            raise _unlike(value)
        return value

    return check


def _unlike(value: Any) -> Exception:
    """The error for a value of another class: a value of an unknown class may equal what a row has."""
    return NoSuchValue() if isinstance(value, _KNOWN) else NotInSql()


def _number_of(value: Any) -> Any:
    """Check that the value is a number and not NaN, and return it."""
    if not isinstance(value, int | float | Decimal):
        raise _unlike(value)
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


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _unlike(value)
    return str.__str__(value)


def _exact_decimal(value: Any) -> Decimal:
    return Decimal(_number_of(value))


def _first_odd(text: str, dialect: Dialect) -> int:
    """The index of the first character that no stored text has; the length of the text if there is none."""
    if text.isascii() and not (dialect == "postgresql" and "\0" in text):
        return len(text)
    for index, character in enumerate(text):
        if _SURROGATE_FIRST <= character <= _SURROGATE_LAST or (character == "\0" and dialect == "postgresql"):
            return index
    return len(text)


_EXACT: Final[dict[str, Translation]] = {
    "integer": _exact_integer,
    "float": _exact_float,
    "text": _text,
    "boolean": _exact_boolean,
    "bytes": _exactly(bytes),
    "datetime": _exactly(datetime),
    "date": _exactly(date),
    "timedelta": _exactly(timedelta),
    "decimal": _exact_decimal,
    "uuid": _exactly(UUID),
}


# --- ends of ranges ---


def _integer_bound(value: Any, is_low: bool) -> Bound | None:
    if _number_of(value) > INT_MAX:
        if is_low:
            raise NoSuchValue
        return None
    if value < INT_MIN:
        if is_low:
            return None
        raise NoSuchValue
    return Bound(math.ceil(value) if is_low else math.floor(value))


def _float_bound(value: Any, is_low: bool) -> Bound:
    try:
        number = float(_number_of(value))
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    if is_low and number < value:
        return Bound(math.nextafter(number, math.inf))
    if not is_low and number > value:
        return Bound(math.nextafter(number, -math.inf))
    return Bound(number)


def _timedelta_bound(value: Any, is_low: bool) -> Bound | None:
    return _integer_bound(_EXACT["timedelta"](value) // MICROSECOND, is_low)


def _datetime_bound(value: Any, is_low: bool) -> Bound:
    """A bound beyond the calendar in UTC becomes the calendar's end, which includes every stored aware time."""
    exact = _EXACT["datetime"](value)
    if exact.utcoffset() is not None and not _DATETIME_FIRST <= exact <= _DATETIME_LAST:
        is_before = exact < _DATETIME_FIRST
        if is_before != is_low:
            raise NoSuchValue
        exact = _DATETIME_FIRST if is_before else _DATETIME_LAST
    return Bound(_encoded("datetime", exact, "sqlite"))


def _text_bound(text: str, is_low: bool, dialect: Dialect) -> Bound:
    """If no stored text has one of the text's characters, the bound is the next text that can be stored."""
    odd = _first_odd(text, dialect)
    if odd == len(text):
        return Bound(text)
    after = text[:odd] + ("\x01" if text[odd] == "\0" else chr(ord(_SURROGATE_LAST) + 1))
    return Bound(after, is_included=is_low)


_BOUNDS: Final[dict[str, Callable[[Any, bool], Bound | None]]] = {
    "integer": _integer_bound,
    "float": _float_bound,
    "timedelta": _timedelta_bound,
    "datetime": _datetime_bound,
}
