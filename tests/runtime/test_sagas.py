"""Sagas: all steps are done, or all that was done is undone; each effect takes place once, whatever happens."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from shop_domain import Cancel, Create, Created, Gateway, Order, PlaceOrder, Stock, Take, Welcome

from eventsrc import (
    Aggregate,
    DeadlinePassed,
    DefinitionError,
    EncodingError,
    EventMeta,
    EventTooLarge,
    Limits,
    MemoryLog,
    Retry,
    Runtime,
    RuntimeClosed,
    Saga,
    SagaContext,
    SagaEnded,
    SagaInstance,
    SagaNotParked,
    SagaWaitsForItself,
    StoreFull,
    StreamNameInvalid,
    UnknownSaga,
    UnknownSignal,
    WaitTimeout,
    starts_on,
    step,
)
from eventsrc.runtime.testing import FaultyLog, WallClock
from eventsrc.storage.commit import Appended, Commit
from eventsrc.storage.errors import EventSourcingError
from eventsrc.storage.snapshot import Snapshot
from eventsrc.storage.store import EventStore

AGGREGATES: Sequence[type[Aggregate]] = (Order, Stock)


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> EventStore | Path:
    return MemoryLog() if request.param == "memory" else tmp_path / "store"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    fresh = Gateway()
    monkeypatch.setattr(PlaceOrder, "gateway", fresh)
    return fresh


def open_runtime(store: EventStore | Path, *sagas: type[Saga], **options: Any) -> Any:
    if isinstance(store, MemoryLog):
        store.reopen()
    return Runtime.open(store, aggregates=AGGREGATES, sagas=sagas or (PlaceOrder,), **options)


async def records(runtime: Runtime, saga_id: str) -> list[str]:
    return [event.type.removeprefix("saga.") async for event in runtime.events(stream=saga_id)]


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


class FollowingClock(WallClock):
    """Runs with trio's clock."""

    def __call__(self) -> int:
        return self.now_ns + int(trio.current_time() * 1e9)


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


async def test_a_result_that_is_no_data_fails_the_step(store: EventStore | Path) -> None:
    saga_class = saga_of(lambda number: object())
    async with open_runtime(store, saga_class) as runtime:
        status = await result_of(runtime, saga_class)
        assert status.state == "compensated"
        assert status.error.startswith("EncodingError: The effect 'it' returned what is no plain data")


# --- killed at every boundary ---


class Killed(BaseException):
    """Ends the program there and then."""


