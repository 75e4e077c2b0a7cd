"""What becomes of a step that raises oddly, waits where it cannot, or returns what cannot be stored."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from saga_cases import Patient, open_runtime
from shop_domain import Created, Gateway, PlaceOrder, Stock, Take

from eventsrc import ArgumentInvalid, MemoryLog, Rejected, Retry, Saga, SagaContext, SagaTimeout, UnknownSaga, step
from eventsrc.runtime.testing import FollowingClock

# --- raised in an unusual way ---


async def outcome_of(body: Callable[[SagaContext], Any], **options: Any) -> tuple[str, str]:
    """(state, error) of a saga of one step; the runtime survives it."""

    class Odd(Saga, signals=["go"]):
        @step(**options)
        async def only(self, ctx: SagaContext) -> None:
            await body(ctx)

    async with open_runtime(MemoryLog(), Odd, wall_clock=FollowingClock()) as runtime:
        saga = await runtime.start_saga(Odd(), key="1")
        await trio.testing.wait_all_tasks_blocked()
        if (await saga.status()).state == "waiting":
            await saga.signal("go")
        outcome = await saga.wait(timeout=1_000_000)
        await runtime.actor(Stock, "still").ask(Take(1))
    return outcome.state, outcome.error


async def test_a_wait_in_a_task_that_the_step_started_is_an_error_of_the_step(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def body(ctx: SagaContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.approval, "go")
            nursery.start_soon(trio.sleep_forever)

    state, error = await outcome_of(body, retry=Retry(attempts=3))
    assert state == "compensated"
    assert error.startswith("WaitInOtherTask: The step waits (signal go) in a task that it has started in a nursery.")


async def test_a_step_may_wait_within_a_nursery_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    async def body(ctx: SagaContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await ctx.approval("go")
            await ctx.sleep(days=1)
            nursery.cancel_scope.cancel()

    assert await outcome_of(body) == ("completed", "")


async def test_a_step_that_keeps_what_is_to_leave_it_waits_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    answers = []

    async def body(ctx: SagaContext) -> None:
        try:
            answers.append(await ctx.approval("go"))
        except BaseException:  # noqa: BLE001, RUF100
            answers.append("kept")

    assert await outcome_of(body) == ("completed", "")
    assert answers == ["kept", None]


async def test_what_a_nursery_raises_counts_as_if_it_was_raised_without(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def refused(ctx: SagaContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.ask, Stock, "all", Take(1000))

    assert await outcome_of(refused, retry=Retry(attempts=5)) == ("compensated", "Rejected: out of stock")

    async def both(ctx: SagaContext) -> None:
        raise ExceptionGroup("two", [ValueError("one"), Rejected("two")])

    state, error = await outcome_of(both, retry=Retry(attempts=5))
    assert (state, error) == ("compensated", "ValueError: one; Rejected: two")


async def test_a_cancellation_kept_from_a_scope_that_is_over_fails_the_step(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def body(ctx: SagaContext) -> None:
        kept: BaseException | None = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                kept = cancelled
        assert kept is not None
        raise kept

    state, error = await outcome_of(body)
    assert (state, error) == (
        "compensated",
        "RuntimeError: only raised the trio.Cancelled of a cancel scope that is over",
    )


# --- what cannot be stored ---


async def test_what_cannot_be_stored_is_an_error_of_the_step_and_nothing_hangs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def surrogates(ctx: SagaContext) -> None:
        raise ValueError("\ud800")

    assert await outcome_of(surrogates) == ("compensated", "ValueError: \\ud800")

    async def nameless(ctx: SagaContext) -> None:
        await ctx.effect(7, print)  # type: ignore[arg-type]

    assert (await outcome_of(nameless))[1] == "DefinitionError: The name of an effect is a text, not 7."

    async def no_class(ctx: SagaContext) -> None:
        await ctx.wait_for(7)  # type: ignore[arg-type]

    assert (await outcome_of(no_class))[1] == "DefinitionError: ctx.wait_for takes the class of an event, not 7"

    async def large() -> str:
        return "x" * 100_000

    async def too_large(ctx: SagaContext) -> None:
        await ctx.effect("large", large)

    state, error = await outcome_of(too_large, retry=Retry(attempts=5))
    assert (state, error.split(":")[0]) == ("compensated", "EventTooLarge")


@pytest.mark.parametrize("step_leaves", [0, 100, 70_000])
async def test_a_step_that_fails_beside_a_state_of_any_size_is_undone(step_leaves: int) -> None:
    """The record of the failure holds the state and the error: it was too large, and the step done again for ever."""
    sizes = range(64_000, 65_500, 50)
    attempts: list[int] = []
    undone: list[tuple[int, int]] = []

    class Large(Saga):
        size: int
        data: str = ""
        more: str = ""

        @step(compensation="undo")
        async def fill(self, ctx: SagaContext) -> None:
            self.data = "x" * self.size

        @step(compensation="undo", retry=Retry(attempts=2, backoff_seconds=0.001))
        async def fail(self, ctx: SagaContext) -> None:
            attempts.append(self.size)
            await ctx.effect("it", pay, 1)
            self.more = "y" * step_leaves
            raise OSError("z" * 5_000 if ctx.attempt == 2 else "short")

        async def undo(self, ctx: SagaContext) -> None:
            undone.append((self.size, len(self.more)))

    async with open_runtime(MemoryLog(), Large) as runtime:
        errors = {}
        for size in sizes:
            outcome = await (await runtime.start_saga(Large(size), key=f"{size}")).wait(timeout=10)
            assert outcome.state == "compensated"
            errors[size] = outcome.error
    went_on = [size for size in sizes if errors[size].startswith("OSError: zz")]
    assert [size for size in sizes if errors[size].startswith("EventTooLarge")] == [*sizes[len(went_on) :]]
    assert len(went_on) > len(sizes) / 4
    assert attempts == [size for size in went_on for _ in range(2)]
    assert [size for size, _ in undone] == [size for size in went_on for _ in range(2)]
    assert {more for _, more in undone} == ({step_leaves} if step_leaves < 1_000 else {0})


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 1e300, "5", True, [1]])
async def test_a_time_that_cannot_be_waited_for_is_an_error_of_the_step_and_not_tried_again(seconds: Any) -> None:
    waits: dict[str, Callable[[SagaContext], Awaitable[Any]]] = {
        "seconds": lambda ctx: ctx.sleep(seconds=seconds),
        "days": lambda ctx: ctx.sleep(days=seconds, seconds=1),
        "timeout_seconds": lambda ctx: ctx.wait_for(Created, timeout_seconds=seconds),
        "timeout_seconds=": lambda ctx: ctx.approval("go", timeout_seconds=seconds),
    }
    for argument, wait in waits.items():
        errors: list[Exception] = []

        async def body(ctx: SagaContext) -> None:
            try:
                await wait(ctx)  # noqa: B023
            except Exception as error:
                errors.append(error)  # noqa: B023
                raise

        state, text = await outcome_of(body, retry=Retry(attempts=3))
        assert (state, text.startswith(f"WaitInvalid: {argument.rstrip('=')}={seconds!r} is no time")) == (
            "compensated",
            True,
        )
        (error,) = errors
        assert isinstance(error, ValueError)


async def test_who_waits_too_short_for_a_saga_is_told_how_it_stands(autojump_clock: trio.testing.MockClock) -> None:
    async with open_runtime(MemoryLog(), Patient, wall_clock=FollowingClock()) as runtime:
        saga = await runtime.start_saga(Patient([]), key="1")
        with pytest.raises(
            SagaTimeout, match=r"'saga_patient-1' is waiting at sleep: .* in 60 seconds. It goes on"
        ) as told:
            await saga.wait(timeout=60)
        assert isinstance(told.value, trio.TooSlowError)
        assert (told.value.saga_id, told.value.state, told.value.step) == (saga.id, "waiting", "sleep")
        with pytest.raises(SagaTimeout):
            await saga.wait(timeout=0)
        for timeout in (-1, math.nan, "5", True):
            with pytest.raises(ArgumentInvalid, match="timeout="):
                await saga.wait(timeout=timeout)  # type: ignore[arg-type]
        with pytest.raises(UnknownSaga):
            await runtime.saga(Patient, "2").wait(timeout=1)


async def test_how_a_saga_ended_is_told_also_to_who_does_not_wait(gateway: Gateway) -> None:
    async with open_runtime(MemoryLog()) as runtime:
        saga = await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        ended = await saga.wait()
        assert await saga.wait(timeout=0) == ended


async def test_effects_of_one_name_are_told_apart(autojump_clock: trio.testing.MockClock) -> None:
    keys: list[list[str]] = [[], []]

    async def body(ctx: SagaContext) -> None:
        async def effect(*, idempotency_key: str) -> str:
            return idempotency_key

        for name in ("pay", "pay", "pay#2", "pay"):
            keys[ctx.attempt - 1].append((await ctx.effect(name, effect)).rpartition("/")[2])
        if ctx.attempt == 1:
            raise ValueError("once more")

    assert (await outcome_of(body, retry=Retry(attempts=2)))[0] == "completed"
    assert keys == [["pay", "pay#2", "pay#2#2", "pay#3"]] * 2


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300])
async def test_a_deadline_that_cannot_be_stored_is_refused(seconds: float, gateway: Gateway) -> None:
    async with open_runtime(MemoryLog()) as runtime:
        with pytest.raises(ArgumentInvalid, match="deadline_seconds"):
            await runtime.start_saga(PlaceOrder("o1", 10), key="o1", deadline_seconds=seconds)
        assert runtime.last_position == 0


# --- side by side ---


async def pay(amount: int) -> int:
    """On the trio thread: while a worker thread is waited for, the clock jumps."""
    return amount


async def test_calls_of_a_steps_tasks_that_nobody_could_tell_apart_are_an_error_of_the_step(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Run again after a part of them, one would have been taken for another: done twice, and the other not at all."""

    async def commands(ctx: SagaContext) -> None:
        async def second() -> None:
            if ctx.attempt == 1:
                await trio.sleep(1)
                raise OSError("no route")
            await ctx.ask(Stock, "all", Take(2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.ask, Stock, "all", Take(1))
            nursery.start_soon(second)

    for _ in range(10):
        state, error = await outcome_of(commands, retry=Retry(attempts=3))
        assert state == "compensated"
        assert error.startswith("CallAmbiguous: Two tasks of the step make the call 'stock-all/Take'.")

    async def effects(ctx: SagaContext) -> None:
        async with trio.open_nursery() as nursery:
            for number in (1, 2):
                nursery.start_soon(ctx.effect, "pay", pay, number)

    assert (await outcome_of(effects))[1].startswith("CallAmbiguous: Two tasks of the step make the call 'pay'.")


async def test_calls_of_a_steps_tasks_that_differ_go_on_side_by_side(autojump_clock: trio.testing.MockClock) -> None:
    async def body(ctx: SagaContext) -> None:
        async def two() -> None:
            await ctx.ask(Stock, "b", Take(1))
            await ctx.ask(Stock, "b", Take(2))
            await ctx.effect("c", pay, 3)

        await ctx.ask(Stock, "a", Take(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.ask, Stock, "a", Take(1))
            nursery.start_soon(two)
            nursery.start_soon(ctx.effect, "d", pay, 3)
        await ctx.ask(Stock, "b", Take(1))
        if ctx.attempt == 1:
            raise OSError("no route")

    assert (await outcome_of(body, retry=Retry(attempts=2)))[0] == "completed"
