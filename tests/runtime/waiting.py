"""Waiting for what others bring about."""

from collections.abc import Callable

import trio


async def until(is_so: Callable[[], bool], *, seconds: float = 300) -> None:
    """Wait until it is so, whoever brings it about; a clock that jumps may jump meanwhile."""
    with trio.fail_after(seconds):
        while not is_so():
            await trio.sleep(0.001)


async def until_while_the_clock_stands(is_so: Callable[[], bool]) -> None:
    """The same without waiting for time to pass: others run."""
    with trio.fail_after(300):
        while not is_so():
            await trio.lowlevel.checkpoint()
