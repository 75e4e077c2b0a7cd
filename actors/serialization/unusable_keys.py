"""Mapping keys that cannot be stored: a key that becomes a list or a dict is no key."""

import typing
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from .annotations import alternatives, field_types, has_fields, without_alias


def unusable_key(hint: Any, seen: set[Any] | None = None) -> Any:
    """The type of a mapping's keys within the type that would become lists or dicts; None if there is none."""
    seen = set() if seen is None else seen
    hint = without_alias(hint)
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        for key in alternatives(without_alias(parts[0])) if parts else ():
            if _is_compound(typing.get_origin(key) or key):
                return key
    if has_fields(origin):
        if origin in seen:
            return None
        seen.add(origin)
        parts = (*parts, *field_types(origin).values())
    return next((key for part in parts if (key := unusable_key(part, seen)) is not None), None)


def _is_compound(cls: Any) -> bool:
    return isinstance(cls, type) and (issubclass(cls, tuple | frozenset | timedelta) or has_fields(cls))
