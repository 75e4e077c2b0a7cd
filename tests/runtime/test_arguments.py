"""Arguments that cannot be used are refused before anything is sent, and what cannot be read again is not stored."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit

from eventsrc import (
    Aggregate,
    ArgumentInvalid,
    CommandTimeout,
    DefinitionError,
    EncodingError,
    Limits,
    MemoryLog,
    NotInTrio,
    Receipt,
    Rejected,
    Runtime,
    StateReadOnly,
    StreamNameInvalid,
    WrongThread,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.testing import scenario
from eventsrc.storage.store import EventStore


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"correlation_id": 42}, "correlation_id=42 cannot be used: give it as a text"),
        ({"correlation_id": "\ud800"}, "not valid Unicode"),
        ({"correlation_id": ""}, "must not be empty"),
        ({"metadata": {1: 2}}, "its names must be texts, and 1 is none"),
        ({"metadata": "abc"}, "give it as a mapping"),
        ({"idempotency_key": 123}, "idempotency_key=123 cannot be used: give it as a text"),
        ({"idempotency_key": "\ud800"}, "not valid Unicode"),
        ({"idempotency_key": ""}, "must not be empty"),
        ({"expected_version": "5"}, "give a number, or ANY, NO_STREAM or STREAM_EXISTS"),
        ({"expected_version": -7}, "give a number"),
        ({"expected_version": True}, "give a number"),
        ({"timeout": float("nan")}, "timeout=nan cannot be used: give it in seconds, 0 or more"),
        ({"timeout": "x"}, "give it in seconds"),
        ({"timeout": -1}, "give it in seconds"),
    ],
)
async def test_what_comes_along_with_a_command(store: EventStore | Path, arguments: dict[str, Any], words: str) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        with pytest.raises(ArgumentInvalid, match=words):
            await ann.ask(Deposit(1), **arguments)
        others = {name: value for name, value in arguments.items() if name != "expected_version"}
        if others:
            with pytest.raises(ArgumentInvalid, match=words):
                await runtime.transact([(Account, "ann", Deposit(1))], **others)
        assert (await ann.ask(Deposit(1))).position == 1, "nothing was sent"


@pytest.mark.parametrize("given", [None, 5, b"x", ["a"], "", "a\0b"])
async def test_what_is_no_store(given: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="store="):
        async with Runtime.open(given):
            pass


async def test_what_else_a_runtime_cannot_be_opened_with() -> None:
    limits: Any = 5
    with pytest.raises(ArgumentInvalid, match="limits=5"):
        async with Runtime.open(MemoryLog(), limits=limits):
            pass
    aggregates: Any = [int]
    with pytest.raises(DefinitionError, match="is no aggregate"):
        async with Runtime.open(MemoryLog(), aggregates=aggregates):
            pass
    projections: Any = [Account]
    with pytest.raises(DefinitionError, match="is no projection: give subclasses of Projection"):
        async with Runtime.open(MemoryLog(), projections=projections):
            pass
    sagas: Any = ["book"]
    with pytest.raises(DefinitionError, match="'book' is no saga: give subclasses of Saga"):
        async with Runtime.open(MemoryLog(), sagas=sagas):
            pass
    for argument, given in (("aggregates", Account), ("projections", Account), ("sagas", Account)):
        alone: Any = {argument: given}
        with pytest.raises(ArgumentInvalid, match=f"{argument}=.*Account.*give a list of subclasses of"):
            async with Runtime.open(MemoryLog(), **alone):
                pass

    @event("account.deposited")
    class Received:
        amount: int

    class Till(Aggregate):
        @applies
        def received(self, event: Received) -> None: ...

    with pytest.raises(DefinitionError, match=r"Deposited and Received are both stored as 'account\.deposited'"):
        async with Runtime.open(MemoryLog(), aggregates=[Account, Till]):
            pass
    instances: Any = [Account()]
    with pytest.raises(DefinitionError, match="is no aggregate: give subclasses of Aggregate"):
        async with Runtime.open(MemoryLog(), aggregates=instances):
            pass
    async with Runtime.open(MemoryLog(), aggregates=[Account, Account]) as runtime:
        for aggregate_id in (5, None):
            wrong: Any = aggregate_id
            with pytest.raises(StreamNameInvalid, match="an aggregate's id is a text"):
                runtime.actor(Account, wrong)
        with pytest.raises(WrongThread, match=r"on the trio thread.*Await ask\(\)"):
            runtime.actor(Account, "ann").ask_from_thread(Deposit(1))


# --- a domain that says what it does not mean


@command
class Set:
    value: Any


@command
class Misuse:
    pass


@command
class SetTwice:
    """The second of its events cannot be applied."""

    value: int


@event("box.set")
class WasSet:
    value: int


@event("box.spoiled")
class Spoiled:
    pass


class Box(Aggregate):
    value: int = 0

    @handles
    def set(self, command: Set) -> WasSet:
        return WasSet(command.value)

    @handles
    def misuse(self, command: Misuse) -> WasSet:
        self.value = 999
        raise Rejected("no")

    @handles
    def set_twice(self, command: SetTwice) -> list[WasSet | Spoiled]:
        return [WasSet(command.value), Spoiled()]

    @applies
    def was_set(self, event: WasSet) -> None:
        self.value += event.value

    @applies
    def spoiled(self, event: Spoiled) -> None:
        raise ValueError("cannot be applied")


async def test_a_handler_cannot_set_the_state(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Box]) as runtime:
        box = runtime.actor(Box, "1")
        with pytest.raises(StateReadOnly, match=r"A handler of Box set self\.value"):
            await box.ask(Misuse())
        assert (await box.ask(Set(1))).version == 1
        assert (await box.state()).value == 1


def test_a_scenario_finds_a_handler_that_changes_what_is_in_a_field() -> None:
    class Careless(Aggregate):
        items: list[int] = attrs.field(factory=list)

        @handles
        def add(self, command: Deposit) -> None:
            self.items.append(command.amount)

    with pytest.raises(StateReadOnly, match=r"self\.items"):
        scenario(Careless).when(Deposit(1))


@pytest.mark.parametrize(("value", "words"), [(1.5, r"1\.5 is no int"), ("abc", "'abc' is no int")])
async def test_an_event_that_would_not_come_back_as_it_is_is_not_stored(
    store: EventStore | Path, value: object, words: str
) -> None:
    async with Runtime.open(store, aggregates=[Box]) as runtime:
        with pytest.raises(EncodingError, match=words):
            await runtime.actor(Box, "1").ask(Set(value))
        assert (await runtime.actor(Box, "1").ask(Set(2))).version == 1


@command
class Remember:
    when: datetime | str
    others: dict[str, list[UUID | str | None]] = attrs.field(factory=dict)
    name: str = ""
    anything: Any = None
    bare: dict = attrs.field(factory=dict)  # type: ignore[type-arg]


@event("memory.remembered")
class Remembered:
    when: datetime | str
    others: dict[str, list[UUID | str | None]]
    name: str
    anything: Any
    bare: dict  # type: ignore[type-arg]


class Memory(Aggregate):
    @handles
    def remember(self, command: Remember) -> Remembered:
        return Remembered(command.when, command.others, command.name, command.anything, command.bare)

    @applies
    def remembered(self, event: Remembered) -> None: ...


def test_an_event_in_which_a_time_would_come_back_as_a_text_is_refused() -> None:
    others: dict[str, list[UUID | str | None]] = {"who": ["ann", None]}
    kept = UUID(int=1)
    scenario(Memory).when(Remember("today", others, "x", kept, {"x": kept})).then(
        Remembered("today", others, "x", str(kept), {"x": str(kept)})
    )
    for lost in (
        Remember(datetime(2026, 1, 1)),
        Remember("today", {"who": [UUID(int=1)]}),
        Remember("today", name=UUID(int=1)),  # type: ignore[arg-type]
    ):
        with pytest.raises(EncodingError, match=r"would come back as|UUID\(.*\) is no str @ \$\.name"):
            scenario(Memory).when(lost)


class Clocks(tzinfo):
    """A zone with summer time; `zoneinfo` needs files that not every machine has."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=2 if when is not None and 3 < when.month < 11 else 1)

    def dst(self, when: datetime | None) -> None:
        return None


