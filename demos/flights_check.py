"""Compares a reopened store with the answers given before: is anything missing?"""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import attrs

from eventsrc import Runtime, StreamHead

from .flights_domain import Aircraft
from .flights_feed import WORKERS, Answers, run_workers


@attrs.define
class Check:
    """The findings in the store."""

    events: int = 0
    streams: int = 0
    gaps: int = 0
    """Positions, and versions within their stream, that do not follow the one before."""
    events_acknowledged: int = 0
    """Events in the receipts of the commands."""
    events_missing: int = 0
    """Those of the acknowledged events that the log does not have."""
    states_wrong: int = 0
    """Aircraft whose state was not made by exactly the events of their stream."""

    @property
    def nothing_is_missing(self) -> bool:
        """Whether the store has every acknowledged event, and the states follow from the events."""
        return not (self.gaps or self.events_missing or self.states_wrong)


async def check_nothing_is_missing(runtime: Runtime, answers: Answers) -> Check:
    """Read the whole log and the state of every aircraft, and compare them with the answers."""
    check = Check(events_acknowledged=answers.events.total())
    versions: Counter[str] = Counter()
    async for stored in runtime.events():
        check.events += 1
        versions[stored.stream] += 1
        check.gaps += stored.position != check.events or stored.version != versions[stored.stream]
    for stream, acknowledged in answers.events.items():
        check.events_missing += max(0, max(acknowledged, answers.versions[stream]) - versions[stream])

    heads = [head async for head in runtime.streams(category="aircraft")]
    check.streams = len(heads)
    check.gaps += sum(head.version != versions[head.stream] for head in heads)
    waiting = iter(heads)
    await run_workers(min(WORKERS, len(heads)), partial(_check_states, runtime, waiting, check))
    return check


async def _check_states(runtime: Runtime, waiting: Iterator[StreamHead], check: Check) -> None:
    """One worker: takes the next aircraft until none is left."""
    for head in waiting:
        state = await runtime.actor(Aircraft, head.stream.partition("-")[2]).state()
        in_step = (
            state.events_counted == head.version
            and state.scheduled_count == len(state.planned) + state.departed_count + state.cancelled_count
            and state.departed_count == len(state.airborne) + state.arrived_count + state.lost_count
        )
        check.states_wrong += not in_step
