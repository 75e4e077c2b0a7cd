"""Personal fields: which marks a class may have, and how its objects are stored."""

import dataclasses
import enum
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Generic, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID

import attrs
import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from eventsrc import (
    DecodingError,
    DefinitionError,
    EncodingError,
    Personal,
    PrivacyUnavailable,
    SchemaError,
    StoredEvent,
    SubjectKeys,
    UpcasterFailed,
    event,
)
from eventsrc.actors.serialization.event_codecs import EventCodecs
from eventsrc.actors.serialization.personal import has_personal_data
from eventsrc.actors.serialization.sealing import key_tag, key_tags
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.storage.keys import subject_keys
from eventsrc.storage.keys.key_table import KeysInMemory

SOMEBODY = UUID(int=7)


@attrs.frozen
class Address:
    street: str
    zip_codes: list[int]


@attrs.frozen
class Person:
    id: UUID
    name: Annotated[str, Personal("id", forgotten="somebody")]
    born: Annotated[date | None, Personal("id")]
    address: Annotated[Address | None, Personal("id")] = None
    notes: Annotated[list[str], Personal("id")] = attrs.Factory(list)


@dataclasses.dataclass
class Plain:
    who: str
    secret: Annotated[int, Personal("who", forgotten=0)] = 5


@attrs.frozen
class Family:
    members: list[Person]
    pet: Plain


def stored(value: object, serializer: Serializer) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(serializer.unstructure(value)))


def test_every_personal_value_comes_back_and_none_is_stored_as_it_is() -> None:
    keys = SubjectKeys(KeysInMemory())
    serializer = Serializer(keys=keys)
    ann = Person(SOMEBODY, "Ann", date(1990, 5, 17), Address("Hidden Lane 5", [12345]), ["likes tea"])
    family = Family([ann, Person(UUID(int=8), "somebody", None)], Plain("rex", 42))
    data = stored(family, serializer)
    encoded = msgspec.msgpack.encode(data)
    assert not any(secret in encoded for secret in (b"Ann", b"1990", b"Hidden", b"tea"))
    assert serializer.structure(data, Family) == family
    assert serializer.plain(family)["members"][0]["name"] == "Ann"
    assert len(key_tags(encoded)) == 2, "of whom nothing is known there is no key"

    keys.forget(str(SOMEBODY))
    left = serializer.structure(data, Family)
    assert left.members[0] == Person(SOMEBODY, "somebody", None, None, [])
    assert left.pet == Plain("rex", 42)
    keys.forget("rex")
    assert serializer.structure(data, Family).pet == Plain("rex", 0)


@given(st.text(), st.one_of(st.none(), st.dates()), st.lists(st.text()))
def test_any_value_comes_back(name: str, born: date | None, notes: list[str]) -> None:
    serializer = Serializer(keys=SubjectKeys(KeysInMemory()))
    person = Person(SOMEBODY, name, born, None, notes)
    assert serializer.structure(stored(person, serializer), Person) == person


def test_without_a_value_for_it_a_forgotten_field_has_its_default() -> None:
    @attrs.frozen
    class Settings:
        user: str
        theme: Annotated[str, Personal("user")] = "light"

    keys = SubjectKeys(KeysInMemory())
    serializer = Serializer(keys=keys)
    data = stored(Settings("ann", "dark"), serializer)
    keys.forget("ann")
    assert serializer.structure(data, Settings) == Settings("ann", "light")


def test_a_value_that_says_nothing_needs_no_subject() -> None:
    serializer = Serializer(keys=SubjectKeys(KeysInMemory()))
    assert stored(Plain("", 0), serializer) == {"who": "", "secret": 0}
    with pytest.raises(EncodingError, match=r"Plain\.secret is personal data of whom Plain\.who names, and that is ''"):
        serializer.unstructure(Plain("", 1))
    # True is no 1, and 0.0 no 0: what stands for the forgotten is told by its class, too.
    assert stored(Plain("ann", False), serializer)["secret"] is not False


@attrs.frozen
class OfNobody:
    name: Annotated[str, Personal("person", forgotten="")]


@attrs.frozen
class OfItself:
    name: Annotated[str, Personal("name", forgotten="")]


@attrs.frozen
class WithoutPlaceholder:
    person: str
    name: Annotated[str, Personal("person")]


@attrs.frozen
class WithValidator:
    person: str
    name: Annotated[str, Personal("person", forgotten="")] = attrs.field(validator=attrs.validators.min_len(3))


@attrs.frozen
class InUnion:
    person: str
    name: Annotated[str, Personal("person", forgotten="")] | None


@attrs.frozen
class InList:
    person: str
    names: list[Annotated[str, Personal("person", forgotten="")]]


@attrs.frozen
class Twice:
    person: str
    other: str
    name: Annotated[str, Personal("person", forgotten=""), Personal("other", forgotten="")]


@attrs.frozen
class OfUnknown:
    person: str
    names: list[Annotated[str, Personal]]


@attrs.frozen
class Within:
    inner: dict[str, list[OfNobody]]


class InTypedDict(TypedDict):
    person: str
    name: Annotated[str, Personal("person", forgotten="")]


