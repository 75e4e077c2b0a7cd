"""Plain data: what sagas are given from outside, as it is stored and comes back."""

from typing import Any, Final

import msgspec

from ..errors import EncodingError
from ..serialization.unsealed import check_nothing_personal

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


def plain_data(value: Any, subject: str) -> Any:
    """A value from outside as it will be read again. Raises `EncodingError`, which tells of the subject."""
    check_nothing_personal(value)
    try:
        # A time comes back as a text, as it does in a state.
        return _decode(_encode(msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview))))
    except Exception as error:
        raise EncodingError(f"{subject} is no plain data: {error}") from error
