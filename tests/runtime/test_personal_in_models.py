"""Personal data within models of pydantic and structs of msgspec are refused: these would not be sealed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from typing_extensions import TypeAliasType

from eventsrc import Aggregate, EncodingError, Personal, Runtime, SchemaError, applies, command, event, handles
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.storage.keys.key_table import KeysInMemory
from eventsrc.storage.keys.subject_keys import SubjectKeys

P = TypeVar("P")
MARKED = Annotated[str, Personal("id")]
Name = TypeAliasType("Name", MARKED)


class Text(pydantic.BaseModel):
    text: str


@command
class Say:
    said: Any


@attrs.frozen
class Customer:
    id: str
    name: Annotated[str, Personal("id")]


class WithMark(pydantic.BaseModel):
    id: str
    name: Annotated[str, Personal("id")]


class Deep(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    customer: Customer


class Deeper(pydantic.BaseModel):
    deep: list[Deep]


class StructWithMark(msgspec.Struct):
    id: str
    name: Annotated[str, Personal("id")]


class StructAround(msgspec.Struct):
    customer: Customer | None


class Inheriting(WithMark):
    pass


class StructInheriting(StructWithMark):
    pass


class WithAlias(pydantic.BaseModel):
    id: str
    name: Name


class StructWithAlias(msgspec.Struct):
    id: str
    name: Name


class WithBareMark(pydantic.BaseModel):
    id: str
    name: Annotated[str, Personal]


class Root(pydantic.RootModel[MARKED]):
    pass


class Page(pydantic.BaseModel, Generic[P]):
    item: P


class StructPage(msgspec.Struct, Generic[P]):
    item: P


class Ahead(pydantic.BaseModel):
    later: "list[Later]"


class Later(pydantic.BaseModel):
    id: str
    name: MARKED


@pytest.mark.parametrize(
    "cls",
    [
        WithMark,
        Deep,
        Deeper,
        StructWithMark,
        StructAround,
        Inheriting,
        StructInheriting,
        WithAlias,
        StructWithAlias,
        WithBareMark,
        Root,
        Page[MARKED],
        StructPage[StructInheriting],
        Ahead,
    ],
)
def test_personal_data_within_that_would_not_be_sealed_are_refused(cls: type) -> None:
    holder = attrs.make_class("Holder", {"value": attrs.field(type=list[cls])})  # type: ignore[valid-type]
    with pytest.raises(SchemaError, match="make it"):
        Serializer().prepare(holder)


class MarkedText(Text):
    id: str
    name: MARKED


@dataclass
class Person:
    id: str
    name: MARKED


class Anything(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    value: Any = None


class StructOfAnything(msgspec.Struct):
    value: Any


@event("anything.said")
class AnythingSaid:
    value: Any


class Talk(Aggregate):
    @handles
    def say(self, command: Say) -> AnythingSaid:
        return AnythingSaid(command.said)

    @applies
    def said(self, event: AnythingSaid) -> None: ...


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (MarkedText(text="a", id="1", name="Ann"), "MarkedText.name"),
        (Anything(value={"who": [Person("1", "Ann")]}), "Person.name"),
        (Anything.model_validate({"who": Customer("1", "Ann")}), "Customer.name"),
        (StructOfAnything(Customer("1", "Ann")), "Customer.name"),
        (StructOfAnything(Anything(value=Person("1", "Ann"))), "Person.name"),
    ],
)
async def test_where_no_type_tells_it_an_object_with_marks_is_refused(tmp_path: Path, said: object, named: str) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Talk]) as runtime:
        with pytest.raises(EncodingError, match=f"^{named} is marked as personal, and would not be sealed"):
            await runtime.actor(Talk, "one").ask(Say(said))


def test_a_generic_class_with_marks_is_used_by_a_subclass() -> None:
    @attrs.frozen
    class Labelled(Generic[P]):
        id: str
        label: P
        name: Annotated[str, Personal("id", forgotten="")]

    holder = attrs.make_class("Holder", {"value": attrs.field(type=Labelled[int])})
    with pytest.raises(SchemaError, match=r"Labelled\[int\] is generic and has personal data.*use a subclass"):
        Serializer().prepare(holder)


async def test_a_model_as_a_whole_may_be_personal(tmp_path: Path) -> None:
    @event("profile.given")
    class Given:
        customer: str
        profile: Annotated[Text | None, Personal("customer")] = None

    class Profile(Aggregate):
        profile: Annotated[Text | None, Personal("id")] = None

        @handles
        def say(self, command: Say) -> Given:
            return Given(self.id, command.said)

        @applies
        def given(self, event: Given) -> None:
            self.profile = event.profile

    async with Runtime.open(tmp_path / "store", aggregates=[Profile]) as runtime:
        ann = runtime.actor(Profile, "ann")
        await ann.ask(Say(Text(text="likes tea")))
        assert (await ann.state()).profile == Text(text="likes tea")
        (stored,) = [each async for each in runtime.events(category="profile")]
        assert b"tea" not in msgspec.msgpack.encode(stored)
        await runtime.forget("ann")
        assert (await ann.state()).profile is None


@pytest.mark.parametrize("cls", [Text, StructOfAnything])
def test_one_that_has_to_be_there_says_what_it_is_once_it_is_forgotten(cls: type) -> None:
    @attrs.frozen
    class Holder:
        id: str
        value: Annotated[cls, Personal("id")]  # type: ignore[valid-type]

    keys = SubjectKeys(KeysInMemory())
    with pytest.raises(
        SchemaError, match=rf"would be None once it was forgotten, which is no {cls.__name__}: say what"
    ):
        Serializer(keys=keys).prepare(Holder)
