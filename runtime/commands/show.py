"""The command for one stream: `eventsrc show`, as it is or as it was."""

import argparse
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import trio

from ...storage.event_query import EventQuery
from ...storage.query import find_events
from ...storage.reader import LogReader
from ...storage.record import StoredEvent, utc_time
from ...storage.snapshot import Snapshot
from ..history.history import check_version, find_snapshot, position_of, state_at
from ..known_names import check_stream
from .argument_types import AddCommand, count, time_ns
from .domain_modules import add_import, aggregate_of
from .events import EVENT_COLUMNS, event_cells, event_data
from .output import compact_json, format_time, make_console, print_json_with, print_tables


def print_stream(options: argparse.Namespace) -> int:
    """`eventsrc show PATH STREAM [--at VERSION | --at-position POSITION | --at-time TIME]`."""
    with closing(LogReader.open(options.path)) as log:
        check_stream(log, options.stream)
        head = log.head(options.stream)
        newest = 0 if head is None else head.version
        version = _version(log, options, newest)
        snapshot = find_snapshot(log, options.stream, version)
        compacted = log.compacted(options.stream)
        data: dict[str, Any] = {
            "stream": options.stream,
            "version": version,
            "head_version": newest,
            "compacted": 0 if compacted is None else compacted.version,
            "snapshot": None if snapshot is None else _snapshot_data(snapshot),
        }
        if options.modules:
            with aggregate_of(options.stream, options) as (aggregate_type, aggregate_id):
                found = trio.run(partial(state_at, log, aggregate_type, aggregate_id, version=version))
            data |= {"state": aggregate_type.data(found.state), "is_deleted": found.state.is_deleted}
        if options.json:
            print_json_with(data, "events", (event_data(event) for event in _events(log, options.stream, version)))
        else:
            _print(data, _events(log, options.stream, version))
    return 0


def _version(log: LogReader, options: argparse.Namespace, newest: int) -> int:
    """The version that the options ask for. Raises `NotInHistory`."""
    if options.at_position is not None or options.at_time is not None:
        time = None if options.at_time is None else utc_time(options.at_time)
        head = log.head_at(options.stream, position_of(log, position=options.at_position, time=time))
        return 0 if head is None else head.version
    if options.at is None:
        return newest
    check_version(log, options.stream, options.at)
    return int(options.at)


def _events(log: LogReader, stream: str, version: int) -> Iterator[StoredEvent]:
    for event in find_events(log, EventQuery(), stream=stream):
        if event.version > version:
            return
        yield event


def _print(data: dict[str, Any], events: Iterator[StoredEvent]) -> None:
    say = partial(make_console().print, highlight=False, soft_wrap=True)
    say(f"{data['stream']}: version {data['version']} of {data['head_version']}")
    if data["compacted"]:
        say(f"versions 1 to {data['compacted']} are in the archive")
    snapshot = data["snapshot"]
    if snapshot is not None:
        say(f"snapshot at version {snapshot['version']}: {compact_json(snapshot['state'])}")
    if "state" in data:
        say(("deleted; state: " if data["is_deleted"] else "state: ") + compact_json(data["state"]))
    columns = ("version", *(column for column in EVENT_COLUMNS if column not in ("stream", "version")))
    print_tables(columns, (_cells(event) for event in events))


def _cells(event: StoredEvent) -> tuple[str, ...]:
    position, when, _, version, name, payload = event_cells(event)
    return version, position, when, name, payload


def _snapshot_data(snapshot: Snapshot) -> dict[str, Any]:
    return {"version": snapshot.version, "time": format_time(snapshot.time_ns), "state": snapshot.state}


def add_commands(add: AddCommand) -> None:
    """Add the command to the command line."""
    show = add("show", "one stream: its head, its newest snapshot, its events, and with --import its state")
    show.add_argument("stream", metavar="STREAM")
    moment = show.add_mutually_exclusive_group()
    moment.add_argument("--at", type=count, metavar="VERSION", help="as of this version")
    moment.add_argument("--at-position", type=count, metavar="POSITION", help="as of this position of the log")
    moment.add_argument(
        "--at-time", type=time_ns, metavar="TIME", help="as of this moment (ISO 8601; UTC unless it has a zone)"
    )
    add_import(show)
    show.set_defaults(run=print_stream)
