"""Plain data as JSON text and back. A value that JSON lacks becomes a dict with one key, a mark: {"$bytes": base64}.

Dicts whose keys are not all texts become {"$items": [key, value, ...]}. Floats that PostgreSQL would take for whole
numbers, infinities and NaN become {"$float": text}. A user's own dict whose only key is a mark becomes {mark: [value]}.
"""

import json
from base64 import b64decode, b64encode
from typing import Any, Final

_BYTES: Final = "$bytes"
_ITEMS: Final = "$items"
_FLOAT: Final = "$float"
_MARKS: Final = frozenset({_BYTES, _ITEMS, _FLOAT})
_EXPONENT_FROM: Final = 1e16
"""From here on a float is written without a decimal point, and JSONB would write it as an int."""


def to_json(data: Any) -> str:
    """Plain data as JSON text, which is the same for the same data.

    Raises `TypeError` for values that cannot be JSON, `ValueError` for data nested too deeply.
    """
    try:
        return _dumped(_marked(data))
    except RecursionError as error:
        # As the fault of the data that it is: else the write would be retried for ever.
        raise ValueError("it is nested too deeply") from error


def from_json(text: str) -> Any:
    """Plain data from JSON text. Raises `ValueError` for text that `to_json` does not write."""
    return json.loads(text, object_hook=_unmarked)


def revived(data: Any) -> Any:
    """Plain data from a value that a driver has already parsed as JSON."""
    if isinstance(data, dict):
        return _unmarked({key: revived(item) for key, item in data.items()})
    return [revived(item) for item in data] if isinstance(data, list) else data


def _dumped(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _marked(data: Any) -> Any:
    if isinstance(data, dict):
        return _marked_dict(data)
    if isinstance(data, list | tuple):
        return [_marked(item) for item in data]
    if isinstance(data, bytes | bytearray):
        return {_BYTES: b64encode(data).decode()}
    if isinstance(data, float) and not abs(data) < _EXPONENT_FROM:
        return {_FLOAT: repr(data)}
    return data


def _marked_dict(data: dict[Any, Any]) -> dict[str, Any]:
    if all(isinstance(key, str) for key in data):
        items = {key: _marked(item) for key, item in data.items()}
        (mark,) = items if len(items) == 1 else ("",)
        return {mark: [items[mark]]} if mark in _MARKS else items
    pairs = sorted(((_marked(key), _marked(item)) for key, item in data.items()), key=lambda pair: _dumped(pair[0]))
    return {_ITEMS: [part for pair in pairs for part in pair]}


def _unmarked(value: dict[str, Any]) -> Any:
    (mark,) = value if len(value) == 1 else ("",)
    if mark not in _MARKS:
        return value
    match mark, value[mark]:
        case _, [held]:
            return {mark: held}
        case "$bytes", str(text):
            return b64decode(text, validate=True)
        case "$float", str(text):
            return float(text)
        case "$items", [*parts] if parts and len(parts) % 2 == 0:
            return {_hashable(key): item for key, item in zip(parts[::2], parts[1::2], strict=True)}
    raise ValueError(f"{value!r} was not written as the value of a row")


def _hashable(key: Any) -> Any:
    return tuple(_hashable(part) for part in key) if isinstance(key, list) else key
