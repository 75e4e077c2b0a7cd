"""Aggregates are checked when they are defined."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from eventsrc import (
    Aggregate,
    DefinitionError,
    Delete,
    Deleted,
    Recreate,
    Recreated,
    applies,
    command,
    event,
    handles,
)


@command
class Open:
    name: str


@command
class Close:
    pass


@event("thing.opened")
class Opened:
    name: str


@event("thing.closed")
class Closed:
    pass


class Thing(Aggregate):
    name: str = ""
    tags: list[str] = attrs.field(factory=list)

    @handles
    def open_or_close(self, command: Open | Close) -> Opened | Closed:
        return Opened(command.name) if isinstance(command, Open) else Closed()

    @applies
    def changed(self, event: Opened | Closed) -> None:
        self.name = event.name if isinstance(event, Opened) else ""


def test_the_fields_are_the_state_and_their_defaults_the_beginning() -> None:
    assert Thing() == Thing(name="", tags=[])
    assert Thing().tags is not Thing().tags


def test_one_method_may_take_several_classes() -> None:
    definition = Thing.__eventsrc_definition__
    assert set(definition.handlers) == {Open, Close, Delete, Recreate}
    assert set(definition.appliers) == {Opened, Closed, Deleted, Recreated}
    assert definition.handlers[Open](Thing(), Open("x")) == Opened("x")


def test_the_category() -> None:
    class Named(Aggregate, category="other_name"):
        pass

    assert Thing.__eventsrc_definition__.category == "thing"
    assert Named.__eventsrc_definition__.category == "other_name"
    for wrong in ("with-dash", "Upper", "", "1st"):
        with pytest.raises(DefinitionError, match="cannot be the category of Wrong"):
            type("Wrong", (Aggregate,), {}, category=wrong)


def test_a_child_inherits_and_overrides() -> None:
    class Child(Thing):
        extra: int = 0

        @applies
        def changed(self, event: Opened | Closed) -> None:
            self.extra += 1

    definition = Child.__eventsrc_definition__
    child = Child()
    definition.appliers[Opened](child, Opened("x"))
    assert (child.name, child.extra) == ("", 1)
    assert set(definition.handlers) == {Open, Close, Delete, Recreate}


def define(message: str, **namespace: Any) -> None:
    with pytest.raises(DefinitionError, match=message):
        type("Wrong", (Aggregate,), namespace)


def test_fields_need_defaults_that_are_not_shared() -> None:
    define(r"Wrong.size has no default", __annotations__={"size": int})
    define(
        r"default of Wrong.tags would be shared.*attrs.field\(factory=list\)",
        __annotations__={"tags": list[str]},
        tags=[],
    )


def test_fields_are_all_that_a_state_is_made_from() -> None:
    define("Wrong.size has init=False", __annotations__={"size": int}, size=attrs.field(default=0, init=False))
    define("Wrong has an __init__ of its own", __init__=lambda self: None)


@pytest.mark.parametrize("marked", [handles, applies])
def test_the_class_is_not_an_argument_of_the_decorator(marked: Any) -> None:
    with pytest.raises(DefinitionError, match=rf"@{marked.__name__} is written without an argument.*Open.*annotated"):
        marked(Open)


def test_events_of_one_name_would_be_read_as_each_other() -> None:
    @event("thing.opened")
    class Reopened:
        name: str

    @applies
    def change(self: Any, event: Any) -> None: ...

    change.__annotations__["event"] = Opened | Reopened
    define("Opened and Reopened are both stored as 'thing.opened'.*another name", change=change)


def test_tags_are_a_function() -> None:
    tags: Any = ["a"]
    with pytest.raises(DefinitionError, match=r"the tags of event 'thing.seen'.*not \['a'\]: tags=lambda event"):
        event("thing.seen", tags=tags)


@pytest.mark.parametrize("name", ["id", "is_deleted", "decide_deletion"])
def test_fields_do_not_hide_what_every_aggregate_has(name: str) -> None:
    define(rf"Wrong.{name} cannot be a field", __annotations__={name: str}, **{name: ""})


def test_handlers_need_a_usable_annotation() -> None:
    @handles
    def bare(self, command):  # type: ignore[no-untyped-def]
        pass

    @handles
    def wrong(self: Any, command: int) -> None:
        pass

    @handles
    def two(self: Any, command: Open, other: int) -> None:
        pass

    @handles
    def an_event(self: Any, command: Opened) -> None:
        pass

    define("parameter 'command' of Wrong.bare is not annotated: give it a @command class", bare=bare)
    define("Wrong.wrong is annotated with <class 'int'>, which is not a @command class", wrong=wrong)
    define("Wrong.two has @handles, so it takes self and one parameter", two=two)
    define("which is not a @command class", an_event=an_event)


def test_an_annotation_that_cannot_be_resolved() -> None:
    @handles
    def later(self: Any, command: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    define("annotations of Wrong.later cannot be resolved.*Nowhere", later=later)


def test_two_handlers_or_appliers_for_one_class() -> None:
    @handles
    def first(self: Any, command: Open) -> None:
        pass

    @handles
    def second(self: Any, command: Close | Open) -> None:
        pass

    define("Wrong.first and Wrong.second both have @handles for Open", first=first, second=second)

    @applies
    def one(self: Any, event: Opened) -> None:
        pass

    @applies
    def two(self: Any, event: Opened) -> None:
        pass

    define("Wrong.one and Wrong.two both have @applies for Opened", one=one, two=two)


def test_an_applier_is_not_async() -> None:
    @applies
    async def opened(self: Any, event: Opened) -> None:
        pass

    define("must not be async", opened=opened)


@pytest.mark.parametrize(
    "returned", [Opened, list[Opened], Sequence[Opened | Closed], Opened | None, tuple[Opened, ...]]
)
def test_an_event_that_nothing_applies(returned: Any) -> None:
    @handles
    def open_it(self: Any, command: Open) -> None:
        pass

    open_it.__annotations__["return"] = returned
    define("Wrong.open_it returns Opened, which nothing applies. Add a method to Wrong: @applies", open_it=open_it)


def test_local_classes_with_textual_annotations_are_found() -> None:
    @command
    class Local:
        pass

    class Owner(Aggregate):
        @handles
        def local(self, command: "Local") -> None:
            pass

    assert set(Owner.__eventsrc_definition__.handlers) == {Local, Delete, Recreate}
