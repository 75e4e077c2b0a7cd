"""How long events wait for a view, by the test's clock, and bounds on that."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit
from bank_views import Balance, Balances
from projection_cases import settle

from eventsrc import DefinitionError, MemoryLog, Projection, Runtime
from eventsrc.actors.projections.projector import Projector
from eventsrc.storage.record import StoredEvent

LONG_AGO_NS = int(datetime(1987, 6, 5, tzinfo=UTC).timestamp() * 1e9)


async def test_the_lag_is_how_long_the_oldest_event_has_waited(autojump_clock: trio.testing.MockClock) -> None:
    times = iter(range(LONG_AGO_NS, LONG_AGO_NS + 10**12, 10**9))
    async with Runtime.open(
        MemoryLog(), aggregates=[Account], projections=[Balances], wall_clock=lambda: next(times)
    ) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(1), wait_for=[Balances])
        await trio.sleep(1000)
        assert runtime.lag()["balances"].seconds == 0, "nothing waits in a log that is idle"
        await runtime.projections.pause(Balances)
        await ann.ask(Deposit(1))
        assert runtime.lag()["balances"].seconds == pytest.approx(0, abs=0.1), "whatever its time says"
        await trio.sleep(20)
        await ann.ask(Deposit(1))
        await trio.sleep(10)
        assert runtime.lag()["balances"].seconds == pytest.approx(30, abs=0.1), "the oldest of the two"
        await runtime.projections.resume(Balances)
        await settle(runtime)
        assert runtime.lag()["balances"].seconds == 0


async def test_what_was_there_before_waits_since_it_was_stored(tmp_path: Path) -> None:
    now_ns = LONG_AGO_NS
    async with Runtime.open(
        tmp_path, aggregates=[Account], projections=[Balances], wall_clock=lambda: now_ns
    ) as runtime:
        await runtime.projections.pause(Balances)
        await runtime.actor(Account, "ann").ask(Deposit(1))
    now_ns += 3600 * 10**9
    async with Runtime.open(
        tmp_path, aggregates=[Account], projections=[Balances], wall_clock=lambda: now_ns
    ) as runtime:
        assert runtime.lag()["balances"].seconds == pytest.approx(3600, abs=60)
        await runtime.projections.resume(Balances)
        await settle(runtime)
        assert runtime.lag()["balances"].seconds == 0


async def test_writers_are_slowed_down_so_that_no_event_waits_longer_than_the_bound(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Projector._apply

    async def slowly(self: Projector, events: Sequence[StoredEvent], *others: Any, **options: Any) -> None:
        await trio.sleep(0.004 * len(events))
        await apply(self, list(events), *others, **options)

    monkeypatch.setattr(Projector, "_apply", slowly)
    # What the machine takes is not to count, or the pauses for it would: nothing but the test's clock does.
    clock = SimpleNamespace(perf_counter=trio.current_time)
    for module in ("workshare", "projector"):
        monkeypatch.setattr(f"eventsrc.actors.projections.{module}.time", clock)

    class Bounded(Balances):
        max_lag_seconds = 1.0
        on_lag = "slow_writers"

    waited: list[float] = []
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Bounded]) as runtime:

        async def write(name: str) -> None:
            for _ in range(60):
                await runtime.actor(Account, name).ask(Deposit(1))
                waited.append(runtime.lag()["bounded"].seconds)

        async def look() -> None:
            while True:
                waited.append(runtime.lag()["bounded"].seconds)
                await trio.sleep(0.01)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            async with trio.open_nursery() as writers:
                for number in range(40):
                    writers.start_soon(write, f"a{number}")
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began > 8, "they had to wait"
        await settle(runtime, Bounded)
        assert await runtime.view(Bounded).get("a0") == Balance("a0", 60, 60)
    assert 0.1 < max(waited) <= 1.0


async def test_commands_go_on_while_a_new_version_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 10)
        await settle(runtime)

    class Newer(Balances, name="balances"):
        version = 2
        max_lag_seconds = 0.001
        max_lag_events = 1
        on_lag = "slow_writers"

    may_go_on = trio.Event()
    apply = Projector._apply

    async def held(self: Projector, *others: Any, **options: Any) -> None:
        await may_go_on.wait()
        await apply(self, *others, **options)

    monkeypatch.setattr(Projector, "_apply", held)
    newer: type[Projection] = Newer
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[newer]) as runtime:
        for _ in range(5):
            await runtime.actor(Account, "ann").ask(Deposit(1), timeout=60)
        assert await runtime.view(newer).get("ann") == Balance("ann", 10, 10), "the old view answers"
        may_go_on.set()
        await settle(runtime, newer, building=True)
        assert await runtime.view(newer).get("ann") == Balance("ann", 15, 15)


async def test_closing_does_not_wait_for_a_view_that_slows_writers_down(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Projector._apply

    async def slowly(self: Projector, *others: Any, **options: Any) -> None:
        await trio.sleep(100)
        await apply(self, *others, **options)

    monkeypatch.setattr(Projector, "_apply", slowly)

    class Bounded(Balances):
        max_lag_events = 2
        on_lag = "slow_writers"

    log, answered = MemoryLog(), list[float]()

    async def deposit(name: str) -> None:
        await runtime.actor(Account, name).ask(Deposit(1), timeout=1000)
        answered.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        async with Runtime.open(log, aggregates=[Account], projections=[Bounded]) as runtime:
            began = trio.current_time()
            for number in range(10):
                nursery.start_soon(deposit, f"a{number}")
            await trio.sleep(10)
            assert len(answered) == log.last_position == 2, "the others wait for the view"
        await trio.testing.wait_all_tasks_blocked()
    assert log.last_position == 10, "what was sent before is decided and stored"
    assert sorted(answered) == pytest.approx([0.0] * 2 + [10.0] * 8, abs=0.1)


def test_writers_are_slowed_down_at_a_bound() -> None:
    with pytest.raises(DefinitionError, match="Unbounded slows writers down at no bound"):

        class Unbounded(Balances):
            on_lag = "slow_writers"
