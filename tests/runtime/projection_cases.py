"""What the tests of projections share."""

import trio
from bank_views import Balances
from waiting import until

from eventsrc import (
    Projection,
    Runtime,
)


async def settle(runtime: Runtime, projection: type[Projection] = Balances, *, building: bool = False) -> None:
    """Wait until a view has seen everything, and a rebuilding is over."""
    with trio.fail_after(60):
        while True:
            lag = runtime.lag()[projection.__eventsrc_projection__.name]
            if not lag.events and not (building and lag.rebuilding):
                return
            await trio.sleep(0.001)


async def tidied(runtime: Runtime, projection: type[Projection] = Balances) -> None:
    """Wait until what answered before is removed: closed before that, a runtime leaves it to the next one."""
    running = runtime._projections.get(projection)
    await until(lambda: running.is_tidy)
