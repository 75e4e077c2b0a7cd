"""Durable subscriptions: every event at least once, each stream in order, whatever becomes of a consumer."""

from pathlib import Path

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit, Deposited, Noted
from consumer_cases import QUICK, expect_nothing, take, take_positions
from waiting import until_while_the_clock_stands

from eventsrc import (
    ArgumentInvalid,
    MemoryLog,
    NotInHistory,
    Runtime,
    RuntimeClosed,
    StoredEvent,
    SubscriptionDeleted,
    SubscriptionFilterDiffers,
    SubscriptionNameInvalid,
)
from eventsrc.runtime.subscriptions.dispatcher import STREAMS_OPEN_MAX
from eventsrc.runtime.subscriptions.lane import LANE_EVENTS_MAX
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.environment.folder import CONTROL_FOLDER
from eventsrc.storage.store import EventStore


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
        await expect_nothing(consumer)


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
        await until_while_the_clock_stands(lambda: sum(map(len, seen.values())) == 400)
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


async def test_what_keeps_failing_is_handed_out_after_longer_and_longer_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        began = trio.current_time()
        async with runtime.consume("mailer") as consumer:
            times = []
            for attempt in range(1, 6):
                message = await anext(consumer)
                times.append(trio.current_time() - began)
                assert message.attempts == attempt
                message.fail("try later")
        assert times == pytest.approx([0, 0.1, 0.3, 0.7, 1.5], abs=0.05)
        assert [event.attempts for event in await runtime.subscriptions.parked("mailer")] == [5]


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
        await until_while_the_clock_stands(lambda: len(handled) == 2)
        with trio.fail_after(10):
            while len(await runtime.subscriptions.parked("mailer")) < 2:
                await trio.lowlevel.checkpoint()
        await ann.ask(Deposit(5))
        await bob.ask(Deposit(6))
        await until_while_the_clock_stands(lambda: len(handled) == 3)
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
        await until_while_the_clock_stands(lambda: len(handled) == 7)
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
            await expect_nothing(consumer)  # it is parked behind the others
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
        for name in ("", "a\x00b", "x" * 101, "a/b", None):
            with pytest.raises(SubscriptionNameInvalid):
                async with runtime.consume(name):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
                    pass


async def test_a_consumer_that_leaves_takes_nothing_out_of_the_hands_of_another(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1), Deposit(2)])
        async with runtime.consume("shared") as second:
            async with runtime.consume("shared") as first:
                (failed,) = await take(first, 1)
                failed.fail("for now")
                (again,) = await take(second, 1)
                assert (again.event.position, again.attempts) == (1, 2)
            assert again.is_in_hand, "what the first one gave up is not its to give back"
            failed.ack_soon()
            async with runtime.consume("shared") as third:
                await expect_nothing(third)
                await again.ack()
                assert await take_positions(third, 1) == [2]


async def test_a_stream_whose_first_event_takes_long_holds_up_no_other(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "hot").ask_many([Deposit(1)] * 1_200)
        await runtime.actor(Account, "cold").ask(Deposit(1))
        async with runtime.consume("shared") as slow, runtime.consume("shared") as quick:
            (first,) = await take(slow, 1)
            assert first.event.stream == "account-hot"
            assert await take_positions(quick, 1) == [1_201]
            await runtime.actor(Account, "cold").ask(Deposit(1))
            assert await take_positions(quick, 1) == [1_202]
            first.ack_soon()
            for position in range(2, 1_201):
                (message,) = await take(quick, 1)
                assert message.event.position == position
                message.ack_soon()
            await expect_nothing(quick)


async def test_a_stream_that_fails_holds_up_no_other_and_is_parked_however_long_it_is(tmp_path: Path) -> None:
    handled: list[int] = []
    is_repaired = False

    async def handle(event: StoredEvent) -> None:
        if event.stream == "account-bad" and not is_repaired:
            raise ValueError("no such address")
        handled.append(event.position)

    async with Runtime.open(tmp_path, aggregates=[Account], limits=QUICK) as runtime, trio.open_nursery() as nursery:
        count = 3 * LANE_EVENTS_MAX
        await runtime.actor(Account, "bad").ask_many([Deposit(1)] * count)
        await runtime.actor(Account, "good").ask(Deposit(1))

        async def consume() -> None:
            async with runtime.consume("mailer") as consumer:
                await consumer.run(handle)

        nursery.start_soon(consume)
        await until_while_the_clock_stands(lambda: handled == [count + 1])
        with trio.fail_after(10):
            while len(parked := await runtime.subscriptions.parked("mailer")) < count:
                await trio.sleep(0.001)
        assert [event.position for event in parked] == list(range(1, count + 1))
        assert [event.error for event in parked] == ["ValueError: no such address"] + [""] * (count - 1)
        await runtime.actor(Account, "bad").ask(Deposit(1))
        is_repaired = True
        await runtime.subscriptions.retry("mailer")
        await until_while_the_clock_stands(lambda: len(handled) == count + 2)
        assert handled[1:] == [*range(1, count + 1), count + 2], "in order, also what came in between"
        nursery.cancel_scope.cancel()


