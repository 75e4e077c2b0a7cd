"""Sagas where something is cut off or refused: nothing is doubled, and nothing left standing."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing
from saga_cases import open_runtime
from shop_domain import Create, Gateway, Order, PlaceOrder, PutBack, Stock, Take, Taken, Welcome

from eventsrc import (
    Aggregate,
    CommandTimeout,
    Limits,
    MemoryLog,
    Rejected,
    Retry,
    Runtime,
    Saga,
    SagaContext,
    StoreFull,
    TooManyStreams,
    UnknownSaga,
    applies,
    command,
    event,
    handles,
    step,
)
from eventsrc.actors.sagas.run import SagaRun
from eventsrc.runtime.testing import FaultyLog, FollowingClock
from eventsrc.storage.commit import Appended, Commit
from eventsrc.storage.errors import EventSourcingError
from eventsrc.storage.snapshot import Snapshot

QUICK = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.01)

# --- cut off ---


@command
class Dawdle:
    seconds: float


@event("slow.done")
class Dawdled:
    pass


@command
class Undo:
    pass


@event("slow.undone")
class Undone:
    pass


class Slow(Aggregate):
    """Takes its time to decide."""

    done: int = 0

    @handles
    async def dawdle(self, command: Dawdle) -> Dawdled:
        await trio.sleep(command.seconds)
        return Dawdled()

    @handles
    def undo(self, command: Undo) -> Undone:
        return Undone()

    @applies
    def dawdled(self, event: Dawdled) -> None:
        self.done += 1

    @applies
    def undone(self, event: Undone) -> None:
        self.done -= 1


def cut_off_saga(body: Callable[[SagaContext], Any], **options: Any) -> type[Saga]:
    class CutOff(Saga):
        @step(compensation="undo", **options)
        async def only(self, ctx: SagaContext) -> None:
            await body(ctx)

        async def undo(self, ctx: SagaContext) -> None:
            await ctx.ask(Slow, "s", Undo())

    return CutOff


async def times_out(ctx: SagaContext) -> None:
    await ctx.ask(Slow, "s", Dawdle(3), timeout=100)


async def gives_up(ctx: SagaContext) -> None:
    with trio.move_on_after(1):
        await ctx.ask(Slow, "s", Dawdle(3), timeout=100)
    raise ValueError("too slow")


async def hides_it(ctx: SagaContext) -> None:
    try:
        await ctx.ask(Slow, "s", Dawdle(3), timeout=1)
    except CommandTimeout:
        raise ValueError("too slow") from None


@pytest.mark.parametrize("body", [times_out, gives_up, hides_it])
async def test_a_command_that_was_cut_off_and_takes_effect_is_undone(
    body: Callable[[SagaContext], Any], autojump_clock: trio.testing.MockClock
) -> None:
    saga_class = cut_off_saga(body, timeout_seconds=2)
    async with Runtime.open(MemoryLog(), aggregates=[Slow], sagas=[saga_class], wall_clock=FollowingClock()) as runtime:
        saga = await runtime.start_saga(saga_class(), key="1")
        assert (await saga.wait(timeout=1000)).state == "compensated"
        events = [stored.type async for stored in runtime.events(stream="slow-s")]
        assert events == ["slow.done", "slow.undone"]


async def test_a_command_that_was_cut_off_and_takes_no_effect_is_not_undone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def waits_behind_another(ctx: SagaContext) -> None:
        await ctx.ask(Slow, "s", Dawdle(0), timeout=100)

    saga_class = cut_off_saga(waits_behind_another, timeout_seconds=2)
    async with (
        Runtime.open(MemoryLog(), aggregates=[Slow], sagas=[saga_class], wall_clock=FollowingClock()) as runtime,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(lambda: runtime.actor(Slow, "s").ask(Dawdle(4), timeout=100))
        await trio.testing.wait_all_tasks_blocked()
        saga = await runtime.start_saga(saga_class(), key="1")
        assert (await saga.wait(timeout=1000)).state == "compensated"
        assert [stored.type async for stored in runtime.events(stream="slow-s")] == ["slow.done"], "the other's"


# --- refused ---


class RefusingLog(MemoryLog):
    """Refuses the appends that `refuses` says; a commit at a time, as other writers' are taken in between."""

    def __init__(self, refuses: Callable[[Commit], bool]) -> None:
        super().__init__()
        self.refuses = refuses
        self.refused = 0

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        if commits and self.refuses(commits[0]):
            self.refused += 1
            raise StoreFull("store", "test")
        return super().append(commits, snapshots)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("total", [10, 200])
