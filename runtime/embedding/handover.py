"""Handing functions over to another thread, which calls them soon and in order."""

from collections import deque
from collections.abc import Callable


class Handover:
    """What waits is handed over together, with one wake-up, which is a system call and gives the interpreter away.

    `wake(function)` has the other thread call a function soon: `TrioToken.run_sync_soon`, `loop.call_soon_threadsafe`.
    """

    __slots__ = ("_functions", "_is_woken", "_wake")

    def __init__(self, wake: Callable[[Callable[[], None]], object]) -> None:
        self._wake = wake
        self._functions: deque[Callable[[], object]] = deque()
        self._is_woken = False

    def put(self, function: Callable[[], object]) -> None:
        """From any thread. Raises what `wake` does, where the other thread has ended."""
        self._functions.append(function)
        if not self._is_woken:
            self._is_woken = True
            try:
                self._wake(self._call_waiting)
            except BaseException as error:
                self._is_woken = False
                if not isinstance(error, Exception):
                    # Interrupted, maybe before it was woken: others have seen that it was.
                    self._wake(self._call_waiting)
                raise

    def _call_waiting(self) -> None:
        # Before they are counted: whoever comes later wakes again.
        self._is_woken = False
        for _ in range(len(self._functions)):
            self._functions.popleft()()
