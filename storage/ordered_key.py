"""Order-preserving encoding of values as bytes, for the keys of views and their indexes."""

import enum
import math
import struct
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Any, Final

KEY_SIZE_BYTES_MAX: Final = 255
"""The longest key of a row. LMDB keys have at most 511 bytes, and an index entry has an indexed value and a key."""
INDEXED_SIZE_BYTES_MAX: Final = 200
"""The longest indexed value; longer values are truncated, so a reader must compare the value in the row."""

_INT64: Final = 1 << 63
_ALL_BITS: Final = (1 << 64) - 1
_EXACT: Final = 1 << 53
"""Ints of a smaller magnitude are exact as doubles."""
_NUMBER: Final = b"\x10"
# The sign of the difference between a number and its nearest double, in this order. The infinities are the extremes.
_MINUS_INFINITY: Final = b"\x01"
_LESS: Final = b"\x40"
_NOTHING: Final = b"\x80"
_MORE: Final = b"\xc0"
_INFINITY: Final = b"\xfe"
_NO_NUMBER: Final = b"\x10" + b"\xff" * 9
_EXPONENT: Final = struct.Struct(">Q")
_DECIMALS: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""A context in which sums and differences are exact."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)
_MICROSECOND: Final = timedelta(microseconds=1)
_UINT64: Final = struct.Struct(">Q")
_DOUBLE: Final = struct.Struct(">d")


class NotOrdered(TypeError):
    """A value cannot be a key: its type has no order that can be stored, it is NaN, or the key would be too long."""


def encode_value(value: Any) -> bytes:
    """Encode a value so that the bytes of values of one type compare as the values do; None comes first.

    Bools, ints, floats and decimals are one type: two numbers have the same bytes if and only if they are equal.

    Raises `NotOrdered` for NaN, and for a value that is not None, a bool, number, text, bytes, date, datetime,
    timedelta, UUID or enum.
    """
    kind = type(value)
    if kind is str:
        text: str = value
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            encoded = text.encode("utf-8", "surrogatepass")
        return b"\x20" + encoded.replace(b"\x00", b"\x00\xff") + b"\x00"
    if kind is int and 0 <= value < _EXACT:
        # The negative sign sets the highest bit, which sorts these numbers after the negative ones.
        return _NUMBER + _DOUBLE.pack(-float(value)) + _NOTHING
    if kind is int and -_EXACT < value < 0:
        (bits,) = _UINT64.unpack(_DOUBLE.pack(value))
        return _NUMBER + _UINT64.pack(bits ^ _ALL_BITS) + _NOTHING
    if kind is int or kind is float:
        return _encode_number(value)
    return _encode_other(value)


def encode_key(values: tuple[Any, ...]) -> bytes:
    """Encode the key of a row. Raises `NotOrdered`, also for a key longer than `KEY_SIZE_BYTES_MAX`."""
    key = encode_value(values[0]) if len(values) == 1 else b"".join([encode_value(value) for value in values])
    if len(key) > KEY_SIZE_BYTES_MAX:
        raise NotOrdered(f"it takes {len(key)} bytes as a key, and {KEY_SIZE_BYTES_MAX} is the most")
    return key


def encode_indexed(value: Any) -> bytes:
    """Encode an indexed value, truncated to `INDEXED_SIZE_BYTES_MAX`: unequal values may have equal bytes."""
    return encode_value(value)[:INDEXED_SIZE_BYTES_MAX]


def sorting_key(value: Any) -> bytes:
    """Encode a value for sorting in memory, like `encode_value`, but also lists and tuples, and NaN as the last number.

    Raises `NotOrdered`.
    """
    if isinstance(value, list | tuple):
        return b"\x50" + b"".join([sorting_key(item) for item in value]) + b"\x00"
    if isinstance(value, float | Decimal) and _is_nan(value):
        return _NO_NUMBER
    return encode_value(value)


