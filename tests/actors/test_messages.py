"""Commands and events as a domain author writes them."""

import math
from typing import Any

import attrs
import pytest

from eventsrc import DefinitionError, command, event
from eventsrc.actors.messages import command_type, event_type


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
    pay, rename = command_type(Pay), command_type(Rename)
    assert pay is not None
    assert pay.idempotency_window_seconds == 60
    assert rename is not None
    assert rename.idempotency_window_seconds is None
    for window in (0, -1, math.nan, math.inf, 1e11):
        with pytest.raises(DefinitionError, match="must be positive, and at most a hundred years"):
            command(idempotency_window_seconds=window)


def test_what_an_event_is_stored_as() -> None:
    renamed, gone = event_type(Renamed), event_type(Gone)
    assert renamed is not None
    assert (renamed.name, renamed.version, renamed.kind) == ("thing.renamed", 1, None)
    assert gone is not None
    assert (gone.name, gone.version, gone.kind) == ("thing.gone", 3, "deleted")


def test_a_subclass_is_no_event_of_its_own() -> None:
    class Child(Renamed):
        pass

    assert event_type(Child) is None
    assert command_type(Renamed) is None


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


@pytest.mark.parametrize(
    ("version", "upcasters", "mistake"),
    [
        (2, None, r"version 2 and no upcaster from version 1, so .* Write upcasters=\{1: function\}; .* of version 2"),
        (4, {1: dict, 3: dict}, "no upcaster from version 2"),
        (1, {1: dict}, "version 1, so none of its upcasters can lead from version 1 to the next"),
        (2, {0: dict, 1: dict}, "from version 0"),
        (2, {"1": dict}, "from version '1'"),
        (2, {True: dict}, "from version True"),
        (2, {1: {"amount": 1}}, "from version 1 is a function that returns .* version 2, not {'amount': 1}"),
        (2, {1: later}, "is a function that returns"),
        (2, [dict], r"by the version that each leads from, not \[.*upcasters=\{1: function\}"),
    ],
)
def test_mistakes_with_upcasters_are_told_where_they_are_made(version: int, upcasters: Any, mistake: str) -> None:
    with pytest.raises(DefinitionError, match=mistake):
        event("a", version=version, upcasters=upcasters)


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