async def test_progress_stays_small_behind_an_event_that_is_not_acknowledged(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "stuck").ask_many([Deposit(1)] * 3)
        for name in ("a", "b", "c"):
            await runtime.actor(Account, name).ask_many([Deposit(1)] * 1_000)
        async with runtime.consume("shared") as slow, runtime.consume("shared") as quick:
            await take(slow, 1)
            for _ in range(3_000):
                (message,) = await take(quick, 1)
                message.ack_soon()
    board = ControlBoard(tmp_path / CONTROL_FOLDER)
    progress = board.subscriptions()["shared"]
    board.close()
    assert (progress.position, progress.pending, progress.done_through) == (3_003, [1], 0)
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime, runtime.consume("shared") as consumer:
        assert await take_positions(consumer, 3) == [1, 2, 3]
        await expect_nothing(consumer)


async def test_a_slow_consumer_holds_up_no_commands_and_misses_nothing(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime, runtime.consume("slow") as consumer:
        names = [f"a{number}" for number in range(5)]
        seen: dict[str, list[int]] = {}
        for _ in range(6):
            for name in names:
                await runtime.actor(Account, name).ask_many([Deposit(1)] * 100)
            for message in await take(consumer, len(names)):
                seen.setdefault(message.event.stream, []).append(message.event.version)
                message.ack_soon()
        assert runtime.last_position == 3_000, "the commands went on"
        for _ in range(3_000 - 6 * len(names)):
            (message,) = await take(consumer, 1)
            seen.setdefault(message.event.stream, []).append(message.event.version)
            message.ack_soon()
        assert len(seen) == len(names)
        assert all(versions == list(range(1, 601)) for versions in seen.values())


async def test_so_many_streams_are_open_at_once_and_no_more(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime, runtime.consume("greedy") as consumer:
        async with trio.open_nursery() as nursery:
            for number in range(STREAMS_OPEN_MAX + 1):
                nursery.start_soon(runtime.actor(Account, f"a{number}").ask, Deposit(1))
        messages = await take(consumer, STREAMS_OPEN_MAX)
        await expect_nothing(consumer)
        await messages[500].ack()
        (last,) = await take(consumer, 1)
        assert last.event.position == STREAMS_OPEN_MAX + 1


async def test_any_async_callable_is_a_sink_that_gets_each_event_at_least_once(tmp_path: Path) -> None:
    class Sink:
        """Keeps what it got; the process dies in the middle of the third event."""

        def __init__(self) -> None:
            self.rows: list[int] = []
            self.scope: trio.CancelScope | None = None

        async def __call__(self, event: StoredEvent) -> None:
            self.rows.append(event.position)
            if len(self.rows) == 3 and self.scope is not None:
                self.scope.cancel()
                await trio.lowlevel.checkpoint()

    sink = Sink()
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 5)
        with trio.fail_after(10), trio.CancelScope() as sink.scope:
            async with runtime.consume("search-index") as consumer:
                await consumer.run(sink)
    assert sink.rows == [1, 2, 3]
    sink.scope = None
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime, trio.open_nursery() as nursery:

        async def feed() -> None:
            async with runtime.consume("search-index") as consumer:
                await consumer.run(sink)

        nursery.start_soon(feed)
        await until_while_the_clock_stands(lambda: len(sink.rows) == 6)
        assert sink.rows == [1, 2, 3, 3, 4, 5], "its checkpoint is behind what was handled, never ahead of it"
        nursery.cancel_scope.cancel()


async def test_a_sink_must_be_async(store: EventStore | Path) -> None:
    def handle(event: StoredEvent) -> None: ...

    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        with pytest.raises(TypeError, match="run\\(\\) needs an async function"):
            async with runtime.consume("mailer") as consumer:
                await consumer.run(handle)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        async with runtime.consume("mailer") as consumer:
            assert await take_positions(consumer, 1) == [1], "nothing was acknowledged"


async def test_consumers_of_one_subscription_want_the_same_events(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        async with runtime.consume("mailer", types=[Noted, Deposited]):
            async with runtime.consume("mailer", types=["account.deposited", Noted]):
                pass
            with pytest.raises(SubscriptionFilterDiffers, match=r"another filter \(types account.deposited, account"):
                async with runtime.consume("mailer"):
                    pass
        await runtime.subscriptions.delete("mailer")
        async with runtime.consume("mailer"):
            pass


async def test_nothing_is_consumed_of_a_runtime_that_has_closed(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
    with pytest.raises(RuntimeClosed, match="has closed"):
        async with runtime.consume("mailer"):
            pass


async def test_a_subscription_begins_where_the_log_is(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        with pytest.raises(NotInHistory, match="cannot begin after position 1: the log ends at 0"):
            async with runtime.consume("mailer", after=1):
                pass
        with pytest.raises(ArgumentInvalid, match="after=-1 cannot be used: it must be 0 or more"):
            async with runtime.consume("mailer", after=-1):
                pass
