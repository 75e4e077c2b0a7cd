"""Hands functions over to another thread, which calls them soon and in order."""

from collections import deque
from collections.abc import Callable


class Handover:
    """Hands waiting functions over with one wake-up, since a wake-up is a system call and releases the interpreter.

    `wake(function)` has the other thread call a function soon: `TrioToken.run_sync_soon`, `loop.call_soon_threadsafe`.
    """

    __slots__ = ("_functions", "_is_woken", "_wake")

    def __init__(self, wake: Callable[[Callable[[], None]], object]) -> None:
        self._wake = wake
        self._functions: deque[Callable[[], object]] = deque()
        self._is_woken = False

    def put(self, function: Callable[[], object]) -> None:
        """Hand over a function, from any thread. Raises the errors of `wake`, where the other thread has ended."""
        self._functions.append(function)
        if not self._is_woken:
            self._is_woken = True
            try:
                self._wake(self._call_waiting)
            except BaseException as error:
                self._is_woken = False
                if not isinstance(error, Exception):
                    # Interrupted, perhaps before the wake-up: other threads rely on the flag, which said that it had
                    # happened.
                    self._wake(self._call_waiting)
                raise

    def _call_waiting(self) -> None:
        # Reset before counting: a function that is put later wakes the thread again.
        self._is_woken = False
        for _ in range(len(self._functions)):
            self._functions.popleft()()
