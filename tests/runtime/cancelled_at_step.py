"""Cancelling an operation at each of its steps: the points between which trio lets other tasks run."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Literal, TypeVar

import attrs
import trio

T = TypeVar("T")
Moment = Literal["before", "after", "meanwhile"]
"""Just before a step, so that it finds itself cancelled; just after it, when the task has begun to wait; or meanwhile,
just before a step of any task."""


@attrs.define
class Attempt(Generic[T]):
    """What became of an operation that was to be cancelled at one of its steps."""

    is_over: bool = False
    """It took fewer steps than that, and was not cancelled."""
    result: T | None = None
    error: BaseException | None = None


class _Canceller(trio.abc.Instrument):
    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int, moment: Moment) -> None:
        self._task = task
        self._scope = scope
        self._steps_left = step
        self._moment = moment

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task or self._moment == "meanwhile":
            self._steps_left -= 1
            if not self._steps_left and self._moment != "after":
                self._scope.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task and not self._steps_left and self._moment == "after":
            self._scope.cancel()


async def cancelled_at_step(
    step: int, operation: Callable[[], Awaitable[T]], *, moment: Moment = "before"
) -> Attempt[T]:
    """Do it in a task of its own, which is cancelled at a step: its first one is 0, which begins it."""
    attempt = Attempt[T]()

    async def do() -> None:
        instrument: Any = None
        with trio.CancelScope() as scope:
            if step or moment == "after":
                instrument = _Canceller(trio.lowlevel.current_task(), scope, step, moment)
                trio.lowlevel.add_instrument(instrument)
            else:
                scope.cancel()
            try:
                attempt.result = await operation()
            except Exception as error:
                attempt.error = error
            finally:
                if instrument is not None:
                    trio.lowlevel.remove_instrument(instrument)
        attempt.is_over = not scope.cancel_called

    async with trio.open_nursery() as nursery:
        nursery.start_soon(do)
    return attempt
