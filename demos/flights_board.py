"""The departure board: how late the flights of each carrier, airport and hour leave, kept by a projection."""

from datetime import date, datetime
from typing import Final

import attrs
from rich.console import Console

from eventsrc import EventMeta, Projection, Runtime, Table, on

from .flights_domain import Cancelled, Departed, Scheduled
from .printing import make_table, print_table

ON_TIME_MINUTES: Final = 15
"""A flight that leaves less than this after its schedule is on time."""
DEPARTURES_MIN: Final = 20
"""Carriers with fewer departures are not ranked."""


@attrs.frozen
class Planned:
    """A flight that has not left yet."""

    flight: str
    airport: str
    at: str


@attrs.frozen
class Punctuality:
    """The departures of one carrier, airport or hour of the day."""

    kind: str
    name: str
    departed: int = 0
    on_time: int = 0
    cancelled: int = 0
    delay_minutes: int = 0
    on_time_share: float = 0.0

    @property
    def mean_delay_minutes(self) -> float:
        """How late a flight leaves on average; early ones count as early."""
        return self.delay_minutes / self.departed if self.departed else 0.0

    def with_departure(self, delay_minutes: int) -> "Punctuality":
        """The same row with one more departure."""
        departed = self.departed + 1
        on_time = self.on_time + (delay_minutes < ON_TIME_MINUTES)
        return attrs.evolve(
            self,
            departed=departed,
            on_time=on_time,
            delay_minutes=self.delay_minutes + delay_minutes,
            on_time_share=on_time / departed,
        )

    def with_cancellation(self) -> "Punctuality":
        """The same row with one more cancellation."""
        return attrs.evolve(self, cancelled=self.cancelled + 1)


class Board(Projection):
    """The punctuality in the events of all aircraft."""

    planned = Table(Planned, key="flight")
    punctuality = Table(Punctuality, key=("kind", "name"), indexes=["on_time_share", "departed"])

    @on(Scheduled)
    def scheduled(self, event: Scheduled, meta: EventMeta) -> None:
        self.planned.put(Planned(event.flight, event.origin, event.at))

    @on(Departed)
    def departed(self, event: Departed, meta: EventMeta) -> None:
        plan = self.planned.get(event.flight)
        if plan is None:
            return
        self.planned.delete(event.flight)
        delay = datetime.fromisoformat(event.at) - datetime.fromisoformat(plan.at)
        for row in self.rows_of(plan):
            self.punctuality.put(row.with_departure(round(delay.total_seconds() / 60)))

    @on(Cancelled)
    def cancelled(self, event: Cancelled, meta: EventMeta) -> None:
        plan = self.planned.get(event.flight)
        if plan is None:
            return
        self.planned.delete(event.flight)
        for row in self.rows_of(plan):
            self.punctuality.put(row.with_cancellation())

    def rows_of(self, plan: Planned) -> list[Punctuality]:
        """The rows that count this flight. A flight is named `2013-02-04 UA1497 EWR`, and an hour `05`."""
        carrier = plan.flight.split()[1][:2]
        keys = [("carrier", carrier), ("airport", plan.airport), ("hour", plan.at[11:13])]
        return [self.punctuality.get(*key) or Punctuality(*key) for key in keys]


async def print_standing(console: Console, runtime: Runtime, day: date) -> None:
    """Print one line about the league while events come in, from what the view has seen so far."""
    view = runtime.view(Board.punctuality)
    league = view.where(kind="carrier").order_by("-on_time_share")
    ranked = [row for row in await league.rows() if row.departed >= DEPARTURES_MIN]
    if ranked:
        best, worst = ranked[0], ranked[-1]
        console.print(
            f"{day}: {sum(row.departed for row in ranked):>9,} departures on the board, on time most often "
            f"{best.name} ({best.on_time_share:.0%}), least often {worst.name} ({worst.on_time_share:.0%})"
        )


async def print_board(console: Console, runtime: Runtime) -> None:
    """Print the league of the carriers and the delay by airport and hour, from everything in the log."""
    view = runtime.view(Board.punctuality)
    everything = runtime.last_position
    for title, kind, order in (
        ("On-time league of the carriers", "carrier", ("-on_time_share", "-departed")),
        ("Delay by airport", "airport", ("-departed",)),
        ("Delay by hour of the schedule", "hour", ("name",)),
    ):
        table = make_table(console)
        for column in (kind, "departed", "on time", "mean delay", "cancelled"):
            table.add_column(column, justify="left" if column == kind else "right")
        for row in await view.where(kind=kind).order_by(*order).fresh(at_least=everything).rows():
            delay = f"{row.mean_delay_minutes:.1f} min"
            table.add_row(row.name, f"{row.departed:,}", f"{row.on_time_share:.1%}", delay, f"{row.cancelled:,}")
        print_table(console, title, table)
