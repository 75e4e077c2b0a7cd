"""Background work: in tasks beside the caller's own, and in worker threads."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

from ..storage.errors import ThreadRefused

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@trio.lowlevel.enable_ki_protection
async def in_background(work: Callable[[*Arguments], Awaitable[object]], *arguments: *Arguments) -> None:
    """Await `work(*arguments)` in its own task: `nursery.start_soon(in_background, self.run)`.

    Ctrl-C belongs to the program's main task, which closes the runtime in order. A KeyboardInterrupt raised inside a
    background task would cancel its nursery and drop the messages in the mailboxes, so the task is protected from it.
    """
    await work(*arguments)


async def nursery_within(keeper: trio.Nursery) -> trio.Nursery:
    """Return a nursery whose tasks outlive the cancellation of the task that keeps it; stopping them ends them."""
    # Shielded: trio hands over nothing that a task starts after it was cancelled.
    with trio.CancelScope(shield=True):
        nursery: trio.Nursery = await keeper.start(_shielded_nursery)
    return nursery


@trio.lowlevel.enable_ki_protection
async def _shielded_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Keep the nursery of the actors open when the caller's block is cancelled, until the actors are stopped."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


async def in_thread(
    call: Callable[[*Arguments], T],
    *arguments: *Arguments,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """Call a function that blocks, in one of trio's worker threads. Raises what the function raises.

    Raises `ThreadRefused` if the system starts no further thread; the function was not called.
    """
    has_begun = False

    def begin() -> T:
        nonlocal has_begun
        has_begun = True
        return call(*arguments)

    try:
        return await trio.to_thread.run_sync(begin, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    except RuntimeError as error:
        if has_begun:
            raise
        raise ThreadRefused(str(error)) from error


async def in_thread_or_here(call: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Call in a worker thread what must be done, such as closing; if no thread starts, the trio thread waits for it."""
    try:
        return await in_thread(call, *arguments)
    except ThreadRefused:
        return call(*arguments)
