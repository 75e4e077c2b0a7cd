"""The commands for the past: the difference between two versions or two stores, and blame."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import attrs
import trio
from msgspec import structs

from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.aggregates.recovery import recover
from ...storage.event_query import EventQuery
from ...storage.evidence.divergence import divergence
from ...storage.query import find_events
from ...storage.reader import LogReader
from ...storage.record import StoredEvent
from ..history.changes import ABSENT, Change
from ..history.history import Blame, blame, changes_between, changes_of_state, check_version, position_of_version
from ..known_names import check_stream
from .argument_types import AddCommand, count
from .domain_modules import add_import, aggregate_of
from .events import event_data, print_event
from .exit_codes import EXIT_USAGE
from .output import (
    compact_json,
    format_time,
    make_table,
    print_json,
    print_json_with,
    print_rows,
    print_table,
)


def print_difference(options: argparse.Namespace) -> int:
    """`eventsrc diff PATH STREAM FIRST SECOND`: the events; with the domain's classes also the fields that changed."""
    if options.other is not None:
        if options.first is not None:
            print("eventsrc: two stores are compared as they are now: leave out the versions", file=sys.stderr)
            return EXIT_USAGE
        return _print_divergence(options)
    if options.stream is None or options.first is None or options.second is None:
        print("eventsrc: name a stream and two versions, or another store: --with OTHER", file=sys.stderr)
        return EXIT_USAGE
    with closing(LogReader.open(options.path)) as log:
        check_stream(log, options.stream)
        versions = int(options.first), int(options.second)
        for version in versions:
            check_version(log, options.stream, version)
        changes: dict[str, tuple[Any, Any]] = {}
        values: list[Change] = []
        if options.modules:
            with aggregate_of(options.stream, options) as aggregate:
                changes, values = trio.run(changes_of_state, log, *aggregate, *versions)
        events = _events_between(log, options.stream, *versions)
        if options.json:
            data: dict[str, Any] = {"stream": options.stream}
            if options.modules:
                data["changes"] = {name: {"before": old, "after": new} for name, (old, new) in changes.items()}
                data["values"] = [_value_data(change) for change in values]
            print_json_with(data, "events", map(event_data, events))
            return 0
        for event in events:
            print_event(event, as_json=False)
    if values:
        table = make_table("field", *(f"at {version}" for version in versions))
        for path, *sides in values:
            table.add_row(path, *("" if side is ABSENT else compact_json(side) for side in sides))
        print_table(table)
    elif not options.modules:
        print("Name the module of the domain to see the fields that changed: --import MODULE", file=sys.stderr)
    return 0


def _events_between(log: LogReader, stream: str, first: int, second: int) -> Iterator[StoredEvent]:
    after = position_of_version(log, stream, min(first, second))
    for event in find_events(log, EventQuery(after=after), stream=stream):
        if event.version > second:
            return
        yield event


def _value_data(change: Change) -> dict[str, Any]:
    """One changed value as JSON data; an added value has no "before", a removed value no "after"."""
    sides = {"before": change.before, "after": change.after}
    return {"path": change.path, **{name: side for name, side in sides.items() if side is not ABSENT}}


def _print_divergence(options: argparse.Namespace) -> int:
    """`eventsrc diff PATH [STREAM] --with OTHER`: the position where two stores part, and the later events of each."""
    with closing(LogReader.open(options.path)) as log, closing(LogReader.open(options.other)) as other:
        if options.stream is not None and other.head(options.stream) is None:
            check_stream(log, options.stream)
        found = divergence(log, other)
        differing = [each for each in found.streams if options.stream in (None, each.stream)]
        if options.stream is None or not differing:
            rows = [structs.asdict(each) for each in differing]
            print(f"the same up to position {found.shared_position}", file=sys.stderr)
            print_rows(rows, as_json=options.json)
            return 0
        for name, store in ((options.path, log), (options.other, other)):
            for event in find_events(store, EventQuery(after=found.shared_position), stream=options.stream):
                if options.json:
                    print_json({"store": str(name), **event_data(event)})
                else:
                    print(f"{name}\t", end="")
                    print_event(event, as_json=False)
        if options.modules:
            with aggregate_of(options.stream, options) as aggregate:
                here = trio.run(_state_data, log, *aggregate)
            with aggregate_of(options.stream, options, options.other) as aggregate:
                there = trio.run(_state_data, other, *aggregate)
            written: Callable[[Any], Any] = (lambda value: value) if options.json else compact_json
            rows = [
                {"field": field, "here": written(value_here), "there": written(value_there)}
                for field, (value_here, value_there) in changes_between(here, there).items()
            ]
            print_rows(rows, as_json=options.json)
    return 0


async def _state_data(log: LogReader, aggregate_type: AggregateType, aggregate_id: str) -> dict[str, Any]:
    recovered = await recover(log, aggregate_type, aggregate_type.stream(aggregate_id), aggregate_id)
    return aggregate_type.data(recovered.state)


def print_blame(options: argparse.Namespace) -> int:
    """`eventsrc blame PATH STREAM --import MODULE`."""
    with closing(LogReader.open(options.path)) as log, aggregate_of(options.stream, options) as aggregate:
        check_stream(log, options.stream)
        found = trio.run(blame, log, *aggregate)
    if options.json:
        print_json({name: _blame_data(each) for name, each in found.items()})
        return 0
    table = make_table("field", "value", "version", "position", "event", "time", "principal", "command", "correlation")
    for name, each in found.items():
        place = (f"{each.version}", f"{each.position}", each.event_type, format_time(each.time_ns))
        who = (each.principal or "", each.command_id, each.correlation_id)
        table.add_row(name, compact_json(each.value), *((*place, *who) if each.is_set else ("", "", "never set")))
    print_table(table)
    return 0


def _blame_data(found: Blame) -> dict[str, Any]:
    return {**attrs.asdict(found, recurse=False), "time": format_time(found.time_ns) if found.is_set else None}


def add_commands(add: AddCommand) -> None:
    """Add these commands to the command line."""
    diff = add("diff", "what happened between two versions, or in one store and not in another")
    diff.add_argument("stream", nargs="?", metavar="STREAM")
    diff.add_argument("first", nargs="?", type=count, metavar="FIRST")
    diff.add_argument("second", nargs="?", type=count, metavar="SECOND")
    diff.add_argument("--with", dest="other", metavar="OTHER", help="another store, such as a fork: where the two part")
    diff.set_defaults(run=print_difference)
    blame = add("blame", "for each field of an aggregate's state: the event that set it last")
    blame.add_argument("stream", metavar="STREAM")
    blame.set_defaults(run=print_blame)
    for parser_of_one, is_needed in ((diff, False), (blame, True)):
        add_import(parser_of_one, required=is_needed)
