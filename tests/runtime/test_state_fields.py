"""What may be set on an aggregate, by whom: its fields, by what applies events."""

from typing import Any

import attrs
import pytest

from eventsrc import (
    Aggregate,
    ApplierFailed,
    DefinitionError,
    EncodingError,
    MemoryLog,
    Runtime,
    StateReadOnly,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.testing import scenario


@command
class Add:
    count: int


@command
class AddNow:
    count: int


@event("counter.added")
class Added:
    count: int


class Unannotated(Aggregate):
    count = 0  # not a field

    @handles
    def add(self, command: Add) -> Added:
        return Added(command.count)

    @applies
    def added(self, event: Added) -> None:
        self.count += event.count


class Validated(Aggregate):
    count: int = attrs.field(default=0, validator=attrs.validators.le(10))
    _twice: int = 0

    @property
    def twice(self) -> int:
        return self._twice

    @twice.setter
    def twice(self, value: int) -> None:
        self._twice = value

    @handles
    def add(self, command: Add) -> Added:
        return Added(command.count)

    @handles
    def add_now(self, command: AddNow) -> None:
        self.count += command.count

    @applies
    def added(self, event: Added) -> None:
        self.count += event.count
        self.twice += 2 * event.count


class Inheriting(Validated):
    other: int = 0


async def test_what_is_no_field_cannot_be_set_since_no_snapshot_would_hold_it() -> None:
    words = r"Unannotated\.count was set, and is no field.*Annotate it in the class, with a default: count: int"
    async with Runtime.open(MemoryLog(), aggregates=[Unannotated]) as runtime:
        with pytest.raises(ApplierFailed, match=words):
            await runtime.actor(Unannotated, "a").ask(Add(1))
        assert runtime.last_position == 0
    with pytest.raises(DefinitionError, match=words):
        scenario(Unannotated).when(Add(1))


@pytest.mark.parametrize("aggregate_class", [Validated, Inheriting])
async def test_a_handler_sets_no_field_that_has_a_validator_either(aggregate_class: type[Validated]) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[aggregate_class]) as runtime:
        ann: Any = runtime.actor(aggregate_class, "ann")
        await ann.ask(Add(2))
        with pytest.raises(StateReadOnly, match=r"self\.count"):
            await ann.ask(AddNow(3))
        state = await ann.state()
        assert (state.count, state.twice) == (2, 4)
        with pytest.raises(ApplierFailed, match="'count' must be <= 10"):
            await ann.ask(Add(9))


async def test_a_value_of_another_type_than_its_field_has_is_told_with_the_stream_and_the_field() -> None:
    class Wrong(Aggregate):
        size: int = 0

        @handles
        def add(self, command: Add) -> Added:
            return Added(command.count)

        @applies
        def added(self, event: Added) -> None:
            self.size = "large"  # type: ignore[assignment]

    async with Runtime.open(MemoryLog(), aggregates=[Wrong]) as runtime:
        wrong = runtime.actor(Wrong, "w")
        await wrong.ask(Add(1))
        with pytest.raises(
            EncodingError, match=r"state of 'wrong-w' .*'large' is no int @ \$\.size\. Have the methods of Wrong"
        ):
            await wrong.state()
