"""Subscriptions: the log as batches, first what is stored and then what comes, in order, without a gap or a repeat."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from bank_domain import Account, Deposit, Note, Noted

from eventsrc import ArgumentInvalid, CorruptRecord, MemoryLog, Runtime, StoredEvent
from eventsrc.runtime.subscriptions.subscription import Search
from eventsrc.storage.query import QUERY_BATCH_EVENTS
from eventsrc.storage.store import EventStore


async def positions(batches: AsyncIterator[list[StoredEvent]], count: int) -> list[int]:
    """The positions of the first so many events."""
    found: list[int] = []
    async for batch in batches:
        found += [event.position for event in batch]
        if len(found) >= count:
            break
    return found


async def test_what_is_stored_and_then_what_comes_without_a_gap_or_a_repeat(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(1)] * 250)
        found: list[int] = []

        async def read() -> None:
            found.extend(await positions(runtime.subscribe(), 500))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for _ in range(250):
                    await ann.ask(Deposit(1))
        assert found == list(range(1, 501))


async def test_filters_positions_and_batch_sizes(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        for number in range(10):
            await runtime.actor(Account, f"a{number % 2}").ask(Deposit(1) if number % 3 else Note("x"))
        with trio.fail_after(60):
            assert await positions(runtime.subscribe(types=[Noted]), 4) == [1, 4, 7, 10]
            assert await positions(runtime.subscribe(types=["account.deposited"], after=5), 3) == [6, 8, 9]
            assert await positions(runtime.subscribe(stream="account-a1"), 5) == [2, 4, 6, 8, 10]
            assert await positions(runtime.subscribe(category="account", after=8), 2) == [9, 10]
            batches = runtime.subscribe(batch_size=4)
            assert [len(await anext(batches)) for _ in range(3)] == [4, 4, 2]
        with pytest.raises(ArgumentInvalid, match="batch_size=0 cannot be used: it must be 1 or more"):
            runtime.subscribe(batch_size=0)


async def test_a_subscription_that_ends_does_not_end_its_subscriber(store: EventStore | Path) -> None:
    done: list[str] = []

    async def read(runtime: Runtime) -> None:
        async for batch in runtime.subscribe():
            assert batch
        done.append("the subscription has ended and I go on")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, Runtime.open(store, aggregates=[Account]) as runtime:
            nursery.start_soon(read, runtime)
            await runtime.actor(Account, "ann").ask(Deposit(1))
            await trio.sleep(0.01)
    assert done


async def test_a_subscriber_that_is_cancelled_in_the_middle_of_a_batch_disturbs_nobody(
    store: EventStore | Path,
) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(1)] * 30)
        with trio.CancelScope() as scope:
            async for _ in runtime.subscribe(batch_size=10):
                scope.cancel()
                await trio.sleep_forever()
        assert await positions(runtime.subscribe(after=20), 10) == list(range(21, 31))
        await ann.ask(Deposit(1))


async def test_a_slow_subscriber_holds_up_nobody_and_costs_a_batch(
    store: EventStore | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, read_count = Search.step, 0

    def counted(self: Search, last_position: int) -> list[StoredEvent] | None:
        nonlocal read_count
        found = step(self, last_position)
        read_count += len(found or ())
        return found

    monkeypatch.setattr(Search, "step", counted)
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        slow = runtime.subscribe(batch_size=5)
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
        assert len(await anext(slow)) == 5
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 990)
        assert runtime.last_position == 1_000
        assert [event.position for event in await anext(slow)] == [6, 7, 8, 9, 10]
        assert read_count <= 10 + QUERY_BATCH_EVENTS < 1_000, "the rest is on disk"


async def test_a_subscription_that_looks_for_little_lets_others_run(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime, trio.open_nursery() as nursery:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(1)] * 3_000)
        await ann.ask(Note("at last"))
        turns = 0

        async def run_beside() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(run_beside)
        with trio.fail_after(60):
            batch = await anext(runtime.subscribe(stream="account-ann", types=[Noted]))
        assert [event.position for event in batch] == [3_001]
        assert turns >= 3_000 // QUERY_BATCH_EVENTS - 1, "others had their turn between the steps"
        nursery.cancel_scope.cancel()


async def test_a_rare_event_does_not_wait_for_the_log_to_come_to_rest(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime, trio.open_nursery() as nursery:

        async def write() -> None:
            while True:
                await runtime.actor(Account, "ann").ask(Deposit(1))

        nursery.start_soon(write)
        await runtime.actor(Account, "ann").ask(Note("rare"))
        with trio.fail_after(60):
            (event,) = await anext(runtime.subscribe(stream="account-ann", types=[Noted]))
        assert event.type == "account.noted"
        nursery.cancel_scope.cancel()


async def test_what_could_not_be_read_is_not_passed_over() -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 3)
        events = [event async for event in runtime.events()]
    failures = [CorruptRecord("store", 2, "for a test")]

    def find(after: int, before: int) -> Iterator[list[StoredEvent]]:
        for event in events[after : before - 1]:
            if event.position == 2 and failures:
                raise failures.pop()
            yield [event]

    search = Search(find, 0)
    assert search.step(3) == [events[0]]
    with pytest.raises(CorruptRecord):
        search.step(3)
    assert [search.step(3) for _ in range(3)] == [[events[1]], [events[2]], None]


async def test_what_cannot_be_subscribed_to(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        with pytest.raises(ArgumentInvalid, match="batch_size=1"):
            runtime.subscribe(batch_size=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ArgumentInvalid, match="after=None cannot be used: give a whole number"):
            runtime.subscribe(after=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ArgumentInvalid, match="after=-1 cannot be used: it must be 0 or more"):
            runtime.subscribe(after=-1)
        with pytest.raises(ArgumentInvalid, match="types is empty: leave it out"):
            runtime.subscribe(types=[])
