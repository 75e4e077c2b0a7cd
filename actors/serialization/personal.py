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
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol
from uuid import UUID

import attrs
import cattrs
import msgspec

from ...storage.keys.subject_keys import KEY_ID_BYTES
from ..errors import EncodingError, SchemaError
from .annotations import field_types

SEALED_CODE: Final = 80
"""The type of the MessagePack extension that a sealed value is stored as."""
KEY_TAG_PREFIX: Final = "eventsrc.key:"
"""Before the id of a key: the tag of every event that holds what is sealed with it."""
_UNSET: Final = ...
_SEALS: Final = "__eventsrc_seals__"
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class Sealing(Protocol):
    """The keys of subjects, as this needs them."""

    def check(self) -> None:
        """Raise an error where nothing can be sealed at all."""

    def seal(self, subject: str, value: bytes) -> bytes:
        """Encrypt a value with the key of a subject."""

    def unseal(self, sealed: bytes) -> bytes | None:
        """The value; None where its subject was forgotten."""


@attrs.frozen
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
    """The id of the key that opens a sealed value, with which it begins."""
    return bytes(sealed.data)[:KEY_ID_BYTES]


def key_tag(key_id: bytes) -> str:
    """The tag of the events that hold something sealed with a key."""
    return f"{KEY_TAG_PREFIX}{key_id.hex()}"


def key_tags(payload: bytes) -> tuple[str, ...]:
    """The tags of an event whose encoded payload holds sealed values, one for each key."""
    found: dict[str, None] = {}

    def note(code: int, data: memoryview) -> None:
        if code == SEALED_CODE:
            found[key_tag(bytes(data[:KEY_ID_BYTES]))] = None

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
    marked = {name: mark for name, hint in field_types(cls, with_marks=True).items() for mark in _marks(hint)[:1]}
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


def plain_type(cls: type, name: str) -> Any:
    """The type of a personal field, without its mark."""
    return typing.get_args(field_types(cls, with_marks=True)[name])[0]


def has_personal_data(cls: Any) -> bool:
    """Whether any field of a class, or of what its fields are made of, is personal."""
    return any(any(map(_marks, types.values())) for _, types in _classes_within(cls, set()))


def check_personal(cls: type) -> list[type]:
    """The classes with personal fields that a class is made of. Raises `SchemaError` for a mark that cannot be kept."""
    found = []
    for each, types in _classes_within(cls, set()):
        marked = {name: marks[0] for name, hint in types.items() if (marks := _checked_marks(each, name, hint))}
        for name, mark in marked.items():
            if mark.of in marked or not (mark.of in types or hasattr(each, mark.of)):
                reason = "is personal itself" if mark.of in marked else "is no field of it"
                raise SchemaError(
                    f"{each.__name__}.{name} is personal data of {mark.of!r}, which {reason}: name the field of "
                    f"{each.__name__} that holds the id of the subject."
                )
        if marked:
            found.append(each)
    return found


def _checked_marks(cls: type, name: str, hint: Any) -> list[Personal]:
    """The mark of a field, if it has one. Raises `SchemaError` where it is marked in another way."""
    marks = _marks(hint)
    if _has_bare_mark(hint):
        raise SchemaError(
            f"{cls.__name__}.{name} is marked with the class Personal, which does not say whom it is about. Write it "
            f'as {name}: Annotated[<type>, Personal("<field>")], with the field that holds the id of the subject.'
        )
    if len(marks) > 1 or _is_marked_within(hint):
        raise SchemaError(
            f"{cls.__name__}.{name} is {hint}: a field is personal as a whole, and of one subject. Write it as {name}: "
            "Annotated[<type>, Personal(...)]."
        )
    return marks


def _marks(hint: Any) -> list[Personal]:
    if typing.get_origin(hint) is not typing.Annotated:
        return []
    return [each for each in typing.get_args(hint)[1:] if isinstance(each, Personal)]


def _is_marked_within(hint: Any) -> bool:
    """Whether a part of a type is marked, and not the whole."""
    whole = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    return any(_marks(part) or _is_marked_within(part) for part in typing.get_args(whole))


