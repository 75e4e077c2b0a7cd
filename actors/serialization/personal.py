"""Personal data: fields whose values are about somebody, and are stored so that they can be forgotten.

    @event("customer.registered")
    class Registered:
        customer: str
        name: Annotated[str, Personal("customer", forgotten="somebody")]

A value of such a field is sealed with the key of its subject wherever the object that holds it is stored: in an
event, in the state of an aggregate or a saga, or within another object. What is sealed says itself by which key, so
that it can be moved, renamed and copied without being opened.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol
from uuid import UUID

import attrs
import cattrs
import msgspec

from ..errors import EncodingError, SchemaError

SEALED_CODE: Final = 80
"""The type of the MessagePack extension that a sealed value is stored as."""
KEY_ID_BYTES: Final = 16
"""With which a sealed value begins: which key opens it."""
KEY_TAG_PREFIX: Final = "eventsrc.key:"
"""Before the id of a key: the tag of every event that holds what is sealed with it."""
_UNSET: Final = object()
_SEALS: Final = "__eventsrc_seals__"
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class Sealing(Protocol):
    """The keys of subjects, as this needs them."""

    def check(self) -> None:
        """Raise an error where nothing can be sealed at all."""

    def seal(self, subject: str, value: bytes) -> bytes:
        """Encrypt a value with the key of a subject."""

    @property
    def is_forgetting(self) -> bool:
        """Whether what is sealed now may be forgotten at once."""

    def unseal(self, sealed: bytes) -> bytes | None:
        """The value; None where its subject was forgotten."""


@attrs.frozen(eq=False)
class Personal:
    """Marks a field as personal data: `name: Annotated[str, Personal("customer", forgotten="somebody")]`.

    Args:
        of: the field or property of the same object that says whom it is about: the subject's id, a text or a UUID.
            In an aggregate's state that may be its "id".
        forgotten: what stands for the value once the subject was forgotten, of the field's type; unless given the
            default of the field, or None where it has none.

    A value that equals `forgotten` is stored as it is. The subject's id itself is not sealed, nor are tags, metadata
    and the names of streams: let it be a number that says nothing, not a name.
    """

    of: str
    forgotten: Any = _UNSET


def key_id_of(sealed: msgspec.msgpack.Ext) -> bytes:
    """The id of the key that opens a sealed value, as it is stored."""
    return bytes(sealed.data)[:KEY_ID_BYTES]


def key_tag(key_id: bytes) -> str:
    """The tag of the events that hold something sealed with a key."""
    return f"{KEY_TAG_PREFIX}{key_id.hex()}"


def key_tags(payload: bytes, keys: Sealing | None = None) -> tuple[str, ...]:
    """The tags of an event whose encoded payload holds sealed values, one for each key.

    With `keys` also those of values that are sealed within others.
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
    """A copy of stored data with every sealed value opened; those of forgotten subjects stay sealed."""

    def opened(code: int, data: memoryview) -> Any:
        value = keys.unseal(bytes(data)) if code == SEALED_CODE else None
        if value is None:
            return msgspec.msgpack.Ext(code, bytes(data))
        return msgspec.msgpack.decode(value, ext_hook=opened)

    return msgspec.msgpack.decode(_encode(payload), ext_hook=opened)


# --- what classes say ---


def personal_fields(cls: Any) -> dict[str, Personal]:
    """The personal fields of an attrs class or a dataclass, by name; empty for every other type."""
    marked = {name: mark for name, hint in _field_hints(cls).items() for mark in _marks(hint)[:1]}
    return {
        name: attrs.evolve(mark, forgotten=_default(cls, name)) if mark.forgotten is _UNSET else mark
        for name, mark in marked.items()
    }


def _default(cls: type, name: str) -> Any:
    if not attrs.has(cls):
        own = {field.name: field for field in dataclasses.fields(cls)}[name]
        if own.default_factory is not dataclasses.MISSING:
            return own.default_factory()
        return None if own.default is dataclasses.MISSING else own.default
    default: Any = attrs.fields_dict(cls)[name].default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return None if default.takes_self else default.factory()
    return None if default is attrs.NOTHING else default


def is_refused(cls: type, name: str, value: Any) -> bool:
    """Whether a validator of attrs' own, which looks at nothing but the value, does not let a field have it."""
    field = attrs.fields_dict(cls)[name] if attrs.has(cls) else None
    if field is None or field.validator is None or type(field.validator).__module__ != "attr.validators":
        return False
    try:
        field.validator(None, field, value)
    except Exception:
        return True
    return False


def plain_type(cls: type, name: str) -> Any:
    """The type of a personal field, without its mark."""
    return typing.get_args(_field_hints(cls)[name])[0]


def has_personal_data(cls: Any) -> bool:
    """Whether any field of a class, or of what its fields are made of, is personal."""
    return any(personal_fields(each) for each in _types_within(cls, set()))


def check_personal(cls: type) -> list[type]:
    """The classes with personal fields that a class is made of. Raises `SchemaError` for a mark that cannot be kept."""
    found = []
    for each in _types_within(cls, set()):
        _check_can_be_marked(each)
        for name, hint in _field_hints(each).items():
            where = f"{each.__name__}.{name}"
            if len(_marks(hint)) > 1 or _is_marked_within(hint):
                raise SchemaError(
                    f"{where} is {hint}: a field is personal as a whole, and of one subject. Write it as {name}: "
                    "Annotated[<type>, Personal(...)]."
                )
        fields = personal_fields(each)
        for name, mark in fields.items():
            if mark.of in fields or not (mark.of in _field_hints(each) or hasattr(each, mark.of)):
                reason = "is personal itself" if mark.of in fields else "is no field of it"
                raise SchemaError(
                    f"{each.__name__}.{name} is personal data of {mark.of!r}, which {reason}: name the field of "
                    f"{each.__name__} that holds the id of the subject."
                )
        if fields:
            found.append(each)
    return found


