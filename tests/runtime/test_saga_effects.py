"""Effects of sagas take place once, wherever the process is killed."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from saga_cases import Killed, KilledLog, open_runtime, records
from shop_domain import Gateway, Order, PlaceOrder, Stock

from eventsrc import (
    EffectUncertain,
    Limits,
    MemoryLog,
    Retry,
    Runtime,
    Saga,
    SagaContext,
    step,
)
from eventsrc.actors.sagas.failure import text_of
from eventsrc.runtime.testing import FollowingClock, WallClock
from eventsrc.storage.store import EventStore

# --- effects ---


def saga_of(effect: Callable[..., Any], *, idempotent: bool = False, fail: Sequence[BaseException] = ()) -> type[Saga]:
    """A saga class with one step around an effect, which raises `fail` after it."""
    pending = list(fail)

    class Once(Saga):
        result: Any = None

        @step(retry=Retry(attempts=5, backoff_seconds=0.001))
        async def only(self, ctx: SagaContext) -> None:
            self.result = await ctx.effect("it", effect, 7, idempotent=idempotent)
            if pending:
                raise pending.pop(0)

    return Once


async def result_of(runtime: Runtime, saga_class: type[Saga]) -> Any:
    saga = await runtime.start_saga(saga_class(), key="1")
    status = await saga.wait(timeout=10)
    if status.state != "completed":
        return status
    (done,) = [event async for event in runtime.events(stream=saga.id, types=["saga.step_done"])]
    return done.payload["state"]["result"]


async def test_an_effect_takes_place_once_and_its_result_is_the_same_when_the_step_is_run_again(
    store: EventStore | Path,
) -> None:
    calls = []

    def effect(number: int) -> tuple[int, ...]:
        calls.append(number)
        return (number, 2)

    saga_class = saga_of(effect, fail=[ValueError("later"), ValueError("later")])
    async with open_runtime(store, saga_class) as runtime:
        assert await result_of(runtime, saga_class) == [7, 2]
    assert calls == [7]


async def test_an_effect_that_raises_is_tried_again_with_the_same_key(store: EventStore | Path) -> None:
    keys = []

    async def effect(number: int, *, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        if len(keys) < 3:
            raise OSError("no route")
        return "there"

    saga_class = saga_of(effect)
    async with open_runtime(store, saga_class) as runtime:
        assert await result_of(runtime, saga_class) == "there"
    assert keys == ["saga_once-1/only/it"] * 3


async def test_whatever_an_effect_raises_says_it_is_tried_again(store: EventStore | Path) -> None:
    class Speechless(Exception):
        def __repr__(self) -> str:
            raise RuntimeError("no text")

        __str__ = __repr__

    failures = [OSError("x" * 70_000), Speechless(), ValueError("\ud800"), OSError("no route")]
    pending = list(failures)

    async def effect(number: int) -> str:
        if pending:
            raise pending.pop(0)
        return "there"

    saga_class = saga_of(effect)
    async with open_runtime(store, saga_class) as runtime:
        assert await result_of(runtime, saga_class) == "there"
        texts = [event.payload["error"] async for event in runtime.events(types=["saga.effect_failed"])]
    assert texts == [text_of(error) for error in failures]
    assert (len(texts[0]), *texts[1:]) == (
        2_000,
        "Speechless, whose text cannot be had because of RuntimeError",
        "ValueError: \\ud800",
        "OSError: no route",
    )


async def test_a_time_that_an_effect_returns_is_the_same_text_when_the_step_is_run_again(
    store: EventStore | Path,
) -> None:
    results: list[Any] = []

    class Timed(Saga):
        @step(retry=Retry(attempts=2, backoff_seconds=0.001))
        async def only(self, ctx: SagaContext) -> None:
            results.append(await ctx.effect("it", lambda: [datetime(2026, 1, 2, tzinfo=UTC), b"\x00", bytearray(b"x")]))
            if ctx.attempt == 1:
                raise ValueError("once more")

    async with open_runtime(store, Timed) as runtime:
        assert (await (await runtime.start_saga(Timed(), key="1")).wait(timeout=10)).state == "completed"
    assert results == [["2026-01-02T00:00:00Z", b"\x00", b"x"]] * 2


async def test_an_effect_may_be_any_object_that_can_be_called(store: EventStore | Path) -> None:
    class Client:
        async def __call__(self, number: int, idempotency_key: str) -> list[Any]:
            return [number, idempotency_key]

    for function, result in ((Client(), [7, "saga_once-1/only/it"]), (partial(max, 9), 9)):
        saga_class = saga_of(function)
        async with open_runtime(store if isinstance(function, Client) else MemoryLog(), saga_class) as runtime:
            assert await result_of(runtime, saga_class) == result
    saga_class = saga_of("charge")  # type: ignore[arg-type]
    async with open_runtime(MemoryLog(), saga_class) as runtime:
        assert (
            await result_of(runtime, saga_class)
        ).error == "DefinitionError: The effect 'it' calls a function, not 'charge'."
        assert "effect_begun" not in await records(runtime, "saga_once-1")


async def test_a_result_that_is_no_data_fails_the_step(store: EventStore | Path) -> None:
    saga_class = saga_of(lambda number: object())
    async with open_runtime(store, saga_class) as runtime:
        status = await result_of(runtime, saga_class)
        assert status.state == "compensated"
        assert status.error.startswith("EncodingError: The effect 'it' returned what is no plain data")
        assert status.error.endswith("Say what type it is: ctx.effect(..., returns=...)")


# --- killed at every boundary ---


async def run_until_killed(log: KilledLog, total: int) -> bool:
    """Whether the program was killed before the saga had ended."""
    try:
        async with open_runtime(log) as runtime:
            saga = await runtime.start_saga(PlaceOrder("o1", total), key="o1")
            await saga.wait(timeout=10)
            return False
    except BaseExceptionGroup as group:
        _, others = group.split(Killed)
        if others is not None:
            raise
        return True


@pytest.mark.parametrize("total", [10, 200])
@pytest.mark.parametrize("kills_after", [False, True])
async def test_killed_at_any_record_it_ends_with_all_or_nothing_and_every_effect_once(
    total: int, kills_after: bool, gateway: Gateway
) -> None:
    boundaries = 0
    while True:
        boundaries += 1
        log = KilledLog()
        log.appends_left, log.kills_after = boundaries, kills_after
        gateway.paid.clear()
        gateway.refunded.clear()
        was_killed = await run_until_killed(log, total)
        log.appends_left = float("inf")
        async with open_runtime(log) as runtime:
            saga = await runtime.start_saga(PlaceOrder("o1", total), key="o1")
            status = await saga.wait(timeout=10)
            order, stock = await runtime.actor(Order, "o1").state(), await runtime.actor(Stock, "all").state()
            where = f"killed {'after' if kills_after else 'before'} append {boundaries}"
            assert list(gateway.paid.values()) == [1], where
            if total == 10:
                assert (status.state, order.state, order.changes) == ("completed", "created", 1), where
                assert (stock.count, stock.changes, len(gateway.refunded)) == (90, 1, 0), where
            else:
                assert (status.state, order.state, order.changes) == ("compensated", "cancelled", 2), where
                assert (stock.count, stock.changes) == (100, 0), where
                assert list(gateway.refunded.values()) == [1], where
        if not was_killed:
            break
    assert boundaries > 8


async def test_an_effect_cut_off_is_reported_as_uncertain_unless_it_is_idempotent() -> None:
    for idempotent in (False, True):
        calls = []

        async def effect(number: int) -> int:
            calls.append(number)  # noqa: B023
            if len(calls) == 1:  # noqa: B023
                raise Killed
            return number

        saga_class = saga_of(effect, idempotent=idempotent)
        log = MemoryLog()
        with pytest.raises(BaseExceptionGroup):
            async with open_runtime(log, saga_class) as runtime:
                await result_of(runtime, saga_class)
        async with open_runtime(log, saga_class) as runtime:
            result = await result_of(runtime, saga_class)
        if idempotent:
            assert (result, calls) == (7, [7, 7])
        else:
            assert result.state == "compensated"
            assert result.error.startswith("EffectUncertain: The effect 'it' was begun with the key")
            assert calls == [7]


async def test_an_effect_that_the_steps_time_cut_off_is_uncertain_to_the_next_attempt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen: list[str] = []

    class CutOff(Saga):
        @step(retry=Retry(attempts=2), timeout_seconds=5)
        async def only(self, ctx: SagaContext) -> None:
            try:
                await ctx.effect("it", trio.sleep_forever)
            except EffectUncertain as uncertain:
                seen.append(f"{ctx.attempt} {uncertain.effect} {uncertain.idempotency_key}")

    async with open_runtime(MemoryLog(), CutOff, wall_clock=FollowingClock()) as runtime:
        assert (await (await runtime.start_saga(CutOff(), key="1")).wait(timeout=100)).state == "completed"
        assert await records(runtime, "saga_cut_off-1") == [
            *("started", "step_begun", "effect_begun", "step_failed", "step_begun", "step_done", "completed")
        ]
    assert seen == ["2 it saga_cut_off-1/only/it"]


async def test_effects_that_hang_hold_up_nothing_but_other_effects(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """Functions that were cut off keep their threads: more of them than trio has by default."""
    let_go = threading.Event()
    calls: list[int] = []
    returned: list[int] = []

    def hang(number: int) -> None:
        calls.append(number)
        let_go.wait(60)
        returned.append(number)

    class Hanging(Saga):
        @step(timeout_seconds=1_000)
        async def only(self, ctx: SagaContext) -> None:
            await ctx.effect("it", hang, 7)

    class Late(Saga):
        @step(timeout_seconds=1_000, retry=Retry(attempts=9, backoff_seconds=1))
        async def only(self, ctx: SagaContext) -> None:
            await ctx.effect("it", calls.append, 8)

    def jump(seconds: float) -> None:
        clock.advance(seconds)
        mock_clock.jump(seconds)

    async def cut_off(count: int) -> None:
        """All that hang, once they do: a clock that jumps by itself would not wait for their threads."""
        while len(calls) < count:
            await trio.lowlevel.checkpoint()
        jump(1_000)

    hung = int(trio.to_thread.current_default_thread_limiter().total_tokens) + 5
    mock_clock.rate = 1.0
    clock, limits = WallClock(), Limits(saga_threads_max=hung)
    try:
        async with open_runtime(tmp_path / "a.db", Hanging, Late, limits=limits, wall_clock=clock) as runtime:
            for number in range(hung):
                await runtime.start_saga(Hanging(), key=f"{number}")
            await cut_off(hung)
            for number in range(hung):
                outcome = await runtime.saga(Hanging, f"{number}").wait()
                assert outcome.error.startswith("StepTimeout: only did not return in 1000 seconds. Give it more")
            await trio.to_thread.run_sync(int)
            late = await runtime.start_saga(Late(), key="late")
            await trio.testing.wait_all_tasks_blocked()
            jump(1_000)
            while (retry_at_ns := (await late.status()).until_ns) is None:
                await trio.lowlevel.checkpoint()
            jump((retry_at_ns - clock()) / 1e9 + 1)
            while (await late.status()).attempt < 2:
                await trio.lowlevel.checkpoint()
            assert "effect_begun" not in await records(runtime, late.id), "it waits for a thread"
            let_go.set()
            assert (await late.wait()).state == "completed"
            let_go.clear()
            last = await runtime.start_saga(Hanging(), key="last")
            await cut_off(hung + 2)
            await last.wait()
        assert len(returned) == hung, "the runtime closed without the last"
    finally:
        let_go.set()
