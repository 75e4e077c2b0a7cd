"""Replay under control: steered by other tasks, at a pace, with its progress, and with errors that name the event."""

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit, Deposited, Note
from bank_views import Balance, Balances
from replay_cases import LIMITS, MINUTE, Seen, twenty_events

from eventsrc import (
    Aggregate,
    AnyOf,
    ApplierFailed,
    ArgumentInvalid,
    DefinitionError,
    MemoryLog,
    NotInHistory,
    Projection,
    ReplayHandlerFailed,
    ReplayNotEntered,
    ReplayPositionPassed,
    ReplaySpeedInvalid,
    ReplayStarted,
    Runtime,
    Table,
    UnknownEventType,
    applies,
    command,
    event,
    handles,
    on,
)
from eventsrc.storage.query import QUERY_BATCH_EVENTS
from eventsrc.storage.record import StoredEvent
from eventsrc.storage.store import EventStore


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with twenty_events() as opened:
        yield opened


# -- steering


async def test_a_pause_takes_effect_while_the_replay_waits_for_an_events_time(
    runtime: Runtime, autojump_clock: trio.testing.MockClock
) -> None:
    seen = Seen()
    replay = runtime.replay("full", into=seen, speed=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay.run)
        await trio.sleep(1.5 * MINUTE)
        assert seen.positions == [1, 2]
        replay.pause()
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await replay.wait_paused()
        await trio.sleep(1000 * MINUTE)
        assert seen.positions == [1, 2], "nothing comes while it is paused"
        resumed = trio.current_time()
        replay.resume()
        await trio.sleep(0.6 * MINUTE)
        assert seen.positions == [1, 2, 3], "what was left of the wait is waited for"
        assert seen.times[-1] - resumed == pytest.approx(0.5 * MINUTE)
    assert seen.positions == list(range(1, 21))
    assert seen.times[-1] - seen.times[2] == pytest.approx(17 * MINUTE)


async def test_a_step_lets_exactly_one_event_by_and_does_not_wait_for_its_time(
    runtime: Runtime, autojump_clock: trio.testing.MockClock
) -> None:
    seen = Seen()
    replay = runtime.replay("full", into=seen, speed=0.1)
    replay.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay.run)
        begun = trio.current_time()
        for count in (1, 2, 3):
            replay.step()
            await replay.wait_paused()
            assert len(seen.positions) == count
        for _ in range(4):
            replay.step()
        await replay.wait_paused()
        assert seen.positions == list(range(1, 8)), "four steps are four events"
        assert trio.current_time() == begun
        replay.speed = "flat"
        replay.resume()
    assert (seen.positions[-1], replay.speed) == (20, None)


async def test_a_replay_is_steered_by_its_own_handler(runtime: Runtime) -> None:
    seen = Seen()

    def pause_at_five(event: StoredEvent) -> None:
        seen(event)
        if event.position == 5:
            replay.pause()

    replay = runtime.replay("full", into=pause_at_five)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay.run)
        await replay.wait_paused()
        assert (seen.positions, replay.is_paused) == ([1, 2, 3, 4, 5], True)
        replay.resume()


async def test_run_to_stops_behind_a_position_or_before_the_next_one_beyond_it(runtime: Runtime) -> None:
    seen = Seen()
    replay = runtime.replay("full", into=seen, stream="account-ann")
    replay.run_to(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay.run)
        await replay.wait_paused()
        assert seen.positions == [1, 3, 5]
        replay.run_to(8)
        await replay.wait_paused()
        assert seen.positions == [1, 3, 5, 7], "8 is bob's"
        assert replay.progress.position == 7
        with pytest.raises(ReplayPositionPassed, match="at position 7, beyond 6"):
            replay.run_to(6)
        with pytest.raises(NotInHistory, match="ends at position 20"):
            replay.run_to(21)
        with pytest.raises(ArgumentInvalid):
            replay.run_to("8")  # type: ignore[arg-type]
        with pytest.raises(ArgumentInvalid, match="0 or more"):
            replay.run_to(-1)
        replay.run_to(7)
        await replay.wait_paused()
        assert replay.progress.position == 7, "it is there"
        replay.run_to(20)
    assert seen.positions[-1] == 19
    assert replay.progress.fraction == 1
    with pytest.raises(ReplayPositionPassed):
        replay.run_to(3)


async def test_a_replay_runs_once(runtime: Runtime) -> None:
    replay = runtime.replay("full", aggregate=(Account, "ann"))
    await replay.run()
    with pytest.raises(ReplayStarted, match="runs once"):
        await replay.run()
    assert replay.state.balance == 55


