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
