"""Work beside the caller's own."""

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

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
