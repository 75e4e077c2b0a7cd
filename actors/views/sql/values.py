"""Values as database parameters and back, by the kind of their column."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from ....storage.ordered_key import sorting_key
from .json_text import from_json, revived, to_json

Dialect: TypeAlias = Literal["sqlite", "postgresql"]
Translation: TypeAlias = Callable[[Any], Any]

INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 63) - 1
MICROSECOND: Final = timedelta(microseconds=1)
PLAIN_DIGITS_MAX: Final = 40
"""How many digits a decimal key may have on SQLite before it is written with an exponent."""
WHOLE_DIGITS_MAX: Final = 131_072
"""The digits of PostgreSQL's NUMERIC before the decimal point."""
PARTIAL_DIGITS_MAX: Final = 16_383
"""The digits of PostgreSQL's NUMERIC after the decimal point."""
_SIGNALLING: Final = "a signalling NaN cannot be compared with anything"
_DECIMALS: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


def encoder_of(kind: str, dialect: Dialect, *, is_key: bool = False) -> Translation | None:
    """The function that turns a value of this kind into a parameter; None if the value is one already.

    Equal keys give the same parameter, however they are written. The function raises errors that `is_refusal`
    recognises.
    """
    if is_key and (kind, dialect) == ("decimal", "sqlite"):
        return _key_text
    return _ENCODERS[dialect].get(kind)


def decimal_of(text: str) -> Decimal:
    """The decimal from its SQLite text."""
    return Decimal(text.rpartition(" ")[2])


def compare_decimals(one: str, other: str) -> int:
    """Compare two decimals' texts: -1, 0 or 1. NaN comes last."""
    first, second = sorting_key(decimal_of(one)), sorting_key(decimal_of(other))
    return (first > second) - (first < second)


def _microseconds(value: timedelta) -> int:
    number = value // MICROSECOND
    if not INT_MIN <= number <= INT_MAX:
        raise OverflowError(f"{value!r} takes more than 64 bits in microseconds")
    return number


def _double(value: float) -> float:
    """The double that equals a number. Raises `ValueError` if there is none, as for some values of `int | float`."""
    number = float(value)
    if number != value and value == value:
        raise ValueError(f"no double equals {value!r}")
    return number


def _number(value: float) -> float:
    # SQLite would store NaN as NULL.
    if value != value:
        raise ValueError("NaN has no place in an SQLite column")
    return _double(value)


def _datetime_text(value: datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(UTC)
    return value.isoformat(timespec="microseconds")


def _decimal_text(value: Decimal) -> str:
    if value.is_snan():
        raise ValueError(_SIGNALLING)
    if value.is_finite():
        return str(value)
    # SQLite reads the number at the beginning, which is beyond all doubles. NaN comes last.
    sign = "-" if value.is_infinite() and value < 0 else ""
    return f"{sign}9e999 {value}"


def _key_text(value: Decimal) -> str:
    if not value.is_finite():
        return _decimal_text(value)
    if not value:
        return "0"
    shortest = _DECIMALS.normalize(value)
    return format(shortest, "f") if abs(shortest.adjusted()) < PLAIN_DIGITS_MAX else str(shortest)


def _postgresql_decimal(value: Decimal) -> Decimal:
    if value.is_snan():
        raise ValueError(_SIGNALLING)
    if not value.is_finite() or _fits_numeric(value):
        return value
    # Trailing zeros alone may make it too long.
    shortest = _DECIMALS.normalize(value)
    if not _fits_numeric(shortest):
        raise OverflowError(
            f"NUMERIC has {WHOLE_DIGITS_MAX} digits before the point and {PARTIAL_DIGITS_MAX} behind it at most"
        )
    return shortest


def _fits_numeric(value: Decimal) -> bool:
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -PARTIAL_DIGITS_MAX and value.adjusted() < WHOLE_DIGITS_MAX


_ENCODERS: Final[dict[Dialect, dict[str, Translation]]] = {
    "sqlite": {
        "float": _number,
        "datetime": _datetime_text,
        "date": date.isoformat,
        "timedelta": _microseconds,
        "decimal": _decimal_text,
        "uuid": str,
        "json": to_json,
    },
    "postgresql": {
        "float": _double,
        "datetime": _datetime_text,
        "timedelta": _microseconds,
        "decimal": _postgresql_decimal,
        "json": to_json,
    },
}
DECODERS: Final[dict[Dialect, dict[str, Translation]]] = {
    "sqlite": {
        "boolean": bool,
        "datetime": datetime.fromisoformat,
        "date": date.fromisoformat,
        "timedelta": lambda value: timedelta(microseconds=value),
        "decimal": decimal_of,
        "uuid": UUID,
        "json": from_json,
    },
    "postgresql": {
        "datetime": datetime.fromisoformat,
        "timedelta": lambda value: timedelta(microseconds=value),
        "json": revived,
    },
}
"""Turn the driver's value of a kind into the field's value."""

PLAIN: Final[dict[str, Translation]] = {
    "datetime": datetime.isoformat,
    "date": date.isoformat,
    "timedelta": lambda value: [value.days, value.seconds, value.microseconds],
    "decimal": str,
    "uuid": str,
}
"""Turn a value of a kind into plain data for the serializer."""
