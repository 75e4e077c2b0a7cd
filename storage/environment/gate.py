"""The gate of an environment: many threads read at a time, or one is alone, as it must be to move the map."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Depth(threading.local):
    """How many reads the current thread has begun and not ended."""

    count = 0


class Gate:
    """Lets many threads read, or one be alone; once a thread waits to be alone, no other begins to read before it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._readers = 0
        # Several threads may wait, one to grow the map and one to close it, say: each has its turn.
        self._waiting_alone = 0
        self._depth = _Depth()
        self._stops: list[Callable[[], None]] = []
        self._clearing = 0

    @property
    def depth(self) -> int:
        """How many reads the current thread has begun and not ended."""
        return self._depth.count

    def enter(self) -> None:
        """Begin to read; the same thread must `leave`."""
        depth = self._depth
        with self._lock:
            # A thread that reads already is let in: else it would wait for itself.
            while self._waiting_alone and not depth.count:
                self._condition.wait()
            self._readers += 1
        depth.count += 1

    def leave(self) -> None:
        """End what `enter` began."""
        self._depth.count -= 1
        with self._lock:
            self._readers -= 1
            if self._waiting_alone and not self._readers:
                self._condition.notify_all()

    @contextmanager
    def giving_way(self, stop: Callable[[], None]) -> Iterator[None]:
        """Around a long read, before it begins: `stop`, which must not wait, is called to end it when it is in the way.

        Waits while others are cleared away or one is to be alone: ended at once, a read that is tried again would use
        all its attempts up. Not for a thread that reads, which may be what they wait for.
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
        """End the long reads, and let no other begin before `cleared` is called, which it must be."""
        with self._lock:
            self._clearing += 1
            self._stop_all()

    def cleared(self) -> None:
        """Long reads may begin again."""
        with self._condition:
            self._clearing -= 1
            self._condition.notify_all()

    def _stop_all(self) -> None:
        for stop in self._stops:
            stop()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody reads, and keep the others out. Not for a thread that reads: it would wait for itself."""
        with self._condition:
            self._waiting_alone += 1
            try:
                self._stop_all()
                self._condition.wait_for(lambda: not self._readers)
                yield
            finally:
                self._waiting_alone -= 1
                self._condition.notify_all()
