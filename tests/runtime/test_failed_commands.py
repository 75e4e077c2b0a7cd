"""A command that fails is its own failure: not that of others in its turn, its message or its transaction."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from waiting import until

from eventsrc import (
    Aggregate,
    AggregateUnavailable,
    ApplierFailed,
    ConditionNotMet,
    EventQuery,
    EventSourcingError,
    EventTooLarge,
    Limits,
    MemoryLog,
    Receipt,
    Rejected,
    Runtime,
    RuntimeClosed,
    ShutdownTimeout,
    StateReadOnly,
    StoreFull,
    TransactionTimeout,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.testing import scenario
from eventsrc.storage.commit import Appended, Commit
from eventsrc.storage.log import EventLog
from eventsrc.storage.snapshot import Snapshot
from eventsrc.storage.store import EventStore


@command
class Add:
    number: int
    tags: tuple[str, ...] = ()


@command
class AddSlowly:
    number: int


@command
class AddAfter:
    number: int
    gate: trio.Event


@command
class Take:
    number: int


@command
class Look: ...


@command
class AddLazily:
    number: int


@event("sum.added", tags=lambda event: event.tags)
class Added:
    number: int
    tags: tuple[str, ...] = ()


@event("sum.taken")
class Taken:
    number: int


class Sum(Aggregate):
    total: int = 0

    @handles
    def add(self, command: Add) -> Added:
        return Added(command.number, command.tags)

    @handles
    async def add_slowly(self, command: AddSlowly) -> Added:
        await trio.sleep(1)
        return Added(command.number)

    @handles
    async def add_after(self, command: AddAfter) -> Added:
        await command.gate.wait()
        return Added(command.number)

    @handles
    def take(self, command: Take) -> Taken:
        if command.number > self.total:
            raise Rejected("there is less")
        return Taken(command.number)

    @handles
    def look(self, command: Look) -> None: ...

    @handles
    def add_lazily(self, command: AddLazily) -> Iterator[Added]:
        self.total = command.number
        yield Added(command.number)

    @applies
    def added(self, event: Added) -> None:
        self.total += event.number
        if event.number < 0:
            raise ValueError("no negative numbers")

    @applies
    def taken(self, event: Taken) -> None:
        self.total -= event.number


async def events(runtime: Runtime) -> list[Any]:
    return [runtime.decode(stored) async for stored in runtime.events()]


async def test_one_whose_state_cannot_be_loaded_again_ends_the_rest_of_its_message(
    store: EventStore | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(store, aggregates=[Sum]) as runtime:
        ann = runtime.actor(Sum, "ann")
        await ann.ask(Add(10))
        with monkeypatch.context() as broken:
            stored_applier = Sum.__eventsrc_definition__.appliers[Added]

            def fail(state: Sum, added: Added) -> None:
                stored_applier(state, added)
                raise OSError("a look-up failed")

            broken.setitem(Sum.__eventsrc_definition__.appliers, Added, fail)  # type: ignore[arg-type]
            answers = await ann.ask_many([Add(1_000), Take(1), Take(900), Take(5)])
        assert [type(answer) for answer in answers] == [ApplierFailed, *[AggregateUnavailable] * 3]
        assert await events(runtime) == [Added(10)], "nothing was decided on what the failed event had left"


async def test_failures_of_one_message_count_as_one_that_ends_the_actor(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Sum]) as runtime:
        ann = runtime.actor(Sum, "ann")
        await ann.ask(Add(1))
        answers = await ann.ask_many([Add(-1), Add(-1), *[Add(1)] * 20])
        assert [type(answer) for answer in answers[:3]] == [ApplierFailed, ApplierFailed, AggregateUnavailable]
        with pytest.raises(AggregateUnavailable) as resting:
            await ann.ask(Add(1))
        assert resting.value.retry_after_seconds <= 0.1


@pytest.mark.parametrize("large", [{"correlation_id": "x" * 70_000}, {}])
async def test_one_that_makes_too_large_an_event_leaves_others_of_its_turn(
    large: dict[str, Any], store: EventStore | Path
) -> None:
    limits = Limits(event_size_bytes_max=8_192 if not large else 65_536)
    guilty = Add(7) if large else Add(7, tuple("ü" * 200 + str(number) for number in range(16)))
    answers: dict[int, Any] = {}

    async def ask(number: int, sent: Add, **options: Any) -> None:
        try:
            answers[number] = await ann.ask(sent, **options)
        except EventSourcingError as error:
            answers[number] = error

    async with Runtime.open(store, aggregates=[Sum], limits=limits) as runtime:
        ann = runtime.actor(Sum, "ann")
        async with trio.open_nursery() as nursery:
            for number in range(7):
                nursery.start_soon(ask, number, Add(1))
            nursery.start_soon(lambda: ask(7, guilty, **large))
        assert isinstance(answers.pop(7), EventTooLarge)
        assert all(isinstance(answer, Receipt) for answer in answers.values())
        assert (await ann.state()).total == 7


async def test_tags_count_where_a_commit_is_filled(store: EventStore | Path) -> None:
    tags = tuple(str(number) * 200 for number in range(10, 20))
    async with Runtime.open(store, aggregates=[Sum], limits=Limits(commit_size_bytes_max=100_000)) as runtime:
        answers = await runtime.actor(Sum, "ann").ask_many([Add(1, tags)] * 100)
        assert [answer for answer in answers if isinstance(answer, Exception)] == []


async def test_another_ones_applier_puts_no_aggregate_of_a_transaction_into_back_off(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Sum]) as runtime:
        ann = runtime.actor(Sum, "ann")
        await ann.ask(Add(1))
        for number in range(4):
            with pytest.raises(ApplierFailed):
                await runtime.transact([(Sum, "ann", Add(1)), (Sum, f"zoe-{number}", Add(-1))])
            assert (await ann.state()).total == 1


async def test_a_transaction_that_is_late_stores_nothing_of_what_was_decided(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Sum]) as runtime:
        with pytest.raises(TransactionTimeout) as late:
            commands = [(Sum, "ann", Add(1)), (Sum, "bob", Add(10)), (Sum, "ann", AddSlowly(100))]
            await runtime.transact(commands, timeout=0.5)
        assert not late.value.may_take_effect
        assert [(await runtime.actor(Sum, name).state()).total for name in ("ann", "bob")] == [0, 0]
        assert await events(runtime) == []


async def test_a_condition_holds_for_a_command_without_events_too(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Sum]) as runtime:
        ann = runtime.actor(Sum, "ann")
        await ann.ask(Add(1, ("one",)))
        assert (await ann.ask(Look(), unless=EventQuery(tags=["two"]))).version == 1
        with pytest.raises(ConditionNotMet):
            await ann.ask(Look(), unless=EventQuery(tags=["one"]))
        with pytest.raises(ConditionNotMet):
            await runtime.transact([(Sum, "ann", Look())], unless=EventQuery(tags=["one"]))


async def test_a_key_in_flight_is_known_although_it_is_stored_while_the_message_takes_its_time(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Sum]) as runtime:
        ann, gate = runtime.actor(Sum, "ann"), trio.Event()

        async def open_when_stored() -> None:
            await until(lambda: runtime.last_position == 1)
            gate.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_when_stored)
            ann.tell(Add(1_000), idempotency_key="K")
            _, again = await ann.ask_many([AddAfter(1, gate), Add(1_000)], idempotency_keys=["x", "K"])
        assert isinstance(again, Receipt)
        assert again.duplicate
        assert (await ann.state()).total == 1_001


async def test_a_question_for_the_state_is_answered_when_the_commit_before_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    append, failures = EventLog.append, [StoreFull(str(path), "no space left on device")]

    def fail_once(
        self: EventLog, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        if failures:
            raise failures.pop()
        return append(self, commits, snapshots)

    async with Runtime.open(path, aggregates=[Sum]) as runtime:
        ann = runtime.actor(Sum, "ann")
        await ann.ask(Add(1))
        monkeypatch.setattr(EventLog, "append", fail_once)

        async def refused() -> None:
            with pytest.raises(StoreFull):
                await ann.ask(Add(5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused)
            await trio.lowlevel.checkpoint()
            assert (await ann.state(timeout=60)).total == 1
            assert not failures


async def test_whoever_waits_for_many_is_answered_when_closing_cuts_them_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    answers: list[Any] = []

    async def ask_many() -> None:
        answers.extend(await runtime.actor(Sum, "ann").ask_many([Add(1), *[AddSlowly(1)] * 90, Add(1)]))

    async with trio.open_nursery() as nursery:
        with pytest.raises(ShutdownTimeout):
            limits = Limits(shutdown_seconds=2.5, command_timeout_seconds=600)
            async with Runtime.open(MemoryLog(), aggregates=[Sum], limits=limits) as runtime:
                nursery.start_soon(ask_many)
                await trio.testing.wait_all_tasks_blocked()
    assert len(answers) == 92
    assert isinstance(answers[0], Receipt)
    assert isinstance(answers[-1], RuntimeClosed)


async def test_a_handler_that_yields_its_events_must_not_change_the_state(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Sum]) as runtime:
        ann = runtime.actor(Sum, "ann")
        with pytest.raises(StateReadOnly, match=r"self\.total"):
            await ann.ask(AddLazily(5))
        assert (await ann.state()).total == 0
    with pytest.raises(StateReadOnly):
        scenario(Sum).when(AddLazily(5))
