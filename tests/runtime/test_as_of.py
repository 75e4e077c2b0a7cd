"""A runtime as of a moment: nothing can be changed in it, and what has come since does not show."""

import math
import shutil
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from bank_domain import Account, Deposit, Note
from bank_views import Balance, Balances
from compaction_cases import LIMITS as COMPACTION_LIMITS
from shop_domain import PlaceOrder

from eventsrc import (
    ArgumentInvalid,
    BackupRefused,
    EventQuery,
    Limits,
    NotInHistory,
    PastReadOnly,
    Recreate,
    Runtime,
    RuntimeReadOnly,
    UnknownProjection,
    ViewTooOld,
)
from eventsrc.runtime.testing import EPOCH, WallClock
from eventsrc.storage.archive.errors import ArchiveUnreachable
from eventsrc.storage.past import PastLog
from eventsrc.storage.reader import LogReader
from eventsrc.storage.store import EventStore

DEPOSITS = 3_000
"""More than a view takes in at once."""
CHANGES: dict[str, Callable[[Runtime], Any]] = {
    "ask": lambda past: past.actor(Account, "ann").ask(Deposit(1)),
    "ask with a condition": lambda past: past.actor(Account, "ann").ask(Deposit(1), unless=EventQuery(types=["x"])),
    "ask_many": lambda past: past.actor(Account, "ann").ask_many([Deposit(1)]),
    "ask_from_thread": lambda past: trio.to_thread.run_sync(
        lambda: past.actor(Account, "ann").ask_from_thread(Deposit(1))
    ),
    "tell": lambda past: past.actor(Account, "ann").tell(Deposit(1)),
    "tell from a thread": lambda past: trio.to_thread.run_sync(lambda: past.actor(Account, "ann").tell(Deposit(1))),
    "delete": lambda past: past.actor(Account, "ann").delete(),
    "transact": lambda past: past.transact([(Account, "ann", Deposit(1))]),
    "start_saga": lambda past: past.start_saga(PlaceOrder("order", 1), key="order"),
    "signal": lambda past: past.signal(PlaceOrder, "order", "confirmed"),
    "sagas": lambda past: past.sagas(),
    "consume": lambda past: past.consume("mailer"),
    "subscriptions": lambda past: past.subscriptions,
    "maintenance": lambda past: past.maintenance,
}


@pytest.mark.parametrize("change", CHANGES)
async def test_nothing_can_be_changed_in_the_past(store: EventStore | Path, change: str) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        async with runtime.as_of(position=1) as past:
            with pytest.raises(PastReadOnly, match=r"as of position 1.* runtime.fork") as refused:
                done = CHANGES[change](past)
                if isinstance(done, Awaitable):
                    await done
        assert isinstance(refused.value, RuntimeReadOnly)
        assert runtime.last_position == 1


async def test_a_subscription_to_the_past_ends_with_it(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1) for _ in range(5)])
        async with runtime.as_of(position=3) as past:
            with trio.fail_after(10):
                seen = [event.position async for batch in past.subscribe(batch_size=2) for event in batch]
        assert seen == [1, 2, 3]


async def test_what_came_since_does_not_show(tmp_path: Path) -> None:
    """Newer snapshots, newer states in memory, a deletion, another life: none of them is of then."""
    limits = Limits(snapshot_every_events=2)
    async with Runtime.open(tmp_path / "store", aggregates=[Account], limits=limits) as runtime:
        ann = runtime.actor(Account, "ann")
        for _ in range(7):
            await ann.ask(Deposit(1))
        await ann.delete()
        await ann.ask(Recreate())
        await ann.ask(Note("anew"))
        assert (await ann.state()).balance == 0
        assert runtime.resident_actors == 1
        for position in range(1, 8):
            async with runtime.as_of(position=position, projections=[Balances]) as past:
                state = await past.actor(Account, "ann").state()
                assert (state.balance, past.last_position) == (position, position)
                assert await past.view(Balances.rows).get("ann") == Balance("ann", position, position)
                replay = past.replay("from_snapshot", aggregate=(Account, "ann"))
                assert replay.snapshot_version <= position
                assert (await replay.run()).state.balance == position
                async with past.as_of(position=1) as before:
                    assert (await before.actor(Account, "ann").state()).balance == 1
        assert (await ann.state()).notes == 1


async def test_the_names_of_what_came_since_are_not_known_in_the_past(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=COMPACTION_LIMITS) as runtime:
        newest = runtime.last_position
        for name in ("ann", "bob"):
            await runtime.maintenance.compact(Account, name)
        await runtime.actor(Account, "zoe").ask(Note("new"))
    for without_archive in (False, True):
        if without_archive:
            shutil.rmtree(path / "archive")
        with closing(LogReader.open(path)) as log:
            assert log.names_in("types") == ["account.deposited", "account.noted"]
            assert PastLog(log, newest).names_in("types") == ["account.deposited"]
    with closing(LogReader.open(path)) as log, pytest.raises(ArchiveUnreachable):
        log.read_type("account.deposited", limit=1)


