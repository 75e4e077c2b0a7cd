"""Flights from New York, a week of 2013 or a file of them: each aircraft an actor, every answered command on disk.

Each row of the file becomes the commands Schedule, Depart, Arrive or Cancel, in time order. Afterwards the store is
opened again and compared with the answers. A second run on the same store (`--store PATH`) adds nothing: its
idempotency keys make every command a duplicate. A projection keeps a board of who leaves on time, which is queried
while the events come in.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs
import trio
from rich.console import Console

from eventsrc import Runtime

from .flights_board import Board, print_board, print_standing
from .flights_check import Check, check_nothing_is_missing
from .flights_data import SAMPLE, DataInvalid, Flight, read_flights
from .flights_domain import Aircraft
from .flights_feed import Answers, send_flights
from .printing import make_console, make_table, print_table


@attrs.frozen
class Outcome:
    """The results of a run: the answers, the number of events added, and the check of the reopened store."""

    answers: Answers
    events_added: int
    check: Check

    @property
    def summary(self) -> dict[str, int | float | bool]:
        """The figures of the run, by name."""
        answers = {name: getattr(self.answers, name) for name in ("commands", "accepted", "duplicates", "rejected")}
        return {
            **answers,
            "seconds": round(self.answers.seconds, 3),
            "events_added": self.events_added,
            **attrs.asdict(self.check),
            "nothing_is_missing": self.check.nothing_is_missing,
        }


async def main(flights: Sequence[Flight], store: Path, console: Console) -> Outcome:
    """Send the flights to the store in this folder, open it again and compare."""
    async with Runtime.open(store, aggregates=[Aircraft], projections=[Board]) as runtime:
        events_before = runtime.last_position
        if events_before:
            console.print(f"The store has {events_before:,} events already.")
        answers = await send_flights(runtime, flights, console, partial(print_standing, console, runtime))
        events_added = runtime.last_position - events_before
        _print_answers(console, answers, events_added)
        await _print_busiest(console, runtime)
        await print_board(console, runtime)
    async with Runtime.open(store, aggregates=[Aircraft]) as runtime:
        check = await check_nothing_is_missing(runtime, answers)
        _print_check(console, check)
    return Outcome(answers, events_added, check)


def run(argv: Sequence[str]) -> int:
    """Run the demo with these arguments; the exit code is 0 when nothing is missing."""
    parser = argparse.ArgumentParser(prog="eventsrc demo flights", description=__doc__)
    parser.add_argument("--data", type=Path, default=SAMPLE, metavar="FILE", help="a CSV file (default: a week)")
    parser.add_argument("--store", type=Path, metavar="PATH", help="keep the store here (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print what came of it; the story goes to standard error")
    arguments = parser.parse_args(argv)
    console = make_console(has_json=arguments.json)
    try:
        flights = read_flights(arguments.data)
    except (OSError, DataInvalid) as error:
        parser.error(str(error))
    unassigned = sum(not flight.tail_number for flight in flights)
    console.print(f"{len(flights):,} flights, {unassigned:,} of them without a tail number.")
    with tempfile.TemporaryDirectory(prefix="eventsrc-flights-") as folder:
        outcome = trio.run(main, flights, arguments.store or Path(folder, "flights.db"), console)
    if arguments.json:
        print(json.dumps(outcome.summary))
    return 0 if outcome.check.nothing_is_missing else 1


def _print_answers(console: Console, answers: Answers, events_added: int) -> None:
    table = make_table(console, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("commands", f"{answers.commands:,}")
    table.add_row("  accepted", f"{answers.accepted:,}")
    table.add_row("  duplicates", f"{answers.duplicates:,}")
    table.add_row("  rejected", f"{answers.rejected:,}")
    table.add_row("events added", f"{events_added:,}")
    table.add_row("aircraft", f"{len(answers.events):,}")
    table.add_row("seconds", f"{answers.seconds:.2f}")
    table.add_row("commands a second", f"{answers.commands / max(answers.seconds, 1e-9):,.0f}")
    print_table(console, "Every command was answered", table)
    for reason, count in answers.reasons.most_common():
        console.print(f"Rejected {count:,} times: {reason}.")
    if answers.duplicates and not answers.accepted:
        console.print("All of it was in the store: each accepted command is a duplicate, and no event was added.")


async def _print_busiest(console: Console, runtime: Runtime) -> None:
    heads = [head async for head in runtime.streams(category="aircraft")]
    heads.sort(key=lambda head: head.version, reverse=True)
    table = make_table(console)
    for name in ("aircraft", "events", "departed", "arrived", "cancelled", "last seen"):
        table.add_column(name, justify="right" if name in ("events", "departed", "arrived", "cancelled") else "left")
    for head in heads[:5]:
        tail_number = head.stream.partition("-")[2]
        state = await runtime.actor(Aircraft, tail_number).state()
        counts = (head.version, state.departed_count, state.arrived_count, state.cancelled_count)
        table.add_row(tail_number, *(f"{count:,}" for count in counts), state.airport)
    print_table(console, "The busiest aircraft", table)
    if heads:
        await _print_last_events(console, runtime, heads[0].stream)


async def _print_last_events(console: Console, runtime: Runtime, stream: str) -> None:
    table = make_table(console)
    table.add_column("position", justify="right")
    for name in ("event", "local time", "flight", "to"):
        table.add_column(name, no_wrap=True)
    newest = [stored async for stored in runtime.events(stream=stream, backwards=True, limit=6)]
    for stored in reversed(newest):
        payload = defaultdict(str, stored.payload)
        where = payload["airport"] or payload["destination"]
        event = stored.type.removeprefix("flight.").replace("_", " ")
        table.add_row(f"{stored.position:,}", event, payload["at"], payload["flight"], where)
    print_table(console, f"The last events of {stream}", table)


def _print_check(console: Console, check: Check) -> None:
    console.print(
        f"Opened again: {check.events:,} events in {check.streams:,} streams, "
        f"{check.gaps:,} gaps in positions and versions."
    )
    if check.nothing_is_missing:
        console.print(
            f"Nothing is missing: all {check.events_acknowledged:,} events of the answers are in the log, and every "
            "aircraft's state counts them."
        )
    else:
        console.print(
            f"[bold red]MISSING: {check.events_missing:,} events of the answers are not in the log, "
            f"{check.states_wrong:,} aircraft have a state that differs from their events."
        )
