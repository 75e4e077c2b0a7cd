"""Background tasks: work that runs outside the caller's own task."""

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

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