class InNamedTuple(NamedTuple):
    person: str
    name: Annotated[str, Personal("person", forgotten="")]


PERSONAL_NAME: Any = NewType("PERSONAL_NAME", Annotated[str, Personal("person", forgotten="")])  # type: ignore[valid-newtype]
OfNewType = attrs.make_class("OfNewType", {"person": attrs.field(type=str), "name": attrs.field(type=PERSONAL_NAME)})


T = TypeVar("T")


@attrs.frozen
class Holding(Generic[T]):
    """Of another class."""

    held: T


@attrs.frozen
class Later:
    person: str
    name: Annotated[str, Personal("person", forgotten="")]
    others: list["Later"] = attrs.Factory(list)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (OfNobody, r"OfNobody\.name is personal data of 'person', which is no field of it"),
        (OfItself, r"OfItself\.name is personal data of 'name', which is personal itself"),
        (WithoutPlaceholder, r"name would be None once it was forgotten, which is no str: say what it is then"),
        (WithValidator, r"name would be '' once it was forgotten, which its validator refuses: say"),
        (InUnion, r"InUnion\.name is .*: a field is personal as a whole"),
        (InList, r"InList\.names is .*: a field is personal as a whole"),
        (Twice, r"Twice\.name is .* and of one subject"),
        (OfUnknown, r'OfUnknown\.names .* does not say whom .*names: Annotated\[<type>, Personal\("<field>"\)\]'),
        (Within, r"OfNobody\.name is personal data of 'person'"),
        (Holding[OfNobody], r"OfNobody\.name is personal data of 'person'"),
        (attrs.make_class("A", {"held": attrs.field(type=InTypedDict)}), "InTypedDict is neither an attrs class nor"),
        (attrs.make_class("B", {"held": attrs.field(type=InNamedTuple)}), "InNamedTuple is neither an attrs class nor"),
        (OfNewType, r"OfNewType\.name is .*: a field is personal as a whole"),
        (Later, r"Later.* cannot be turned into data"),
    ],
)
def test_a_mark_that_cannot_be_kept_is_told(cls: type, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        Serializer(keys=SubjectKeys(KeysInMemory())).prepare(cls)


def test_personal_data_are_not_stored_where_there_are_no_keys() -> None:
    with pytest.raises(SchemaError, match="there are no keys to seal them with"):
        Serializer().prepare(Family)


@attrs.frozen
class Note:
    author: str
    about: Annotated[Plain | None, Personal("author")]
    words: Annotated[dict[str, str], Personal("author", forgotten={})] = attrs.Factory(dict)


def test_personal_values_may_hold_those_of_others() -> None:
    keys = SubjectKeys(KeysInMemory())
    serializer = Serializer(keys=keys)
    serializer.prepare(Note)
    note = Note("ann", Plain("bob", 7), {"hush": "now"})
    payload = msgspec.msgpack.encode(serializer.unstructure(note))
    assert set(serializer.key_tags(payload)) == {key_tag(keys.ids_of(who)[0]) for who in ("ann", "bob")}
    keys.forget("bob")
    data = msgspec.msgpack.decode(payload)
    assert serializer.structure(data, Note) == Note("ann", Plain("bob", 0), {"hush": "now"})
    keys.forget("ann")
    assert serializer.structure(data, Note) == Note("ann", None)


class Id(str, enum.Enum):  # noqa: UP042 (its text is not its value)
    ANN = "ann"


def test_the_id_of_a_subject_is_what_is_stored_of_it() -> None:
    keys = SubjectKeys(KeysInMemory())
    Serializer(keys=keys).unstructure(Plain(Id.ANN, 7))
    assert keys.ids_of("ann")


def test_the_library_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise PrivacyUnavailable

    monkeypatch.setattr(subject_keys, "_cipher_class", missing)
    with pytest.raises(PrivacyUnavailable, match=r'pip install "eventsrc\[privacy\]"'):
        Serializer(keys=SubjectKeys(KeysInMemory())).prepare(Family)
    Serializer(keys=SubjectKeys(KeysInMemory())).prepare(Address)


# --- older events ---


@event("person.named")
class NamedFirst:
    person: str
    name: Annotated[str, Personal("person", forgotten="x")]


def split(old: dict[str, Any]) -> dict[str, Any]:
    name = old.pop("name")
    return {**old, "first": name.split()[0] if isinstance(name, str) else name}


def renamed(old: dict[str, Any]) -> dict[str, Any]:
    return {"person": old["person"], "first": old["name"]}


def careless(old: dict[str, Any]) -> dict[str, Any]:
    return {"person": old["person"], "first": old["name"].split()[0]}


def named_now(upcaster: Callable[[dict[str, Any]], dict[str, Any]]) -> type:
    @event("person.named", version=2, upcasters={1: upcaster})
    class Named:
        person: str
        first: Annotated[str, Personal("person", forgotten="somebody")]

    return Named


def stored_event(payload: Any, version: int = 1) -> StoredEvent:
    facts = (1, "person-ann", 1, "person.named", version, "created", 0, "", "", {}, payload, (), b"")
    return StoredEvent(*facts)  # type: ignore[arg-type]


def test_upcasters_are_given_what_was_sealed_and_hand_on_what_is_forgotten() -> None:
    keys = SubjectKeys(KeysInMemory())
    old = stored_event(stored(NamedFirst("ann", "Ann Secret"), Serializer(keys=keys)))

    def first_by(upcaster: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
        named: Any = EventCodecs([named_now(upcaster)], Serializer(keys=keys)).decode(old)
        return str(named.first)

    assert list(map(first_by, (split, renamed, careless))) == ["Ann", "Ann Secret", "Ann"]
    keys.forget("ann")
    assert list(map(first_by, (split, renamed))) == ["somebody", "somebody"]
    with pytest.raises(UpcasterFailed, match="AttributeError"):
        first_by(careless)


def test_what_was_stored_before_a_field_was_marked_is_read_as_before() -> None:
    codecs = EventCodecs([NamedFirst], Serializer(keys=SubjectKeys(KeysInMemory())))
    assert codecs.decode(stored_event({"person": "ann", "name": "Ann"})) == NamedFirst("ann", "Ann")


def test_a_field_that_is_not_marked_any_more_is_told() -> None:
    @attrs.frozen
    class Twofold:
        who: str
        name: Annotated[str, Personal("who", forgotten="")]
        email: Annotated[str, Personal("who", forgotten="")]

    @event("person.named")
    class Careless:
        who: str
        name: Annotated[str, Personal("who", forgotten="")]
        email: str

    keys = SubjectKeys(KeysInMemory())
    old = stored_event(stored(Twofold("ann", "Ann", "ann@example.org"), Serializer(keys=keys)))
    with pytest.raises(DecodingError, match=r"Careless\.email was stored sealed, .* and is not marked any more"):
        EventCodecs([Careless], Serializer(keys=keys)).decode(old)


def test_a_class_within_that_has_no_marks_any_more_is_told() -> None:
    @attrs.frozen
    class Address:
        who: str
        street: Annotated[str, Personal("who", forgotten="")]

    @attrs.frozen
    class Unmarked:
        who: str
        street: str

    @event("person.named")
    class Before:
        who: str
        name: Annotated[str, Personal("who", forgotten="")]
        to: list[Address]

    @event("person.named")
    class After:
        who: str
        name: Annotated[str, Personal("who", forgotten="")]
        to: list[Unmarked]

    keys = SubjectKeys(KeysInMemory())
    old = stored_event(stored(Before("ann", "Ann", [Address("ann", "Main Street")]), Serializer(keys=keys)))

    def read_by(event_class: type) -> Any:
        codecs = EventCodecs([event_class], Serializer(keys=keys))
        return codecs.decode_as(codecs.of_class[event_class], old)

    assert read_by(Before) == Before("ann", "Ann", [Address("ann", "Main Street")])
    with pytest.raises(DecodingError, match=r"what is sealed is no str: mark its field .* @ \$\.to\[0\]\.street"):
        read_by(After)
    keys.forget("ann")
    assert read_by(Before) == Before("ann", "", [Address("ann", "")])


def test_whole_numbers_are_ids_and_other_things_are_not() -> None:
    @attrs.frozen
    class Numbered:
        who: Any
        name: Annotated[str, Personal("who", forgotten="")]

    keys = SubjectKeys(KeysInMemory())
    serializer = Serializer(keys=keys)
    data = stored(Numbered(17, "Ann"), serializer)
    keys.forget("17")
    assert serializer.structure(data, Numbered) == Numbered(17, "")
    for who in (True, None, 1.5, ""):
        with pytest.raises(EncodingError, match="a text, a UUID or a whole number"):
            serializer.unstructure(Numbered(who, "Ann"))


def test_nothing_is_found_by_a_personal_field() -> None:
    serializer = Serializer(keys=SubjectKeys(KeysInMemory()))
    assert serializer.fields_data(NamedFirst, {"person": "ann"}) == {"person": "ann"}
    with pytest.raises(DefinitionError, match=r"NamedFirst\.name is personal data, .* so nothing is found by it"):
        serializer.fields_data(NamedFirst, {"name": "Ann"})


# --- where personal data may be ---

Buddy = NewType("Buddy", Plain)
T = TypeVar("T", bound=Plain)


@attrs.frozen
class Kind: ...


@attrs.frozen
class Named(Kind):
    who: str
    name: Annotated[str, Personal("who", forgotten="")]


@attrs.frozen
class OfBuddy:
    buddy: Buddy


@attrs.frozen
class OfKinds:
    kinds: tuple[Kind, ...]


@attrs.frozen
class Box(Generic[T]):
    inner: dict[str, T | None]


@pytest.mark.parametrize("cls", [OfBuddy, Box, Box[Plain], list[OfBuddy], OfKinds, Kind, Named])
def test_a_class_is_known_to_hold_personal_data_however_it_names_them(cls: Any) -> None:
    assert has_personal_data(cls)


@pytest.mark.parametrize("cls", [Address, int, Any, list[Any], object])
def test_and_others_are_not(cls: Any) -> None:
    assert not has_personal_data(cls)
