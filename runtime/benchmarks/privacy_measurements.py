"""Measurements of personal data: the cost of sealing, and the time to forget a subject."""

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
"""How many subjects are forgotten to take the time."""
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
    """A text that is personal data."""

    speaker: str
    text: Annotated[str, Personal("speaker", forgotten="")]


class Talk(Aggregate, category="talk"):
    """An aggregate that only stores texts; its category tells it from the one with personal data."""

    said: int = 0

    @handles
    def say(self, command: Say) -> Said:
        return Said(self.id, command.text)

    @applies
    def heard(self, event: Said) -> None:
        self.said += 1


class Confession(Aggregate, category="confession"):
    """An aggregate that only stores texts as personal data."""

    said: int = 0

    @handles
    def say(self, command: Say) -> Confided:
        return Confided(self.id, command.text)

    @applies
    def heard(self, event: Confided) -> None:
        self.said += 1


async def sealing(store: Path, *, commands: int, people: int) -> Cost | None:
    """Measure sealing in turns, then forget some of `people` subjects; None where `cryptography` is not installed."""
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
