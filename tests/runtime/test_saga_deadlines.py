"""Deadlines of whole sagas: all of it is undone, whatever the saga is at when its deadline comes."""

from pathlib import Path

import pytest
import trio
import trio.testing
from saga_cases import open_runtime, records
from shop_domain import Create, Order, Stock, Take

from eventsrc import (
    DeadlinePassed,
    Limits,
    MemoryLog,
    Retry,
    Saga,
    SagaContext,
    step,
)
from eventsrc.runtime.testing import FollowingClock, WallClock


async def test_a_saga_that_is_not_done_by_its_deadline_is_undone(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Saga, deadline_seconds=60):
        @step(compensation="undo")
        async def take(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "all", Take(1))

        @step()
        async def rest(self, ctx: SagaContext) -> None:
            await ctx.sleep(days=1)

        async def undo(self, ctx: SagaContext) -> None:
            await ctx.ask(Order, "undone", Create(1))

    async with open_runtime(MemoryLog(), Slow, wall_clock=FollowingClock()) as runtime:
        begun = trio.current_time()
        saga = await runtime.start_saga(Slow(), key="1")
        status = await saga.wait(timeout=1000)
        assert (status.state, status.error) == ("compensated", "DeadlinePassed: The saga was not done by its deadline.")
        assert 60 <= trio.current_time() - begun < 100
        assert (await runtime.actor(Order, "undone").state()).state == "created"
        with pytest.raises(DeadlinePassed):
            await runtime.start_saga(Slow(), key="2", deadline_seconds=-5)


async def test_a_deadline_cuts_off_a_step_and_the_wait_between_its_attempts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Saga, deadline_seconds=10):
        @step(retry=Retry(attempts=5, backoff_seconds=1_000, backoff_seconds_max=1_000))
        async def only(self, ctx: SagaContext) -> None:
            if ctx.key == "fails":
                raise OSError("no route")
            await trio.sleep_forever()

    async with open_runtime(MemoryLog(), Slow, wall_clock=FollowingClock()) as runtime:
        for key in ("sleeps", "fails"):
            begun = trio.current_time()
            outcome = await (await runtime.start_saga(Slow(), key=key)).wait(timeout=2_000)
            assert outcome.state == "compensated"
            assert outcome.error == "DeadlinePassed: The saga was not done by its deadline."
            assert 10 <= trio.current_time() - begun < 45, "the clock is looked at every 30 seconds"


async def test_a_deadline_that_passed_while_no_runtime_was_open_counts_when_one_is() -> None:
    class Due(Saga, signals=["go"]):
        @step(compensation="undo")
        async def take(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "all", Take(1))

        @step()
        async def rest(self, ctx: SagaContext) -> None:
            await ctx.approval("go")

        async def undo(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "undone", Take(1))

    log, clock = MemoryLog(), WallClock()
    async with open_runtime(log, Due, wall_clock=clock) as runtime:
        saga = await runtime.start_saga(Due(), key="1", deadline_seconds=60)
        with trio.fail_after(10):
            while (await saga.status()).state != "waiting":
                await trio.lowlevel.checkpoint()
    clock.advance(61)
    async with open_runtime(log, Due, wall_clock=clock) as runtime:
        outcome = await runtime.saga(Due, "1").wait(timeout=10)
        assert (outcome.state, outcome.error.split(":")[0]) == ("compensated", "DeadlinePassed")
        assert (await runtime.actor(Stock, "undone").state()).changes == 1


class Paid(Saga, signals=["go"], deadline_seconds=60):
    """Puts into its state what the compensation needs, and is still in that step when its deadline comes."""

    payment: str = ""
    refunded: str = ""

    @step(compensation="refund", retry=Retry(3, backoff_seconds=1_000, backoff_seconds_max=1_000), timeout_seconds=600)
    async def charge(self, ctx: SagaContext) -> None:
        async def gateway() -> str:
            return "payment-7"

        self.payment = await ctx.effect("charge", gateway)
        match ctx.key:
            case "waits":
                await ctx.approval("go")
            case "sleeps":
                await ctx.sleep(days=1)
            case "fails":
                raise OSError("no route")
            case _:
                await trio.sleep_forever()
        await ctx.ask(Stock, "after", Take(1))

    async def refund(self, ctx: SagaContext) -> None:
        self.refunded = self.payment
        await ctx.sleep(seconds=1)
        await ctx.ask(Stock, "refunded", Take(1))


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("key", ["waits", "sleeps", "fails", "is cut off"])
async def test_what_a_step_put_into_the_state_before_the_deadline_is_there_for_its_compensation(
    key: str, restarts: bool, autojump_clock: trio.testing.MockClock
) -> None:
    log, clock = MemoryLog(), FollowingClock()
    limits = Limits(shutdown_seconds=0.01)
    async with open_runtime(log, Paid, wall_clock=clock, limits=limits) as runtime:
        saga = await runtime.start_saga(Paid(), key=key)
        await trio.sleep(10)
        if not restarts:
            await saga.wait(timeout=2_000)
    clock.advance(100)
    async with open_runtime(log, Paid, wall_clock=clock) as runtime:
        outcome = await runtime.saga(Paid, key).wait(timeout=2_000)
    assert (outcome.state, outcome.saga.refunded) == ("compensated", "payment-7")
    assert outcome.error == "DeadlinePassed: The saga was not done by its deadline."
    async with open_runtime(log, Paid, wall_clock=clock) as runtime:
        assert (await runtime.actor(Stock, "after").state()).changes == 0, "nothing new is done"
        assert (await runtime.actor(Stock, "refunded").state()).changes == 1
        effects = [stored async for stored in runtime.events(types=["saga.effect_begun"])]
        assert len(effects) == 1


async def test_a_saga_that_has_done_its_last_step_in_time_is_done(tmp_path: Path) -> None:
    """Also where the clock is put forward just then, and where a fork ends before the record of it."""
    clock = WallClock()

    class Timely(Saga, deadline_seconds=60):
        @step(compensation="undo")
        async def take(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "all", Take(1))

        @step()
        async def give(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "given", Take(1))
            clock.advance(100)

        async def undo(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "undone", Take(1))

    async with open_runtime(tmp_path / "store", Timely, wall_clock=clock) as runtime:
        saga = await runtime.start_saga(Timely(), key="1")
        assert (await saga.wait()).state == "completed"
        assert (await records(runtime, saga.id))[-2:] == ["step_done", "completed"]
        await runtime.fork(runtime.last_position - 1, tmp_path / "fork")
    async with open_runtime(tmp_path / "fork", Timely, wall_clock=clock) as runtime:
        assert (await runtime.saga(Timely, "1").wait()).state == "completed"
        assert await runtime.actor(Stock, "undone").version() == 0