class KilledLog(MemoryLog):
    """A store that ends the program before or after its n-th append, and is there afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.appends_left: float = float("inf")
        self.kills_after = False

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        self.appends_left -= 1
        if self.appends_left == 0 and not self.kills_after:
            raise Killed
        outcome = super().append(commits, snapshots)
        if self.appends_left == 0:
            raise Killed
        return outcome


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


# --- time ---


class Patient(Saga, signals=["release"]):
    """Waits in every way there is; what it has seen is in its state."""

    seen: list[str]

    @step()
    async def sleep(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "slept", Take(1))
        await ctx.sleep(days=3)
        self.seen.append("slept")

    @step()
    async def wait(self, ctx: SagaContext) -> None:
        created = await ctx.wait_for(Created, where={"total": 42})
        self.seen.append(f"created {created.total}")

    @step()
    async def approve(self, ctx: SagaContext) -> None:
        self.seen.append(await ctx.approval("release"))
        try:
            await ctx.wait_for(Created, where={"total": 43}, timeout_seconds=3600)
        except WaitTimeout:
            self.seen.append("too late")


async def test_it_waits_for_times_events_and_signals_over_restarts(autojump_clock: trio.testing.MockClock) -> None:
    log, clock = MemoryLog(), WallClock()

    async def resting(runtime: Runtime) -> SagaInstance:
        status = None
        await trio.sleep(60)  # the clock is looked at
        with trio.fail_after(100):
            while status is None or status.state != "waiting" or runtime_is_busy(runtime):
                await trio.sleep(1)
                status = await runtime.saga(Patient, "p").status()
        return status

    async with open_runtime(log, Patient, wall_clock=clock) as runtime:
        await runtime.start_saga(Patient([]), key="p")
        assert (await resting(runtime)).step == "sleep"
        clock.advance(2 * 86_400)
        assert (await resting(runtime)).step == "sleep"
    async with open_runtime(log, Patient, wall_clock=clock) as runtime:
        assert (await resting(runtime)).step == "sleep"
        clock.advance(-86_400)
        assert (await resting(runtime)).step == "sleep", "the clock was set back"
        clock.advance(2 * 86_400 + 1)
        assert (await resting(runtime)).waits_for_event == "order.created"
        await runtime.actor(Order, "other").ask(Create(41))
        assert (await resting(runtime)).waits_for_event == "order.created"
    async with open_runtime(log, Patient, wall_clock=clock) as runtime:
        await runtime.actor(Order, "this").ask(Create(42))
        with trio.fail_after(100):
            while (await runtime.saga(Patient, "p").status()).waits_for_signal != "release":
                await trio.sleep(1)
    async with open_runtime(log, Patient, wall_clock=clock) as runtime:
        assert await runtime.signal(Patient, "p", "release", "yes")
        assert not await runtime.signal(Patient, "p", "release", "no"), "the first one counts"
        with trio.fail_after(100):
            while (await runtime.saga(Patient, "p").status()).waits_for_event != "order.created":
                await trio.sleep(1)
        clock.advance(3601)
        status = await runtime.saga(Patient, "p").wait(timeout=1000)
        assert status.state == "completed"
        states = [event.payload["state"] async for event in runtime.events(types=["saga.step_done"])]
        assert states[-1]["seen"] == ["slept", "created 42", "yes", "too late"]
        assert (await runtime.actor(Stock, "slept").state()).changes == 1, "what came before the wait was done once"
        with pytest.raises(SagaEnded):
            await runtime.signal(Patient, "p", "release")


def runtime_is_busy(runtime: Runtime) -> bool:
    counts = runtime._supervised.supervisor.counts
    return bool(counts["running"] or counts["ready"])


async def test_an_event_that_came_before_the_step_waited_counts(store: EventStore | Path) -> None:
    class Late(Saga):
        @step()
        async def first(self, ctx: SagaContext) -> None:
            await ctx.ask(Order, "mine", Create(5))

        @step()
        async def second(self, ctx: SagaContext) -> None:
            assert (await ctx.wait_for(Created, where={"total": 5})) == Created(5)

    async with open_runtime(store, Late) as runtime:
        await runtime.actor(Order, "before").ask(Create(5))
        saga = await runtime.start_saga(Late(), key="1")
        assert (await saga.wait(timeout=10)).state == "completed"


async def test_a_signal_may_come_before_it_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    class Early(Saga, signals=["go"]):
        payload: Any = None

        @step()
        async def rest(self, ctx: SagaContext) -> None:
            await ctx.sleep(seconds=10)

        @step()
        async def go(self, ctx: SagaContext) -> None:
            self.payload = await ctx.approval("go")

    async with open_runtime(MemoryLog(), Early, wall_clock=FollowingClock()) as runtime:
        saga = await runtime.start_saga(Early(), key="1")
        assert await saga.signal("go", {"by": "ann"})
        assert (await saga.wait(timeout=1000)).state == "completed"


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


async def test_a_step_that_never_returns_is_cut_off_and_compensated(autojump_clock: trio.testing.MockClock) -> None:
    class Endless(Saga):
        @step(timeout_seconds=30)
        async def only(self, ctx: SagaContext) -> None:
            await trio.sleep_forever()

    async with open_runtime(MemoryLog(), Endless, wall_clock=FollowingClock()) as runtime:
        saga = await runtime.start_saga(Endless(), key="1")
        status = await saga.wait(timeout=1000)
        assert (status.state, status.error) == ("compensated", "StepTimeout: only did not return in 30 seconds")


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


# --- bad input ---


def test_a_mistake_in_the_class_shows_where_it_was_made() -> None:
    with pytest.raises(DefinitionError, match=r"names the compensation 'undo', which Forgot does not have"):

        class Forgot(Saga):
            @step(compensation="undo")
            async def first(self, ctx: SagaContext) -> None: ...

    with pytest.raises(DefinitionError, match=r"Plain.first must be async"):

        class Plain(Saga):
            @step()
            def first(self, ctx: SagaContext) -> None: ...

    with pytest.raises(DefinitionError, match=r"takes self and ctx, and nothing else"):

        class Greedy(Saga):
            @step()
            async def first(self, ctx: SagaContext, more: int) -> None: ...

    with pytest.raises(DefinitionError, match=r"Empty has no step"):

        class Empty(Saga):
            pass

    with pytest.raises(DefinitionError, match=r"takes an @event class"):
        starts_on(Create)
    with pytest.raises(DefinitionError, match=r"attempts begin at 1"):
        Retry(attempts=0)
    with pytest.raises(DefinitionError, match=r"must be positive"):
        step(timeout_seconds=0)


async def test_bad_input_is_refused_and_leaves_everything_working(store: EventStore | Path, gateway: Gateway) -> None:
    async with open_runtime(store) as runtime:
        with pytest.raises(UnknownSaga, match="not opened with Patient"):
            await runtime.start_saga(Patient([]), key="1")
        with pytest.raises(StreamNameInvalid):
            await runtime.start_saga(PlaceOrder("o1", 1), key="")
        with pytest.raises(EncodingError):
            await runtime.start_saga(PlaceOrder("o1", object()), key="1")  # type: ignore[arg-type]
        with pytest.raises(EventTooLarge):
            await runtime.start_saga(PlaceOrder("x" * 70_000, 1), key="1")
        with pytest.raises(UnknownSaga, match="No saga 'saga_place_order-none' was started"):
            await runtime.saga(PlaceOrder, "none").status()
        with pytest.raises(UnknownSignal, match="has no signal 'go'"):
            await runtime.signal(PlaceOrder, "o1", "go")
        assert runtime.last_position == 0
        saga = await runtime.start_saga(PlaceOrder("o1", 10), key="o1")
        assert (await saga.wait(timeout=10)).state == "completed"
    async with Runtime.open(MemoryLog(), aggregates=AGGREGATES) as runtime:
        with pytest.raises(UnknownSaga, match="opened without sagas"):
            runtime.sagas()


async def test_an_attribute_that_is_no_field_is_an_error_of_the_step(store: EventStore | Path) -> None:
    class Careless(Saga):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            self.payment = "lost"

    async with open_runtime(store, Careless) as runtime:
        saga = await runtime.start_saga(Careless(), key="1")
        status = await saga.wait(timeout=10)
        assert status.state == "compensated"
        assert "A step set self.payment, which is no field of Careless" in status.error


async def test_a_saga_that_waits_for_itself_is_told(store: EventStore | Path) -> None:
    errors = []
    running: list[Runtime] = []

    class Narcissus(Saga):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            try:
                await running[0].saga(Narcissus, ctx.key).wait()
            except SagaWaitsForItself as error:
                errors.append(error)

    async with open_runtime(store, Narcissus) as runtime:
        running.append(runtime)
        saga = await runtime.start_saga(Narcissus(), key="1")
        assert (await saga.wait(timeout=10)).state == "completed"
    assert errors[0].saga_id == "saga_narcissus-1"


def copy_of(function: Any, name: str) -> Any:
    return type(function)(function.__code__, function.__globals__, name)


async def test_a_step_that_the_class_no_longer_has_parks_the_saga() -> None:
    log = MemoryLog()

    def version(number: int, names: Sequence[str], **options: Any) -> type[Saga]:
        async def rest(self: Any, ctx: SagaContext) -> None:
            await ctx.approval("go")

        async def quick(self: Any, ctx: SagaContext) -> None:
            pass

        methods = {}
        for name in names:
            method = rest if name == "rest" else quick
            methods[name] = step()(copy_of(method, name))
        return type("Changing", (Saga,), methods, version=number, signals=["go"], **options)

    old = version(1, ["one", "rest"])
    async with open_runtime(log, old) as runtime:
        for key in ("a", "b", "c", "d"):
            await runtime.start_saga(old(), key=key)
        with trio.fail_after(10):
            while await runtime.sagas(state="waiting").count() < 4:
                await trio.sleep(0.01)

    async def after_signal(saga_class: type[Saga], key: str) -> SagaInstance:
        async with open_runtime(log, saga_class) as runtime:
            await runtime.signal(saga_class, key, "go")
            with trio.fail_after(10):
                while (await runtime.saga(saga_class, key).status()).state == "waiting":
                    await trio.sleep(0.01)
                await runtime.saga(saga_class, key).wait()
                return await runtime.saga(saga_class, key).status()

    gone = await after_signal(version(2, ["other", "rest"]), "a")
    assert gone.state == "parked"
    assert gone.error == "StepGone: Changing has no step 'one' any more, which this saga has begun."
    assert (await after_signal(version(2, ["one", "rest", "more"]), "b")).state == "completed"
    assert (await after_signal(version(2, ["one", "rest"], older_instances="park"), "c")).state == "parked"
    assert (await after_signal(version(2, ["one", "rest"], older_instances="compensate"), "d")).state == "compensated"


async def test_a_state_that_no_longer_fits_the_class_parks_the_saga() -> None:
    log = MemoryLog()

    class Old(Saga, name="growing", signals=["go"]):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            await ctx.approval("go")

    class New(Saga, name="growing", signals=["go"]):
        amount: int

        @step()
        async def only(self, ctx: SagaContext) -> None:
            await ctx.approval("go")

    async with open_runtime(log, Old) as runtime:
        await runtime.start_saga(Old(), key="1")
        with trio.fail_after(10):
            while await runtime.sagas(state="waiting").count() < 1:
                await trio.sleep(0.01)
    async with open_runtime(log, New) as runtime:
        saga = runtime.saga(New, "1")
        await saga.signal("go")
        with trio.fail_after(10):
            while (status := await saga.status()).state != "parked":
                await trio.sleep(0.01)
        assert status.error.startswith("DecodingError: The data does not fit New")


async def test_who_waits_for_a_saga_is_told_when_the_runtime_closes() -> None:
    errors: list[Exception] = []

    async def wait(saga: Any) -> None:
        try:
            await saga.wait()
        except RuntimeClosed as error:
            errors.append(error)

    async with trio.open_nursery() as nursery, open_runtime(MemoryLog(), Patient) as runtime:
        saga = await runtime.start_saga(Patient([]), key="1")
        nursery.start_soon(wait, saga)
        await trio.testing.wait_all_tasks_blocked()
    assert len(errors) == 1


async def test_an_interrupted_shutdown_resumes_where_it_was(store: EventStore | Path, gateway: Gateway) -> None:
    entered = trio.Event()

    class Interrupted(Saga):
        @step(retry=Retry(attempts=1))
        async def only(self, ctx: SagaContext) -> None:
            await ctx.ask(Stock, "all", Take(1))
            if not entered.is_set():
                entered.set()
                await trio.sleep_forever()

    async with open_runtime(store, Interrupted, limits=Limits(shutdown_seconds=0.05)) as runtime:
        await runtime.start_saga(Interrupted(), key="1")
        await entered.wait()
    async with open_runtime(store, Interrupted) as runtime:
        assert (await runtime.saga(Interrupted, "1").wait(timeout=10)).state == "completed"
        assert (await runtime.actor(Stock, "all").state()).changes == 1


async def test_nothing_is_printed_by_default(capfd: pytest.CaptureFixture[str], gateway: Gateway) -> None:
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        async with open_runtime(MemoryLog()) as runtime:
            saga = await runtime.start_saga(PlaceOrder("o1", 200), key="o1")
            await saga.wait(timeout=10)
    finally:
        root.handlers = handlers
    assert capfd.readouterr() == ("", "")
