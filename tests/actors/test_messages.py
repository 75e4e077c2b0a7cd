"""Commands and events as a domain author writes them."""

import dataclasses
import enum
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypedDict

import attrs
import pytest

from eventsrc import DefinitionError, command, event
from eventsrc.actors.messages import command_definition, event_definition


@command
class Rename:
    name: str
    loud: bool = False


@command(idempotency_window_seconds=60)
class Pay:
    amount: int


@event("thing.renamed")
class Renamed:
    name: str


@event("thing.gone", version=3, kind="deleted", upcasters={1: dict, 2: dict})
class Gone:
    pass


def test_a_command_is_a_frozen_class_of_its_fields() -> None:
    assert Rename("x") == Rename("x", loud=False)
    assert repr(Rename("x", True)) == "Rename(name='x', loud=True)"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Rename("x").name = "y"  # type: ignore[misc]


def test_the_window_of_a_command() -> None:
    pay, rename = command_definition(Pay), command_definition(Rename)
    assert pay is not None
    assert pay.idempotency_window_seconds == 60
    assert rename is not None
    assert rename.idempotency_window_seconds is None
    for window in (0, -1, math.nan, math.inf, 1e11):
        with pytest.raises(DefinitionError, match="must be positive, and at most a hundred years"):
            command(idempotency_window_seconds=window)


def test_what_an_event_is_stored_as() -> None:
    renamed, gone = event_definition(Renamed), event_definition(Gone)
    assert renamed is not None
    assert (renamed.name, renamed.version, renamed.kind) == ("thing.renamed", 1, None)
    assert gone is not None
    assert (gone.name, gone.version, gone.kind) == ("thing.gone", 3, "deleted")


def test_a_subclass_is_no_event_of_its_own() -> None:
    class Child(Renamed):
        pass

    assert event_definition(Child) is None
    assert command_definition(Renamed) is None


@pytest.mark.parametrize("name", ["", "Upper", "white space", "x" * 201, "ümlaut", ".dot"])
def test_names_that_cannot_be_stored(name: str) -> None:
    with pytest.raises(DefinitionError, match="cannot be the stored name"):
        event(name)


@pytest.mark.parametrize("name", ["saga.parked", "eventsrc.deleted", "saga.of.our.own"])
def test_names_of_the_runtimes_own_events(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"'{name}' cannot be .* are the runtime's own"):
        event(name)
    assert event("sagas.parked") is not None


