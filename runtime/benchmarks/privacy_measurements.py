"""What `eventsrc bench` measures of personal data: what sealing costs, and how long forgetting somebody takes."""

import importlib.util
import statistics
import time
from pathlib import Path
from typing import Annotated, Final

import msgspec

from ...actors.aggregates.aggregate import Aggregate, applies, handles
from ...actors.messages import command, event
from ...actors.serialization.personal import Personal
from ..runtime import Runtime
from .measurements import LIMITS

FORGOTTEN: Final = 20
"""Subjects whose forgetting is timed."""
ROUNDS: Final = 4


class Cost(msgspec.Struct, frozen=True):
    """Commands a second with and without a personal field, and seconds to forget a subject (median)."""

    plain_per_second: float
    sealed_per_second: float
    forget_seconds: float


@command
class Say:
    """Asks for one event."""

    text: str


@event("bench.said")
class Said:
    """A text."""

    speaker: str
    text: str


@event("bench.confided")
class Confided:
    """The same as personal data."""

    speaker: str
    text: Annotated[str, Personal("speaker", forgotten="")]


class Talk(Aggregate, category="talk"):
    """Nothing but events; that of a person is told from others by its category."""

    said: int = 0

    @handles
    def say(self, command: Say) -> Said:
        return Said(self.id, command.text)

    @applies
    def heard(self, event: Said) -> None:
        self.said += 1


class Confession(Aggregate, category="confession"):
    """The same with personal data."""

    said: int = 0

    @handles
    def say(self, command: Say) -> Confided:
        return Confided(self.id, command.text)

    @applies
    def heard(self, event: Confided) -> None:
        self.said += 1


async def sealing(store: Path, *, commands: int, people: int) -> Cost | None:
    """Measure in turns, and then forget some of as many `people`; None where the library for it is not installed."""
    if importlib.util.find_spec("cryptography") is None:
        return None
    seconds: dict[type[Aggregate], float] = {Talk: 0.0, Confession: 0.0}
    messages = [Say("as long as what people say usually is")] * (commands // ROUNDS)
    async with Runtime.open(store, aggregates=[Talk, Confession], limits=LIMITS) as runtime:
        for _ in range(ROUNDS):
            for of in seconds:
                started = time.perf_counter()
                await runtime.actor(of, "one").ask_many(messages)
                seconds[of] += time.perf_counter() - started
        for number in range(people):
            await runtime.actor(Confession, f"{number}").ask(Say("a few words"))
        forgetting = []
        for number in range(FORGOTTEN):
            started = time.perf_counter()
            await runtime.forget(f"{number * people // FORGOTTEN}")
            forgetting.append(time.perf_counter() - started)
    count = len(messages) * ROUNDS
    return Cost(count / seconds[Talk], count / seconds[Confession], statistics.median(forgetting))