async def test_a_replay_may_be_cancelled_wherever_it_waits(
    runtime: Runtime, autojump_clock: trio.testing.MockClock
) -> None:
    async def slow(event: StoredEvent) -> None:
        await trio.sleep(1)

    for speed, into, is_paused in ((0.1, print, True), (1, lambda _: None, False), (None, slow, False)):
        replay = runtime.replay("full", into=into, speed=speed)
        if is_paused:
            replay.pause()
        with trio.move_on_after(2.5) as scope:
            await replay.run()
        assert scope.cancelled_caught
        with trio.fail_after(1):
            await replay.wait_paused()
        assert replay.progress.events < 20
        with pytest.raises(ReplayStarted):
            await replay.run()


async def test_other_tasks_get_their_turn_while_nothing_is_found(runtime: Runtime) -> None:
    await runtime.actor(Account, "ann").ask_many([Deposit(1) for _ in range(2_000)])
    turns = 0
    done = False

    async def count() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        progress = (await runtime.replay("selective", into=print, metadata={"nobody": "has this"}).run()).progress
        done = True
    assert (progress.events, progress.fraction, progress.seconds_left) == (0, 1, 0)
    assert turns >= 2_000 // QUERY_BATCH_EVENTS


# -- errors


async def test_what_a_handler_raises_names_the_event(runtime: Runtime) -> None:
    def plain(event: StoredEvent) -> None:
        if event.position == 7:
            raise ZeroDivisionError("seven")

    async def waiting(event: StoredEvent) -> None:
        await trio.lowlevel.checkpoint()
        plain(event)

    for into in (plain, waiting):
        replay = runtime.replay("full", into=into)
        with pytest.raises(
            ReplayHandlerFailed, match=r"'account.deposited' of 'account-ann' \(version 4, position 7\)"
        ) as e:
            await replay.run()
        assert (e.value.position, e.value.version, e.value.stream) == (7, 4, "account-ann")
        assert isinstance(e.value.__cause__, ZeroDivisionError)
        assert replay.progress.events == 6


class Picky(Projection):
    rows = Table(Balance, key="account")

    @on(Deposited)
    def deposited(self, event: Deposited, meta: StoredEvent) -> None:
        if meta.position == 7:
            raise ZeroDivisionError("seven")
        self.rows.put(Balance(meta.aggregate_id, event.amount, meta.version))


async def test_what_a_projection_raises_names_the_event_and_leaves_what_came_before(runtime: Runtime) -> None:
    async with runtime.replay("full", projection=Picky) as replay:
        with pytest.raises(ReplayHandlerFailed, match="position 7"):
            await replay.run()
        assert replay.progress.events == 6
        assert [row.changes for row in replay.rows(Picky.rows)] == [3, 3]


async def test_an_applier_that_raises_names_the_event_and_leaves_the_state_before_it(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Account, event: Deposited) -> None:
        if event.amount == 4:
            raise ZeroDivisionError
        self.balance += event.amount

    replay = runtime.replay("full", aggregate=(Account, "bob"))
    monkeypatch.setitem(Account.__eventsrc_definition__.appliers, Deposited, failing)  # type: ignore[arg-type]
    with pytest.raises(ApplierFailed, match="version 4, at position 8"):
        await replay.run()
    assert (replay.state.balance, replay.progress.events, replay.progress.position) == (6, 3, 6)


async def test_what_cannot_be_replayed_is_refused_at_once(runtime: Runtime) -> None:
    for speed in (0, -1, 0.05, 100.5, math.nan, math.inf, "fast", True):
        with pytest.raises(ReplaySpeedInvalid, match=r"0.1 to 100 times .* not at"):
            runtime.replay("full", into=print, speed=speed)  # type: ignore[arg-type]
    for seconds in (-1, math.nan, "long"):
        with pytest.raises(ArgumentInvalid, match="in seconds"):
            runtime.replay("full", into=print, speed=1, wait_seconds_max=seconds)  # type: ignore[arg-type]
    with pytest.raises(UnknownEventType, match=r"'account.depositd' .* Near it: account.deposited"):
        runtime.replay("selective", into=print, types=["account.depositd"])
    with pytest.raises(ValueError, match="leave out stream="):
        runtime.replay("full", aggregate=(Account, "ann"), stream="account-bob")
    with pytest.raises(ValueError, match="two replays"):
        runtime.replay("full", aggregate=(Account, "ann"), projection=Balances)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="takes no filter"):
        runtime.replay("full", into=print, types=[])
    with pytest.raises(ValueError, match="types is empty"):
        runtime.replay("selective", into=print, types=[])
    wrong: Any
    for wrong in (Account, "account-ann", (Account, "ann", 1)):
        with pytest.raises(ArgumentInvalid, match=r"give its class and its id: \(Account, 'ann'\)"):
            runtime.replay("full", aggregate=wrong)
    for wrong in (Account, "balances"):
        with pytest.raises(DefinitionError, match="is no projection: give subclasses of Projection"):
            runtime.replay("full", projection=wrong)
    wrong = 5
    with pytest.raises(ArgumentInvalid, match="into=5 cannot be used: give a function"):
        runtime.replay("full", into=wrong)
    for fitting in (0.1, 100, "flat", None):
        runtime.replay("full", into=print, speed=fitting)  # type: ignore[arg-type]


