"""Turns objects into plain data and back, with cattrs: events, commands and state, of the types that domains use."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, Final, TypeVar, get_type_hints
from uuid import UUID

import attrs
import cattrs
import msgspec
from cattrs.strategies import configure_union_passthrough

from ...storage.errors import EventSourcingError, StoreError
from ..errors import DecodingError, DefinitionError, EncodingError, SchemaError
from .annotations import field_types
from .class_readers import register_class_readers
from .enums import register_enums
from .models import explanation_of, register_models
from .named_tuples import register_named_tuples
from .partly_plain import is_partly_plain, structure_partly_plain
from .personal import check_personal, has_personal_data, is_refused, personal_fields, plain_type
from .primitives import NotOfType, register_primitives
from .sealing import Sealing, check_sealed, holds_forgotten, key_tags, sealing, seals, unsealed
from .unusable_keys import unusable_key

T = TypeVar("T")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


def make_converter() -> cattrs.Converter:
    """Make a converter as the runtime uses it. Register your own hooks on it and pass it to `Runtime.open`.

    Attrs classes and dataclasses become dicts; sets and tuples become lists; dates, times, UUIDs, decimals and paths
    become texts without loss; a timedelta becomes its days, seconds and microseconds; an enum member becomes its value;
    pydantic models and msgspec structs become what their own library makes of them. The classes of a union are told
    apart by a field that is a `Literal` in each of them, or by fields that only one of them has. Stored fields that a
    class lacks are ignored; missing fields take their defaults. A stored value of another type is refused for a number,
    boolean, text or bytes, unless it is an equal number.
    """
    converter = cattrs.Converter(
        detailed_validation=False, unstruct_collection_overrides={AbstractSet: _in_order, tuple: list}
    )
    register_primitives(converter)
    register_class_readers(converter)
    register_enums(converter)
    for text_class in (datetime, date, time):
        converter.register_unstructure_hook(text_class, text_class.isoformat)
        converter.register_structure_hook(text_class, _from_iso)
    for plain_class, to_text in ((Decimal, str), (Path, _path_to_text), (PurePath, _path_to_text)):
        converter.register_unstructure_hook(plain_class, to_text)
        converter.register_structure_hook(plain_class, _from_text)
    converter.register_unstructure_hook(UUID, _uuid_to_text)
    converter.register_structure_hook(UUID, _uuid_from_text)
    converter.register_unstructure_hook(timedelta, lambda value: [value.days, value.seconds, value.microseconds])
    converter.register_structure_hook(timedelta, lambda value, _: timedelta(*value))
    configure_union_passthrough(bool | int | float | str | bytes | None, converter)
    converter.register_structure_hook_factory(is_partly_plain, structure_partly_plain)
    register_named_tuples(converter)
    register_models(converter)
    return converter


def _explained(error: BaseException, hint: Any) -> str:
    if isinstance(error, NotOfType):
        return str(error)
    said = explanation_of(error)
    if said is None:
        return cattrs.v.format_exception(error, hint)
    return said if hint is None else f"{getattr(hint, '__name__', hint)}: {said}"


def _check_keys(cls: type) -> None:
    for name, hint in field_types(cls).items():
        key = unusable_key(hint)
        if key is not None:
            raise SchemaError(
                f"{cls.__name__}.{name} cannot be turned into data: it has keys of {inspect.formatannotation(key)}, "
                "which would be lists or dicts, and those are no keys. Use a text as key, or a list of entries."
            )


def _in_order(values: Iterable[Any]) -> list[Any]:
    """A set's elements in an order that is always the same, so that equal states become equal bytes."""
    return sorted(values, key=msgspec.msgpack.encode)


def _from_iso(value: str, cls: Any) -> Any:
    return cls.fromisoformat(value)


def _from_text(value: str, cls: Any) -> Any:
    return cls(value)


def _path_to_text(value: Any) -> str:
    # `str` would make a path of any value; None would become "None".
    if isinstance(value, PurePath | str):
        return str(value)
    raise TypeError(f"{value!r:.100} is no path")


def _uuid_to_text(value: Any) -> Any:
    # A quarter of the time of `str`.
    return msgspec.to_builtins(value) if type(value) is UUID else str(value)


