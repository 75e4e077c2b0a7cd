"""A disk that refuses writes at times."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from eventsrc import StoreFull
from eventsrc.storage.environment.environment import Environment


def short_of_room(monkeypatch: pytest.MonkeyPatch, chance: random.Random, *, often: float) -> None:
    """Have writes find no room with this probability: before they are stored, or after it."""
    write = Environment.write

    def refuse_at_times(self: Environment, work: Callable[[Any], Any]) -> Any:
        moment = chance.random() / often if often else 2.0
        if moment < 0.5:
            raise StoreFull(self.path, "so the test says")
        done = write(self, work)
        if moment < 1:
            raise StoreFull(self.path, "so the test says")
        return done

    monkeypatch.setattr(Environment, "write", refuse_at_times)