def _has_bare_mark(hint: Any) -> bool:
    """Whether a type or a part of it is marked with the class `Personal` in the place of an object of it."""
    if typing.get_origin(hint) is not typing.Annotated:
        return any(map(_has_bare_mark, typing.get_args(hint)))
    whole, *marks = typing.get_args(hint)
    return any(mark is Personal for mark in marks) or _has_bare_mark(whole)


def _classes_within(hint: Any, seen: set[Any]) -> Iterator[tuple[type, dict[str, Any]]]:
    """The classes with fields that a type is made of, each once, with the types of their fields.

    A field may also hold an object of a subclass.
    """
    for part in (*typing.get_args(hint), *_meant_by(hint)):
        yield from _classes_within(part, seen)
    if isinstance(hint, type) and hint not in seen:
        seen.add(hint)
        types = field_types(hint, with_marks=True)
        if types:
            yield hint, types
        has_fields = attrs.has(hint) or dataclasses.is_dataclass(hint)
        for part in (*types.values(), *(hint.__subclasses__() if has_fields else ())):
            yield from _classes_within(part, seen)


def _meant_by(hint: Any) -> Iterator[Any]:
    """What a `NewType`, an alias made by `type X = ...` or a type variable stands for."""
    for name in ("__supertype__", "__value__", "__bound__"):
        meant = getattr(hint, name, None)
        if meant is not None:
            yield meant
    yield from getattr(hint, "__constraints__", ())


# --- sealing and opening, by cattrs ---


def sealing(converter: cattrs.Converter, keys: Sealing) -> cattrs.Converter:
    """A copy of a converter that seals the personal fields of every class, and opens them."""
    sealed = converter.copy()

    def unstructuring(cls: Any, own: cattrs.Converter) -> Callable[[Any], Any]:
        return _sealed_unstructure(cls, own.gen_unstructure_attrs_fromdict(cls), keys)

    def structuring(cls: Any, own: cattrs.Converter) -> Callable[[Any, Any], Any]:
        return _opened_structure(cls, own.gen_structure_attrs_fromdict(cls), own, keys)

    sealed.register_unstructure_hook_factory(lambda cls: bool(personal_fields(cls)), unstructuring)
    sealed.register_structure_hook_factory(lambda cls: bool(personal_fields(cls)), structuring)
    return sealed


def seals(function: Callable[..., Any]) -> bool:
    """Whether it is one that seals, or opens: a hook that somebody registered for the class goes before ours."""
    return getattr(function, _SEALS, False)


def _sealed_unstructure(cls: type, plainly: Callable[[Any], Any], keys: Sealing) -> Callable[[Any], Any]:
    fields = {name: (mark.of, mark.forgotten) for name, mark in personal_fields(cls).items()}

    def unstructure(instance: Any) -> Any:
        data = plainly(instance)
        for name, (of, forgotten) in fields.items():
            value = getattr(instance, name)
            # What a converter leaves out, such as a default, says nothing.
            if name in data and (type(value) is not type(forgotten) or value != forgotten):
                subject = _subject(cls, name, of, getattr(instance, of))
                data[name] = msgspec.msgpack.Ext(SEALED_CODE, keys.seal(subject, _encode(data[name])))
        return data

    setattr(unstructure, _SEALS, True)
    return unstructure


def _opened_structure(
    cls: type, plainly: Callable[[Any, Any], Any], converter: cattrs.Converter, keys: Sealing
) -> Callable[[Any, Any], Any]:
    fields = {
        name: converter.unstructure(mark.forgotten, plain_type(cls, name))
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


def _subject(cls: type, name: str, of: str, given: object) -> str:
    subject = str(given) if isinstance(given, str | UUID) else ""
    if not subject:
        raise EncodingError(
            f"{cls.__name__}.{name} is personal data of whom {cls.__name__}.{of} names, and that is {given!r}: give it "
            "the id of the subject, a text or a UUID."
        )
    return subject
