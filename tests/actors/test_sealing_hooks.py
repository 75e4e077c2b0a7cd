"""Sealing stays what it is, whatever hooks a user has registered."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import attrs
import cattrs
import msgspec
import pytest
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.strategies import configure_tagged_union, include_subclasses
from test_personal import SOMEBODY, Address, Family, Person, Plain, stored

from eventsrc import (
    EncodingError,
    Personal,
    SchemaError,
    SubjectKeys,
    make_converter,
)
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.storage.keys.key_table import KeysInMemory


def test_a_hook_of_a_user_does_not_undo_the_sealing() -> None:
    converter = make_converter()
    converter.register_unstructure_hook(Plain, lambda plain: {"who": plain.who, "secret": plain.secret})
    with pytest.raises(SchemaError, match="Plain would not be sealed: a hook is registered for it"):
        Serializer(converter, SubjectKeys(KeysInMemory())).prepare(Family)


def test_hooks_for_the_types_of_personal_fields_are_used() -> None:
    converter = make_converter()
    converter.register_unstructure_hook(Address, lambda address: address.street)
    converter.register_structure_hook(Address, lambda street, _: Address(street, []))
    serializer = Serializer(converter, SubjectKeys(KeysInMemory()))
    serializer.prepare(Person)
    person = Person(SOMEBODY, "Ann", None, Address("Lane", []))
    assert serializer.structure(stored(person, serializer), Person) == person


def capitals(cls: type) -> Any:
    return {field.name: override(rename=field.name.upper()) for field in attrs.fields(cls)}


def rename_within(converter: cattrs.Converter) -> None:
    """By hooks that are made anew for each converter."""
    converter.register_unstructure_hook_factory(
        attrs.has, lambda cls, own: make_dict_unstructure_fn(cls, own, **capitals(cls))
    )
    converter.register_structure_hook_factory(
        attrs.has, lambda cls, own: make_dict_structure_fn(cls, own, **capitals(cls))
    )


def rename_around(converter: cattrs.Converter) -> None:
    """By hooks that are bound to one converter."""
    converter.register_unstructure_hook_factory(
        attrs.has, lambda cls: make_dict_unstructure_fn(cls, converter, **capitals(cls))
    )


def test_hooks_for_all_classes_stay_beneath_the_sealing() -> None:
    converter = make_converter()
    rename_within(converter)
    serializer = Serializer(converter, SubjectKeys(KeysInMemory()))
    family = Family([Person(SOMEBODY, "Ann", None, Address("Hidden Lane 5", [1]))], Plain("rex", 42))
    serializer.prepare(Family)
    data = stored(family, serializer)
    assert set(data["MEMBERS"][0]) == {"ID", "NAME", "BORN", "ADDRESS", "NOTES"}
    assert b"Ann" not in msgspec.msgpack.encode(data)
    assert serializer.structure(data, Family) == family


@attrs.frozen
class Base:
    person: str


@attrs.frozen
class Derived(Base):
    name: Annotated[str, Personal("person", forgotten="")] = attrs.field()


@attrs.frozen
class Holder:
    held: Base


@attrs.frozen
class Other:
    other: Annotated[int, Personal("who", forgotten=0)]
    who: str = "ann"


@attrs.frozen
class Either:
    value: Plain | Other


def test_a_hook_for_subclasses_does_not_undo_it_either() -> None:
    converter = make_converter()
    include_subclasses(Base, converter)
    with pytest.raises(SchemaError, match="Derived would not be sealed: a hook is registered for it"):
        Serializer(converter, SubjectKeys(KeysInMemory())).prepare(Holder)


@pytest.mark.parametrize(
    ("hooks", "value"),
    [
        (rename_around, Family([Person(SOMEBODY, "Ann", None)], Plain("", 0))),
        (partial(configure_tagged_union, Plain | Other), Either(Plain("ann", 7))),
    ],
)
def test_a_hook_that_gets_around_the_sealing_is_noticed(hooks: Callable[..., None], value: object) -> None:
    converter = make_converter()
    hooks(converter)
    serializer = Serializer(converter, SubjectKeys(KeysInMemory()))
    serializer.prepare(type(value))
    for unstructure in (serializer.unstructure, serializer.functions(type(value))[0]):
        with pytest.raises(EncodingError, match="would not be sealed: a hook on the converter gets around it"):
            unstructure(value)


@attrs.frozen
class Renamed:
    who: str
    name: Annotated[str | None, Personal("who"), override(rename="called")]
    _nick: Annotated[str, Personal("who", forgotten="")] = "Nick"


@pytest.mark.parametrize("converter", [cattrs.Converter(use_alias=True), cattrs.Converter(omit_if_default=True)])
def test_settings_of_a_converter_are_kept(converter: cattrs.Converter) -> None:
    serializer = Serializer(converter, SubjectKeys(KeysInMemory()))
    serializer.prepare(Renamed)
    for value in (Renamed("ann", "Ann", "Annie"), Renamed("ann", "Ann")):
        data = stored(value, serializer)
        assert b"Ann" not in msgspec.msgpack.encode(data)
        assert serializer.structure(data, Renamed) == value


@attrs.frozen
class InUnionOfMore:
    value: Plain | Other | None
    values: dict[str, Plain | Other | int] = attrs.Factory(dict)


def test_classes_in_a_union_with_what_is_stored_as_it_is_are_opened() -> None:
    serializer = Serializer(keys=SubjectKeys(KeysInMemory()))
    for value in (InUnionOfMore(Plain("ann", 7), {"other": Other(8), "number": 9}), InUnionOfMore(None)):
        assert serializer.structure(stored(value, serializer), InUnionOfMore) == value
