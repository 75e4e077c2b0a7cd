"""The gate of an environment: many read at a time, or one is alone, as whoever moves its map must be."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Depth(threading.local):
    """How many readers the current thread is."""

    count = 0


class Gate:
    """Many readers, or one who needs that nobody reads: from when he asks on, no new reader comes in before him."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._readers = 0
        # Several may need it, as who lets the map grow and who closes it: each in turn.
        self._waiting_alone = 0
        self._depth = _Depth()
        self._stops: list[Callable[[], None]] = []
        self._clearing = 0

    @property
    def depth(self) -> int:
        """How many readers the current thread is."""
        return self._depth.count

    def enter(self) -> None:
        """Read from now on; `leave` is owed, on the same thread."""
        depth = self._depth
        with self._lock:
            # Who reads already may read on in between, or it would wait for itself.
            while self._waiting_alone and not depth.count:
                self._condition.wait()
            self._readers += 1
        depth.count += 1

    def leave(self) -> None:
        """What `enter` owes."""
        self._depth.count -= 1
        with self._lock:
            self._readers -= 1
            if self._waiting_alone and not self._readers:
                self._condition.notify_all()

    @contextmanager
    def giving_way(self, stop: Callable[[], None]) -> Iterator[None]:
        """Around what a reader does for long: `stop` ends it when it is in the way. It must not wait."""
        with self._lock:
            self._stops.append(stop)
            if self._waiting_alone or self._clearing:
                stop()
        try:
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)

    def clear(self) -> None:
        """End all that is done for long, and let nothing of it begin until `cleared`, which is owed."""
        with self._lock:
            self._clearing += 1
            self._stop_all()

    def cleared(self) -> None:
        """What `clear` owes."""
        with self._lock:
            self._clearing -= 1

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
