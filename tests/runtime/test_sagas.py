"""Sagas: all steps are done, or all that was done is undone; each effect takes place once, whatever happens."""

from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from saga_cases import AGGREGATES, open_runtime, records
from shop_domain import Cancel, Create, Created, Gateway, Order, PlaceOrder, Stock, Take, Welcome

from eventsrc import (
    ArgumentInvalid,
    EventMeta,
    Limits,
    MemoryLog,
    Projection,
    Rejected,
    Retry,
    Runtime,
    Saga,
    SagaContext,
    SagaNotParked,
    SagaParked,
    StoreFull,
    Table,
    on,
    starts_on,
    step,
)
from eventsrc.runtime.testing import FaultyLog, FollowingClock
from eventsrc.storage.store import EventStore

# --- forwards and backwards ---


async def test_all_steps_are_done_in_order(store: EventStore | Path, gateway: Gateway) -> None:
    async with open_runtime(store) as runtime:
        saga = await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        status = await saga.wait(timeout=10)
        assert (status.state, status.error, saga.was_started) == ("completed", "", True)
        assert (await runtime.actor(Order, "o1").state()).state == "created"
        assert (await runtime.actor(Stock, "all").state()).count == 90
        assert list(gateway.paid.values()) == [1]
        assert not gateway.refunded
        assert await records(runtime, saga.id) == [
            "started",
            *("step_begun", "step_done"),
            *("step_begun", "effect_begun", "effect_done", "step_done"),
            *("step_begun", "step_done"),
            "completed",
        ]
        kinds = {event.kind async for event in runtime.events(stream=saga.id)}
        assert kinds == {"saga_step"}
        correlations = {event.correlation_id async for event in runtime.events()}
        assert correlations == {saga.id}, "commands carry the saga's correlation on"


async def test_everything_that_was_done_is_undone_in_reverse(store: EventStore | Path, gateway: Gateway) -> None:
    async with open_runtime(store) as runtime:
        saga = await runtime.start_saga(PlaceOrder("o1", 200), key="o1")
        status = await saga.wait(timeout=10)
        assert (status.state, status.error) == ("compensated", "Rejected: out of stock")
        assert (await runtime.actor(Order, "o1").state()).state == "cancelled"
        assert (await runtime.actor(Stock, "all").state()).changes == 0, "what was not done is not undone"
        assert list(gateway.paid.values()) == list(gateway.refunded.values()) == [1]
        undone = [
            event.payload["step"] async for event in runtime.events(stream=saga.id, types=["saga.compensation_done"])
        ]
        assert undone == ["charge", "create_order"]


async def test_how_it_ended_is_on_disk_when_that_is_told(store: EventStore | Path) -> None:
    class Brief(Saga):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            raise Rejected("at once")

    async with open_runtime(store, Brief) as runtime:
        for number in range(10):
            saga = await runtime.start_saga(Brief(), key=f"{number}")
            outcome = await saga.wait(timeout=60)
            assert (await saga.status()).state == outcome.state == "compensated"


async def test_the_same_key_starts_it_once(store: EventStore | Path, gateway: Gateway) -> None:
    started: list[bool] = []

    async with open_runtime(store) as runtime:

        async def start() -> None:
            saga = await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
            started.append(saga.was_started)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(start)
        assert sorted(started) == [False] * 4 + [True]
        assert (await runtime.saga(PlaceOrder, "o1").wait(timeout=10)).state == "completed"
        await start()
        assert not started[-1]
    async with open_runtime(store) as runtime:
        await start()
        assert not started[-1]
    assert gateway.calls == 1


async def test_a_step_that_fails_is_tried_again_with_a_back_off(
    gateway: Gateway, autojump_clock: trio.testing.MockClock
) -> None:
    gateway.failures = [OSError("no route"), OSError("no route")]
    clock = FollowingClock()
    async with open_runtime(MemoryLog(), wall_clock=clock) as runtime:
        saga = await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        assert (await saga.wait(timeout=1000)).state == "completed"
        failed = [event.payload async for event in runtime.events(types=["saga.step_failed"])]
        assert [each["error"] for each in failed] == ["OSError: no route"] * 2
        waited = [each["retry_at_ns"] for each in failed]
        assert all(waited)
        assert gateway.calls == 3
        assert sum(gateway.paid.values()) == 1


async def test_a_step_that_fails_too_often_is_compensated(
    gateway: Gateway, autojump_clock: trio.testing.MockClock
) -> None:
    gateway.failures = [OSError("no route")] * 3
    async with open_runtime(MemoryLog(), wall_clock=FollowingClock()) as runtime:
        saga = await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        assert (await saga.wait(timeout=1000)).state == "compensated"
        assert (await runtime.actor(Order, "o1").state()).state == "cancelled"
        assert not gateway.paid