async def test_a_record_that_is_refused_doubles_nothing(number: int, total: int, gateway: Gateway) -> None:
    """The commands that follow it may be taken, since there is room again."""
    count = 0

    def refuses(commit: Commit) -> bool:
        nonlocal count
        count += commit.appends[0].stream.startswith("saga_")
        return count == number and commit.appends[0].stream.startswith("saga_")

    log = RefusingLog(refuses)
    async with open_runtime(log, limits=QUICK) as runtime:
        try:
            saga = await runtime.start_saga(PlaceOrder("o1", total), key="o1")
        except StoreFull:
            assert number == 1
            assert [stored async for stored in runtime.events()] == [], "nothing is done for a saga that is not there"
            saga = await runtime.start_saga(PlaceOrder("o1", total), key="o1")
        status = await saga.wait(timeout=20)
        assert log.refused == (1 if number <= count else 0)
        order, stock = await runtime.actor(Order, "o1").state(), await runtime.actor(Stock, "all").state()
        if total == 10:
            assert (status.state, order.changes, stock.changes) == ("completed", 1, 1)
        else:
            assert (status.state, order.changes, stock.changes) == ("compensated", 2, 0)
        assert list(gateway.paid.values()) == [1]


async def test_an_event_starts_its_saga_although_the_disk_was_full(gateway: Gateway) -> None:
    log = RefusingLog(lambda commit: False)
    async with open_runtime(log, Welcome, limits=QUICK) as runtime:
        log.refuses = lambda commit: commit.appends[0].stream.startswith("saga_")
        for number in range(3):
            await runtime.actor(Order, f"o{number}").ask(Create(1))
        with trio.fail_after(20):
            while log.refused < 5:
                await trio.sleep(0.01)
        log.refuses = lambda commit: False
        with trio.fail_after(20):
            while await runtime.sagas(state="completed").count() < 3:
                await trio.sleep(0.01)
        assert await runtime.sagas().count() == 3


async def test_a_start_that_is_refused_is_an_error_and_leaves_nothing(gateway: Gateway) -> None:
    async with open_runtime(MemoryLog(limits=Limits(streams_max=1))) as runtime:
        await runtime.actor(Stock, "all").ask(Take(1))
        with pytest.raises(TooManyStreams):
            await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        assert runtime.last_position == 1
        assert gateway.calls == 0
        assert (await runtime.actor(Stock, "all").ask(Take(1))).version == 2


async def test_a_start_that_fails_before_anything_is_written_is_told_and_can_be_made_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: SagaRun) -> None:
        raise RuntimeError("a fault of ours")

    async with open_runtime(MemoryLog()) as runtime:
        with monkeypatch.context() as patched:
            patched.setattr(SagaRun, "_next_move", broken)
            with trio.fail_after(60), pytest.raises(UnknownSaga, match="was not started"):
                await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        saga = await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        assert saga.was_started
        assert (await saga.wait()).state == "completed"


async def test_a_saga_goes_on_when_there_is_room_again(gateway: Gateway) -> None:
    log = FaultyLog()
    async with open_runtime(log, limits=QUICK) as runtime:
        saga = await runtime.start_saga(PlaceOrder("o1", 200), key="o1")
        log.fail_next(StoreFull("store", "test"), times=20)
        assert (await saga.wait(timeout=20)).state == "compensated"
        assert list(gateway.paid.values()) == list(gateway.refunded.values()) == [1]


@pytest.mark.parametrize("fails", [False, True])
async def test_how_an_effect_ended_is_known_where_the_disk_was_full_when_it_did(fails: bool) -> None:
    """Its begin is on disk: without its end it would be uncertain, although this process knows it."""
    calls: list[str] = []

    async def pay(idempotency_key: str) -> str:
        calls.append(idempotency_key)
        log.refuses = lambda commit: commit.appends[0].stream.startswith("saga_")
        if fails and len(calls) == 1:
            raise OSError("no connection")
        return "paid"

    class Buy(Saga):
        payment: str = ""

        @step(compensation="refund", retry=Retry(attempts=2, backoff_seconds=0.001))
        async def pay(self, ctx: SagaContext) -> None:
            self.payment = await ctx.effect("pay", pay)

        @step
        async def fail(self, ctx: SagaContext) -> None:
            raise Rejected("sold out")

        async def refund(self, ctx: SagaContext) -> None:
            await ctx.effect("refund", refund, self.payment)

    async def refund(payment: str) -> None:
        calls.append(f"{payment} back")
        log.refuses = lambda commit: commit.appends[0].stream.startswith("saga_")

    log = RefusingLog(lambda commit: False)

    async def make_room() -> None:
        while True:
            if log.refused >= 3:
                log.refused, log.refuses = 0, lambda commit: False
            await trio.sleep(0.001)

    async with open_runtime(log, Buy, limits=QUICK) as runtime, trio.open_nursery() as nursery:
        nursery.start_soon(make_room)
        status = await (await runtime.start_saga(Buy(), key="1")).wait(timeout=20)
        nursery.cancel_scope.cancel()
    assert (status.state, status.error) == ("compensated", "Rejected: sold out")
    key = "saga_buy-1/pay/pay"
    assert calls == [*([key] if fails else []), key, "paid back"]


# --- compensations of many calls ---