def _uuid_from_text(value: Any, cls: Any) -> Any:
    # A third of the time of the class itself, which accepts more notations.
    if cls is UUID and type(value) is str:
        try:
            return msgspec.convert(value, UUID)
        except msgspec.ValidationError:
            pass
    return cls(value)


class Serializer:
    """Translates between objects and stored data, and turns cattrs' errors into this package's.

    Personal data are sealed with `keys`, and cannot be stored without keys.
    """

    def __init__(self, converter: cattrs.Converter | None = None, keys: Sealing | None = None) -> None:
        self.is_standard = converter is None
        """Whether the converter has only the hooks of `make_converter`."""
        self.converter = converter or make_converter()
        """Makes plain data, in which nothing is sealed."""
        self._keys = keys
        self._converter = self.converter if keys is None else sealing(self.converter, keys)
        self._is_checked = keys is not None and not self.is_standard
        """Whether to check that everything personal is sealed: custom hooks may get around the sealing."""
        self._explaining: cattrs.Converter | None = None
        self.has_personal_data = False
        """Whether any prepared class has personal data."""
        self._keys_of_inner: Sealing | None = None
        """The keys, once a prepared class has personal values that hold personal values of others."""

    def prepare(self, cls: type) -> bool:
        """Make the functions for a class now. Returns whether the class has personal data.

        Raises `SchemaError` if one of its fields is of a type without a hook, or is personal and cannot be sealed, and
        `PrivacyUnavailable`.
        """
        personal = check_personal(cls)
        if self.is_standard:
            _check_keys(cls)
        try:
            for each in personal:
                self._check_sealed(each)
                if any(has_personal_data(plain_type(each, name)) for name in personal_fields(each)):
                    self._keys_of_inner = self._keys
            self._converter.get_structure_hook(cls)
            self._converter.get_unstructure_hook(cls)
        except EventSourcingError:
            raise
        except NameError as error:
            raise SchemaError(
                f"{cls.__name__}{self._culprit(cls)} cannot be turned into data, since its type is not found: "
                f"{str(error).rstrip('.')}. Import it when the program runs as well, not only under TYPE_CHECKING, and "
                "define it in a module, not in a function."
            ) from error
        except Exception as error:
            raise SchemaError(
                f"{cls.__name__}{self._culprit(cls)} cannot be turned into data: {str(error).rstrip('.')}. Use another "
                "type, or register hooks for it on make_converter() and pass that to Runtime.open(converter=...)."
            ) from error
        self.has_personal_data = self.has_personal_data or bool(personal)
        return bool(personal)

    def _check_sealed(self, cls: type) -> None:
        """Check that a class's personal fields are sealed, and that their `forgotten` values can be read back."""
        if self._keys is None:
            raise SchemaError(
                f"{cls.__name__} has personal data, and there are no keys to seal them with. Say where they are to be "
                "kept: Runtime.open(..., keys=PATH)."
            )
        self._keys.check()
        for name, mark in personal_fields(cls).items():
            hint = plain_type(cls, name)
            try:
                again = self.converter.structure(self.converter.unstructure(mark.forgotten, hint), hint)
                is_same = type(again) is type(mark.forgotten) and again == mark.forgotten
            except Exception:
                is_same = False
            if not is_same or is_refused(cls, name, mark.forgotten):
                written = hint.__name__ if isinstance(hint, type) else hint
                why = "its validator refuses" if is_same else f"is no {written}"
                raise SchemaError(
                    f"{cls.__name__}.{name} would be {mark.forgotten!r} once it was forgotten, which {why}: say what "
                    f'it is then: Personal("{mark.of}", forgotten=...).'
                )
        if not (seals(self._converter.get_unstructure_hook(cls)) and seals(self._converter.get_structure_hook(cls))):
            raise SchemaError(
                f"The personal data of {cls.__name__} would not be sealed: a hook is registered for it on the "
                "converter. Register hooks for the types of its fields instead."
            )

    def _culprit(self, cls: type) -> str:
        """The field of the class whose type has no hook, if it can be found."""
        for field in attrs.fields(cls) if attrs.has(cls) else ():
            try:
                self._converter.get_structure_hook(field.type)
                self._converter.get_unstructure_hook(field.type)
            except Exception:
                return f".{field.name}"
        return ""

    @property
    def is_forgetting(self) -> bool:
        """Whether a subject is being forgotten: its newly stored data then come back as forgotten."""
        return self._keys is not None and self._keys.is_forgetting

    def functions(self, cls: type) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
        """The bare functions (unstructure, structure) of a class, for code in which every microsecond counts."""
        unstructure, structure = self._converter.get_unstructure_hook(cls), self._converter.get_structure_hook(cls)
        return self._checked(unstructure) if self._is_checked else unstructure, structure

    def _checked(self, unstructure: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def checked(value: Any) -> Any:
            data = unstructure(value)
            check_sealed(value, data)
            return data

        return checked

    def plain_functions(self, cls: type) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
        """The functions (unstructure, structure) of a class for plain data, in which nothing is sealed."""
        return self.converter.get_unstructure_hook(cls), self.converter.get_structure_hook(cls)

    def unstructure(self, value: object) -> Any:
        """Encode an object for storage, with personal data sealed. Raises `EncodingError`, `SubjectKeysUnusable`."""
        data = self._unstructured(self._converter, value)
        if self._is_checked:
            check_sealed(value, data)
        return data

    def plain(self, value: object) -> Any:
        """Encode an object as plain data, in which nothing is sealed. Raises `EncodingError`."""
        return self._unstructured(self.converter, value)

    def _unstructured(self, converter: cattrs.Converter, value: object) -> Any:
        try:
            return converter.unstructure(value)
        except (EncodingError, StoreError):
            raise
        except Exception as error:
            raise EncodingError(f"{type(value).__name__} cannot be turned into data: {error}") from error

    def key_tags(self, payload: bytes) -> tuple[str, ...]:
        """The tags of an event with this encoded payload, one for each key that seals something in it."""
        return key_tags(payload, self._keys_of_inner) if self.has_personal_data else ()

    def opened(self, payload: Any) -> Any:
        """A copy of stored data with the sealed values opened; those of forgotten subjects stay sealed.

        Raises `StoreError`.
        """
        return _decode(_encode(payload)) if self._keys is None else unsealed(payload, self._keys)

    def holds_forgotten(self, data: Any) -> bool:
        """Whether stored data hold a value of a subject that was forgotten since. Raises `StoreError`."""
        return self._keys is not None and holds_forgotten(data, self._keys)

    def fields_data(self, cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
        """Encode the values of some fields of a class as they are stored in its objects.

        Raises `DefinitionError` for a name that is no field or a personal field, `EncodingError`.
        """
        if not values:
            return {}
        types = get_type_hints(cls, include_extras=True)
        sealed = values.keys() & personal_fields(cls).keys()
        if sealed:
            raise DefinitionError(
                f"{cls.__name__}.{min(sealed)} is personal data, which is stored sealed, so nothing is found by it. "
                "Use another field, such as the id of the subject."
            )
        unknown = values.keys() - types.keys()
        if unknown:
            raise DefinitionError(f"{cls.__name__} has no field {min(unknown)!r}; it has {', '.join(types) or 'none'}.")
        try:
            data = {name: self._converter.unstructure(value, types[name]) for name, value in values.items()}
            plain: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(data))
        except Exception as error:
            raise EncodingError(f"{dict(values)!r:.200} cannot be compared with {cls.__name__}: {error}") from error
        return plain

    def structure(self, data: Any, cls: type[T]) -> T:
        """Make an object of `cls` from its stored form, or from plain data.

        Raises `DecodingError`, which says what is wrong in which field, or `StoreError` if a sealed value cannot be
        opened.
        """
        try:
            return self._converter.structure(data, cls)
        except StoreError:
            raise
        except Exception as error:
            raise DecodingError(f"The data does not fit {cls.__name__}: {self.explain(data, cls, error)}") from error

    def explain(self, data: Any, cls: type, error: Exception) -> str:
        """Why `data` does not fit: reads it again with a slower converter that knows the fields."""
        if self._explaining is None:
            self._explaining = self._converter.copy(detailed_validation=True)
        try:
            self._explaining.structure(data, cls)
        except Exception as detailed:
            return "; ".join(cattrs.transform_error(detailed, format_exception=_explained))
        return str(error)
