"""The year of flights, out to JSON Lines and back: a million events arrive as they were, hash for hash."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from itertools import islice
from pathlib import Path

import attrs
import pytest

from eventsrc import EventLog
from eventsrc.demos.flights_data import SAMPLE, Step, read_flights, steps_by_day
from eventsrc.storage.commit import ANY, Appended, Commit, NewEvent, StreamAppend
from eventsrc.storage.copies.exporting import export_events
from eventsrc.storage.copies.importing import import_events
from eventsrc.storage.reader import LogReader

YEAR = Path(__file__).parents[3] / "shared" / "data" / "flights-nyc-2013.csv.gz"
"""Beside the repository where it is developed; the week that is part of it stands in elsewhere."""
COMMIT_EVENTS = 500
NAMES = {"Schedule": "scheduled", "Depart": "departed", "Arrive": "arrived", "Cancel": "cancelled"}


def event_of(step: Step) -> NewEvent:
    name = f"flight.{NAMES[type(step.command).__name__]}"
    return NewEvent(name, attrs.asdict(step.command), correlation_id=step.idempotency_key, tags=(step.aircraft,))


def commits_of(steps: Iterator[Step]) -> Iterator[Commit]:
    number = 0
    while batch := list(islice(steps, COMMIT_EVENTS)):
        number += 1
        time_ns = int(batch[-1].at.replace(tzinfo=UTC).timestamp()) * 10**9
        appends = [StreamAppend(f"aircraft-{step.aircraft}", ANY, [event_of(step)]) for step in batch]
        yield Commit(number, time_ns, appends)


@pytest.mark.slow
def test_a_year_arrives_as_it_was(tmp_path: Path) -> None:
    data = YEAR if YEAR.exists() else SAMPLE
    with closing(EventLog(tmp_path / "here")) as log:
        for commit in commits_of(step for _, day in steps_by_day(read_flights(data)) for step in day):
            (outcome,) = log.append([commit])
            assert isinstance(outcome, Appended)
    with closing(LogReader.open(tmp_path / "here")) as log:
        count = export_events(log, tmp_path / "flights.jsonl.gz")
        assert count == log.last_position > 15_000
        with closing(EventLog(tmp_path / "there")) as other:
            assert import_events(other, tmp_path / "flights.jsonl.gz") == count
            # The root stands for the hash of every event, and that for all that is stored of it.
            assert other.tree == log.tree
            assert other.stream_count == log.stream_count
            for position in (1, count // 2, count):
                assert other.read(after=position - 1, limit=1) == log.read(after=position - 1, limit=1)
