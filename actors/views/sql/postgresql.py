"""Connections to PostgreSQL that do not wait for ever for a server that is there and does nothing."""

import time
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")
ANSWER_SECONDS_MAX: Final = 30.0
"""After which a statement is given up on which nothing comes from the server; it waits for locks for less."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server says nothing for too long.

    The system notices a machine that has gone, but not a server that is stopped, or hangs on its disk: its side of the
    connection is kept up by its system.
    """

    answer_seconds_max: float = ANSWER_SECONDS_MAX

    def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        """Raises `psycopg.OperationalError` then, beside what psycopg's own raises."""
        return super().wait(self._bounded(gen), *args, **options)

    def _bounded(self, gen: PQGen[T]) -> PQGen[T]:
        begun = time.monotonic()
        try:
            state = next(gen)
            while True:
                ready = yield state
                if ready:
                    begun = time.monotonic()
                elif time.monotonic() - begun > self.answer_seconds_max:
                    self.close()
                    raise psycopg.OperationalError(f"the server has said nothing for {self.answer_seconds_max} seconds")
                state = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
