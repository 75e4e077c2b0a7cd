"""Compaction: events move to the archive and back, commands go on, and nobody who reads can tell."""

import itertools
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.lowlevel
from bank_domain import Account, Deposit, Note
from bank_views import Balance, Balances
from compaction_cases import LIMITS, all_events, fill, sound, stored_values
from msgspec import structs

from eventsrc import (
    ArchiveUnreachable,
    CompactionRefused,
    CompactionTooSmall,
    EventLog,
    MemoryLog,
    Recreate,
    Runtime,
    RuntimeReadOnly,
    Saga,
    SagaContext,
    Snapshots,
    step,
)
from eventsrc.runtime.maintenance import compactor
from eventsrc.runtime.testing import WallClock
from eventsrc.storage.archive import compaction
from eventsrc.storage.archive.archive import pack_segment
from eventsrc.storage.archive.compacted import Compacted
from eventsrc.storage.archive.compaction import move_step, unused_segments
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.reader import LogReader


async def test_the_events_before_a_snapshot_move_and_nobody_can_tell(path: Path) -> None:
    events, values = all_events(path), stored_values(path)
    async with Runtime.open(path, aggregates=[Account], projections=[Balances], limits=LIMITS) as runtime:
        ann = runtime.actor(Account, "ann")
        done = await runtime.maintenance.compact(Account, "ann")
        assert (done.stream, done.version, done.events) == ("account-ann", 40, 40)
        assert done.given_back_bytes > 2_000
        assert done.archived_bytes > 0
        assert [event async for event in runtime.events()] == events
        assert [event async for event in runtime.events(stream="account-ann")] == [
            event for event in events if event.stream == "account-ann"
        ]
        for version in (0, 1, 7, 39, 40, 41, 45):
            assert (await ann.state(at_version=version)).balance == sum(range(version + 1))
        assert (await ann.state()).balance == sum(range(46))
        assert (await ann.ask(Deposit(1))).version == 46
        assert await runtime.view(Balances).get("ann", at_least=91) == Balance("ann", sum(range(46)) + 1, 46)
        assert (await runtime.blame(Account, "ann"))["balance"].version == 46
    assert stored_values(path) != values
    assert sound(path)


async def test_one_compacted_event_stands_for_them(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(LogReader.open(path)) as log:
        compacted = log.compacted("account-ann")
        assert compacted is not None
        (fortieth,) = log.read_stream("account-ann", from_version=40, limit=1)
        event = compacted.event
        assert (event.kind, event.version, event.position, event.hash) == (
            "compacted",
            40,
            fortieth.position,
            fortieth.hash,
        )
        assert event.payload["state"] == {"balance": sum(range(41)), "notes": 0}
        assert [each.stream for each in log.compacted_streams()] == ["account-ann"]


async def test_uncompact_restores_the_stream_bit_for_bit(path: Path) -> None:
    values = stored_values(path)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
        await runtime.maintenance.compact(Account, "bob")
        assert await runtime.maintenance.uncompact(Account, "ann") == 40
        assert await runtime.maintenance.uncompact(Account, "bob") == 40
        with pytest.raises(CompactionRefused, match="cannot be put back"):
            await runtime.maintenance.uncompact(Account, "ann")
    assert stored_values(path) == values
    assert sound(path)


async def test_a_stream_is_compacted_further_as_it_grows(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
        with pytest.raises(CompactionTooSmall, match="5 of its events are not in the archive; it takes more than 20"):
            await runtime.maintenance.compact(Account, "ann")
        await fill(runtime, 40)
        done = await runtime.maintenance.compact(Account, "ann")
        assert (done.version, done.events) == (80, 40)
    events = all_events(path)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        assert await runtime.maintenance.uncompact(Account, "ann") == 80
        await runtime.maintenance.compact(Account, "bob")
    assert all_events(path) == events
    with closing(EventLog(path)) as log:
        compacted = log.compacted("account-bob")
        assert compacted is not None
        numbers = {segment.number for segment in compacted.segments}
        assert unused_segments(log) == ()
        with pytest.raises(ArchiveUnreachable, match="has no segment 1"):
            log.archive.check_has([1])
        log.archive.check_has(sorted(numbers))


async def test_commands_go_on_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "STEP_EVENTS_MAX", 3)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.maintenance.compact, Account, "ann")
            for _ in range(50):
                await runtime.actor(Account, "ann").ask(Deposit(1))
                await runtime.actor(Account, "bob").ask(Deposit(1))
        for name in ("ann", "bob"):
            assert (await runtime.actor(Account, name).state()).balance == sum(range(46)) + 50
    assert sound(path)


