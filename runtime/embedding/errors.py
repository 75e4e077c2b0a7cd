"""The errors of runtimes in programs that do not run on trio."""

from typing import ClassVar

from ...storage.errors import EventSourcingError


class NoAsyncioLoop(EventSourcingError):
    """A function wrapped by `on_asyncio` was awaited where no loop of asyncio is known, or after the loop closed."""

    code: ClassVar[str] = "no_asyncio_loop"

    def __init__(self, function: object) -> None:
        super().__init__(
            f"{_name(function)} runs on asyncio, and there is no loop for it: open the runtime by AsyncioPortal, in a "
            "program on asyncio that closes it before its loop."
        )
        self.function = function


class NotInAsyncio(EventSourcingError):
    """An `AsyncioPortal` was entered outside of asyncio. Nothing was opened."""

    code: ClassVar[str] = "not_in_asyncio"

    def __init__(self) -> None:
        super().__init__(
            "An AsyncioPortal is for programs on asyncio. On trio open the runtime itself: `async with "
            "Runtime.open(...)`; in synchronous code use a BlockingPortal."
        )


class AsyncioTaskCancelled(EventSourcingError):
    """A task of `on_asyncio` was cancelled on asyncio, but not by the task that awaits it."""

    code: ClassVar[str] = "asyncio_task_cancelled"

    def __init__(self, function: object) -> None:
        super().__init__(f"The task of {_name(function)} was cancelled on asyncio; what it has done is unknown.")
        self.function = function


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
