"""Plain data as JSON text and back. Bytes, which JSON does not have, are {"$bytes": base64}.

A dict of that very shape, as a user may have one, is {"$bytes": [what it holds]}, so that everything comes back as put.
"""

import json
from base64 import b64decode, b64encode
from typing import Any, Final

_BYTES: Final = "$bytes"
_QUOTED: Final = json.dumps(_BYTES)


def to_json(data: Any) -> str:
    """Plain data as JSON text that is the same for the same data."""
    text = _dumped(data)
    # Few data hold the mark, or bytes, which were given it just now.
    return _dumped(_marked(data)) if _QUOTED in text else text


def from_json(text: str) -> Any:
    """Plain data from its text. Raises `ValueError` for what `to_json` does not write."""
    return json.loads(text, object_hook=_unmarked)


def revived(data: Any) -> Any:
    """The same from what a driver has read as JSON."""
    if isinstance(data, dict):
        return _unmarked({key: revived(item) for key, item in data.items()})
    return [revived(item) for item in data] if isinstance(data, list) else data


def _dumped(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_of_bytes)


def _of_bytes(value: Any) -> dict[str, str]:
    if isinstance(value, bytes | bytearray):
        return {_BYTES: b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} cannot be JSON")


def _marked(data: Any) -> Any:
    if isinstance(data, dict):
        items = {key: _marked(item) for key, item in data.items()}
        return {_BYTES: [items[_BYTES]]} if items.keys() == {_BYTES} else items
    return [_marked(item) for item in data] if isinstance(data, list | tuple) else data


def _unmarked(value: dict[str, Any]) -> Any:
    if value.keys() != {_BYTES}:
        return value
    match value[_BYTES]:
        case str(encoded):
            return b64decode(encoded, validate=True)
        case [held]:
            return {_BYTES: held}
    raise ValueError(f"{value!r} stands neither for bytes nor for a dict")