async def test_a_step_ends_when_a_commits_time_is_over_and_commands_come_in_between(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(compaction, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    steps: list[tuple[int, int]] = []

    def noted(log: EventLog, compacted: Compacted, after: int) -> int:
        steps.append((after, log.last_position))
        return move_step(log, compacted, after)

    monkeypatch.setattr(compactor, "move_step", noted)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime, trio.open_nursery() as nursery:

        async def work() -> None:
            while True:
                await runtime.actor(Account, "carl").ask(Deposit(1))

        nursery.start_soon(work)
        await runtime.maintenance.compact(Account, "ann")
        nursery.cancel_scope.cancel()
    assert [after for after, _ in steps] == list(range(40)), "a second is over at every look: one group a step"
    positions = [position for _, position in steps]
    assert len(set(positions)) > 5, "commands were stored between the steps"
    assert sound(path)


# --- killed at any point


class Killed(BaseException):
    """Stands for SIGKILL."""


STEPS = (
    "reserve_segments",
    "pack_segment",
    "store_compacted",
    "move_step",
    "restore_step",
    "remove_compacted",
    "remove_unused",
)


@pytest.mark.parametrize("count", [1, 2, 4, 9])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_after", [False, True])
async def test_a_process_killed_at_any_step_loses_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, count: int, is_after: bool
) -> None:
    """A copy of the folder as it is at that moment is what a killed process leaves."""
    monkeypatch.setattr(compaction, "STEP_EVENTS_MAX", 7)
    monkeypatch.setattr(compactor, "SEGMENT_EVENTS_MAX", 16)
    events, values = all_events(path), stored_values(path)
    copy = tmp_path / "copy"
    calls = 0
    original: Callable[..., object] = getattr(compactor, step)

    def snap() -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            shutil.copytree(path, copy, ignore=shutil.ignore_patterns("lock.mdb"))

    def wrapped(*arguments: object) -> object:
        if not is_after:
            snap()
        result = original(*arguments)
        if is_after:
            snap()
        return result

    monkeypatch.setattr(compactor, step, wrapped)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        for _ in range(2):
            await runtime.maintenance.compact(Account, "ann")
            await runtime.maintenance.uncompact(Account, "ann")
    monkeypatch.setattr(compactor, step, original)
    assert stored_values(path) == values
    if not copy.exists():
        assert count > 1, "every step is taken once at least"
        return
    assert all_events(copy) == events
    assert sound(copy)
    async with Runtime.open(copy, aggregates=[Account], limits=LIMITS) as runtime:
        # What was begun is finished by itself.
        with trio.fail_after(10):
            while (found := runtime.maintenance.compacted(Account, "ann")) is not None and found.phase != "moved":
                await trio.sleep(0.01)
        assert (await runtime.actor(Account, "ann").state()).balance == sum(range(46))
        assert [event async for event in runtime.events()] == events
        if runtime.maintenance.compacted(Account, "ann") is None:
            await runtime.maintenance.compact(Account, "ann")
        await runtime.maintenance.uncompact(Account, "ann")
    assert stored_values(copy) == values
    assert sound(copy)


# --- what is refused


async def test_what_is_refused(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        maintenance = runtime.maintenance
        with pytest.raises(CompactionRefused, match="there is no such stream"):
            await maintenance.compact(Account, "nobody")
        await runtime.actor(Account, "carl").ask(Deposit(1))
        with pytest.raises(CompactionTooSmall, match="1 of its events"):
            await maintenance.compact(Account, "carl")
        with pytest.raises(CompactionRefused, match="cannot be put back"):
            await maintenance.uncompact(Account, "carl")
    async with Runtime.open(path, limits=LIMITS) as runtime:
        with pytest.raises(CompactionRefused, match="no class of the category 'account'"):
            await runtime.maintenance.compact_stream("account-ann")
    async with Runtime.open(path, aggregates=[Account], role="reader") as runtime:
        with pytest.raises(RuntimeReadOnly):
            await runtime.maintenance.compact(Account, "ann")
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        with pytest.raises(CompactionRefused, match="no folder for an archive"):
            await runtime.maintenance.compact(Account, "ann")


async def test_a_snapshot_that_is_not_what_the_archive_gives_stops_it(path: Path) -> None:
    values = stored_values(path)
    with closing(EventLog(path)) as log:
        newest = log.snapshots("account-ann")[0]
        log.append([], [structs.replace(newest, is_proved=True, state={"balance": 1, "notes": 0})])
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        with pytest.raises(CompactionRefused, match="snapshot at version 40 is not what its events give"):
            await runtime.maintenance.compact(Account, "ann")
        await runtime.maintenance.compact(Account, "ann")  # by the older one
        compacted = runtime.maintenance.compacted(Account, "ann")
        assert compacted is not None
        assert compacted.version == 30
        await runtime.maintenance.uncompact(Account, "ann")
    assert stored_values(path) == values


class Unsnapped(Account, category="account", snapshots=Snapshots.never()):
    pass


async def test_a_class_without_snapshots_gets_one_for_it(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Unsnapped], limits=LIMITS) as runtime:
        ann = runtime.actor(Unsnapped, "ann")
        await ann.ask_many([Deposit(1)] * 30)
        assert (await runtime.maintenance.compact(Unsnapped, "ann")).version == 30
        await ann.ask(Note("after"))
    shutil.rmtree(tmp_path / "archive")
    async with Runtime.open(tmp_path, aggregates=[Unsnapped], limits=LIMITS) as runtime:
        state = await runtime.actor(Unsnapped, "ann").state()
        assert (state.balance, state.notes) == (30, 1), "the compacted event has the state"


class Bonus(Saga, signals=["pay"]):
    """Sends a command, and waits then."""

    account: str

    @step(compensation="nothing")
    async def promise(self, ctx: SagaContext) -> None:
        await ctx.ask(Account, self.account, Note("a bonus"))

    @step()
    async def pay(self, ctx: SagaContext) -> None:
        await ctx.approval("pay")
        await ctx.ask(Account, self.account, Deposit(1))

    async def nothing(self, ctx: SagaContext) -> None:
        pass


async def test_a_stream_that_an_unfinished_saga_has_to_do_with_is_left(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], sagas=[Bonus], limits=LIMITS) as runtime:
        ann = runtime.actor(Account, "ann")
        bonus = await runtime.start_saga(Bonus(account="ann"), key="1")
        with trio.fail_after(10):
            while not (await ann.version() and (await ann.state()).notes):
                await trio.sleep(0.01)
        await ann.ask_many([Deposit(1)] * 30)
        with pytest.raises(CompactionRefused, match=r"the saga .*, which has sent it commands, has not"):
            await runtime.maintenance.compact(Account, "ann")
        with pytest.raises(CompactionRefused, match="it is the stream of a saga, which has not ended"):
            await runtime.maintenance.compact_stream(bonus.id)
        assert list((await runtime.maintenance.retain()).refused) == ["account-ann"]
        await bonus.signal("pay")
        await bonus.wait()
        assert (await runtime.maintenance.compact(Account, "ann")).version == 31


