"""Sealing: cattrs hooks encrypt personal values when an object is stored, and open them when it is read.

A sealed value is a MessagePack extension that names its key.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeGuard
from uuid import UUID

import attrs
import cattrs
import msgspec

from ...storage.keys.subject_keys import KEY_ID_BYTES, KEY_TAG_PREFIX
from ..errors import DecodingError, EncodingError
from .annotations import field_types, has_fields
from .personal import default_of, personal_fields, plain_type

SEALED_CODE: Final = 80
"""The MessagePack extension type of a sealed value."""
_SEALS: Final = "__eventsrc_seals__"
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class Sealing(Protocol):
    """The subjects' keys, as far as sealing needs them."""

    def check(self) -> None:
        """Raise an error if nothing can be sealed at all."""

    def seal(self, subject: str, value: bytes) -> bytes:
        """Encrypt a value with the subject's key."""

    @property
    def is_forgetting(self) -> bool:
        """Whether what is sealed now may be forgotten at once."""

    def unseal(self, sealed: bytes) -> bytes | None:
        """Decrypt a value; None if its subject was forgotten."""


def is_sealed(value: Any) -> TypeGuard[msgspec.msgpack.Ext]:
    """Whether `value` is a sealed value in stored form."""
    return isinstance(value, msgspec.msgpack.Ext) and value.code == SEALED_CODE


def key_id_of(sealed: msgspec.msgpack.Ext) -> bytes:
    """The id of the key that opens a sealed value; the value begins with it."""
    return bytes(sealed.data)[:KEY_ID_BYTES]


def key_tag(key_id: bytes) -> str:
    """The tag of the events that hold a value sealed with this key."""
    return f"{KEY_TAG_PREFIX}{key_id.hex()}"


def key_tags(payload: bytes, keys: Sealing | None = None) -> tuple[str, ...]:
    """The tags of an event whose encoded payload holds sealed values, one for each key.

    With `keys`, values sealed within other sealed values count as well.
    """
    found: dict[str, None] = {}

    def note(code: int, data: memoryview) -> None:
        if code == SEALED_CODE:
            found[key_tag(bytes(data[:KEY_ID_BYTES]))] = None
            content = None if keys is None else keys.unseal(bytes(data))
            if content is not None:
                msgspec.msgpack.decode(content, ext_hook=note)

    msgspec.msgpack.decode(payload, ext_hook=note)
    return tuple(found)


def unsealed(payload: Any, keys: Sealing) -> Any:
    """A copy of stored data with every sealed value opened; the values of forgotten subjects stay sealed."""

    def opened(code: int, data: memoryview) -> Any:
        value = keys.unseal(bytes(data)) if code == SEALED_CODE else None
        if value is None:
            return msgspec.msgpack.Ext(code, bytes(data))
        return msgspec.msgpack.decode(value, ext_hook=opened)

    return msgspec.msgpack.decode(_encode(payload), ext_hook=opened)


def holds_forgotten(data: Any, keys: Sealing) -> bool:
    """Whether stored data hold a value of a subject that was forgotten since, also within another sealed value."""
    is_found = False

    def look(code: int, sealed: memoryview) -> None:
        nonlocal is_found
        content = keys.unseal(bytes(sealed)) if code == SEALED_CODE and not is_found else b"\xc0"
        if content is None:
            is_found = True
        else:
            msgspec.msgpack.decode(content, ext_hook=look)

    msgspec.msgpack.decode(_encode(data), ext_hook=look)
    return is_found


def sealing(converter: cattrs.Converter, keys: Sealing) -> cattrs.Converter:
    """A copy of a converter that seals and opens the personal fields of every class.

    The converter's own hooks, which rename fields for example, stay in effect beneath the sealing.
    """
    sealed = converter.copy()
    beneath: set[Any] = set()
    """Classes whose own hook is being looked up on the converter."""

    def is_concerned(cls: Any) -> bool:
        return cls not in beneath and bool(personal_fields(cls))

    def asked(hook_of: Callable[..., Any], cls: Any) -> Any:
        beneath.add(cls)
        try:
            return hook_of(cls, cache_result=False)
        finally:
            beneath.remove(cls)

    def unstructuring(cls: Any, own: cattrs.Converter) -> Callable[[Any], Any]:
        return _sealed_unstructure(cls, asked(own.get_unstructure_hook, cls), own, keys)

    def structuring(cls: Any, own: cattrs.Converter) -> Callable[[Any, Any], Any]:
        return _opened_structure(cls, asked(own.get_structure_hook, cls), own, keys)

    sealed.register_unstructure_hook_factory(is_concerned, unstructuring)
    sealed.register_structure_hook_factory(is_concerned, structuring)
    return sealed


def seals(function: Callable[..., Any]) -> bool:
    """Whether `function` seals or opens: if not, a custom hook for the class takes precedence over sealing."""
    return getattr(function, _SEALS, False)


