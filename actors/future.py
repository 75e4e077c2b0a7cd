"""The answer of a trio actor: trio tasks await it, any other thread blocks on it.

One lock serves all futures. It is held for a few assignments only: when a future is settled or a wait begins.
"""

import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Generator
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import pykka
import trio

from .errors import WouldDeadlock

T = TypeVar("T")
ExceptionInfo: TypeAlias = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
# The value, or the error with the traceback it had when it became the answer.
Outcome: TypeAlias = tuple[Any, BaseException | None, TracebackType | None]

_HOOKED: Final[Outcome] = (None, None, None)  # compared by identity: the value comes from the get hook


class TrioFuture(pykka.Future[T]):
    """A `pykka.Future` for trio: `await future` in a task, `future.get(timeout=seconds)` in any other thread.

    Any number of tasks and threads may wait, any number of times; all get the same value or error. A cancelled wait
    leaves the future unchanged. A future may be made, settled and waited for on any thread: the waiting tasks tell
    which trio run to wake. Awaiting is always a checkpoint.
    """

    # Class attributes hold the initial values, so that making a future costs nothing.
    _outcome: Outcome | None = None
    _waiters: dict[trio.lowlevel.Task, trio.lowlevel.TrioToken] | None = None
    _settled: threading.Event | None = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:  # Pykka's __init__ allocates what only a get hook needs
        pass

    def __repr__(self) -> str:
        outcome = self._outcome
        if outcome is None or outcome is _HOOKED:
            return "<TrioFuture pending>" if outcome is None else "<TrioFuture hooked>"
        return "<TrioFuture failed>" if outcome[1] is not None else "<TrioFuture settled>"

    def get(self, *, timeout: float | None = None) -> T:
        """Return the value, or raise the error; a thread that does not run trio waits for it up to `timeout` seconds.

        Raises:
            WouldDeadlock: at once, on a thread that runs trio, if the future is not settled.
            pykka.Timeout: if nothing came within `timeout` seconds. The future can still be settled later.

        """
        outcome = self._outcome
        if outcome is None:
            outcome = self._wait_in_thread(timeout)
        if outcome is _HOOKED:
            assert self._get_hook is not None
            outcome = self._outcome = (self._get_hook(timeout), None, None)
        try:
            return _unwrap(outcome)  # type: ignore[no-any-return]
        finally:
            del self, outcome  # an error's traceback refers to this frame: leave no cycle for the garbage collector

    def set(self, value: T | None = None) -> None:
        """Settle with a value, from any thread. Raises `queue.Full` if the future is settled or has a get hook."""
        if not self._settle((value, None, None)):
            raise queue.Full

    def set_exception(self, exc_info: ExceptionInfo | None = None) -> None:
        """Settle with the error in `exc_info`, or with the one being handled. Raises `queue.Full` as `set()` does."""
        error_type, error, traceback = exc_info if exc_info is not None else sys.exc_info()
        if error_type is None:
            raise TypeError("set_exception() needs an exc_info when no exception is being handled")
        error = error if error is not None else error_type()
        if not self._settle_error(error, traceback):
            raise queue.Full

    def settle(self, value: T) -> bool:
        """Settle with a value unless a value or error (a timeout, say) came first. Return whether it did settle."""
        return self._settle((value, None, None))

    def fail(self, error: BaseException) -> bool:
        """Settle with an error unless a value or error (a timeout, say) came first. Return whether it did settle."""
        return self._settle_error(error, error.__traceback__)

    def set_get_hook(self, func: Callable[[float | None], T]) -> None:
        """Let `func(timeout)` produce the value when the value is first asked for. The value is kept.

        For an awaited future, the hook runs on the trio thread. If the hook calls `get()` of an unsettled `TrioFuture`,
        that future is awaited and the hook runs again; so `map()`, `join()` and the like can be awaited. Raises
        `queue.Full` if the future is settled already.
        """
        with self._lock:
            if self._outcome is not None and self._outcome is not _HOOKED:
                raise queue.Full
            self._get_hook = func
            self._outcome = _HOOKED
        self._wake_all()

    def is_settled(self) -> bool:
        """Tell whether the future has a value or an error, so that waiting would return at once."""
        return self._outcome is not None and self._outcome is not _HOOKED

    def is_awaited_by(self, task: trio.lowlevel.Task) -> bool:
        """Tell whether a task waits for this future now."""
        return self._waiters is not None and task in self._waiters

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait_in_task().__await__()

    __iter__ = __await__

    # No KeyboardInterrupt may come between registering the task as a waiter and the wait itself.
    @trio.lowlevel.enable_ki_protection
    async def _wait_in_task(self) -> T:
        task, pending = trio.lowlevel.current_task(), self
        while True:
            if pending._has_to_wait(task):
                await trio.lowlevel.wait_task_rescheduled(partial(pending._abandon, task))
            else:
                await trio.lowlevel.checkpoint()
            if self._outcome is not _HOOKED:
                break
            try:
                return self.get()
            except WouldDeadlock as error:
                if error.future is None:
                    raise
                pending = error.future
        outcome = self._outcome
        assert outcome is not None
        try:
            return _unwrap(outcome)  # type: ignore[no-any-return]
        finally:
            del self, pending, outcome  # as in get()

    def _has_to_wait(self, task: trio.lowlevel.Task) -> bool:
        """Register a task as a waiter, unless the future is settled. Return whether the task was registered."""
        if self._outcome is not None:
            return False
        with self._lock:
            if self._outcome is not None:
                return False
            if self._waiters is None:
                self._waiters = {}
            self._waiters[task] = trio.lowlevel.current_trio_token()
            return True

    def _abandon(self, task: trio.lowlevel.Task, _: object) -> trio.lowlevel.Abort:
        assert self._waiters is not None
        del self._waiters[task]
        return trio.lowlevel.Abort.SUCCEEDED

    def _wait_in_thread(self, timeout_seconds: float | None) -> Outcome:
        if trio.lowlevel.in_trio_run():
            raise WouldDeadlock(self)
        with self._lock:
            if self._settled is None:
                self._settled = threading.Event()
            if self._outcome is not None:
                self._settled.set()
        self._settled.wait(timeout_seconds)
        if self._outcome is None:
            raise pykka.Timeout(f"{timeout_seconds} seconds")
        return self._outcome

    def _settle_error(self, error: BaseException, traceback: TracebackType | None) -> bool:
        if isinstance(error, WouldDeadlock):
            error.future = None  # as an answer, the error does not mean that this wait would block
        return self._settle((None, error, traceback))

    @trio.lowlevel.enable_ki_protection
    def _settle(self, outcome: Outcome) -> bool:
        with self._lock:
            if self._outcome is not None:
                return False
            self._outcome = outcome
        if self._waiters or self._settled:
            self._wake_all()
        return True

    @trio.lowlevel.enable_ki_protection
    def _wake_all(self) -> None:
        if self._settled is not None:
            self._settled.set()
        if not self._waiters:
            return
        here = trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else None
        for task, token in list(self._waiters.items()):
            if token is here:
                del self._waiters[task]
                trio.lowlevel.reschedule(task)
            else:
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(self._wake, task)

    def _wake(self, task: trio.lowlevel.Task) -> None:
        if self._waiters is not None and self._waiters.pop(task, None) is not None:
            trio.lowlevel.reschedule(task)


def _unwrap(outcome: Outcome) -> Any:
    value, error, traceback = outcome
    if error is None:
        return value
    try:
        raise error.with_traceback(traceback)  # the traceback from when it was set: else every wait would lengthen it
    finally:
        del outcome, error, traceback
