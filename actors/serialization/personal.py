"""Personal data: fields with values about a person, stored so that they can be forgotten.

    @event("customer.registered")
    class Registered:
        customer: str
        name: Annotated[str, Personal("customer", forgotten="somebody")]

A value of such a field is sealed with its subject's key wherever the object that holds it is stored: in an event, in
the state of an aggregate or a saga, or within another object. A sealed value names its key, so that it can be moved,
renamed and copied without being opened.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ..errors import SchemaError
from .annotations import annotations_of, field_types, has_fields, without_alias
from .model_types import is_struct, model_field_types

_UNSET: Final = ...


@attrs.frozen(eq=False)
class Personal:
    """Marks a field as personal data: `name: Annotated[str, Personal("customer", forgotten="somebody")]`.

    Args:
        of: the field or property of the same object that holds the subject's id: a text, a UUID or a whole number. In
            an aggregate's state it may be the aggregate's "id".
        forgotten: replaces the value once the subject was forgotten; it must be of the field's type. By default the
            field's default, or None if the field has none.

    A value that equals `forgotten` is stored unsealed. Neither the subject's id nor tags, metadata and stream names are
    sealed: use a meaningless number as the id, not a name.

    """

    of: str
    forgotten: Any = _UNSET


def personal_fields(cls: Any) -> dict[str, Personal]:
    """The personal fields of an attrs class or a dataclass, by name; empty for every other type."""
    marked = {name: mark for name, hint in field_types(cls, with_marks=True).items() for mark in _marks(hint)[:1]}
    return {
        name: attrs.evolve(mark, forgotten=default_of(cls, name)) if mark.forgotten is _UNSET else mark
        for name, mark in marked.items()
    }


def default_of(cls: type, name: str) -> Any:
    """The default of a field; None if the field has no default, or one that depends on the object."""
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
    """Whether one of attrs' own validators, which look at the value alone, refuses a value for a field."""
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
    return typing.get_args(field_types(cls, with_marks=True)[name])[0]


def has_personal_data(cls: Any) -> bool:
    """Whether any field of a class, or of a class within its fields, is personal."""
    return any(any(map(_marks, types.values())) for _, types in _classes_within(cls, set()))


def check_personal(cls: type) -> list[type]:
    """The classes with personal fields within a class. Raises `SchemaError` for a mark that cannot be kept."""
    found = []
    for each, types in _classes_within(cls, set()):
        _check_can_be_marked(each)
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
    """The mark of a field, if it has one. Raises `SchemaError` if the field is marked in an unsupported way."""
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


def _check_can_be_marked(cls: type) -> None:
    """Raise `SchemaError` for marks in a class other than an attrs class or a dataclass: nothing would be sealed."""
    origin = typing.get_origin(cls)
    if has_fields(origin) and personal_fields(origin):
        raise SchemaError(
            f"{cls} is generic and has personal data, which would not be sealed: use a subclass of it in its place, "
            f"class Its{cls.__name__}({cls.__name__}[...])."
        )
    if has_fields(cls):
        return
    of_model = model_field_types(cls)
    types = of_model or annotations_of(cls, with_marks=True)
    marked = marked_name(types)
    if marked is not None:
        raise SchemaError(
            f"{cls.__name__}.{marked} is marked as personal, and {cls.__name__} is neither an attrs class nor a "
            "dataclass: make it one, so that its personal data are sealed."
        )
    for name, hint in types.items():
        if of_model and has_personal_data(hint):
            raise SchemaError(
                f"{cls.__name__}.{name} holds personal data, and {cls.__name__} turns all that it holds into data "
                "itself, which would not be sealed: make it an attrs class or a dataclass."
            )


def marked_name(types: Mapping[str, Any]) -> str | None:
    """The first of these fields that is marked as personal in any way; None if none is."""
    return next(
        (name for name, hint in types.items() if _marks(hint) or _is_marked_within(hint) or _has_bare_mark(hint)), None
    )


def _marks(hint: Any) -> list[Personal]:
    if typing.get_origin(hint) is not typing.Annotated:
        return []
    return [each for each in typing.get_args(hint)[1:] if isinstance(each, Personal)]


def _is_marked_within(hint: Any) -> bool:
    """Whether a part of a type is marked rather than the whole."""
    whole = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    parts = [*typing.get_args(whole), *filter(None, [getattr(whole, "__supertype__", None)])]
    return any(_marks(part) or _is_marked_within(part) for part in map(without_alias, parts))


def _has_bare_mark(hint: Any) -> bool:
    """Whether a type or a part of it is marked with the class `Personal` instead of an object of it."""
    if typing.get_origin(hint) is not typing.Annotated:
        return any(map(_has_bare_mark, typing.get_args(hint)))
    whole, *marks = typing.get_args(hint)
    return any(mark is Personal for mark in marks) or _has_bare_mark(whole)


def _classes_within(hint: Any, seen: set[Any]) -> Iterator[tuple[type, dict[str, Any]]]:
    """The classes within a type, each once, with the types of their fields, if they have any.

    Subclasses are included, since a field may hold an object of a subclass.
    """
    hint = without_alias(hint)
    for part in (*typing.get_args(hint), *_meant_by(hint)):
        yield from _classes_within(part, seen)
    origin = typing.get_origin(hint)
    if is_struct(origin) and hint not in seen:
        # A generic struct with its parameters.
        seen.add(hint)
        yield hint, {}
        for part in model_field_types(hint).values():
            yield from _classes_within(part, seen)
    elif has_fields(origin):
        yield hint, {}
        yield from _classes_within(origin, seen)
    if isinstance(hint, type) and hint not in seen:
        seen.add(hint)
        types = field_types(hint, with_marks=True)
        yield hint, types
        subclasses: list[type] = hint.__subclasses__() if has_fields(hint) else []
        for part in (*types.values(), *model_field_types(hint).values(), *subclasses):
            yield from _classes_within(part, seen)


def _meant_by(hint: Any) -> Iterator[Any]:
    """The types that a `NewType`, a `type X = ...` alias or a type variable stands for."""
    for name in ("__supertype__", "__value__", "__bound__"):
        meant = getattr(hint, name, None)
        if meant is not None:
            yield meant
    yield from getattr(hint, "__constraints__", ())