async def test_a_view_that_was_not_asked_for_is_said_with_where_to_ask_for_it(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], projections=[Balances]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        async with runtime.as_of(position=1) as past:
            with pytest.raises(UnknownProjection, match=r"for the past to as_of\(projections=\[\.\.\.\]\)"):
                past.view(Balances)


async def test_the_past_is_not_copied(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * 2)
        async with runtime.as_of(position=1) as past:
            for copy in (past.backup(tmp_path / "copy"), past.fork(1, tmp_path / "copy")):
                with pytest.raises(BackupRefused, match=r"store as of position 1\. Copy the store by a runtime of now"):
                    await copy
    assert not (tmp_path / "copy").exists()


async def test_the_past_reaches_into_the_archive(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=COMPACTION_LIMITS) as runtime:
        before = {position: await _answers(runtime, position) for position in (1, 20, 41, 90)}
        blamed = await runtime.blame(Account, "ann")
        difference = await runtime.diff(Account, "ann", 3, 30)
        await runtime.maintenance.compact(Account, "ann")
        assert runtime.maintenance.compacted(Account, "ann") is not None
        assert {position: await _answers(runtime, position) for position in before} == before
        assert await runtime.blame(Account, "ann") == blamed
        assert await runtime.diff(Account, "ann", 3, 30) == difference
        assert (await runtime.replay("full", aggregate=(Account, "ann")).run()).state.balance == sum(range(1, 46))


async def _answers(runtime: Runtime, position: int) -> tuple[Any, ...]:
    async with runtime.as_of(position=position, projections=[Balances]) as past:
        rows = await past.view(Balances.rows).all().rows()
        events = [event.hash async for event in past.events()]
        return (await past.actor(Account, "ann").state()).balance, rows, events


async def test_the_wait_for_views_of_then_has_a_bound(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask_many([Deposit(1)] * DEPOSITS)
        with pytest.raises(ViewTooOld, match="seen position"):
            async with runtime.as_of(position=DEPOSITS, projections=[Balances], timeout=0):
                pytest.fail("its views are not ready")
        async with runtime.as_of(position=DEPOSITS, projections=[Balances], timeout=60) as past:
            assert len(await past.view(Balances.rows).all().rows()) == 1
            with trio.fail_after(10), pytest.raises(NotInHistory, match=f"past, which ends at {DEPOSITS}"):
                await past.view(Balances).get("ann", at_least=DEPOSITS + 1, timeout=1_000)
            with trio.fail_after(10):
                stale = past.view(Balances).fresh(at_least=DEPOSITS + 1, timeout=1_000, on_timeout="stale")
                assert await stale.count() == 1
        with pytest.raises(ArgumentInvalid, match="timeout"):
            async with runtime.as_of(position=1, timeout=math.nan):
                pytest.fail("that is no time")


async def test_a_position_inside_of_a_transaction_shows_a_part_of_it_and_a_time_does_not(
    store: EventStore | Path,
) -> None:
    clock = WallClock()
    async with Runtime.open(store, aggregates=[Account], wall_clock=clock) as runtime:
        for _ in range(2):
            clock.advance(60)
            await runtime.transact([(Account, "ann", Deposit(1)), (Account, "bob", Deposit(1))])

        async def balances(**moment: Any) -> list[int]:
            async with runtime.as_of(**moment) as past:
                return [(await past.actor(Account, name).state()).balance for name in ("ann", "bob")]

        assert await balances(position=3) == [2, 1]
        assert await balances(time=EPOCH + timedelta(minutes=2)) == [2, 2], "the last event of that time"
        assert await balances(time=EPOCH + timedelta(seconds=119)) == [1, 1]
        assert await balances(time=EPOCH + timedelta(days=9)) == [2, 2], "after the newest event is now"


async def test_what_is_asked_by_time_is_found_when_the_clock_was_set_back_between_two_runs(
    tmp_path: Path,
) -> None:
    clock, path = WallClock(), tmp_path / "store"
    for _ in range(2):
        async with Runtime.open(path, aggregates=[Account], wall_clock=clock) as runtime:
            for _ in range(3):
                await runtime.actor(Account, "ann").ask(Deposit(1))
        clock.advance(-1_000)
    async with Runtime.open(path, aggregates=[Account], wall_clock=clock) as runtime:
        events = [event async for event in runtime.events(until=EPOCH + timedelta(seconds=1))]
        assert len(events) == 6
        assert {event.time_ns for event in events} == {clock.now_ns + 2_000 * 10**9}, "they do not run backwards"
        async with runtime.as_of(time=EPOCH) as past:
            assert (await past.actor(Account, "ann").state()).balance == 6


async def test_what_is_no_moment_is_said(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(1))
        moments: list[dict[str, Any]] = [{"position": True}, {"position": "1"}, {"position": 1.0}, {"time": 5}]
        for moment in moments:
            with pytest.raises(ArgumentInvalid, match="give a"):
                async with runtime.as_of(**moment):
                    pass
        for version in (True, "1", 1.0):
            with pytest.raises(ArgumentInvalid, match="give a whole number"):
                await ann.state(at_version=version)  # type: ignore[arg-type]
