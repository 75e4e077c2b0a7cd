"""What the tests of programs on asyncio share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bank_domain import Account, Slow
from bank_views import Balances

from eventsrc import AsyncioPortal, MemoryLog, Runtime


def on_loop(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test on asyncio, which is told of whatever is not awaited or not retrieved."""
    problems: list[object] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        await main()

    asyncio.run(watched(), debug=True)
    assert problems == []


@asynccontextmanager
async def bank(path: Path | None = None) -> AsyncIterator[AsyncioPortal]:
    opening = Runtime.open(path or MemoryLog(), aggregates=[Account, Slow], projections=[Balances])
    async with AsyncioPortal(opening) as portal:
        yield portal
