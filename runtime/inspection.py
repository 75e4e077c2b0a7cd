"""What the command line shows of a store: streams, events, one stream, and whether all of it is sound."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import attrs
from msgspec import structs

from ..storage.event_query import EventQuery
from ..storage.query import find_events, find_streams, position_at
from ..storage.reader import LogReader
from ..storage.record import StoredEvent
from ..storage.snapshot import Snapshot
from .output import compact_json, format_time, make_console, make_table, print_json

FOLLOW_INTERVAL_SECONDS: Final = 0.05
EXIT_NOT_FOUND: Final = 1
EVENT_COLUMNS: Final = ("position", "time", "stream", "version", "type", "payload")


def print_streams(options: argparse.Namespace) -> int:
    """`eventsrc streams PATH`."""
    with closing(LogReader.open(options.path)) as log:
        heads = find_streams(log, category=options.category)
        if options.json:
            for head in heads:
                print_json({"stream": head.stream, "version": head.version, "position": head.position})
            return 0
        table = make_table("stream", "version", "position")
        for head in heads:
            table.add_row(head.stream, f"{head.version}", f"{head.position}")
        make_console().print(table)
    return 0


def print_events(options: argparse.Namespace) -> int:
    """`eventsrc events PATH`."""
    with closing(LogReader.open(options.path)) as log:
        # One that is followed may be still to come.
        if options.stream is not None and not options.follow and log.head(options.stream) is None:
            return _no_stream(options)
        found = _followed(log, options) if options.follow else _found(log, options, options.after)
        if options.json or options.follow or not sys.stdout.isatty():
            for number, event in enumerate(found, 1):
                print_event(event, as_json=options.json)
                if number == options.limit:
                    break
            return 0
        table = make_table(*EVENT_COLUMNS)
        for number, event in enumerate(found, 1):
            table.add_row(*_cells(event))
            if number == options.limit:
                break
        make_console().print(table)
    return 0


def print_stream(options: argparse.Namespace) -> int:
    """`eventsrc show PATH STREAM`."""
    with closing(LogReader.open(options.path)) as log:
        head = log.head(options.stream)
        if head is None:
            return _no_stream(options)
        at = head.version if options.at is None else options.at
        if at > head.version:
            print(
                f"eventsrc: stream {options.stream!r} is at version {head.version}; there is no version {at} yet",
                file=sys.stderr,
            )
            return EXIT_NOT_FOUND
        snapshot = next((found for found in log.snapshots(options.stream) if found.version <= at), None)
        events = (event for event in find_events(log, EventQuery(), stream=options.stream) if event.version <= at)
        if options.json:
            print_json(
                {
                    "stream": options.stream,
                    "version": at,
                    "head_version": head.version,
                    "compacted": getattr(log.compacted(options.stream), "version", 0),
                    "snapshot": None if snapshot is None else _snapshot_data(snapshot),
                    "events": [event_data(event) for event in events],
                }
            )
            return 0
        console = make_console()
        console.print(f"{options.stream}: version {at} of {head.version}", highlight=False)
        compacted = log.compacted(options.stream)
        if compacted is not None:
            console.print(f"versions 1 to {compacted.version} are in the archive", highlight=False)
        if snapshot is not None:
            console.print(f"snapshot at version {snapshot.version}: {compact_json(snapshot.state)}", highlight=False)
        table = make_table("version", *(column for column in EVENT_COLUMNS if column not in ("stream", "version")))
        for event in events:
            position, when, _, version, name, payload = _cells(event)
            table.add_row(version, position, when, name, payload)
        console.print(table)
    return 0


def _no_stream(options: argparse.Namespace) -> int:
    advice = f"`eventsrc streams {options.path}` lists them"
    print(f"eventsrc: there is no stream {options.stream!r} in {options.path}; {advice}", file=sys.stderr)
    return EXIT_NOT_FOUND


def event_data(event: StoredEvent) -> dict[str, Any]:
    """An event as JSON data."""
    return {**structs.asdict(event), "time": format_time(event.time_ns), "hash": event.hash.hex()}


def _snapshot_data(snapshot: Snapshot) -> dict[str, Any]:
    return {"version": snapshot.version, "time": format_time(snapshot.time_ns), "state": snapshot.state}


def _found(log: LogReader, options: argparse.Namespace, after: int) -> Iterator[StoredEvent]:
    query = EventQuery(
        types=options.types or None,
        tags=options.tags or None,
        category=options.category,
        metadata=dict(options.metadata or ()),
        after=after,
    )
    if options.since is not None:
        query = attrs.evolve(query, after=max(after, position_at(log, options.since - 1)))
    before = options.before
    if options.until is not None:
        end = position_at(log, options.until - 1) + 1
        before = end if before is None else min(before, end)
    return find_events(log, query, stream=options.stream, before=before)


def _followed(log: LogReader, options: argparse.Namespace) -> Iterator[StoredEvent]:
    """Events as they are, and then as they come, until interrupted."""
    after = options.after
    while True:
        end = log.last_position
        yield from _found(log, options, after)
        after = max(after, end)
        while not log.refresh():
            time.sleep(FOLLOW_INTERVAL_SECONDS)


def print_event(event: StoredEvent, *, as_json: bool) -> None:
    """One line for an event."""
    if as_json:
        print_json(event_data(event))
    else:
        print("\t".join(_cells(event)), flush=True)


def _cells(event: StoredEvent) -> tuple[str, ...]:
    return (
        f"{event.position}",
        format_time(event.time_ns),
        event.stream,
        f"{event.version}",
        event.type,
        compact_json(event.payload),
    )
