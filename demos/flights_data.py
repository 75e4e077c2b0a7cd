"""Reads the flights of a CSV file and turns them into commands in time order.

The columns are those of `nycflights13` (departures from New York in 2013, from the U.S. Bureau of Transportation
Statistics), with `NA` for unknown values. Times are local to their airport: a departure's is New York's, an arrival's
is the destination's.
"""

import csv
import gzip
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from .flights_domain import Arrive, Cancel, Depart, Schedule

SAMPLE: Final = Path(__file__).with_name("flights-week.csv.gz")
"""4 to 10 February 2013: a week with a snowstorm on its Friday."""
UNASSIGNED: Final = "unassigned"
"""Stands for the aircraft of a flight that has none. The domain rejects its commands."""
NOTICE: Final = timedelta(days=1)
"""The data does not say when a flight was put on the schedule; the demo assumes a day ahead."""

_COLUMNS: Final = (
    *("year", "month", "day", "sched_dep_time", "dep_time", "dep_delay", "arr_time"),
    *("carrier", "flight", "tailnum", "origin", "dest"),
)
_UNKNOWN: Final = ("NA", "")

FlightCommand: TypeAlias = Schedule | Depart | Arrive | Cancel


class DataInvalid(ValueError):
    """The file does not hold flights; the message names the line."""


class Flight(NamedTuple):
    """One row. A flight that was cancelled has no departure; one that was diverted may have no arrival."""

    name: str
    tail_number: str
    origin: str
    destination: str
    scheduled: datetime
    departed: datetime | None
    arrived: datetime | None


class Step(NamedTuple):
    """A command, when it is due, and the aircraft that it goes to. The key is the same each time the file is read."""

    at: datetime
    aircraft: str
    idempotency_key: str
    command: FlightCommand


def read_flights(path: Path) -> list[Flight]:
    """The flights of a CSV file, packed by gzip where its name ends in .gz, in the order of their dates.

    Raises `DataInvalid`, or `OSError` when the file cannot be read.
    """
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        rows = csv.reader(file)
        try:
            places = _places(next(rows, []))
            flights = [_flight(_values(row, places)) for row in rows if row]
        except (ValueError, OverflowError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataInvalid(f"{path}, line {rows.line_num}: {error}") from error
    flights.sort(key=lambda flight: flight.scheduled)
    return flights


def steps_by_day(flights: Iterable[Flight]) -> Iterator[tuple[date, list[Step]]]:
    """The commands of each day in the order of their times; `flights` are in the order of their schedule."""
    waiting: defaultdict[date, list[Step]] = defaultdict(list)
    today = date.min
    for flight in flights:
        if flight.scheduled.date() > today:
            today = flight.scheduled.date()
            # No step of a flight is due earlier than NOTICE before it, so those days have all their steps.
            yield from _take(waiting, [day for day in waiting if day < today - NOTICE])
        for step in _steps(flight):
            waiting[step.at.date()].append(step)
    yield from _take(waiting, list(waiting))


def _places(header: list[str]) -> list[int]:
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
        raise ValueError(f"there is no column {', '.join(missing)}")
    return [header.index(column) for column in _COLUMNS]


def _values(row: list[str], places: list[int]) -> list[str]:
    if len(row) <= max(places):
        raise ValueError(f"the row has {len(row)} values, too few for its columns")
    return [row[place] for place in places]


def _take(waiting: dict[date, list[Step]], days: list[date]) -> Iterator[tuple[date, list[Step]]]:
    for day in sorted(days):
        yield day, sorted(waiting.pop(day), key=lambda step: step.at)


def _steps(flight: Flight) -> Iterator[Step]:
    """The commands of one flight. A flight without an aircraft has only the Schedule command, which is rejected."""
    aircraft = flight.tail_number or UNASSIGNED
    published = flight.scheduled - NOTICE
    schedule = Schedule(flight.name, flight.tail_number, flight.origin, flight.destination, _clock(flight.scheduled))
    yield Step(published, aircraft, f"{flight.name} schedule", schedule)
    if not flight.tail_number:
        return
    if flight.departed is None:
        yield Step(flight.scheduled, aircraft, f"{flight.name} cancel", Cancel(flight.name, _clock(flight.scheduled)))
        return
    yield Step(flight.departed, aircraft, f"{flight.name} depart", Depart(flight.name, _clock(flight.departed)))
    if flight.arrived is not None:
        yield Step(flight.arrived, aircraft, f"{flight.name} arrive", Arrive(flight.name, _clock(flight.arrived)))


def _flight(row: list[str]) -> Flight:
    year, month, day, planned, departure, delay, arrival, carrier, number, tail_number, origin, destination = row
    midnight = datetime(int(year), int(month), int(day))
    scheduled = midnight + _since_midnight(planned)
    departed = arrived = None
    if departure not in _UNKNOWN:
        # The clock alone does not give the day: flights leave 43 minutes early and up to 21 hours late.
        departed = scheduled + timedelta(minutes=int(delay))
        if arrival not in _UNKNOWN:
            arrived = departed.replace(hour=0, minute=0) + _since_midnight(arrival)
            if arrived <= departed:
                arrived += timedelta(days=1)
    return Flight(
        name=f"{midnight:%Y-%m-%d} {carrier}{number} {origin}",
        tail_number="" if tail_number in _UNKNOWN else tail_number,
        origin=origin,
        destination=destination,
        scheduled=scheduled,
        departed=departed,
        arrived=arrived,
    )


def _since_midnight(clock: str) -> timedelta:
    """`517` is 5:17 and `2400` the midnight that ends the day."""
    hours, minutes = divmod(int(clock), 100)
    return timedelta(hours=hours, minutes=minutes)


def _clock(moment: datetime) -> str:
    return moment.isoformat(" ", "minutes")
