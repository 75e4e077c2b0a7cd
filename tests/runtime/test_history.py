"""The past: states, events and views as of any moment, what changed in between, and who changed it."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit, Deposited, Note, Withdraw
from bank_views import Balance, Balances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventsrc import (
    ArgumentInvalid,
    BackupRefused,
    Limits,
    MemoryLog,
    NotInHistory,
    ReplaySpeedInvalid,
    Runtime,
    RuntimeReadOnly,
)
from eventsrc.runtime.testing import EPOCH, WallClock
from eventsrc.storage.record import StoredEvent
from eventsrc.storage.store import EventStore

LIMITS = Limits(snapshot_every_events=3)


async def fill(runtime: Runtime, clock: WallClock) -> None:
    """One event a minute: ann 1 to 10, bob after every one of ann's."""
    for number in range(1, 11):
        for name in ("ann", "bob"):
            clock.advance(60)
            await runtime.actor(Account, name).ask(Deposit(number))


def ann_at(version: int) -> int:
    return sum(range(1, version + 1))


async def test_an_aggregate_is_as_it_was_at_a_version_a_position_or_a_time(store: EventStore | Path) -> None:
    clock = WallClock()
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS, wall_clock=clock) as runtime:
        await fill(runtime, clock)
        ann = runtime.actor(Account, "ann")
        for version in range(11):
            assert (await ann.state(at_version=version)).balance == ann_at(version)
        for position in range(21):
            assert (await ann.state(at_position=position)).balance == ann_at((position + 1) // 2)
        for minute in range(1, 30):
            moment = EPOCH + timedelta(minutes=minute)
            assert (await ann.state(at_time=moment)).balance == ann_at(min((minute + 1) // 2, 10))
        assert (await ann.state(at_time=EPOCH + timedelta(seconds=90))).balance == 1
        assert (await runtime.actor(Account, "nobody").state(at_position=3)).balance == 0
        assert (await ann.state()).balance == ann_at(10), "the present is untouched"


async def test_a_moment_that_is_not_in_the_log_is_said(store: EventStore | Path) -> None:
    clock = WallClock()
    async with Runtime.open(store, aggregates=[Account], wall_clock=clock) as runtime:
        ann = runtime.actor(Account, "ann")
        with pytest.raises(NotInHistory, match="is empty"):
            await ann.state(at_time=EPOCH)
        await fill(runtime, clock)
        with pytest.raises(NotInHistory, match=r"'account-ann' has no version 11: it goes from 0 to 10"):
            await ann.state(at_version=11)
        with pytest.raises(NotInHistory, match=r"There is no position 21 .* it goes from 0 to 20"):
            await ann.state(at_position=21)
        with pytest.raises(NotInHistory, match=r"no version -1"):
            await ann.state(at_version=-1)
        with pytest.raises(NotInHistory, match=r"nothing was stored yet: .* begins at 2026-01-01 00:01:00"):
            await ann.state(at_time=EPOCH)
        with pytest.raises(ValueError, match="no time zone"):
            await ann.state(at_time=datetime(2026, 1, 1))
        with pytest.raises(ValueError, match="one of"):
            await ann.state(at_version=1, at_position=2)
        with pytest.raises(NotInHistory):
            async with runtime.as_of(position=99):
                pass
        assert (await ann.ask(Deposit(1))).version == 11


async def test_a_runtime_as_of_a_moment_answers_as_of_then(store: EventStore | Path) -> None:
    clock = WallClock()
    async with Runtime.open(
        store, aggregates=[Account], projections=[Balances], limits=LIMITS, wall_clock=clock
    ) as runtime:
        await fill(runtime, clock)
        async with runtime.as_of(time=EPOCH + timedelta(minutes=7, seconds=30), projections=[Balances]) as past:
            assert past.last_position == 7
            assert (await past.actor(Account, "ann").state()).balance == ann_at(4)
            assert (await past.actor(Account, "bob").state()).balance == ann_at(3)
            assert await past.actor(Account, "bob").version() == 3
            assert await past.view(Balances.rows).all().rows() == [Balance("ann", 10, 4), Balance("bob", 6, 3)]
            assert [event.position async for event in past.events()] == list(range(1, 8))
            assert [event.position async for event in past.events(stream="account-bob")] == [2, 4, 6]
            newest = [event.position async for event in past.events(types=[Deposited], backwards=True, limit=1)]
            assert newest == [7]
            assert [event.position async for event in past.events(category="account", after=5)] == [6, 7]
            assert [(head.stream, head.version) async for head in past.streams()] == [
                ("account-ann", 4),
                ("account-bob", 3),
            ]
            with pytest.raises(RuntimeReadOnly):
                await past.actor(Account, "ann").ask(Deposit(1))
            await runtime.actor(Account, "ann").ask(Deposit(1))
            assert (await past.actor(Account, "ann").state()).balance == ann_at(4)
        assert (await runtime.view(Balances.rows).get("ann", at_least=21)) == Balance("ann", 56, 11)


async def test_the_difference_between_two_versions_is_the_events_and_the_fields(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(10), Note("x"), Withdraw(3), Deposit(1)])
        difference = await runtime.diff(Account, "ann", 1, 3)
        assert [event.type for event in difference.events] == ["account.noted", "account.withdrawn"]
        assert difference.changes["balance"] == (10, 7)
        back = await runtime.diff(Account, "ann", 4, 1)
        assert (back.events, back.changes["balance"]) == ([], (8, 10))
        assert (await runtime.diff(Account, "ann", 2, 2)).changes == {}
        with pytest.raises(NotInHistory):
            await runtime.diff(Account, "ann", 1, 5)


async def test_each_field_knows_what_set_it_last(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(10), metadata={"principal": "teller"}, correlation_id="visit-1")
        await ann.ask(Note("x"), metadata={"principal": "clerk"})
        await ann.ask(Note("y"))
        blamed = await runtime.blame(Account, "ann")
        balance = blamed["balance"]
        assert (balance.value, balance.version, balance.position, balance.event_type) == (
            10,
            1,
            1,
            "account.deposited",
        )
        assert (balance.principal, balance.correlation_id) == ("teller", "visit-1")
        assert balance.command_id
        assert {blame.principal for name, blame in blamed.items() if name != "balance"} <= {"clerk", None, "teller"}
        untouched = await runtime.blame(Account, "nobody")
        assert {name: (blame.value, blame.is_set) for name, blame in untouched.items()} == {
            "balance": (0, False),
            "notes": (0, False),
        }


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(amounts=st.lists(st.integers(1, 9), min_size=1, max_size=30), every=st.integers(1, 5))
async def test_any_version_is_what_its_events_give(amounts: list[int], every: int) -> None:
    limits = Limits(snapshot_every_events=every)
    async with Runtime.open(MemoryLog(), aggregates=[Account], limits=limits) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask_many([Deposit(amount) for amount in amounts])
        for version in range(len(amounts) + 1):
            assert (await ann.state(at_version=version)).balance == sum(amounts[:version])


# -- replay


async def test_every_mode_replays_what_it_says(store: EventStore | Path) -> None:
    clock = WallClock()
    async with Runtime.open(store, aggregates=[Account], limits=LIMITS, wall_clock=clock) as runtime:
        await fill(runtime, clock)
        seen: list[int] = []

        def see(event: StoredEvent) -> None:
            seen.append(event.position)

        progress = (await runtime.replay("full", into=see).run()).progress
        assert seen == list(range(1, 21))
        assert (progress.events, progress.position, progress.last_position) == (20, 20, 20)
        assert progress.per_second > 0
        full = await runtime.replay("full", aggregate=(Account, "ann")).run()
        assert (full.state.balance, full.progress.events) == (55, 10)
        newest = await runtime.replay("from_snapshot", aggregate=(Account, "ann")).run()
        assert (newest.state.balance, newest.progress.events) == (55, 1), "a snapshot at 9"
        past = await runtime.replay("time_travel", aggregate=(Account, "ann"), to_version=4).run()
        assert (past.state.balance, past.progress.events) == (10, 4)
        seen.clear()
        await runtime.replay("time_travel", into=see, to_time=EPOCH + timedelta(minutes=3)).run()
        await runtime.replay("time_travel", into=see, to_position=2).run()
        assert seen == [1, 2, 3, 1, 2]
        seen.clear()
        await runtime.actor(Account, "ann").ask(Note("x"), metadata={"why": "test"})
        await runtime.replay("selective", into=see, metadata={"why": "test"}).run()
        await runtime.replay("selective", into=see, types=["account.noted"]).run()
        assert seen == [21, 21]
        async with runtime.replay("time_travel", projection=Balances, to_position=5) as replay:
            await replay.run()
            assert replay.rows(Balances.rows, account="ann") == [Balance("ann", 6, 3)]
        assert runtime.last_position == 21, "nothing was stored"


async def test_a_replay_keeps_the_original_pace(autojump_clock: trio.testing.MockClock) -> None:
    clock = WallClock()
    async with Runtime.open(MemoryLog(), aggregates=[Account], wall_clock=clock) as runtime:
        await fill(runtime, clock)
        for speed, seconds in ((1.0, 19 * 60), (100.0, 11.4), (0.1, 19 * 600)):
            begun = trio.current_time()
            await runtime.replay("full", into=lambda event: None, speed=speed).run()
            assert trio.current_time() - begun == pytest.approx(seconds)
        for speed in (0.01, 101, -1):
            with pytest.raises(ReplaySpeedInvalid):
                runtime.replay("full", into=lambda event: None, speed=speed)


async def test_a_replay_is_paused_and_goes_on_step_by_step(store: EventStore | Path) -> None:
    clock = WallClock()
    async with Runtime.open(store, aggregates=[Account], wall_clock=clock) as runtime, trio.open_nursery() as nursery:
        await fill(runtime, clock)
        replay = runtime.replay("full", aggregate=(Account, "ann"))
        replay.pause()
        done = trio.Event()

        async def run() -> None:
            await replay.run()
            done.set()

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        assert (replay.is_paused, replay.state.balance) == (True, 0)
        for balance in (1, 3, 6):
            replay.step()
            await trio.testing.wait_all_tasks_blocked()
            assert replay.state.balance == balance
        replay.run_to(13)
        await trio.testing.wait_all_tasks_blocked()
        assert (replay.state.balance, replay.progress.position) == (28, 13)
        assert not done.is_set()
        replay.resume()
        with trio.fail_after(10):
            await done.wait()
        assert replay.state.balance == 55


async def test_what_does_not_go_together_is_refused(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Account]) as runtime:
        for mode, options, words in (
            ("full", {"category": "account"}, "takes no filter"),
            ("selective", {}, "to select by"),
            ("time_travel", {}, "needs one of"),
            ("time_travel", {"to_position": 0, "to_version": 0}, "needs one of"),
            ("from_snapshot", {}, "say which, by its stream"),
            ("sideways", {}, "is one of full"),
        ):
            with pytest.raises(ArgumentInvalid, match=words):
                runtime.replay(mode, into=print, **options)  # type: ignore[call-overload]
        with pytest.raises(NotInHistory):
            runtime.replay("time_travel", into=print, to_position=1)


async def test_a_fork_goes_its_own_way(tmp_path: Path) -> None:
    clock = WallClock()
    async with Runtime.open(tmp_path / "a", aggregates=[Account], wall_clock=clock) as runtime:
        await fill(runtime, clock)
        await runtime.fork(7, tmp_path / "b")
        assert (await runtime.backup(tmp_path / "c")).events == 20
        async with Runtime.open(tmp_path / "b", aggregates=[Account], wall_clock=clock) as fork:
            assert fork.last_position == 7
            assert (await fork.actor(Account, "ann").ask(Withdraw(10))).version == 5
            assert (await fork.actor(Account, "ann").state()).balance == 0
        assert (await runtime.actor(Account, "ann").state()).balance == 55
        with pytest.raises(NotInHistory):
            await runtime.fork(99, tmp_path / "d")
        with pytest.raises(NotInHistory, match="at least the event at position 1"):
            await runtime.fork(0, tmp_path / "d")
        assert runtime.last_position == 20
        with pytest.raises(BackupRefused, match="is there already"):
            await runtime.fork(1, tmp_path / "b")
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        with pytest.raises(BackupRefused, match="no store on a disk"):
            await runtime.backup(tmp_path / "e")