class Fragile(Saga):
    """Its compensation fails as long as it is broken."""

    name: str
    is_broken = True  # a class attribute: not annotated, so no state

    @step(compensation="undo_first", compensation_retry=Retry(attempts=2, backoff_seconds=0.001))
    async def first(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, self.name, Take(1))

    @step(compensation="undo_second")
    async def second(self, ctx: SagaContext) -> None:
        await ctx.ask(Order, self.name, Create(1))
        raise ValueError("cannot go on")

    async def undo_second(self, ctx: SagaContext) -> None:
        await ctx.ask(Order, self.name, Cancel())

    async def undo_first(self, ctx: SagaContext) -> None:
        if Fragile.is_broken:
            raise OSError("no route")
        await ctx.ask(Stock, f"undone-{self.name}", Take(1))


async def test_what_is_parked_waits_for_an_operator(store: EventStore | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fragile, "is_broken", True)
    async with open_runtime(store, Fragile) as runtime:
        for name in ("a", "b", "c"):
            saga = await runtime.start_saga(Fragile(name), key=name)
            await saga.wait(timeout=10)
            status = await saga.status()
            assert (status.state, status.step) == ("parked", "undo:first")
            assert status.error == "undo_first of first failed 2 times: OSError: no route"
        assert [row.key for row in await runtime.sagas(state="parked").rows()] == ["a", "b", "c"]
        assert (await runtime.actor(Order, "a").state()).state == "cancelled", "the other step is undone"
    async with open_runtime(store, Fragile) as runtime:
        a, b, c = (runtime.saga(Fragile, name) for name in "abc")
        assert (await a.status()).state == "parked", "it stays parked over a restart"
        await a.retry(reason="looks better")
        assert (await a.wait(timeout=10)).state == "parked"
        for act in (a.retry, a.skip, a.abandon):
            for reason in ("", " \n", None):
                with pytest.raises(ArgumentInvalid, match="reason="):
                    await act(reason=reason)  # type: ignore[arg-type]
        monkeypatch.setattr(Fragile, "is_broken", False)
        await a.retry(reason="repaired")
        assert (await a.wait(timeout=10)).state == "compensated"
        await b.skip(reason="done by hand")
        assert (await b.wait(timeout=10)).state == "compensated"
        await c.abandon(reason="lost")
        assert (await c.wait(timeout=10)).state == "abandoned"
        reasons = [
            event.payload["reason"]
            async for event in runtime.events(types=["saga.resumed", "saga.compensation_skipped", "saga.abandoned"])
        ]
        assert reasons == ["looks better", "repaired", "done by hand", "lost"]
        assert (await runtime.actor(Stock, "undone-a").state()).changes == 1
        assert (await runtime.actor(Stock, "undone-b").state()).changes == 0
        with pytest.raises(SagaNotParked):
            await a.retry(reason="again")
        assert await runtime.sagas(state="parked").count() == 0


async def test_a_compensation_is_tried_again_with_a_back_off_that_doubles_with_jitter_across_restarts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Hopeless(Saga):
        @step(compensation="undo", compensation_retry=Retry(6, backoff_seconds=10, backoff_seconds_max=60))
        async def only(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "all", Take(1))
            raise Rejected("no")

        async def undo(self, ctx: SagaContext) -> None:
            raise OSError("no route")

    clock, log = FollowingClock(), MemoryLog()
    for attempts in range(1, 6):
        async with open_runtime(log, Hopeless, wall_clock=clock) as runtime:
            await runtime.start_saga(Hopeless(), key="1")
            with trio.fail_after(1_000):
                while (await runtime.saga(Hopeless, "1").status()).attempt < attempts:
                    await trio.sleep(1)
    async with open_runtime(log, Hopeless, wall_clock=clock) as runtime:
        assert (await runtime.saga(Hopeless, "1").wait(timeout=1_000)).state == "parked"
        failed = [stored async for stored in runtime.events(types=["saga.compensation_failed"])]
        begun = [stored async for stored in runtime.events(types=["saga.compensation_begun"])]
    assert [each.payload["attempt"] for each in failed] == [1, 2, 3, 4, 5, 6], "counted over the restarts"
    assert failed[-1].payload["retry_at_ns"] is None
    waits = [(each.payload["retry_at_ns"] - each.time_ns) / 1e9 for each in failed[:-1]]
    for seconds, nominal in zip(waits, [10, 20, 40, 60, 60], strict=True):
        assert nominal * 0.74 <= seconds <= nominal * 1.26
    assert {round(seconds, 3) for seconds in waits}.isdisjoint({10, 20, 40, 60}), "there is jitter"
    for before, after in zip(failed, begun[1:], strict=False):
        assert after.time_ns >= before.payload["retry_at_ns"], "none was tried before its time"


@attrs.frozen
class Alert:
    saga: str
    error: str


class Alerts(Projection):
    rows = Table(Alert, key="saga")

    @on(SagaParked)
    def parked(self, event: SagaParked, meta: EventMeta) -> None:
        self.rows.put(Alert(meta.stream, event.error))


