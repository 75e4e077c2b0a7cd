"""The pace of a replay, and its progress."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit, Deposited, Noted
from replay_cases import MINUTE, Seen, twenty_events

from eventsrc import (
    MemoryLog,
    Replay,
    Runtime,
)
from eventsrc.runtime.testing import EPOCH, WallClock
from eventsrc.storage.record import StoredEvent


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with twenty_events() as opened:
        yield opened


# -- the pace


async def test_the_pace_makes_up_for_a_slow_handler_and_bounds_long_waits(
    runtime: Runtime, autojump_clock: trio.testing.MockClock
) -> None:
    async def slow(event: StoredEvent) -> None:
        await trio.sleep(0.9 * MINUTE)

    begun = trio.current_time()
    await runtime.replay("full", into=slow, speed=1).run()
    assert trio.current_time() - begun == pytest.approx(19.9 * MINUTE), "the handler's time is not added to the gaps"
    begun = trio.current_time()
    await runtime.replay("full", into=lambda _: None, speed=0.1, wait_seconds_max=5).run()
    assert trio.current_time() - begun == pytest.approx(19 * 5)


async def test_days_without_an_event_are_waited_for_unless_stepped_over(autojump_clock: trio.testing.MockClock) -> None:
    clock = WallClock()
    async with Runtime.open(MemoryLog(), aggregates=[Account], wall_clock=clock) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(1))
        clock.advance(3 * 86_400)
        await ann.ask(Deposit(1))
        clock.advance(-86_400)
        await ann.ask(Deposit(1))
        begun = trio.current_time()
        await runtime.replay("full", into=lambda _: None, speed=1).run()
        assert trio.current_time() - begun == pytest.approx(3 * 86_400), "a clock set back costs no time"
        seen = Seen()
        replay = runtime.replay("full", into=seen, speed=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replay.run)
            await trio.sleep(1)
            stepped = trio.current_time()
            replay.step()
            await replay.wait_paused()
            replay.resume()
        assert seen.times[1] == seen.times[2] == stepped


# -- progress


async def test_the_progress_of_a_paced_replay_tells_the_time_left(
    runtime: Runtime, autojump_clock: trio.testing.MockClock
) -> None:
    replay = runtime.replay("full", into=lambda _: None, speed=2)
    before = replay.progress
    assert (before.fraction, before.events_total, before.per_second, before.seconds_left) == (0, 20, 0, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay.run)
        await trio.sleep(4.75 * MINUTE)
        progress = replay.progress
        assert (progress.events, progress.position, progress.fraction) == (10, 10, 0.5)
        assert progress.seconds_left == pytest.approx(4.75 * MINUTE)
        assert progress.per_second == pytest.approx(10 / (4.75 * MINUTE))
        replay.pause()
        await replay.wait_paused()
        await trio.sleep(60 * MINUTE)
        assert replay.progress.seconds_left == pytest.approx(4.75 * MINUTE)
        assert replay.progress.per_second == pytest.approx(10 / (4.75 * MINUTE)), "pauses do not count"
        replay.resume()
    assert (replay.progress.fraction, replay.progress.seconds_left) == (1, 0)


async def test_the_time_left_of_one_stream_ends_with_its_last_event(
    runtime: Runtime, autojump_clock: trio.testing.MockClock
) -> None:
    replay = runtime.replay("time_travel", stream="account-ann", to_position=6, into=lambda _: None, speed=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay.run)
        await trio.sleep(1 * MINUTE)
        assert replay.progress.seconds_left == pytest.approx(3 * MINUTE), "from minute 1 to 5, one of which is over"


@pytest.mark.parametrize(
    ("mode", "options", "total"),
    [
        ("full", {}, 20),
        ("full", {"stream": "account-ann"}, 10),
        ("from_snapshot", {"stream": "account-ann"}, 1),
        ("selective", {"types": ["account.deposited"]}, None),
        ("selective", {"types": [Deposited], "stream": "account-bob"}, None),
        ("selective", {"types": [Noted]}, None),
        ("time_travel", {"to_position": 0}, 0),
        ("time_travel", {"to_position": 13}, 13),
        ("time_travel", {"stream": "account-bob", "to_version": 4}, 4),
        ("time_travel", {"stream": "account-nobody", "to_time": EPOCH + timedelta(minutes=5)}, 0),
    ],
)
async def test_progress_stays_between_nothing_and_all(
    runtime: Runtime, mode: Any, options: dict[str, Any], total: int | None
) -> None:
    fractions = []
    replay: Replay = runtime.replay(mode, into=lambda _: fractions.append(replay.progress.fraction), **options)
    assert replay.progress.events_total == total
    progress = (await replay.run()).progress
    assert fractions == sorted(fractions)
    assert all(0 <= fraction < 1 for fraction in fractions)
    assert (progress.fraction, progress.seconds_left) == (1, 0)
    assert total in (None, progress.events)
