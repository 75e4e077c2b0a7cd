"""Plain data: values that sagas get from outside, as they are stored and come back."""

from typing import Any, Final

import msgspec

from ..errors import EncodingError
from ..serialization.unsealed import check_nothing_personal

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


def plain_data(value: Any, subject: str) -> Any:
    """A value from outside as it will be read again. Raises `EncodingError`, whose message names the subject."""
    check_nothing_personal(value)
    try:
        # A time comes back as a text, as in a saga's state.
        return _decode(_encode(msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview))))
    except Exception as error:
        raise EncodingError(f"{subject} is no plain data: {error}") from error
