"""Sagas that wait: for time, for events and for people, over restarts."""

import enum
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from saga_cases import KilledLog, Patient, open_runtime
from shop_domain import Create, Created, Order, Stock

from eventsrc import (
    Aggregate,
    EncodingError,
    EventMeta,
    MemoryLog,
    Retry,
    Runtime,
    Saga,
    SagaContext,
    SagaEnded,
    SagaInstance,
    applies,
    command,
    event,
    handles,
    starts_on,
    step,
)
from eventsrc.actors.sagas.alarms import CLEARED_MAX
from eventsrc.runtime.testing import FollowingClock, WallClock
from eventsrc.storage.store import EventStore

# --- time ---


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


async def test_what_comes_with_a_signal_is_the_same_while_the_saga_runs_and_when_it_is_run_again() -> None:
    begun, is_sent = trio.Event(), trio.Event()
    payloads: list[Any] = []

    class Busy(Saga, signals=["go"]):
        @step(retry=Retry(attempts=2, backoff_seconds=0.001))
        async def only(self, ctx: SagaContext) -> None:
            begun.set()
            await is_sent.wait()
            payloads.append(await ctx.approval("go"))
            if ctx.attempt == 1:
                raise ValueError("once more")

    async with open_runtime(MemoryLog(), Busy) as runtime:
        saga = await runtime.start_saga(Busy(), key="1")
        await begun.wait()
        with pytest.raises(EncodingError, match="The payload of the signal 'go' is no plain data"):
            await saga.signal("go", [object()])
        await saga.signal("go", {"order": Created(5), "at": datetime(2026, 1, 2, tzinfo=UTC), "by": ("ann",)})
        is_sent.set()
        await saga.wait(timeout=10)
    assert payloads[0] == payloads[1] == {"order": {"total": 5}, "at": "2026-01-02T00:00:00Z", "by": ["ann"]}


async def test_each_saga_that_waits_is_counted_once_and_costs_no_task(autojump_clock: trio.testing.MockClock) -> None:
    class Idle(Saga, signals=["go"]):
        how: str

        @step()
        async def only(self, ctx: SagaContext) -> None:
            match self.how:
                case "signal":
                    await ctx.approval("go")
                case "signal in time":
                    await ctx.approval("go", timeout_seconds=3_600)
                case "event":
                    await ctx.wait_for(Created)
                case "event in time":
                    await ctx.wait_for(Created, timeout_seconds=3_600)
                case _:
                    await ctx.sleep(days=1)

    async with open_runtime(MemoryLog(), Idle, wall_clock=FollowingClock()) as runtime:
        tasks = trio.lowlevel.current_statistics().tasks_living
        for how in ("signal", "signal in time", "event", "event in time", "sleep"):
            for number in range(20):
                await runtime.start_saga(Idle(how), key=f"{how} {number}")
        while await runtime.sagas(state="waiting").count() < 100:
            await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
        assert runtime.saga_counts == {"running": 0, "ready": 0, "waiting": 100}
        assert trio.lowlevel.current_statistics().tasks_living - tasks < 10


async def test_a_step_that_never_returns_is_cut_off_and_compensated(autojump_clock: trio.testing.MockClock) -> None:
    class Endless(Saga):
        @step(timeout_seconds=30)
        async def only(self, ctx: SagaContext) -> None:
            await trio.sleep_forever()

    async with open_runtime(MemoryLog(), Endless, wall_clock=FollowingClock()) as runtime:
        saga = await runtime.start_saga(Endless(), key="1")
        status = await saga.wait(timeout=1000)
        assert status.state == "compensated"
        assert status.error.startswith("StepTimeout: only did not return in 30 seconds. Give it more")


class Gate(Saga, signals=["go"]):
    """Waits for a signal, and for nothing else."""

    payload: Any = None

    @step()
    async def only(self, ctx: SagaContext) -> None:
        self.payload = await ctx.approval("go")


async def test_a_signal_that_was_answered_is_there_after_the_process_was_killed() -> None:
    log = KilledLog()
    async with open_runtime(log, Gate) as runtime:
        saga = await runtime.start_saga(Gate(), key="1")
        with trio.fail_after(10):
            while (await saga.status()).state != "waiting":
                await trio.sleep(0.01)
    log.appends_left, log.kills_after = 1, True
    with pytest.raises(BaseExceptionGroup):
        async with open_runtime(log, Gate) as runtime:
            await runtime.signal(Gate, "1", "go", "now")
    log.appends_left = float("inf")
    async with open_runtime(log, Gate) as runtime:
        outcome = await runtime.saga(Gate, "1").wait(timeout=10)
        assert (outcome.state, outcome.saga.payload) == ("completed", "now")


# --- which events a wait sees ---


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


@command
class Paint:
    colour: Colour
    id: uuid.UUID
    price: Decimal
    at: datetime
    parts: tuple[int, ...] = ()


@event("wall.painted")
class Painted:
    colour: Colour
    id: uuid.UUID
    price: Decimal
    at: datetime
    parts: tuple[int, ...] = ()


class Wall(Aggregate):
    @handles
    def paint(self, command: Paint) -> Painted:
        return Painted(command.colour, command.id, command.price, command.at, command.parts)

    @applies
    def painted(self, event: Painted) -> None:
        pass


