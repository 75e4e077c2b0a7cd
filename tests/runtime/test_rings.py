"""Handlers that wait for their own aggregate, or for each other in a ring, which nobody would ever answer."""

import math
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import trio
import trio.testing

from eventsrc import (
    Aggregate,
    AggregateWaitsForItself,
    MemoryLog,
    Runtime,
    applies,
    command,
    event,
    handles,
)
from eventsrc.storage.store import EventStore


@command
class Pass:
    """Ask the first of these to pass it on to the others; give up after so many seconds, and rest as long."""

    to: tuple[str, ...] = ()
    seconds: float = 0.0


@event("relay.passed")
class Passed:
    pass


class Relay(Aggregate):
    runtime: ClassVar[Runtime]
    passed_count: int = 0

    @handles
    async def pass_on(self, command: Pass) -> Passed:
        with trio.move_on_after(command.seconds or math.inf):
            if command.to:
                await self.runtime.actor(Relay, command.to[0]).ask(Pass(command.to[1:]), timeout=1_000)
        await trio.sleep(command.seconds)
        return Passed()

    @applies
    def passed(self, event: Passed) -> None:
        self.passed_count += 1


async def passed_counts(runtime: Runtime, names: str) -> list[int]:
    return [(await runtime.actor(Relay, name).state()).passed_count for name in names]


async def test_a_handler_that_waits_for_its_own_aggregate_is_told(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Relay]) as runtime:
        Relay.runtime = runtime
        with pytest.raises(AggregateWaitsForItself, match="A handler of 'relay-a' waits for an answer of 'relay-a'"):
            await runtime.actor(Relay, "a").ask(Pass(("a",)))
        assert await passed_counts(runtime, "a") == [0]


async def test_handlers_that_wait_for_each_other_in_a_ring_are_told(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Relay]) as runtime:
        Relay.runtime = runtime
        await runtime.actor(Relay, "a").ask(Pass(("b", "c", "d")))
        words = (
            "A handler of 'relay-c' would wait for an answer of 'relay-a', whose handler waits for 'relay-b', whose "
            "handler waits for 'relay-c'"
        )
        with pytest.raises(AggregateWaitsForItself, match=words) as caught:
            await runtime.actor(Relay, "a").ask(Pass(("b", "c", "a")))
        assert (caught.value.stream, caught.value.ring) == ("relay-c", ("relay-a", "relay-b", "relay-c"))
        assert await passed_counts(runtime, "abcd") == [1, 1, 1, 1], "each of them goes on"


async def test_a_handler_that_has_given_up_waiting_is_in_no_ring(autojump_clock: trio.testing.MockClock) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Relay]) as runtime:
        Relay.runtime = runtime
        async with trio.open_nursery() as nursery:
            for name, command in [("b", Pass(seconds=5)), ("b", Pass(("a",))), ("a", Pass(("b",), seconds=4))]:
                nursery.start_soon(partial(runtime.actor(Relay, name).ask, command, timeout=100))
                await trio.testing.wait_all_tasks_blocked()
        assert await passed_counts(runtime, "ab") == [2, 2], "a took what b asked, 3 seconds after that"