async def later(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


def in_parts(payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield payload


async def in_parts_later(payload: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield payload


class Upcasts:
    def with_self(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    async def __call__(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload


class PaidCents(TypedDict):
    cents: int


def typed(payload: PaidCents) -> Mapping[str, Any]:
    return {"amount": payload["cents"] / 100}


@pytest.mark.parametrize(
    ("version", "upcasters", "mistake"),
    [
        (2, None, r"version 2 and no upcaster from version 1, so .* Write upcasters=\{1: function\}; .* of version 2"),
        (4, {1: dict, 3: dict}, "no upcaster from version 2"),
        (1, {1: dict}, "version 1, so none of its upcasters can lead from version 1 to the next"),
        (2, {0: dict, 1: dict}, "from version 0"),
        (2, {"1": dict}, r"by whole numbers, .* not by '1': upcasters=\{1: function\}"),
        (2, {True: dict}, "not by True"),
        (10**12, {1: dict}, "no upcaster from version 2"),
        (2, {1: {"amount": 1}}, "from version 1 is a function, .* returns that of version 2, not {'amount': 1}"),
        (2, {1: later}, "is a function, neither async nor a generator, that takes a payload alone"),
        (2, {1: Upcasts()}, "neither async"),
        (2, {1: in_parts}, "nor a generator"),
        (2, {1: in_parts_later}, "nor a generator"),
        (2, {1: lambda payload, version: payload}, "that takes a payload alone"),
        (2, {1: lambda: {"amount": 1}}, "that takes a payload alone"),
        (2, {1: Upcasts.with_self}, "that takes a payload alone"),
        (2, [dict], r"by the version that each leads from, not \[.*upcasters=\{1: function\}"),
    ],
)
def test_mistakes_with_upcasters_are_told_where_they_are_made(version: int, upcasters: Any, mistake: str) -> None:
    with pytest.raises(DefinitionError, match=mistake):
        event("a", version=version, upcasters=upcasters)


def test_whatever_takes_a_payload_alone_can_be_an_upcaster() -> None:
    for upcaster in (dict, typed, Upcasts().with_self, partial(dict, currency="EUR"), lambda payload, *rest: payload):
        declared = event_definition(event("a", version=2, upcasters={1: upcaster})(type("Some", (), {})))
        assert declared is not None
        assert declared.upcasters == {1: upcaster}


def test_upcasters_are_those_that_were_given_when_the_class_was_defined() -> None:
    upcasters = {1: typed}
    declared = event_definition(event("a", version=2, upcasters=upcasters)(type("Some", (), {})))
    upcasters.clear()
    assert declared is not None
    assert declared.upcasters == {1: typed}


def test_other_mistakes_are_told_where_they_are_made() -> None:
    with pytest.raises(DefinitionError, match="whole number from 1 on"):
        event("a", version=0)
    with pytest.raises(DefinitionError, match="must be one of created, updated, deleted"):
        event("a", kind="snapshot")
    with pytest.raises(
        DefinitionError, match=r'needs the name that Bare is stored with: @event\("account.deposited"\)'
    ):

        @event  # type: ignore[arg-type]
        class Bare:
            pass


@pytest.mark.parametrize("window", ["60", timedelta(minutes=1), True])
def test_a_window_that_is_no_number(window: Any) -> None:
    with pytest.raises(DefinitionError, match="must be positive"):
        command(idempotency_window_seconds=window)


DECORATORS = pytest.mark.parametrize("decorator", [command, event("thing.made")])


@DECORATORS
@pytest.mark.parametrize("given", ["deposit", 5, lambda: None, Rename("x")])
def test_what_is_no_class(decorator: Any, given: Any) -> None:
    with pytest.raises(DefinitionError, match="stands over a class, and was given"):
        decorator(given)


@DECORATORS
def test_a_class_that_has_another_way_to_make_its_fields(decorator: Any) -> None:
    class Colour(enum.Enum):
        RED = 1

    class Point(NamedTuple):
        x: int

    class Options(TypedDict):
        x: int

    for cls in (Colour, Point, Options):
        with pytest.raises(DefinitionError, match=rf"makes {cls.__name__} an attrs class, .* write it without that"):
            decorator(cls)

    class Plain:
        x: int

    for other in (dataclasses.dataclass, dataclasses.dataclass(frozen=True), attrs.define, command, event("a.b")):
        with pytest.raises(DefinitionError, match="leave out the other decorator"):
            decorator(other(type("Plain", (), dict(vars(Plain)))))


@DECORATORS
def test_an_init_that_cannot_set_the_fields(decorator: Any) -> None:
    class Own:
        x: int

        def __init__(self, x: int) -> None:
            self.x = x

    with pytest.raises(DefinitionError, match="Own has an __init__ of its own, which cannot set the fields"):
        decorator(Own)

    class Converting:
        x: int

        def __init__(self, x: str) -> None:
            self.__attrs_init__(int(x))  # type: ignore[attr-defined]

    assert decorator(Converting)("5").x == 5


@DECORATORS
def test_a_field_without_a_default_after_one_with(decorator: Any) -> None:
    class Mixed:
        x: int = 0
        y: str

    with pytest.raises(DefinitionError, match=r"cannot make Mixed an attrs class: No mandatory .* It is y\.$"):
        decorator(Mixed)


def take_nothing() -> list[str]:
    return []


async def tags_later(event: object) -> list[str]:
    return []


@pytest.mark.parametrize("tags", [lambda event, meta: [], take_nothing, tags_later])
def test_tags_that_cannot_be_had_from_an_event(tags: Any) -> None:
    with pytest.raises(DefinitionError, match="are had from each event by a function of it"):
        event("thing.made", tags=tags)
