"""`eventsrc watch PATH`: shows the activity of a store's runtime live."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import attrs
import rich.live
import rich.panel
import rich.table
from rich.console import Group

from ...storage.reader import LogReader
from .argument_types import AddCommand, count
from .control_boards import WRITER, places
from .output import make_console, make_table, print_json
from .projections import projection_rows

PERIOD_SECONDS: Final = 1.0


@attrs.frozen
class Picture:
    """One observation of a store; rates are averages since the observation before."""

    position: int
    events_per_second: float
    resident_actors: int
    events_per_group: float
    """Events in one transaction of the journal, on average."""
    groups_per_second: float
    commit_seconds: float
    """How long a transaction takes on the disk."""
    is_running: bool
    projections: list[dict[str, Any]]


def print_watch(options: argparse.Namespace) -> int:
    """`eventsrc watch PATH`: a live page in a terminal, a line a second when piped."""
    pictures = _pictures(options.path, options.seconds)
    if options.json:
        for picture in pictures:
            print_json(attrs.asdict(picture))
    elif sys.stdout.isatty():
        with rich.live.Live(console=make_console(), screen=options.seconds is None, auto_refresh=False) as live:
            for picture in pictures:
                live.update(_page(options.path, picture), refresh=True)
    else:
        for picture in pictures:
            print(_line(picture), flush=True)
    return 0


def _pictures(path: str, seconds: float | None) -> Iterator[Picture]:
    with closing(LogReader.open(path)) as log, places(path) as found:
        writer = found[0].board
        ends = None if seconds is None else time.monotonic() + seconds
        before, position_before = time.monotonic(), log.last_position
        numbers_before = _numbers(writer.status())
        while ends is None or before < ends:
            time.sleep(PERIOD_SECONDS)
            now = time.monotonic()
            log.refresh()
            numbers = _numbers(writer.status())
            groups = max(numbers["group_commits"] - numbers_before["group_commits"], 0)
            events = max(numbers["position"] - numbers_before["position"], 0)
            is_running = writer.has_runtime
            yield Picture(
                position=log.last_position,
                events_per_second=round((log.last_position - position_before) / (now - before), 1),
                resident_actors=numbers["resident_actors"] if is_running else 0,
                events_per_group=round(events / groups, 1) if groups else 0.0,
                groups_per_second=round(groups / (now - before), 1),
                commit_seconds=numbers["commit_seconds"],
                is_running=is_running,
                projections=[row for place in found for row in projection_rows(place, log)],
            )
            before, position_before, numbers_before = now, log.last_position, numbers


def _numbers(status: dict[str, Any]) -> dict[str, Any]:
    absent = {"resident_actors": 0, "group_commits": 0, "position": 0, "commit_seconds": 0.0}
    published: dict[str, Any] = status.get("runtime", {})
    return absent | published


def _page(path: str, picture: Picture) -> Group:
    state = "a runtime has it open" if picture.is_running else "no runtime has it open"
    numbers = rich.table.Table.grid(padding=(0, 3))
    for label, value in _facts(picture).items():
        numbers.add_row(label, value)
    parts: list[Any] = [rich.panel.Panel(numbers, title=f"{path}: {state}", expand=False)]
    if picture.projections:
        table = make_table(*picture.projections[0])
        for row in picture.projections:
            table.add_row(*(f"{value}" for value in row.values()))
        parts.append(table)
    return Group(*parts)


def _line(picture: Picture) -> str:
    facts = [f"{label} {value}" for label, value in _facts(picture).items()]
    views = [
        f"{row['projection']}{'' if row['at'] == WRITER else ' at ' + row['at']}: {row['state']}, "
        f"{row['behind']} events ({row['seconds']} s) behind"
        for row in picture.projections
    ]
    return "; ".join([*facts, *views])


def _facts(picture: Picture) -> dict[str, str]:
    return {
        "events": f"{picture.position:,}",
        "events/s": f"{picture.events_per_second:,.0f}",
        "resident actors": f"{picture.resident_actors:,}",
        "commits/s": f"{picture.groups_per_second:,.0f}",
        "events a commit": f"{picture.events_per_group:,.1f}",
        "commit on disk": f"{picture.commit_seconds * 1000:.2f} ms",
    }


def add_commands(add: AddCommand) -> None:
    """Add the command to the command line."""
    watching = add("watch", "see what a store's runtime is doing, as it does it")
    watching.add_argument("--seconds", type=count, metavar="N", help="end after so long; without it when interrupted")
    watching.set_defaults(run=print_watch)
