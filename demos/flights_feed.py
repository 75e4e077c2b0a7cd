"""Sends the commands of each day to the aircraft, many at a time, and keeps the answers."""

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import date
from functools import partial
from typing import Final

import attrs
import trio
from rich.console import Console
from rich.progress import Progress

from eventsrc import Receipt, Rejected, Runtime

from .flights_data import Flight, Step, steps_by_day
from .flights_domain import Aircraft, Schedule

WORKERS: Final = 500
"""How many aircraft are served at the same time."""
TIMEOUT_SECONDS: Final = 60.0
DAYS_BETWEEN_REPORTS: Final = 7


@attrs.define
class Answers:
    """The answers to the commands."""

    accepted: int = 0
    duplicates: int = 0
    reasons: Counter[str] = attrs.field(factory=Counter)
    """How many commands were rejected, by the domain's reason."""
    events: Counter[str] = attrs.field(factory=Counter)
    """How many different events the receipts of each stream had."""
    versions: dict[str, int] = attrs.field(factory=dict)
    """The highest version in the receipts of each stream."""
    seconds: float = 0.0
    """From the first command to the last answer."""
    _positions: set[int] = attrs.field(factory=set, init=False, repr=False)

    @property
    def rejected(self) -> int:
        """How many commands the domain refused."""
        return self.reasons.total()

    @property
    def commands(self) -> int:
        """How many commands were sent."""
        return self.accepted + self.duplicates + self.rejected

    def add(self, receipt: Receipt) -> None:
        """Count the answer to a command."""
        if receipt.duplicate:
            self.duplicates += 1
        else:
            self.accepted += 1
        # A flight that is in the file twice gets the same events as an answer twice.
        if receipt.position not in self._positions:
            self._positions.add(receipt.position)
            self.events[receipt.stream] += len(receipt.events)
        self.versions[receipt.stream] = max(receipt.version, self.versions.get(receipt.stream, 0))


async def send_flights(
    runtime: Runtime, flights: Sequence[Flight], console: Console, after_day: Callable[[date], Awaitable[None]]
) -> Answers:
    """Send every command, call `after_day` every `DAYS_BETWEEN_REPORTS` days, and return the answers.

    The commands of an aircraft go in time order, in one `ask_many` a day; aircraft do not wait for one another.
    """
    answers = Answers()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=len(flights))
        started = time.perf_counter()
        for number, (day, steps) in enumerate(steps_by_day(flights), 1):
            steps_of: defaultdict[str, list[Step]] = defaultdict(list)
            for step in steps:
                steps_of[step.aircraft].append(step)
            groups = iter(steps_of.items())
            await run_workers(min(WORKERS, len(steps_of)), partial(_send, runtime, groups, answers))
            progress.update(task, advance=_flights_scheduled(steps), description=f"{day}")
            if number % DAYS_BETWEEN_REPORTS == 0:
                await after_day(day)
        answers.seconds = time.perf_counter() - started
    return answers


async def run_workers(count: int, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` this many times at once, until all have ended. The first error is raised as it is, not in a group."""
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors


async def _send(runtime: Runtime, groups: Iterator[tuple[str, list[Step]]], answers: Answers) -> None:
    """One worker: takes the next aircraft until none is left."""
    for aircraft, steps in groups:
        replies = await runtime.actor(Aircraft, aircraft).ask_many(
            [step.command for step in steps],
            idempotency_keys=[step.idempotency_key for step in steps],
            timeout=TIMEOUT_SECONDS,
        )
        for reply in replies:
            if isinstance(reply, Receipt):
                answers.add(reply)
            elif isinstance(reply, Rejected):
                answers.reasons[str(reply)] += 1
            else:
                raise reply


def _flights_scheduled(steps: list[Step]) -> int:
    return sum(isinstance(step.command, Schedule) for step in steps)
