"""Work beside the caller's own: in tasks, and in worker threads."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import trio

from ..storage.errors import ThreadRefused

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@trio.lowlevel.enable_ki_protection
async def in_background(work: Callable[[*Arguments], Awaitable[object]], *arguments: *Arguments) -> None:
    """Await `work(*arguments)` in a task of its own: `nursery.start_soon(in_background, self.run)`.

    Ctrl-C is for the program's main task, which then closes the runtime in order. Where it comes while such a task
    runs, it must not end the task: its nursery would be cancelled, and what waits in the mailboxes dropped.
    """
    await work(*arguments)


async def nursery_within(keeper: trio.Nursery) -> trio.Nursery:
    """A nursery whose tasks go on when the task that keeps it is cancelled, until they are told to stop."""
    # Shielded, since trio does not hand over what is started by a task that is cancelled by then.
    with trio.CancelScope(shield=True):
        nursery: trio.Nursery = await keeper.start(_shielded_nursery)
    return nursery


@trio.lowlevel.enable_ki_protection
async def _shielded_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """The home of the actors: when the caller's block is cancelled they go on until they are told to stop."""
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
    """Call something that waits in a worker thread of trio's. Raises what it raises.

    Raises `ThreadRefused`, and nothing was called, where a further thread is needed and the system starts none.
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
    """The same for what has to be done, as closing: where no thread is to be had, the trio thread waits for it."""
    try:
        return await in_thread(call, *arguments)
    except ThreadRefused:
        return call(*arguments)