# -- what is replayed


async def test_metadata_select_by_value_and_type(runtime: Runtime) -> None:
    ann = runtime.actor(Account, "ann")
    for value in (3, "3", True, 1, None, 2.5):
        await ann.ask(Note("x"), metadata={"attempts": value})
    first = runtime.last_position - 5

    async def found(value: object) -> list[int]:
        seen = Seen()
        await runtime.replay("selective", into=seen, metadata={"attempts": value}).run()
        return [position - first for position in seen.positions]

    assert [await found(value) for value in (3, "3", True, 1, None, 2.5, False, 3.0)] == [
        [0], [1], [2], [3], [4], [5], [], [0],
    ]  # fmt: skip
    assert await found(AnyOf(("3", 3))) == [0, 1]


@event("parcel.sent", tags=lambda event: [f"to:{event.city}", "parcel"])
class Sent:
    city: str


@command
class Send:
    city: str


class Parcel(Aggregate):
    city: str = ""

    @handles
    def send(self, command: Send) -> Sent:
        return Sent(command.city)

    @applies
    def sent(self, event: Sent) -> None:
        self.city = event.city


async def test_a_category_or_tags_select_also_together_with_a_type_and_a_stream(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account, Parcel]) as runtime:
        for city in ("Rome", "Oslo"):
            await runtime.actor(Account, "ann").ask(Deposit(1))
            await runtime.actor(Parcel, city).ask(Send(city))
        await runtime.actor(Parcel, "Oslo").ask(Send("Rome"))
        cases: list[tuple[dict[str, Any], list[int]]] = [
            ({"category": "parcel"}, [2, 4, 5]),
            ({"tag": "to:Rome"}, [2, 5]),
            ({"tag": ["parcel", "to:Oslo"]}, [4]),
            ({"tag": "to:Rome", "stream": "parcel-Oslo"}, [5]),
            ({"category": "account", "types": [Sent]}, []),
            ({"tag": "to:nowhere"}, []),
        ]
        for filters, positions in cases:
            seen = Seen()
            await runtime.replay("selective", into=seen, **filters).run()
            assert seen.positions == positions, filters
        replay = await runtime.replay("selective", aggregate=(Parcel, "Oslo"), tag="to:Oslo").run()
        assert replay.state.city == "Oslo"


async def test_a_replay_into_a_projection_leaves_the_view_that_answers_alone(runtime: Runtime) -> None:
    view = runtime.view(Balances.rows)
    before = await view.all().fresh(at_least=runtime.last_position).rows()
    replay = runtime.replay("full", projection=Balances)
    with pytest.raises(ReplayNotEntered, match=r"async with runtime.replay\(..., projection=Balances\)"):
        await replay.run()
    with pytest.raises(ReplayNotEntered):
        replay.rows(Balances.rows)
    async with replay:
        replay.run_to(4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replay.run)
            await replay.wait_paused()
            assert replay.rows(Balances.rows) == [Balance("ann", 3, 2), Balance("bob", 3, 2)]
            assert await view.all().rows() == before
            replay.resume()
        assert replay.rows(Balances.rows) == before
    with pytest.raises(ReplayNotEntered):
        replay.rows(Balances.rows)
    assert runtime.last_position == 20
    unused = runtime.replay("full", projection=Balances)
    assert unused.progress.events == 0, "one that is never entered leaves nothing behind"


async def test_a_replay_from_a_snapshot_says_which_and_falls_back(runtime: Runtime) -> None:
    seen = Seen()
    replay = runtime.replay("from_snapshot", aggregate=(Account, "ann"), into=seen)
    assert (replay.snapshot_version, replay.state.balance) == (9, 45)
    await replay.run()
    assert (seen.positions, replay.state.balance) == ([19], 55)
    for unusable in ({"event_hash": b"of another history"}, {"schema": "of another shape"}, {"quarantined": "false"}):
        log = MemoryLog()
        async with Runtime.open(log, aggregates=[Account], limits=LIMITS) as other:
            for _ in range(10):
                await other.actor(Account, "ann").ask(Deposit(1))
            newest = log.snapshots("account-ann")[0]
            assert newest.version == 9
            log.append([], [msgspec.structs.replace(newest, **unusable)])
            older = await other.replay("from_snapshot", aggregate=(Account, "ann")).run()
            assert (older.snapshot_version, older.state.balance, older.progress.events) == (6, 10, 4)
    none = await runtime.replay("from_snapshot", aggregate=(Account, "nobody")).run()
    assert (none.snapshot_version, none.state.balance, none.progress.fraction) == (0, 0, 1)
