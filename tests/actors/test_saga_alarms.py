"""The alarms of sagas: who is due when, and what is kept of those that were cleared."""

import trio
import trio.testing

from eventsrc.actors.sagas.alarms import CLEARED_MAX, SagaAlarms
from eventsrc.runtime.testing import FollowingClock

DAY_NS = 86_400 * 10**9


async def test_alarms_that_were_cleared_do_not_pile_up(autojump_clock: trio.testing.MockClock) -> None:
    clock = FollowingClock()
    alarms = SagaAlarms(clock)
    begin_ns = clock()
    for number in range(10):
        alarms.set(f"stays-{number}", begin_ns + (number + 1) * DAY_NS)
    for number in range(10_000):
        alarms.set(f"answered-{number}", begin_ns + 3 * DAY_NS + number)
        alarms.clear(f"answered-{number}")
        alarms.set("stays-0", begin_ns + DAY_NS + number)
        assert len(alarms) == 10
        assert alarms.kept_count <= 2 * (len(alarms) + 1) + CLEARED_MAX
    due = []
    while len(alarms):
        due.extend(await alarms.due())
    assert due == [f"stays-{number}" for number in range(10)]
    assert round((clock() - begin_ns) / DAY_NS) == 10


async def test_an_alarm_that_is_set_for_earlier_counts_at_once(autojump_clock: trio.testing.MockClock) -> None:
    clock = FollowingClock()
    alarms = SagaAlarms(clock)
    begin_ns, begin = clock(), trio.current_time()

    async def set_later() -> None:
        await trio.sleep(1)
        alarms.set("second", begin_ns + 5 * 10**9)
        alarms.clear("first")

    async with trio.open_nursery() as nursery:
        alarms.set("first", begin_ns + 3 * 10**9)
        nursery.start_soon(set_later)
        assert await alarms.due() == ["second"]
    assert round(trio.current_time() - begin, 3) == 5
    assert len(alarms) == alarms.kept_count == 0