async def test_a_projection_can_alert_on_what_is_parked(
    store: EventStore | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fragile, "is_broken", True)
    async with open_runtime(store, Fragile, projections=[Alerts]) as runtime:
        saga = await runtime.start_saga(Fragile("a"), key="a")
        await saga.wait(timeout=10)
        alert = await runtime.view(Alerts.rows).get(saga.id, at_least=runtime.last_position)
        assert alert == Alert(saga.id, "undo_first of first failed 2 times: OSError: no route")


# --- started by events ---


async def test_an_event_starts_its_saga_exactly_once_over_restarts(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=AGGREGATES) as runtime:
        await runtime.actor(Order, "old").ask(Create(1))
    for number in range(5):
        async with open_runtime(store, Welcome) as runtime:
            await runtime.actor(Order, f"o{number}").ask(Create(1))
            await runtime.actor(Order, f"free{number}").ask(Create(0))
    async with open_runtime(store, Welcome) as runtime:
        with trio.fail_after(10):
            while await runtime.sagas(state="completed").count() < 5:
                await trio.sleep(0.01)
        assert await runtime.sagas().count() == 5
        for number in range(5):
            assert (await runtime.actor(Stock, f"greeted-o{number}").state()).changes == 1
        assert (await runtime.actor(Stock, "greeted-old").state()).changes == 0, "events from before it was known"
        causes = [event.payload["cause"] async for event in runtime.events(types=["saga.started"])]
        assert causes == [f"order-o{number}@1" for number in range(5)]


async def test_an_event_that_cannot_be_made_into_a_saga_parks_it_until_it_can(store: EventStore | Path) -> None:
    is_broken = True

    class Picky(Saga):
        total: int

        @starts_on(Created)
        @classmethod
        def on_created(cls, event: Created, meta: EventMeta) -> "Picky":
            if is_broken:
                raise ValueError("cannot read this")
            return cls(event.total)

        @step()
        async def only(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "all", Take(self.total))

    async with open_runtime(store, Picky) as runtime:
        await runtime.actor(Order, "o1").ask(Create(5))
        with trio.fail_after(10):
            while not (parked := await runtime.sagas(state="parked").rows()):
                await trio.sleep(0.01)
        assert parked[0].error == "order-o1@1 cannot be made into a saga: ValueError: cannot read this"
        saga = runtime.saga(Picky, parked[0].key)
        with pytest.raises(ValueError, match="cannot read this"):
            await saga.retry(reason="maybe")
        is_broken = False
        await saga.retry(reason="repaired")
        assert (await saga.wait(timeout=10)).state == "completed"
        assert (await runtime.actor(Stock, "all").state()).count == 95


async def test_an_error_whose_text_cannot_be_stored_keeps_no_later_event_from_starting_its_saga() -> None:
    class Garbled(Saga):
        @starts_on(Created)
        @classmethod
        def on_created(cls, event: Created, meta: EventMeta) -> "Garbled":
            if event.total < 5:
                raise ValueError("\ud800" * 5_000)
            return cls()

        @step()
        async def only(self, ctx: SagaContext) -> None:
            pass

    async with open_runtime(MemoryLog(), Garbled) as runtime:
        for number in (1, 5):
            await runtime.actor(Order, f"o{number}").ask(Create(number))
        with trio.fail_after(10):
            while {saga.state for saga in await runtime.sagas().rows()} != {"parked", "completed"}:
                await trio.sleep(0.01)
        (parked,) = await runtime.sagas(state="parked").rows()
        assert parked.error.startswith("order-o1@1 cannot be made into a saga: ValueError: \\ud800\\ud800")


# --- many ---


async def test_many_run_at_once_under_a_bound(autojump_clock: trio.testing.MockClock) -> None:
    most = now = 0

    class Counted(Saga):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await trio.sleep(1)
            now -= 1

    limits = Limits(sagas_running_max=7)
    async with open_runtime(MemoryLog(), Counted, limits=limits, wall_clock=FollowingClock()) as runtime:
        for number in range(50):
            await runtime.start_saga(Counted(), key=f"{number}")
        with trio.fail_after(100):
            while await runtime.sagas(state="completed").count() < 50:
                await trio.sleep(1)
    assert most == 7


async def test_a_disk_that_refuses_is_no_failure_of_the_step(gateway: Gateway) -> None:
    log = FaultyLog()
    async with open_runtime(log, limits=Limits(restart_backoff_seconds=0.001)) as runtime:
        await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        log.fail_next(StoreFull("store", "test"), times=3)
        status = await runtime.saga(PlaceOrder, "o1").wait(timeout=10)
        assert status.state == "completed"
        assert list(gateway.paid.values()) == [1]
        assert (await runtime.actor(Stock, "all").state()).changes == 1