async def test_a_compensation_that_fails_in_the_middle_goes_on_where_it_was(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts: list[int] = []

    class Many(Saga):
        @step(compensation="undo", compensation_retry=Retry(attempts=4, backoff_seconds=60))
        async def take(self, ctx: SagaContext) -> None:
            for number in range(5):
                await ctx.ask(Stock, f"s{number}", Take(1))
            raise Rejected("no")

        async def undo(self, ctx: SagaContext) -> None:
            attempts.append(ctx.attempt)
            for number in range(5):
                await ctx.ask(Stock, f"s{number}", PutBack(1))
                if len(attempts) == number + 1 < 4:
                    raise OSError("no route")

    clock, log = FollowingClock(), MemoryLog()
    async with open_runtime(log, Many, wall_clock=clock) as runtime:
        saga = await runtime.start_saga(Many(), key="1")
        while len(attempts) < 2:
            await trio.sleep(60)
    async with open_runtime(log, Many, wall_clock=clock) as runtime:
        assert (await runtime.saga(Many, "1").wait(timeout=100_000)).state == "compensated"
        assert attempts == [1, 2, 3, 4], "they are counted over the restart"
        for number in range(5):
            assert (await runtime.actor(Stock, f"s{number}").state()).changes == 2, "taken and put back, once"
    assert saga.id == "saga_many-1"


# --- transactions of a step that is run again ---


async def test_a_transaction_of_a_step_is_found_again_whatever_its_commands_made(
    autojump_clock: trio.testing.MockClock,
) -> None:
    receipts = []

    class Together(Saga):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            receipts.append(
                await ctx.transact(
                    [(Slow, "s", Dawdle(0)), (Quiet, "q", Touch()), (Stock, "a", Take(1)), (Stock, "a", Take(2))]
                )
            )
            await ctx.sleep(days=1)

    async with Runtime.open(
        MemoryLog(), aggregates=[Slow, Quiet, Stock], sagas=[Together], wall_clock=FollowingClock()
    ) as runtime:
        saga = await runtime.start_saga(Together(), key="1")
        assert (await saga.wait(timeout=1_000_000)).state == "completed"
        first, again = receipts
        assert [(each.stream, each.version, each.position, each.events) for each in again] == [
            (each.stream, each.version, each.position, each.events) for each in first
        ]
        assert [each.events for each in again] == [(Dawdled(),), (), (Taken(1),), (Taken(2),)]
        assert (await runtime.actor(Stock, "a").state()).changes == 2


@command
class Touch:
    pass


@event("quiet.never")
class Never:
    pass


class Quiet(Aggregate):
    """Has nothing to say."""

    @handles
    def touch(self, command: Touch) -> None:
        return None

    @applies
    def never(self, event: Never) -> None:
        pass


async def test_the_outcome_that_is_told_is_on_disk(gateway: Gateway) -> None:
    """Also where the record of the end is refused at first."""
    log = RefusingLog(lambda commit: False)
    ended: list[int] = []

    def refuses_the_end(commit: Commit) -> bool:
        is_end = any(new.type == "saga.completed" for append in commit.appends for new in append.events)
        ended.extend([1] * is_end)
        return is_end and len(ended) < 4

    log.refuses = refuses_the_end
    async with open_runtime(log, limits=QUICK) as runtime:
        saga = await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        assert (await saga.wait(timeout=20)).state == "completed"
        assert (await saga.status()).state == "completed"
        assert len(ended) == 4
    refused = RefusingLog(lambda commit: commit.appends[0].stream.startswith("saga_"))
    async with open_runtime(refused, limits=QUICK) as runtime, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises((StoreFull, UnknownSaga)):
                await runtime.saga(PlaceOrder, "o1").wait(timeout=20)

        with pytest.raises(StoreFull):
            await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        nursery.start_soon(wait)


async def test_a_compensation_has_what_any_attempt_at_its_step_put_into_the_state(gateway: Gateway) -> None:
    class Paid(Saga):
        payment: str = ""
        attempts: int = 0
        refunded: str = ""

        @step(compensation="refund", retry=Retry(attempts=3, backoff_seconds=0.001))
        async def charge(self, ctx: SagaContext) -> None:
            self.attempts = self.attempts + ctx.attempt
            if ctx.attempt > 1:
                raise OSError("no route")
            self.payment = await ctx.effect("charge", gateway.charge, 7)
            raise OSError("the line is cut")

        async def refund(self, ctx: SagaContext) -> None:
            self.refunded = self.payment

    async with open_runtime(MemoryLog(), Paid) as runtime:
        outcome = await (await runtime.start_saga(Paid(), key="1")).wait(timeout=10)
        assert (outcome.state, outcome.error) == ("compensated", "OSError: no route")
        assert outcome.saga.refunded == "saga_paid-1/charge/charge"
        assert outcome.saga.attempts == 3, "each attempt begins with the state from before the step"