async def test_an_unfinished_saga_whose_events_stay_in_the_log_holds_up_who_asks_and_not_the_policy(
    tmp_path: Path,
) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], sagas=[Bonus], limits=LIMITS) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(1)] * 30)
        bonus = await runtime.start_saga(Bonus(account="ann"), key="1")
        with trio.fail_after(10):
            while not (await ann.state()).notes:
                await trio.sleep(0.01)
        events = [event async for event in runtime.events(stream="account-ann")]
        with pytest.raises(CompactionRefused, match=r"the saga .*, which has sent it commands, has not"):
            await runtime.maintenance.compact(Account, "ann")
        assert runtime.maintenance.compacted(Account, "ann") is None
        assert [done.version for done in (await runtime.maintenance.retain()).compacted] == [30]
        assert [event async for event in runtime.events(stream="account-ann")] == events
        await bonus.signal("pay")
        assert (await bonus.wait()).state == "completed"


async def test_a_runtime_closes_in_the_middle_of_a_compaction_that_was_asked_for_from_outside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compactor, "SEGMENT_EVENTS_MAX", 4)
    events, packed = all_events(path), threading.Event()

    def pack(*arguments: Any) -> bytes:
        packed.set()
        return pack_segment(*arguments)

    monkeypatch.setattr(compactor, "pack_segment", pack)
    with closing(ControlBoard(path / "control")) as board:
        board.request("compact", "account-ann")
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS):
        assert await trio.to_thread.run_sync(packed.wait, 10)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        with trio.fail_after(10):
            while (found := runtime.maintenance.compacted(Account, "ann")) is None or found.phase != "moved":
                await trio.sleep(0.01)
    assert all_events(path) == events
    assert sound(path)


# --- retention


async def test_the_policy_names_long_streams_and_those_that_ended_long_ago(tmp_path: Path) -> None:
    clock = WallClock()
    async with Runtime.open(tmp_path, aggregates=[Account], limits=LIMITS, wall_clock=clock) as runtime:
        await runtime.actor(Account, "long").ask_many([Deposit(1)] * 25)
        await runtime.actor(Account, "short").ask_many([Deposit(1)] * 20)
        for name in ("old", "young"):
            await runtime.actor(Account, name).ask_many([Deposit(1)] * 4)
        await runtime.actor(Account, "old").delete()
        clock.advance(timedelta(days=20).total_seconds())
        await runtime.actor(Account, "young").delete()
        clock.advance(timedelta(days=15).total_seconds())
        planned = await runtime.maintenance.retain(dry_run=True)
        assert [(each.stream, each.events, each.reason) for each in planned.candidates] == [
            ("account-long", 25, "it has more than 20 events"),
            ("account-old", 5, "it was ended 35 days ago"),
        ]
        assert planned.compacted == []
        assert runtime.maintenance.compacted(Account, "long") is None
        done = await runtime.maintenance.retain()
        assert [(each.stream, each.version) for each in done.compacted] == [("account-long", 25), ("account-old", 4)]
        assert done.refused == {}
        assert (await runtime.maintenance.retain()).candidates == []
        await runtime.actor(Account, "old").ask(Recreate())
        assert (await runtime.actor(Account, "old").state(at_version=4)).balance == 4
    assert sound(tmp_path)