@command
class Rename:
    names: Any


@event("team.renamed")
class Renamed:
    names: Sequence[str]


class Team(Aggregate):
    names: tuple[str, ...] = ()

    @handles
    def rename(self, command: Rename) -> Renamed:
        return Renamed(command.names)

    @applies
    def renamed(self, event: Renamed) -> None:
        self.names = tuple(event.names)


@pytest.mark.parametrize("names", ["ann", b"ann", {"ann": 1}])
async def test_a_text_is_no_list_of_its_characters(store: EventStore | Path, names: object) -> None:
    async with Runtime.open(store, aggregates=[Team]) as runtime:
        team = runtime.actor(Team, "1")
        with pytest.raises(EncodingError, match=r"would come back as Renamed|97 is no str"):
            await team.ask(Rename(names))
        await team.ask(Rename(["ann"]))
        assert (await team.state()).names == ("ann",)


@command
class Plan:
    due: datetime
    days: Sequence[int]


@event("plan.planned")
class Planned:
    due: datetime
    days: Sequence[int]


class Calendar(Aggregate):
    ends: datetime | None = None
    days: tuple[int, ...] = ()

    @handles
    def plan(self, command: Plan) -> Planned:
        return Planned(command.due, command.days)

    @applies
    def planned(self, event: Planned) -> None:
        self.ends = event.due + timedelta(days=200)  # over a change of the clocks
        self.days = (*self.days, *event.days) if isinstance(event.days, tuple) else ()