def _stored_names(cls: type, function: Callable[..., Any], converter: cattrs.Converter) -> dict[str, str] | None:
    """The stored name of each personal field; None if cattrs has not made the function."""
    overrides = getattr(function, "overrides", None)
    if overrides is None:
        return None
    aliases = {field.name: field.alias for field in attrs.fields(cls)} if attrs.has(cls) else {}
    names = {name: aliases.get(name, name) if converter.use_alias else name for name in personal_fields(cls)}
    given = {name: override.rename for name, override in overrides.items() if override.rename is not None}
    return {name: given.get(name, stored) for name, stored in names.items()}


def _sealed_unstructure(
    cls: type, plainly: Callable[[Any], Any], converter: cattrs.Converter, keys: Sealing
) -> Callable[[Any], Any]:
    names = _stored_names(cls, plainly, converter)
    if names is None:
        return plainly
    fields = [(name, names[name], mark.of, mark.forgotten) for name, mark in personal_fields(cls).items()]

    def unstructure(instance: Any) -> Any:
        data = plainly(instance)
        for name, stored, of, forgotten in fields:
            value = getattr(instance, name)
            # The converter may leave out a field that has its default.
            if not _is(value, forgotten) and stored in data:
                subject = _subject(cls, name, of, getattr(instance, of))
                data[stored] = msgspec.msgpack.Ext(SEALED_CODE, keys.seal(subject, _encode(data[stored])))
        return data

    setattr(unstructure, _SEALS, True)
    return unstructure


def _opened_structure(
    cls: type, plainly: Callable[[Any, Any], Any], converter: cattrs.Converter, keys: Sealing
) -> Callable[[Any, Any], Any]:
    names = _stored_names(cls, plainly, converter)
    if names is None:
        return plainly
    fields = {
        names[name]: converter.unstructure(mark.forgotten, plain_type(cls, name))
        for name, mark in personal_fields(cls).items()
    }

    def structure(data: Any, target: Any) -> Any:
        opened = dict(data)
        for name, forgotten in fields.items():
            value = opened.get(name)
            if is_sealed(value):
                content = keys.unseal(bytes(value.data))
                opened[name] = forgotten if content is None else _decode(content)
        left = next((name for name, value in opened.items() if is_sealed(value)), None)
        if left is not None:
            raise DecodingError(
                f"{cls.__name__}.{left} was stored sealed, as personal data, and is not marked any more: mark it with "
                "Annotated[..., Personal(...)], or it cannot be read."
            )
        return plainly(opened, target)

    setattr(structure, _SEALS, True)
    return structure


def _is(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other


def check_sealed(instance: object, data: Any) -> None:
    """Raise `EncodingError` if the data of an object hold fewer sealed values than the object has personal values.

    This happens if a custom hook uses its own converter for inner objects, which seals nothing.
    """
    personal = list(_personal_within(instance))
    if sum(1 for _ in _sealed_within(data)) < len(personal):
        raise EncodingError(
            f"{type(instance).__name__} holds personal data, as {personal[0]}, that would not be sealed: a hook on the "
            "converter gets around it. Have its factory take the converter that it is made for: "
            "register_unstructure_hook_factory(predicate, lambda cls, converter: ...)."
        )


def are_all_marked(instance: object, data: Any) -> bool:
    """Whether the object made from the data has a field marked as personal for each sealed value in the data.

    If a class within the object is no longer marked, its sealed values were read as something else, a text for example.
    """
    return sum(1 for _ in _sealed_within(data)) <= sum(1 for _ in _marked_within(instance))


def _personal_within(value: Any) -> Iterator[str]:
    """The personal values in an object, by class and field. What is within a personal value is sealed with it."""
    for cls, name, part in _marked_within(value):
        # The converter may leave out a default.
        if not (_is(part, personal_fields(cls)[name].forgotten) or _is(part, default_of(cls, name))):
            yield f"{cls.__name__}.{name}"


def _marked_within(value: Any) -> Iterator[tuple[type, str, Any]]:
    """The fields in an object that are marked as personal, each as (class, name, value)."""
    if isinstance(value, Mapping):
        for part in (*value.keys(), *value.values()):
            yield from _marked_within(part)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _marked_within(part)
    elif has_fields(type(value)):
        cls = type(value)
        marks = personal_fields(cls)
        for name in field_types(cls):
            part = getattr(value, name, None)
            if name in marks:
                yield cls, name, part
            else:
                yield from _marked_within(part)


def _sealed_within(data: Any) -> Iterator[None]:
    if isinstance(data, msgspec.msgpack.Ext):
        yield None
    elif isinstance(data, Mapping):
        for part in (*data.keys(), *data.values()):
            yield from _sealed_within(part)
    elif isinstance(data, list | tuple):
        for part in data:
            yield from _sealed_within(part)


def _subject(cls: type, name: str, of: str, given: object) -> str:
    # For a `str` enum member, the text that is stored.
    if isinstance(given, str):
        subject = str.__str__(given)
    else:
        subject = f"{given}" if isinstance(given, UUID | int) and not isinstance(given, bool) else ""
    if not subject:
        raise EncodingError(
            f"{cls.__name__}.{name} is personal data of whom {cls.__name__}.{of} names, and that is {given!r}: give it "
            "the id of the subject: a text, a UUID or a whole number."
        )
    return subject
