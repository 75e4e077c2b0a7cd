"""The commands that list a store's streams and events."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Final

import attrs
from msgspec import structs

from ...actors.serialization.sealing import unsealed
from ...storage.event_query import EventQuery
from ...storage.keys.subject_keys import SubjectKeys
from ...storage.query import find_events, find_streams, position_at
from ...storage.reader import LogReader
from ...storage.record import StoredEvent
from ..errors import UnknownSubject
from ..events import merged, with_subject
from ..known_names import check_stream, check_types
from .argument_types import TIME_FORM, AddCommand, count, metadata_pair, positive, time_ns
from .domain_modules import add_keys, keys_in
from .output import compact_json, format_time, print_json, print_tables

FOLLOW_INTERVAL_SECONDS: Final = 0.05
EVENT_COLUMNS: Final = ("position", "time", "stream", "version", "type", "payload")


def print_streams(options: argparse.Namespace) -> int:
    """`eventsrc streams PATH`."""
    with closing(LogReader.open(options.path)) as log:
        heads = find_streams(log, category=options.category)
        if options.json:
            for head in heads:
                print_json({"stream": head.stream, "version": head.version, "position": head.position})
            return 0
        rows = ((head.stream, f"{head.version}", f"{head.position}") for head in heads)
        print_tables(("stream", "version", "position"), rows)
    return 0


def print_events(options: argparse.Namespace) -> int:
    """`eventsrc events PATH`."""
    with closing(LogReader.open(options.path)) as log, closing(keys_in(options, options.keys)) as keys:
        # The followed stream or type may not exist yet.
        if not options.follow:
            if options.stream is not None:
                check_stream(log, options.stream)
            check_types(log, options.types or ())
        everything = _followed(log, options, keys) if options.follow else _found(log, options, keys, options.after)
        found: Iterable[StoredEvent] = islice(everything, options.limit)
        if options.unseal:
            found = (structs.replace(event, payload=unsealed(event.payload, keys)) for event in found)
        if options.json or options.follow or not sys.stdout.isatty():
            for event in found:
                print_event(event, as_json=options.json)
        else:
            print_tables(EVENT_COLUMNS, (event_cells(event) for event in found))
    return 0


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that select events by type, category, tag and metadata."""
    parser.add_argument(
        "--type", type=_text, action="append", dest="types", help="only this stored type; may be repeated"
    )
    parser.add_argument("--category", type=_text, help="only this category")
    parser.add_argument(
        "--tag", type=_text, action="append", dest="tags", help="only with this tag; may be repeated: with all"
    )
    parser.add_argument(
        "--metadata",
        action="append",
        type=metadata_pair,
        metavar="KEY=VALUE",
        help="only with this in its metadata; 3 is the text and the number",
    )


def add_correlation(parser: argparse._ActionsContainer, help_text: str) -> None:
    """Add the option that selects events by correlation id."""
    parser.add_argument("--correlation", type=_text, metavar="ID", help=help_text)


def _text(argument: str) -> str:
    if not argument:
        raise argparse.ArgumentTypeError("it is empty: leave it out to ask for all events")
    return argument


def event_data(event: StoredEvent) -> dict[str, Any]:
    """An event as JSON data."""
    return {**structs.asdict(event), "time": format_time(event.time_ns), "hash": event.hash.hex()}


def _found(log: LogReader, options: argparse.Namespace, keys: SubjectKeys, after: int) -> Iterator[StoredEvent]:
    if options.subject is None:
        return _tagged(log, options, after, options.tags)
    tags = with_subject(options.tags, options.subject, keys)
    if not tags:
        raise UnknownSubject(options.subject, keys.path)
    return merged(_tagged(log, options, after, each) for each in tags)


def _tagged(
    log: LogReader, options: argparse.Namespace, after: int, tags: str | Sequence[str] | None
) -> Iterator[StoredEvent]:
    query = EventQuery(
        types=options.types or None,
        tags=tags or None,
        category=options.category,
        metadata=dict(options.metadata or ()),
        correlation_id=options.correlation,
        after=after,
    )
    if options.since is not None:
        query = attrs.evolve(query, after=max(after, position_at(log, options.since - 1)))
    before = options.before
    if options.until is not None:
        end = position_at(log, options.until - 1) + 1
        before = end if before is None else min(before, end)
    return find_events(log, query, stream=options.stream, before=before)


def _followed(log: LogReader, options: argparse.Namespace, keys: SubjectKeys) -> Iterator[StoredEvent]:
    """The stored events, and then new ones as they come, until interrupted."""
    after = options.after
    while True:
        end = log.last_position
        yield from _found(log, options, keys, after)
        after = max(after, end)
        while not log.refresh():
            time.sleep(FOLLOW_INTERVAL_SECONDS)


def print_event(event: StoredEvent, *, as_json: bool) -> None:
    """Print one line for an event."""
    if as_json:
        print_json(event_data(event))
    else:
        print("\t".join(event_cells(event)), flush=True)


def event_cells(event: StoredEvent) -> tuple[str, ...]:
    """An event in the columns of a table, see `EVENT_COLUMNS`."""
    return (
        f"{event.position}",
        format_time(event.time_ns),
        event.stream,
        f"{event.version}",
        event.type,
        compact_json(event.payload),
    )


def add_commands(add: AddCommand) -> None:
    """Add these commands to the command line."""
    streams = add("streams", "list the streams of a store")
    streams.add_argument("--category", help="only this category")
    streams.set_defaults(run=print_streams)

    events = add("events", "list events by position")
    events.add_argument("--stream", help="only this stream")
    add_filters(events)
    add_correlation(events, "only with this correlation id; trace tells what led to what")
    events.add_argument("--subject", help="only what holds personal data of this subject")
    events.add_argument("--unseal", action="store_true", help="show personal data as they are, by their keys")
    add_keys(events)
    events.add_argument("--after", type=count, default=0, metavar="POSITION", help="only after this position")
    events.add_argument("--before", type=count, metavar="POSITION", help="only before this position")
    events.add_argument("--since", type=time_ns, metavar="TIME", help=f"only from this time on ({TIME_FORM})")
    events.add_argument("--until", type=time_ns, metavar="TIME", help=f"only before this time ({TIME_FORM})")
    events.add_argument("--limit", type=positive, metavar="N", help="at most so many, 1 or more")
    events.add_argument("--follow", action="store_true", help="go on with new events until interrupted")
    events.set_defaults(run=print_events)
