"""Values as bytes that sort as the values do, for the keys of views and their indexes."""

import enum
import math
import struct
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

KEY_SIZE_BYTES_MAX: Final = 255
"""The key of a row. LMDB's bound is 511, and an index entry holds a value and a key."""
INDEXED_SIZE_BYTES_MAX: Final = 200
"""Of an indexed value; what is longer is cut off, so that a reader must compare the value itself."""

_INT64: Final = 1 << 63
_ALL_BITS: Final = (1 << 64) - 1
_EXACT: Final = 1 << 53
"""Ints below it are doubles without loss."""
_NO_DIFFERENCE: Final = struct.pack(">Q", _INT64)
_DIFFERENCE_MAX: Final = _INT64 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)
_MICROSECOND: Final = timedelta(microseconds=1)
_UINT64: Final = struct.Struct(">Q")
_NUMBER: Final = struct.Struct(">QQ")
_DOUBLE: Final = struct.Struct(">d")


class NotOrdered(TypeError):
    """A value of a type without an order that can be stored."""


def encode_value(value: Any) -> bytes:
    """Bytes that compare as the values of one type do; None comes first. Ints, floats and decimals are one type.

    Raises `NotOrdered` for a value that is no None, bool, number, text, bytes, date, datetime, timedelta, UUID or enum.
    """
    kind = type(value)
    if kind is str:
        text: str = value
        return b"\x20" + text.encode().replace(b"\x00", b"\x00\xff") + b"\x00"
    if kind is int and -_EXACT < value < _EXACT:
        (bits,) = _UINT64.unpack(_DOUBLE.pack(value))
        return b"\x10" + _UINT64.pack(bits ^ _ALL_BITS if value < 0 else bits | _INT64) + _NO_DIFFERENCE
    if kind is int or kind is float:
        return _encode_number(value)
    return _encode_other(value)


def encode_key(values: tuple[Any, ...]) -> bytes:
    """The key of a row, exactly. Raises `NotOrdered`, also for one over `KEY_SIZE_BYTES_MAX`."""
    key = b"".join([encode_value(value) for value in values])
    if len(key) > KEY_SIZE_BYTES_MAX:
        raise NotOrdered(f"it takes {len(key)} bytes as a key, and {KEY_SIZE_BYTES_MAX} is the most")
    return key


def encode_indexed(value: Any) -> bytes:
    """An indexed value, cut off at `INDEXED_SIZE_BYTES_MAX`: equal values give equal bytes, unequal ones may, too."""
    return encode_value(value)[:INDEXED_SIZE_BYTES_MAX]


def _encode_number(value: float) -> bytes:
    """Its nearest double in an order that bytes have, then what an int lacks of that."""
    try:
        nearest = float(value)
    except OverflowError:
        nearest = math.inf if value > 0 else -math.inf
    if math.isnan(nearest):
        raise NotOrdered("NaN has no place in an order")
    (bits,) = _UINT64.unpack(_DOUBLE.pack(nearest + 0.0))
    ordered = bits ^ _ALL_BITS if bits & _INT64 else bits | _INT64
    difference = int(value) - int(nearest) if isinstance(value, int) and math.isfinite(nearest) else 0
    return b"\x10" + _NUMBER.pack(ordered, min(max(difference, -_INT64), _DIFFERENCE_MAX) + _INT64)


def _encode_other(value: Any) -> bytes:
    if value is None:
        return b"\x01"
    if isinstance(value, enum.Enum):
        return encode_value(value.value)
    if isinstance(value, bool):
        return b"\x03" if value else b"\x02"
    if isinstance(value, int | float | Decimal):
        return _encode_number(float(value) if isinstance(value, Decimal) else value)
    if isinstance(value, str):
        return encode_value(str(value))
    if isinstance(value, bytes):
        return b"\x21" + value.replace(b"\x00", b"\x00\xff") + b"\x00"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return b"\x31" + _UINT64.pack((value - _NAIVE_EPOCH) // _MICROSECOND + _INT64)
        return b"\x30" + _UINT64.pack((value - _EPOCH) // _MICROSECOND + _INT64)
    if isinstance(value, date):
        return b"\x32" + _UINT64.pack(value.toordinal())
    if isinstance(value, timedelta):
        return b"\x33" + (value // _MICROSECOND + (1 << 79)).to_bytes(10, "big")
    if isinstance(value, uuid.UUID):
        return b"\x40" + value.bytes
    raise NotOrdered(f"{type(value).__name__} has no order that can be stored")