def decode_value(encoded: bytes, start: int = 0) -> tuple[Any, int]:
    """(the value at `start`, the offset of the next value). A number is a float, or a decimal if no float is equal."""
    tag = encoded[start]
    start += 1
    match tag:
        case 0x01:
            return None, start
        case 0x10:
            return _decode_number(encoded, start)
        case 0x20 | 0x21:
            end = start
            while encoded[end] or encoded[end + 1 : end + 2] == b"\xff":
                end += 1 if encoded[end] else 2
            raw = encoded[start:end].replace(b"\x00\xff", b"\x00")
            return (raw.decode("utf-8", "surrogatepass") if tag == 0x20 else raw), end + 1
        case 0x30 | 0x31:
            (microseconds,) = _UINT64.unpack_from(encoded, start)
            when = _EPOCH + (microseconds - _INT64) * _MICROSECOND
            return (when if tag == 0x30 else when.replace(tzinfo=None)), start + 8
        case 0x32:
            return date.fromordinal(*_UINT64.unpack_from(encoded, start)), start + 8
        case 0x33:
            number = int.from_bytes(encoded[start : start + 10], "big") - (1 << 79)
            return number * _MICROSECOND, start + 10
        case 0x40:
            return uuid.UUID(bytes=encoded[start : start + 16]), start + 16
    raise AssertionError(f"a value begins with {tag:#x}")


# --- numbers ---


def _encode_number(value: "float | Decimal") -> bytes:
    """Encode a number as its nearest double, in bytes that sort as numbers do, then the difference from the double."""
    if _is_nan(value):
        raise NotOrdered("NaN has no place in an order")
    try:
        nearest = float(value) + 0.0
    except OverflowError:
        nearest = math.inf if value > 0 else -math.inf
    (bits,) = _UINT64.unpack(_DOUBLE.pack(nearest))
    head = _NUMBER + _UINT64.pack(bits ^ _ALL_BITS if bits & _INT64 else bits | _INT64)
    if value == nearest:
        if math.isinf(nearest):
            return head + (_INFINITY if nearest > 0 else _MINUS_INFINITY)
        return head + _NOTHING
    # For a number beyond the doubles, the difference is the number itself; subtracting 0 would write out all its zeros.
    beside = nearest if math.isfinite(nearest) else 0.0
    rest = _DECIMALS.subtract(Decimal(value), Decimal(beside)) if beside else Decimal(value)
    digits = _encode_digits(rest.copy_abs())
    return head + (_MORE + digits if rest > 0 else _LESS + bytes(0xFF - byte for byte in digits))


def _is_nan(value: "float | Decimal") -> bool:
    # Comparing a signalling NaN raises an error.
    return value.is_nan() if isinstance(value, Decimal) else value != value


def _encode_digits(number: Decimal) -> bytes:
    """Encode a positive decimal as the exponent of its first digit, then its digits without trailing zeros."""
    digits = "".join(map(str, number.as_tuple().digits)).rstrip("0")
    return _EXPONENT.pack(number.adjusted() + _INT64) + digits.encode() + b"\x00"


def _decode_number(encoded: bytes, start: int) -> tuple[Any, int]:
    (ordered,) = _UINT64.unpack_from(encoded, start)
    (nearest,) = _DOUBLE.unpack(_UINT64.pack(ordered ^ _INT64 if ordered & _INT64 else ordered ^ _ALL_BITS))
    start += _UINT64.size
    sign = encoded[start : start + 1]
    start += 1
    if sign not in (_LESS, _MORE):
        return nearest, start
    end = encoded.index(b"\x00" if sign == _MORE else b"\xff", start + _EXPONENT.size)
    part = encoded[start:end] if sign == _MORE else bytes(0xFF - byte for byte in encoded[start:end])
    (exponent,) = _EXPONENT.unpack_from(part)
    digits = part[_EXPONENT.size :]
    rest = Decimal((int(sign == _LESS), tuple(digit - 0x30 for digit in digits), exponent - _INT64 - len(digits) + 1))
    beside = nearest if math.isfinite(nearest) else 0.0
    return (_DECIMALS.add(Decimal(beside), rest) if beside else rest), end + 1


# --- the others ---


def _encode_other(value: Any) -> bytes:
    if value is None:
        return b"\x01"
    if isinstance(value, enum.Enum):
        return encode_value(value.value)
    if isinstance(value, int | float | Decimal):
        return _encode_number(value)
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