ID = uuid.UUID(int=7)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "where",
    [{"colour": Colour.RED}, {"id": ID}, {"price": Decimal("1.50")}, {"at": NOON}, {"parts": (1, 2)}, {"id": str(ID)}],
)
@pytest.mark.parametrize("comes_before", [True, False])
async def test_any_value_that_a_field_holds_can_be_waited_for(where: dict[str, Any], comes_before: bool) -> None:
    class Watch(Saga):
        seen: int = 0

        @step()
        async def only(self, ctx: SagaContext) -> None:
            self.seen = (await ctx.wait_for(Painted, where=where)).parts[0]

    async with Runtime.open(MemoryLog(), aggregates=[Wall], sagas=[Watch]) as runtime:
        wall = runtime.actor(Wall, "w")

        async def paint() -> None:
            await wall.ask(Paint(Colour.BLUE, uuid.UUID(int=8), Decimal("1.51"), NOON + timedelta(seconds=1), (2, 1)))
            await wall.ask(Paint(Colour.RED, ID, Decimal("1.50"), NOON, (1, 2)))

        saga = await runtime.start_saga(Watch(), key="1")
        if comes_before:
            await paint()
        else:
            await trio.testing.wait_all_tasks_blocked()
            await paint()
        outcome = await saga.wait(timeout=10)
        assert (outcome.state, outcome.saga.seen) == ("completed", 1)


async def test_a_field_that_the_event_does_not_have_cannot_be_waited_for() -> None:
    class Typo(Saga):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            await ctx.wait_for(Created, where={"totl": 5})

    async with open_runtime(MemoryLog(), Typo) as runtime:
        outcome = await (await runtime.start_saga(Typo(), key="1")).wait(timeout=10)
        assert outcome.error == "DefinitionError: Created has no field 'totl'; it has total."

    class Function(Saga):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            await ctx.wait_for(Created, where=lambda event: True)  # type: ignore[arg-type]

    async with open_runtime(MemoryLog(), Function) as runtime:
        outcome = await (await runtime.start_saga(Function(), key="1")).wait(timeout=10)
        assert outcome.error.startswith(
            "DefinitionError: where= takes values by the names of fields, {'total': 5}, not"
        )


class Collector(Saga):
    """Waits for the same three times, and for what it did itself."""

    seen: list[str]

    @step()
    async def own(self, ctx: SagaContext) -> None:
        await ctx.ask(Order, f"own-{ctx.key}", Create(1))

    @step()
    async def first(self, ctx: SagaContext) -> None:
        self.seen.append(f"{(await ctx.wait_for(Created)).total}")

    @step(retry=Retry(attempts=2, backoff_seconds=0.001))
    async def second(self, ctx: SagaContext) -> None:
        two = [await ctx.wait_for(Created), await ctx.wait_for(Created)]
        self.seen += [f"{each.total}" for each in two]
        if ctx.attempt == 1:
            raise ValueError("once more")


@pytest.mark.parametrize("restarts", [False, True])
async def test_each_event_since_the_saga_was_started_is_given_to_one_wait(
    store: EventStore | Path, restarts: bool
) -> None:
    async with open_runtime(store, Collector) as runtime:
        await runtime.actor(Order, "before").ask(Create(9))
        saga = await runtime.start_saga(Collector([]), key="1")
        with trio.fail_after(20):
            while (status := await saga.status()).state != "waiting" or status.step != "second":
                await trio.sleep(0.001)
        if not restarts:
            await runtime.actor(Order, "x").ask(Create(2))
            await runtime.actor(Order, "y").ask(Create(3))
            assert (await saga.wait(timeout=20)).saga.seen == ["1", "2", "3"]
    if restarts:
        async with open_runtime(store) as runtime:
            await runtime.actor(Order, "x").ask(Create(2))
        async with open_runtime(store, Collector) as runtime:
            with trio.fail_after(20):
                while (await runtime.saga(Collector, "1").status()).waits_after < runtime.last_position - 4:
                    await trio.sleep(0.001)
            await runtime.actor(Order, "y").ask(Create(3))
            assert (await runtime.saga(Collector, "1").wait(timeout=20)).saga.seen == ["1", "2", "3"]


async def test_a_saga_that_an_event_started_sees_what_came_right_behind_it(tmp_path: Path) -> None:
    class Follower(Saga):
        @starts_on(Created)
        @classmethod
        def on_created(cls, event: Created, meta: EventMeta) -> "Follower | None":
            return cls() if event.total == 1 else None

        @step()
        async def only(self, ctx: SagaContext) -> None:
            await ctx.wait_for(Created, where={"total": 2}, timeout_seconds=5)

    async with open_runtime(tmp_path, Follower):
        pass
    async with open_runtime(tmp_path) as runtime:
        await runtime.actor(Order, "early").ask(Create(2))
        await runtime.actor(Order, "cause").ask(Create(1))
        await runtime.actor(Order, "next").ask(Create(2))
    async with open_runtime(tmp_path, Follower) as runtime:
        with trio.fail_after(20):
            while await runtime.sagas(state="completed").count() < 1:
                await trio.sleep(0.01)
        over = [stored.payload["position"] async for stored in runtime.events(types=["saga.wait_over"])]
        (seen,) = [stored async for stored in runtime.events(after=over[0] - 1, limit=1)]
        assert seen.stream == "order-next"


async def test_sagas_that_were_answered_before_their_time_leave_nothing_behind() -> None:
    class Approved(Saga, signals=["yes"]):
        @step()
        async def only(self, ctx: SagaContext) -> None:
            await ctx.approval("yes", timeout_seconds=3 * 86_400)

    async with open_runtime(MemoryLog(), Approved) as runtime:
        for number in range(300):
            saga = await runtime.start_saga(Approved(), key=f"{number}")
            await saga.signal("yes")
            assert (await saga.wait(timeout=10)).state == "completed"
        assert runtime.saga_counts == {"running": 0, "ready": 0, "waiting": 0}
        assert runtime._supervised.supervisor._alarms.kept_count <= CLEARED_MAX
