"""What is said of a class in the wrong place, or of a wrong kind, is told where the class is defined or opened."""

import abc
import dataclasses
from datetime import timedelta
from typing import Any

import attrs
import pytest

from eventsrc import (
    Aggregate,
    DefinitionError,
    EventMeta,
    MemoryLog,
    Projection,
    Runtime,
    Saga,
    SagaContext,
    Snapshots,
    Table,
    applies,
    event,
    on,
    step,
)
from eventsrc.runtime.testing import scenario


@event("thing.made")
class Made:
    size: int


@attrs.frozen
class Row:
    name: str


class Things(Projection):
    rows = Table(Row, key="name")

    @on(Made)
    def made(self, event: Made, meta: EventMeta) -> None: ...


class Deliver(Saga):
    @step
    async def send(self, ctx: SagaContext) -> None: ...


@pytest.mark.parametrize(
    ("base", "name", "value"),
    [
        (Aggregate, "category", "thing"),
        (Aggregate, "snapshots", Snapshots.never()),
        (Things, "name", "things"),
        (Deliver, "name", "deliver"),
        (Deliver, "version", 2),
        (Deliver, "signals", ["ok"]),
        (Deliver, "deadline_seconds", 60),
        (Deliver, "older_instances", "park"),
    ],
)
def test_an_argument_of_the_class_that_is_written_in_its_body(base: type, name: str, value: object) -> None:
    with pytest.raises(DefinitionError, match=rf"Other\.{name} is without effect there.*class Other\(\w+, {name}="):
        type("Other", (base,), {name: value})


def test_a_field_may_have_the_name_of_an_argument() -> None:
    class Send(Deliver):
        name: str = "post"
        version: int = 3

    class Thing(Aggregate):
        category: str = ""

    assert (Send().version, Thing().category) == (3, "")


@pytest.mark.parametrize(("base", "argument"), [(Aggregate, "category"), (Things, "name"), (Deliver, "name")])
def test_a_name_that_is_no_text(base: Any, argument: str) -> None:
    arguments: Any = {argument: 5}
    with pytest.raises(DefinitionError, match=r"5 cannot be the (category|name) of Other"):

        class Other(base, **arguments): ...


@pytest.mark.parametrize("name", ["id", "is_deleted"])
def test_a_method_cannot_replace_what_every_aggregate_has(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"Thing\.{name} cannot be a field or a method"):
        type("Thing", (Aggregate,), {name: lambda self: "x"})


def test_the_names_of_an_aggregates_own_helpers_are_free() -> None:
    class Thing(Aggregate):
        size: int = 0

        def _end(self) -> int:
            return self.size

        def _identify(self) -> str:
            return f"{self.id}!"

        @applies
        def made(self, event: Made) -> None:
            self.size = event.size

    state = scenario(Thing, aggregate_id="a").given(Made(3)).state
    assert (state._end(), state._identify()) == (3, "a!")


@pytest.mark.parametrize(
    "bounds", [{"events": 1.5}, {"events": True}, {"size_bytes": "1"}, {"seconds": timedelta(seconds=5)}, {"events": 0}]
)
def test_a_snapshot_policy_of_no_numbers(bounds: dict[str, Any]) -> None:
    (name,) = bounds
    with pytest.raises(DefinitionError, match=f"takes {name}= as a positive"):
        Snapshots.every(**bounds)


async def later(state: object) -> bool:
    return True


def never() -> bool:
    return False


@pytest.mark.parametrize("predicate", [later, never, lambda one, two: True, 5])
def test_a_snapshot_policy_that_cannot_be_asked(predicate: Any) -> None:
    with pytest.raises(DefinitionError, match="needs a plain function of the state"):
        Snapshots.when(predicate)


def test_a_field_of_a_saga_without_a_default_after_one_with() -> None:
    with pytest.raises(DefinitionError, match=r"Saga cannot make Book an attrs class: No mandatory .* It is seats\.$"):

        class Book(Saga):
            paid: str = ""
            seats: int  # pyright: ignore[reportGeneralTypeIssues]

            @step
            async def pay(self, ctx: SagaContext) -> None: ...


def test_a_projection_that_would_need_arguments() -> None:
    with pytest.raises(DefinitionError, match=r"Counted has an __init__ of its own, but is made by the runtime"):

        class Counted(Things):
            def __init__(self, count: int) -> None:
                self.count = count


@pytest.mark.parametrize("arguments", [{"key": 5}, {"key": None}, {"key": "name", "indexes": None}])
def test_a_table_whose_key_is_no_name(arguments: Any) -> None:
    with pytest.raises(DefinitionError, match=r"(key|indexes)= of a table is the name of a field, or a list of names"):
        Table(Row, **arguments)


def test_the_rows_of_a_projection_outside_of_its_handlers() -> None:
    with pytest.raises(DefinitionError, match=r"Elsewhere query it: runtime\.view\(Things\.rows\)"):
        Things().rows.get("x")


@pytest.mark.parametrize(
    ("bound", "value"),
    [("max_lag_events", "ten"), ("max_lag_events", 1.5), ("version", "2"), ("on_lag", "slow_writer")],
)
async def test_a_bound_that_is_set_after_the_definition(bound: str, value: object) -> None:
    changed = type("Changed", (Things,), {})
    setattr(changed, bound, value)
    with pytest.raises(DefinitionError, match=rf"Changed\.{bound} must be"):
        async with Runtime.open(MemoryLog(), projections=[changed]):
            pass


async def test_a_class_of_which_no_state_can_be_made() -> None:
    class Shape(Aggregate, abc.ABC):
        @abc.abstractmethod
        def area(self) -> float: ...

    @dataclasses.dataclass(frozen=True)
    class Fixed(Aggregate):
        size: int = 0

    for cls, words in ((Shape, r"Shape is abstract \(without area\)"), (Fixed, "Fixed is a frozen dataclass")):
        with pytest.raises(DefinitionError, match=words):
            scenario(cls)
        with pytest.raises(DefinitionError, match=words):
            async with Runtime.open(MemoryLog(), aggregates=[cls]):
                pass
