"""`eventsrc trace`: every event of a correlation, in causal order."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Final

from ...storage.event_query import EventQuery
from ...storage.query import find_events
from ...storage.reader import LogReader
from ..history.errors import UnknownCorrelation
from ..history.trace import TRACE_EVENTS_MAX, TracedEvent, correlation_of, traced
from .argument_types import AddCommand, positive
from .events import add_correlation, event_cells, event_data
from .output import make_console, print_json_with, print_tables

COLUMNS: Final = ("position", "time", "event", "stream", "payload")
INDENT: Final = "  "
DEPTH_SHOWN_MAX: Final = 20
"""Deeper events are not indented further: a causal chain may be long."""


def print_trace(options: argparse.Namespace) -> int:
    """`eventsrc trace PATH POSITION | --correlation ID`."""
    with closing(LogReader.open(options.path)) as log:
        correlation_id = correlation_of(log, options.position if options.correlation is None else options.correlation)
        found = list(islice(find_events(log, EventQuery(correlation_id=correlation_id)), options.limit + 1))
        if not found:
            raise UnknownCorrelation(str(options.path), correlation_id)
    lines = traced(found[: options.limit])
    if options.json:
        print_json_with({"correlation_id": correlation_id}, "events", map(_data, lines))
    else:
        # A correlation id may be any text, and a terminal may take parts of it for control sequences.
        shown = correlation_id if correlation_id.isprintable() else repr(correlation_id)
        make_console().print(f"correlation {shown}", highlight=False, markup=False, soft_wrap=True)
        _print(lines)
    if len(found) > options.limit:
        print(f"not all of it: it has more than {options.limit:,} events; --limit N shows more", file=sys.stderr)
    return 0


def _print(lines: Sequence[TracedEvent]) -> None:
    """Print a table as wide as the terminal; without a terminal, one line for each event, however long its payload."""
    if sys.stdout.isatty():
        print_tables(COLUMNS, map(_cells, lines))
        return
    rows = [COLUMNS, *map(_cells, lines)]
    position_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    for position, *cells, payload in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        print(position.rjust(position_width), *padded, payload, sep="  ")


def _data(line: TracedEvent) -> dict[str, Any]:
    return {"depth": line.depth, "caused_by": line.caused_by, **event_data(line.event)}


def _cells(line: TracedEvent) -> tuple[str, ...]:
    position, when, stream, _, name, payload = event_cells(line.event)
    return position, when, INDENT * min(line.depth, DEPTH_SHOWN_MAX) + name, stream, payload


def add_commands(add: AddCommand) -> None:
    """Add the command to the command line."""
    trace = add("trace", "everything that came of what an event came of: what led to what, over all streams")
    what = trace.add_mutually_exclusive_group(required=True)
    what.add_argument("position", nargs="?", type=positive, metavar="POSITION", help="of any event of it")
    add_correlation(what, "the correlation id, as it is stored with each event")
    trace.add_argument(
        "--limit", type=positive, default=TRACE_EVENTS_MAX, metavar="N", help="at most so many events (default: 10000)"
    )
    trace.set_defaults(run=print_trace)
