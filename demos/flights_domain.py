"""The life of an aircraft: its flights are scheduled, depart, and arrive or are cancelled.

The rules are those that the published record keeps. The record has a few aircraft in the air twice at one time (the
airline reported the wrong tail number), so the domain allows this. It also has flights that departed and are never
heard of again (diverted), so the domain closes such a flight when the aircraft departs again a day or more later.

Times are text such as `2013-02-08 17:55`: the airport's local time; the record does not give the zone.
"""

from datetime import datetime, timedelta
from typing import Final

import attrs

from eventsrc import Aggregate, Rejected, applies, command, event, handles

TEN_YEARS: Final = 10 * 365.25 * 24 * 60 * 60.0
"""Seconds that a key is remembered: a file that is read again years later still adds nothing."""
UNHEARD_OF: Final = timedelta(days=1)


@command(idempotency_window_seconds=TEN_YEARS)
class Schedule:
    flight: str
    tail_number: str
    origin: str
    destination: str
    at: str


@command(idempotency_window_seconds=TEN_YEARS)
class Depart:
    flight: str
    at: str


@command(idempotency_window_seconds=TEN_YEARS)
class Arrive:
    flight: str
    at: str


@command(idempotency_window_seconds=TEN_YEARS)
class Cancel:
    flight: str
    at: str


@event("flight.scheduled")
class Scheduled:
    flight: str
    origin: str
    destination: str
    at: str


@event("flight.departed")
class Departed:
    flight: str
    at: str


@event("flight.arrived")
class Arrived:
    flight: str
    airport: str
    at: str


@event("flight.cancelled")
class Cancelled:
    flight: str
    at: str


@event("flight.lost_sight_of")
class LostSightOf:
    """A flight departed and nobody recorded where it landed."""

    flight: str
    at: str


@attrs.frozen
class Leg:
    """A flight under way or to come: its destination, and when it departs or departed."""

    destination: str
    at: str


class Aircraft(Aggregate):
    """One aircraft, by its tail number. Its state holds the flights that are not over, and counts the others."""

    planned: dict[str, Leg] = attrs.field(factory=dict)
    airborne: dict[str, Leg] = attrs.field(factory=dict)
    airport: str = ""
    scheduled_count: int = 0
    departed_count: int = 0
    arrived_count: int = 0
    cancelled_count: int = 0
    lost_count: int = 0

    @property
    def events_counted(self) -> int:
        """How many events made this state."""
        over_or_under_way = self.departed_count + self.arrived_count + self.cancelled_count + self.lost_count
        return self.scheduled_count + over_or_under_way

    @handles
    def schedule(self, command: Schedule) -> Scheduled:
        if not command.tail_number:
            raise Rejected("no tail number: no aircraft is assigned to the flight")
        if command.flight in self.planned:
            raise Rejected("the flight is scheduled already")
        return Scheduled(command.flight, command.origin, command.destination, command.at)

    @handles
    def depart(self, command: Depart) -> list[Departed | LostSightOf]:
        if command.flight not in self.planned:
            raise Rejected("a flight departs that is not scheduled")
        heard_of_since = (datetime.fromisoformat(command.at) - UNHEARD_OF).isoformat(" ", "minutes")
        lost = [LostSightOf(flight, command.at) for flight, leg in self.airborne.items() if leg.at < heard_of_since]
        return [*lost, Departed(command.flight, command.at)]

    @handles
    def arrive(self, command: Arrive) -> Arrived:
        leg = self.airborne.get(command.flight)
        if leg is None:
            raise Rejected("a flight arrives that is not in the air")
        return Arrived(command.flight, leg.destination, command.at)

    @handles
    def cancel(self, command: Cancel) -> Cancelled:
        if command.flight not in self.planned:
            raise Rejected("a flight is cancelled that is not scheduled")
        return Cancelled(command.flight, command.at)

    @applies
    def scheduled(self, event: Scheduled) -> None:
        self.planned[event.flight] = Leg(event.destination, event.at)
        self.scheduled_count += 1

    @applies
    def departed(self, event: Departed) -> None:
        self.airborne[event.flight] = attrs.evolve(self.planned.pop(event.flight), at=event.at)
        self.departed_count += 1

    @applies
    def arrived(self, event: Arrived) -> None:
        del self.airborne[event.flight]
        self.airport = event.airport
        self.arrived_count += 1

    @applies
    def cancelled(self, event: Cancelled) -> None:
        del self.planned[event.flight]
        self.cancelled_count += 1

    @applies
    def lost_sight_of(self, event: LostSightOf) -> None:
        del self.airborne[event.flight]
        self.lost_count += 1
