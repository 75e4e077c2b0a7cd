"""Subscriptions: every event, in order, once in a subscription and at least once to consumers, whatever happens."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from bank_domain import Account, Deposit, Deposited, Note, Noted

from eventsrc import (
    Consumer,
    Limits,
    MemoryLog,
    Message,
    Runtime,
    StoredEvent,
    SubscriptionDeleted,
    SubscriptionNameInvalid,
)
from eventsrc.storage.store import EventStore

QUICK = Limits(restart_backoff_seconds=0.001)


async def positions(batches: AsyncIterator[list[StoredEvent]], count: int) -> list[int]:
    """The positions of the first so many events."""
    found: list[int] = []
    async for batch in batches:
        found += [event.position for event in batch]
        if len(found) >= count:
            break
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until it is so."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


# -- subscriptions


async def test_what_is_stored_and_then_what_comes_without_a_gap_or_a_repeat(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(1)] * 250)
        found: list[int] = []

        async def read() -> None:
            found.extend(await positions(runtime.subscribe(), 500))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for _ in range(250):
                    await ann.ask(Deposit(1))
        assert found == list(range(1, 501))


async def test_filters_positions_and_batch_sizes(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        for number in range(10):
            await runtime.actor(Account, f"a{number % 2}").ask(Deposit(1) if number % 3 else Note("x"))
        with trio.fail_after(10):
            assert await positions(runtime.subscribe(types=[Noted]), 4) == [1, 4, 7, 10]
            assert await positions(runtime.subscribe(types=["account.deposited"], after=5), 3) == [6, 8, 9]
            assert await positions(runtime.subscribe(stream="account-a1"), 5) == [2, 4, 6, 8, 10]
            assert await positions(runtime.subscribe(category="account", after=8), 2) == [9, 10]
            batches = runtime.subscribe(batch_size=4)
            assert [len(await anext(batches)) for _ in range(3)] == [4, 4, 2]
        with pytest.raises(ValueError, match="batch_size must be 1 or more"):
            runtime.subscribe(batch_size=0)


async def test_a_subscription_that_ends_does_not_end_its_subscriber(store: EventStore | Path) -> None:
    done: list[str] = []

    async def read(runtime: Runtime) -> None:
        async for batch in runtime.subscribe():
            assert batch
        done.append("the subscription has ended and I go on")

    with trio.fail_after(10):
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
        with trio.move_on_after(0.01):
            async for _ in runtime.subscribe(batch_size=10):
                await trio.sleep_forever()
        assert await positions(runtime.subscribe(after=20), 10) == list(range(21, 31))
        await ann.ask(Deposit(1))


async def test_a_slow_subscriber_holds_up_nobody(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        slow = runtime.subscribe(batch_size=5)
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
        assert len(await anext(slow)) == 5
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 990)
        assert runtime.last_position == 1_000
        assert [event.position for event in await anext(slow)] == [6, 7, 8, 9, 10]


# -- consumers


async def take(consumer: Consumer, count: int) -> list[Message]:
    """The next messages, all of them in hand."""
    with trio.fail_after(10):
        return [await anext(consumer) for _ in range(count)]


async def test_what_was_acknowledged_does_not_come_again_and_the_rest_does(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        for name in ("ann", "bob", "eve"):
            await runtime.actor(Account, name).ask_many([Deposit(1), Deposit(2)])
        async with runtime.consume("mailer", types=[Deposited]) as consumer:
            first, second, third = await take(consumer, 3)
            assert [message.event.stream for message in (first, second, third)] == [
                "account-ann",
                "account-bob",
                "account-eve",
            ], "one of each stream at a time"
            await second.ack()
            await second.ack()
    if isinstance(store, MemoryLog):
        return
    async with (
        Runtime.open(store, aggregates=[Account]) as runtime,
        runtime.consume("mailer", types=[Deposited]) as consumer,
    ):
        seen: list[int] = []
        for _ in range(5):
            (message,) = await take(consumer, 1)
            seen.append(message.event.position)
            await message.ack()
        assert sorted(seen) == [1, 2, 4, 5, 6]
        with trio.move_on_after(0.05):
            await take(consumer, 1)
            raise AssertionError("there is nothing more")


async def test_consumers_share_the_events_and_each_stream_stays_in_order(store: EventStore | Path) -> None:
    seen: dict[str, list[int]] = {}
    by_consumer: dict[int, int] = {}
    async with Runtime.open(store, aggregates=[Account]) as runtime, trio.open_nursery() as nursery:

        async def consume(number: int) -> None:
            async with runtime.consume("shared") as consumer:
                async for message in consumer:
                    await trio.lowlevel.checkpoint()
                    seen.setdefault(message.event.stream, []).append(message.event.version)
                    by_consumer[number] = by_consumer.get(number, 0) + 1
                    message.ack_soon()

        for number in range(4):
            nursery.start_soon(consume, number)
        for name in range(20):
            await runtime.actor(Account, f"a{name}").ask_many([Deposit(1)] * 20)
        await until(lambda: sum(map(len, seen.values())) == 400)
        nursery.cancel_scope.cancel()
    assert len(seen) == 20
    assert all(versions == list(range(1, 21)) for versions in seen.values())
    assert len(by_consumer) == 4


async def test_what_a_dead_consumer_held_goes_to_another(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1), Deposit(2)])
        async with runtime.consume("shared") as other:
            with pytest.raises(ZeroDivisionError):
                async with runtime.consume("shared") as dying:
                    (message,) = await take(dying, 1)
                    assert message.event.position == 1
                    raise ZeroDivisionError
            (message,) = await take(other, 1)
            assert message.event.position == 1
            await message.ack()
            (message,) = await take(other, 1)
            assert message.event.position == 2


async def test_a_handler_that_fails_now_and_then_sees_the_event_again(store: EventStore | Path) -> None:
    handled: list[tuple[int, int]] = []
    failures = {2: 2}

    async def handle(event: StoredEvent) -> None:
        handled.append((event.position, event.version))
        if failures.get(event.position, 0):
            failures[event.position] -= 1
            raise ConnectionError("try later")
        if len(handled) == 5:
            scope.cancel()

    async with Runtime.open(store, aggregates=[Account], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 3)
        with trio.fail_after(10), trio.CancelScope() as scope:
            async with runtime.consume("mailer") as consumer:
                await consumer.run(handle)
    assert [position for position, _ in handled] == [1, 2, 2, 2, 3]


async def test_an_event_that_keeps_failing_is_parked_with_what_follows_in_its_stream(store: EventStore | Path) -> None:
    handled: list[int] = []
    is_repaired = False

    async def handle(event: StoredEvent) -> None:
        if event.position == 2 and not is_repaired:
            raise ValueError("no such address")
        handled.append(event.position)

    async with Runtime.open(store, aggregates=[Account], limits=QUICK) as runtime, trio.open_nursery() as nursery:
        ann, bob = runtime.actor(Account, "ann"), runtime.actor(Account, "bob")
        await ann.ask_many([Deposit(1), Deposit(2), Deposit(3)])
        await bob.ask(Deposit(4))

        async def consume() -> None:
            async with runtime.consume("mailer") as consumer:
                await consumer.run(handle)

        nursery.start_soon(consume)
        await until(lambda: len(handled) == 2)
        with trio.fail_after(10):
            while len(await runtime.subscriptions.parked("mailer")) < 2:
                await trio.lowlevel.checkpoint()
        await ann.ask(Deposit(5))
        await bob.ask(Deposit(6))
        await until(lambda: len(handled) == 3)
        assert sorted(handled) == [1, 4, 6], "the other stream goes on"
        parked = await runtime.subscriptions.parked()
        assert [(event.position, event.error, event.attempts) for event in parked] == [
            (2, "ValueError: no such address", 5),
            (3, "", 0),
            (5, "", 0),
        ]
        is_repaired = True
        await ann.ask(Deposit(7))
        assert await runtime.subscriptions.retry("mailer", "account-ann") in (3, 4)
        await until(lambda: len(handled) == 7)
        assert [position for position in handled if position not in (4, 6)] == [1, 2, 3, 5, 7], "in order"
        assert await runtime.subscriptions.parked() == []
        nursery.cancel_scope.cancel()


async def test_what_is_parked_is_parked_after_a_restart(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1), Deposit(2)])
        async with runtime.consume("mailer") as consumer:
            for _ in range(5):
                (message,) = await take(consumer, 1)
                message.fail("no luck")
    async with Runtime.open(tmp_path, aggregates=[Account], limits=QUICK) as runtime:
        assert [event.position for event in await runtime.subscriptions.parked("mailer")] == [1, 2]
        await runtime.actor(Account, "ann").ask(Deposit(3))
        async with runtime.consume("mailer") as consumer:
            with trio.move_on_after(0.05):
                await take(consumer, 1)
                raise AssertionError("it must park behind the others")
            assert [event.position for event in await runtime.subscriptions.parked("mailer")] == [1, 2, 3]
            assert await runtime.subscriptions.retry("mailer") == 3
            for position in (1, 2, 3):
                (message,) = await take(consumer, 1)
                assert message.event.position == position
                await message.ack()
        assert await runtime.subscriptions.parked() == []


async def test_a_subscription_is_deleted_under_its_consumer(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1), Deposit(2)])
        async with runtime.consume("mailer") as consumer:
            (message,) = await take(consumer, 1)
            assert await runtime.subscriptions.delete("mailer")
            await message.ack()
            with pytest.raises(SubscriptionDeleted, match="'mailer' was deleted"):
                await take(consumer, 1)
        assert not await runtime.subscriptions.delete("mailer")
        async with runtime.consume("mailer", after=1) as consumer:
            (message,) = await take(consumer, 1)
            assert message.event.position == 2, "a new one begins where it is told to"


async def test_a_consumer_ends_with_the_runtime(store: EventStore | Path) -> None:
    ended: list[bool] = []

    async def consume(runtime: Runtime, started: trio.Event) -> None:
        async with runtime.consume("mailer") as consumer:
            async for message in consumer:
                await message.ack()
                started.set()
        ended.append(True)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, Runtime.open(store, aggregates=[Account]) as runtime:
            started = trio.Event()
            nursery.start_soon(consume, runtime, started)
            await runtime.actor(Account, "ann").ask(Deposit(1))
            await started.wait()
    assert ended == [True]


async def test_a_name_that_cannot_be_stored(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        for name in ("", "a\x00b", "x" * 101, "a/b"):
            with pytest.raises(SubscriptionNameInvalid):
                async with runtime.consume(name):
                    pass
