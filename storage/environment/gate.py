"""The gate of an environment: many threads may read, or one thread is alone, as resizing the map requires."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Depth(threading.local):
    """The number of open reads of the current thread."""

    count = 0


class Gate:
    """Lets many threads read, or one thread be alone; a thread that waits to be alone has priority over new readers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._readers = 0
        # Several threads may wait (one to grow the map and one to close it, for example): they take turns.
        self._waiting_alone = 0
        self._depth = _Depth()
        self._stops: list[Callable[[], None]] = []
        self._clearing = 0

    @property
    def depth(self) -> int:
        """The number of open reads of the current thread."""
        return self._depth.count

    def enter(self) -> None:
        """Begin a read; the same thread must call `leave`."""
        depth = self._depth
        with self._lock:
            # A thread that reads already may enter again; otherwise it would wait for itself.
            while self._waiting_alone and not depth.count:
                self._condition.wait()
            self._readers += 1
        depth.count += 1

    def leave(self) -> None:
        """End a read that `enter` began."""
        self._depth.count -= 1
        with self._lock:
            self._readers -= 1
            if self._waiting_alone and not self._readers:
                self._condition.notify_all()

    @contextmanager
    def giving_way(self, stop: Callable[[], None]) -> Iterator[None]:
        """Enclose a long read; `stop`, which must not block, is called to end it when a thread must be alone.

        Enter this before the read begins. It first waits until no thread is, or waits to be, alone and `clear` is over;
        a read that began earlier would be stopped at once, and use up its attempts. A thread that reads already must
        not call this: the others may wait for its read.
        """
        with self._condition:
            self._condition.wait_for(lambda: not (self._clearing or self._waiting_alone))
            self._stops.append(stop)
        try:
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)

    def clear(self) -> None:
        """Stop the long reads, and let no long read begin until `cleared` is called. The caller must call `cleared`."""
        with self._lock:
            self._clearing += 1
            self._stop_all()

    def cleared(self) -> None:
        """Let long reads begin again."""
        with self._condition:
            self._clearing -= 1
            self._condition.notify_all()

    def _stop_all(self) -> None:
        for stop in self._stops:
            stop()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no thread reads, and let none begin during the block. A reading thread would wait for itself."""
        with self._condition:
            self._waiting_alone += 1
            try:
                self._stop_all()
                self._condition.wait_for(lambda: not self._readers)
                yield
            finally:
                self._waiting_alone -= 1
                self._condition.notify_all()