def _check_can_be_marked(cls: type) -> None:
    """Raise `SchemaError` for marks in what is neither an attrs class nor a dataclass: nothing would be sealed."""
    if has_fields(cls) or not getattr(cls, "__annotations__", None):
        return
    for name, hint in _hints(cls).items():
        if _marks(hint) or _is_marked_within(hint):
            raise SchemaError(
                f"{cls.__name__}.{name} is marked as personal, and {cls.__name__} is neither an attrs class nor a "
                "dataclass: make it one, so that its personal data are sealed."
            )


def _marks(hint: Any) -> list[Personal]:
    if typing.get_origin(hint) is not typing.Annotated:
        return []
    return [each for each in typing.get_args(hint)[1:] if isinstance(each, Personal)]


def _is_marked_within(hint: Any) -> bool:
    """Whether a part of a type is marked, and not the whole."""
    whole = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    parts = [*typing.get_args(whole), *filter(None, [getattr(whole, "__supertype__", None)])]
    return any(_marks(part) or _is_marked_within(part) for part in map(_without_alias, parts))


def _without_alias(hint: Any) -> Any:
    """What a name stands for that was given to a type: `type Name = Annotated[str, Personal("customer")]`."""
    while type(hint).__name__ == "TypeAliasType":
        hint = hint.__value__
    return hint


def has_fields(cls: Any) -> bool:
    """Whether it is an attrs class or a dataclass, whose fields may be marked."""
    return attrs.has(cls) or dataclasses.is_dataclass(cls)


def _field_hints(cls: Any) -> Mapping[str, Any]:
    """The types of the fields of a class, with their marks."""
    if not isinstance(cls, type):
        return {}
    if attrs.has(cls):
        declared = {field.name: field.type for field in attrs.fields(cls)}
    elif dataclasses.is_dataclass(cls):
        declared = {field.name: field.type for field in dataclasses.fields(cls)}
    else:
        return {}
    hints = _hints(cls)
    return {name: _without_alias(hints.get(name, field_type)) for name, field_type in declared.items()}


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, AttributeError, TypeError):
        # A name that is there for type checkers alone; cattrs says what it makes of that.
        return {}


def _types_within(hint: Any, seen: set[Any]) -> Iterator[type]:
    """A type and all that it is made of, each once."""
    hint = _without_alias(hint)
    for part in typing.get_args(hint):
        yield from _types_within(part, seen)
    if isinstance(hint, type) and hint not in seen:
        seen.add(hint)
        yield hint
        for field_hint in _field_hints(hint).values():
            yield from _types_within(field_hint, seen)


# --- sealing and opening, by cattrs ---


def sealing(converter: cattrs.Converter, keys: Sealing) -> cattrs.Converter:
    """A copy of a converter that seals the personal fields of every class, and opens them.

    What it does else is what the converter does: hooks for all classes, which rename their fields say, stay beneath.
    """
    sealed = converter.copy()
    beneath: set[Any] = set()
    """Classes whose hook of the converter itself is being asked for."""

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
    """Whether it is one that seals, or opens: a hook that somebody registered for the class goes before ours."""
    return getattr(function, _SEALS, False)


def _stored_names(cls: type, function: Callable[..., Any], converter: cattrs.Converter) -> dict[str, str] | None:
    """By personal field the name that it is stored under; None where the function is none that cattrs has made."""
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
            # One that is its default may be left out by the converter.
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
            if isinstance(value, msgspec.msgpack.Ext) and value.code == SEALED_CODE:
                content = keys.unseal(bytes(value.data))
                opened[name] = forgotten if content is None else _decode(content)
        return plainly(opened, target)

    setattr(structure, _SEALS, True)
    return structure


def _is(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other


def check_sealed(instance: object, data: Any) -> None:
    """Raise `EncodingError` where data that were made of an object hold fewer sealed values than it has personal ones.

    A hook that somebody registered calls a converter of its own for what is within, which seals nothing.
    """
    personal = list(_personal_within(instance))
    if sum(1 for _ in _sealed_within(data)) < len(personal):
        raise EncodingError(
            f"{type(instance).__name__} holds personal data, as {personal[0]}, that would not be sealed: a hook on the "
            "converter gets around it. Have its factory take the converter that it is made for: "
            "register_unstructure_hook_factory(predicate, lambda cls, converter: ...)."
        )


def _personal_within(value: Any) -> Iterator[str]:
    """The personal values in an object, each by class and field; what is within one of them is sealed with it."""
    if isinstance(value, Mapping):
        for part in (*value.keys(), *value.values()):
            yield from _personal_within(part)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _personal_within(part)
    elif has_fields(type(value)):
        marks = personal_fields(type(value))
        for name in _field_hints(type(value)):
            part = getattr(value, name, None)
            if name not in marks:
                yield from _personal_within(part)
            elif not (_is(part, marks[name].forgotten) or _is(part, _default(type(value), name))):
                # A default may be left out by the converter.
                yield f"{type(value).__name__}.{name}"


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
    # Of a text that is an enum, say, what is stored of it.
    subject = str.__str__(given) if isinstance(given, str) else str(given) if isinstance(given, UUID) else ""
    if not subject:
        raise EncodingError(
            f"{cls.__name__}.{name} is personal data of whom {cls.__name__}.{of} names, and that is {given!r}: give it "
            "the id of the subject, a text or a UUID."
        )
    return subject
