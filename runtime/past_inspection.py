"""What the command line shows of the past: a replay, the difference between two versions, and who set what."""

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import attrs
import trio
from msgspec import structs

from ..actors.aggregate_type import AggregateType
from ..actors.errors import DefinitionError
from ..actors.recovery import recover
from ..actors.serializer import Serializer
from ..storage.divergence import divergence
from ..storage.event_query import EventQuery
from ..storage.limits import Limits
from ..storage.query import find_events
from ..storage.reader import LogReader
from ..storage.record import StoredEvent
from .domain_modules import aggregates_in
from .history import blame, changes_between, difference, position_of_version
from .inspection import event_data, print_event
from .output import compact_json, format_time, make_console, make_table, print_json, print_rows
from .replay import MODES, Replay, ReplayMode, Selection
from .replay_console import run_on_console

NS_PER_SECOND: Final = 1e9
EXIT_USAGE: Final = 2


def print_replay(options: argparse.Namespace) -> int:
    """`eventsrc replay PATH`: events at their pace, or as fast as they come; Enter lets the next one by with --step."""
    with closing(LogReader.open(options.path)) as log:
        selection = Selection(
            mode=options.mode or _mode(options),
            stream=options.stream,
            types=options.types,
            category=options.category,
            tag=options.tags,
            metadata=dict(options.metadata) if options.metadata else None,
            to_version=options.to_version,
            to_position=options.to_position,
            to_time=None if options.to_time is None else datetime.fromtimestamp(options.to_time / NS_PER_SECOND, UTC),
        )
        try:
            selection.check()
        except ValueError as error:
            print(f"eventsrc: {error}", file=sys.stderr)
            return 2
        replay = Replay(log, selection, speed=options.speed, limits=Limits(), into=partial(_show, options))
        trio.run(partial(run_on_console, replay, step=options.step))
        progress = replay.progress
        print(f"{progress.events:,} events, {progress.per_second:,.0f} a second", file=sys.stderr)
    return 0


def _mode(options: argparse.Namespace) -> ReplayMode:
    if options.types or options.category or options.tags or options.metadata:
        return "selective"
    ends = (options.to_version, options.to_position, options.to_time)
    return "time_travel" if any(end is not None for end in ends) else "full"


def _show(options: argparse.Namespace, event: StoredEvent) -> None:
    print_event(event, as_json=options.json)


def print_difference(options: argparse.Namespace) -> int:
    """`eventsrc diff PATH STREAM FIRST SECOND`: the events; with the domain's classes also the fields that changed."""
    if options.other is not None:
        return _print_divergence(options)
    if options.stream is None or options.first is None or options.second is None:
        print("eventsrc: name a stream and two versions, or another store: --with OTHER", file=sys.stderr)
        return EXIT_USAGE
    with closing(LogReader.open(options.path)) as log:
        if options.modules:
            aggregate_type, aggregate_id = _aggregate(options)
            found = trio.run(difference, log, aggregate_type, aggregate_id, options.first, options.second)
            events, changes = found.events, found.changes
        else:
            position_of_version(log, options.stream, options.first)
            position_of_version(log, options.stream, options.second)
            events = log.read_stream(
                options.stream,
                from_version=options.first + 1,
                to_version=options.second,
                limit=max(options.second - options.first, 1),
            )
            changes = {}
    if options.json:
        data: dict[str, Any] = {"stream": options.stream, "events": [event_data(event) for event in events]}
        if options.modules:
            data["changes"] = {name: {"before": before, "after": after} for name, (before, after) in changes.items()}
        print_json(data)
        return 0
    for event in events:
        print_event(event, as_json=False)
    if changes:
        table = make_table("field", f"at {options.first}", f"at {options.second}")
        for name, (before, after) in changes.items():
            table.add_row(name, compact_json(before), compact_json(after))
        make_console().print(table)
    elif not options.modules:
        print("Name the module of the domain to see the fields that changed: --import MODULE", file=sys.stderr)
    return 0


def _print_divergence(options: argparse.Namespace) -> int:
    """`eventsrc diff PATH [STREAM] --with OTHER`: where two stores part, and what each of them has since."""
    with closing(LogReader.open(options.path)) as log, closing(LogReader.open(options.other)) as other:
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
            states = [trio.run(_state_data, store, *_aggregate(options)) for store in (log, other)]
            changes = changes_between(*states)
            rows = [
                {"field": field, "here": compact_json(here), "there": compact_json(there)}
                for field, (here, there) in changes.items()
            ]
            print_rows(rows, as_json=options.json)
    return 0


async def _state_data(log: LogReader, aggregate_type: AggregateType, aggregate_id: str) -> dict[str, Any]:
    recovered = await recover(log, aggregate_type, aggregate_type.stream(aggregate_id), aggregate_id)
    return aggregate_type.data(recovered.state)


def print_blame(options: argparse.Namespace) -> int:
    """`eventsrc blame PATH STREAM --import MODULE`."""
    with closing(LogReader.open(options.path)) as log:
        found = trio.run(blame, log, *_aggregate(options))
    if options.json:
        print_json({name: {**attrs.asdict(each), "time": format_time(each.time_ns)} for name, each in found.items()})
        return 0
    table = make_table("field", "value", "version", "position", "event", "time", "principal", "command", "correlation")
    for name, each in found.items():
        place = (f"{each.version}", f"{each.position}", each.event_type, format_time(each.time_ns))
        who = (each.principal or "", each.command_id, each.correlation_id)
        table.add_row(name, compact_json(each.value), *place, *who)
    make_console().print(table)
    return 0


def _aggregate(options: argparse.Namespace) -> tuple[AggregateType, str]:
    """The type and id of the aggregate that a stream belongs to, among the classes of the modules given."""
    category, _, aggregate_id = options.stream.partition("-")
    known = {each.__eventsrc_definition__.category: each for each in aggregates_in(options.modules)}
    if category not in known:
        raise DefinitionError(
            f"No aggregate of the category {category!r} is in {', '.join(options.modules)}; there is "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    return AggregateType(known[category], Serializer()), aggregate_id


def add_commands(
    add: Callable[[str, str], argparse.ArgumentParser],
    count: Callable[[str], int],
    time: Callable[[str], int],
    pair: Callable[[str], tuple[str, str]],
) -> None:
    """Add these commands to the command line."""
    replay = add("replay", "events of the past once more: all, a selection, or up to a moment")
    replay.add_argument("--mode", choices=MODES, help="what the other options say, unless given")
    replay.add_argument("--stream", help="only this stream")
    replay.add_argument("--type", action="append", dest="types", help="only this stored type; may be repeated")
    replay.add_argument("--category", help="only this category")
    replay.add_argument("--tag", action="append", dest="tags", help="only with this tag; may be repeated: with all")
    replay.add_argument("--metadata", action="append", type=pair, metavar="KEY=VALUE", help="only with this metadata")
    replay.add_argument("--to-version", type=count, metavar="VERSION", help="up to this version of the stream")
    replay.add_argument("--to-position", type=count, metavar="POSITION", help="up to this position")
    replay.add_argument("--to-time", type=time, metavar="TIME", help="up to this moment (ISO 8601)")
    replay.add_argument("--speed", type=float, metavar="X", help="times the original pace, 0.1 to 100")
    replay.add_argument("--step", action="store_true", help="begin paused; Enter lets one event by")
    replay.set_defaults(run=print_replay)

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
        parser_of_one.add_argument(
            "--import",
            action="append",
            dest="modules",
            required=is_needed,
            metavar="MODULE",
            help="the domain's classes",
        )
