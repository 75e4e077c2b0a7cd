"""A history to replay, and a function to replay it into."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from bank_domain import Account, Deposit
from bank_views import Balances

from eventsrc import Limits, MemoryLog, Runtime
from eventsrc.runtime.testing import WallClock
from eventsrc.storage.record import StoredEvent

LIMITS = Limits(snapshot_every_events=3)
MINUTE = 60


@asynccontextmanager
async def twenty_events() -> AsyncIterator[Runtime]:
    """A runtime with one event a minute: odd positions are ann's deposits, even ones bob's, up to 20."""
    clock = WallClock()
    async with Runtime.open(
        MemoryLog(), aggregates=[Account], projections=[Balances], limits=LIMITS, wall_clock=clock
    ) as opened:
        for number in range(1, 11):
            for name in ("ann", "bob"):
                clock.advance(MINUTE)
                await opened.actor(Account, name).ask(Deposit(number))
        yield opened


class Seen:
    """A function to replay into, which remembers the positions that it saw and when it saw them."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.times: list[float] = []

    def __call__(self, event: StoredEvent) -> None:
        self.positions.append(event.position)
        self.times.append(trio.current_time())