async def test_what_is_applied_is_what_comes_back_from_the_log(tmp_path: Path) -> None:
    """Equal values may differ in what is made of them: the rules of a zone, a list for a sequence."""
    plan = Plan(datetime(2026, 1, 1, tzinfo=Clocks()), [1, 2])
    async with Runtime.open(tmp_path, aggregates=[Calendar]) as runtime:
        receipt = await runtime.actor(Calendar, "c").ask(plan)
        live = await runtime.actor(Calendar, "c").state()
    async with Runtime.open(tmp_path, aggregates=[Calendar]) as runtime:
        again = await runtime.actor(Calendar, "c").state()
    assert live.ends == again.ends == datetime(2026, 7, 19, 23, tzinfo=UTC)
    assert live.days == again.days == receipt.events[0].days == (1, 2)
    steps = scenario(Calendar).given(Planned(plan.due, [0])).when(plan).then(Planned(plan.due, [1, 2]))
    assert (steps.state.ends, steps.state.days) == (again.ends, (0, 1, 2))


async def test_no_snapshot_is_taken_of_a_state_that_is_half_applied(tmp_path: Path) -> None:
    limits = Limits(snapshot_every_events=10)
    async with Runtime.open(tmp_path, aggregates=[Box], limits=limits) as runtime:
        answers = await runtime.actor(Box, "1").ask_many([Set(1)] * 10 + [SetTwice(1_000)])
        assert [type(answer) for answer in answers[:10]] == [Receipt] * 10
        assert (await runtime.actor(Box, "1").state()).value == 10
    async with Runtime.open(tmp_path, aggregates=[Box], limits=limits) as runtime:
        assert (await runtime.actor(Box, "1").state()).value == 10


async def test_a_question_for_the_state_that_takes_too_long_names_no_command(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Sleeper(Aggregate):
        @handles
        async def sleep(self, command: Deposit) -> None:
            await trio.sleep(60)

    async with Runtime.open(MemoryLog(), aggregates=[Sleeper]) as runtime, trio.open_nursery() as nursery:
        sleeper = runtime.actor(Sleeper, "1")
        nursery.start_soon(lambda: sleeper.ask(Deposit(1), timeout=100))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(CommandTimeout, match="The question for the state of 'sleeper-1' got no answer"):
            await sleeper.state(timeout=3)


# --- bounds


async def test_a_mailbox_counts_commands_and_ask_many_gets_along_with_any_size() -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account], limits=Limits(mailbox_commands_max=2)) as runtime:
        answers = await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 1_000)
        assert all(isinstance(answer, Receipt) for answer in answers)
        assert len(answers) == 1_000


async def test_answered_commands_are_not_remembered_behind_one_that_is_stuck(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Sleeper(Aggregate):
        @handles
        async def sleep(self, command: Deposit) -> None:
            await trio.sleep(command.amount)

    async with Runtime.open(MemoryLog(), aggregates=[Sleeper, Account]) as runtime, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: runtime.actor(Sleeper, "1").ask(Deposit(50), timeout=100))
        await trio.testing.wait_all_tasks_blocked()
        ann, deadlines = runtime.actor(Account, "ann"), runtime._router.deadlines
        for number in range(3_000):
            await ann.ask(Deposit(1), timeout=100 + (number % 2) * number)
        assert len(deadlines) < 1_100
        assert len(deadlines._queues) < 1_100


@attrs.define
class Line:
    quantity: int = 0


async def test_a_snapshot_is_not_used_when_a_class_within_the_state_changed_its_shape(tmp_path: Path) -> None:
    def basket(line: type) -> type[Aggregate]:
        class Basket(Aggregate):
            lines: list[line] = attrs.field(factory=list)  # type: ignore[valid-type]

            @handles
            def add(self, command: Deposit) -> WasSet:
                return WasSet(command.amount)

            @applies
            def added(self, event: WasSet) -> None:
                self.lines.append(line(event.value))

        return Basket

    @attrs.define
    class Counted:
        count: int = 0

    Counted.__name__, Counted.__qualname__, Counted.__module__ = Line.__name__, Line.__qualname__, Line.__module__
    limits = Limits(snapshot_every_events=2)
    async with Runtime.open(tmp_path, aggregates=[basket(Line)], limits=limits) as runtime:
        before: Any = basket(Line)
        first = next(iter(runtime._types))
        await runtime.actor(first, "1").ask_many([Deposit(3), Deposit(4)])
        assert before.__name__ == first.__name__
    after = basket(Counted)
    async with Runtime.open(tmp_path, aggregates=[after], limits=limits) as runtime:
        state: Any = await runtime.actor(after, "1").state()
        assert [line.count for line in state.lines] == [3, 4]


def test_a_runtime_is_not_opened_outside_of_trio() -> None:
    async def main() -> None:
        async with Runtime.open(MemoryLog(), aggregates=[Account]):
            pass

    with pytest.raises(NotInTrio, match=r"trio\.run\(\).*`async with AsyncioPortal\(Runtime"):
        asyncio.run(main())
