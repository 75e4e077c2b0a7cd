"""`eventsrc replay`: replays past events on the command line."""

import argparse
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import trio

from ...storage.limits import Limits
from ...storage.reader import LogReader
from ...storage.record import StoredEvent, utc_time
from ..errors import ArgumentInvalid
from ..history.aggregate_replay import AggregateReplay
from ..history.pace import Speed
from ..history.replay import Replay
from ..history.selection import MODES, ReplayMode, Selection
from ..known_names import check_stream, check_types
from .argument_types import AddCommand, count, time_ns
from .domain_modules import add_import, aggregate_of
from .events import add_filters, print_event
from .exit_codes import EXIT_USAGE
from .output import compact_json, print_json
from .replay_console import is_typed, run_on_console, told


def print_replay(options: argparse.Namespace) -> int:
    """`eventsrc replay PATH`: prints events at their pace, or as fast as possible, steered by typed lines."""
    selection = _selection(options)
    try:
        selection.check()
        if options.modules and options.stream is None:
            advice = "with --import a replay is one into an aggregate's state: say which, by --stream"
            raise ArgumentInvalid("stream", None, advice)
    except ArgumentInvalid as error:
        print(f"eventsrc: {_in_options(str(error))}", file=sys.stderr)
        return EXIT_USAGE
    with closing(LogReader.open(options.path)) as log, ExitStack() as stack:
        if options.stream is not None:
            check_stream(log, options.stream)
        check_types(log, selection.type_names)
        replay = _replay(log, selection, options, stack)
        if selection.mode == "from_snapshot":
            print(_beginning(log, options.stream, replay.snapshot_version), file=sys.stderr)
        trio.run(partial(run_on_console, replay, step=options.step))
        if isinstance(replay, AggregateReplay):
            _print_state(replay, options)
        print(told(replay.progress), file=sys.stderr)
    return 0


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(
        mode=options.mode or _mode(options),
        stream=options.stream,
        types=options.types,
        category=options.category,
        tag=options.tags,
        metadata=dict(options.metadata) if options.metadata else None,
        to_version=options.to_version,
        to_position=options.to_position,
        to_time=None if options.to_time is None else utc_time(options.to_time),
    )


def _mode(options: argparse.Namespace) -> ReplayMode:
    if options.types or options.category or options.tags or options.metadata:
        return "selective"
    ends = (options.to_version, options.to_position, options.to_time)
    return "time_travel" if any(end is not None for end in ends) else "full"


def _in_options(words: str) -> str:
    """A message with the library's argument names replaced by the options of the command line."""
    words = words.replace("by its stream or itself", "by --stream")
    for name in ("to_version", "to_position", "to_time"):
        words = words.replace(name, f"--{name.replace('_', '-')}")
    return words


def _replay(log: LogReader, selection: Selection, options: argparse.Namespace, stack: ExitStack) -> Replay:
    show: Callable[[StoredEvent], Any] = partial(print_event, as_json=options.json)
    how: dict[str, Any] = {
        "speed": options.speed,
        "wait_seconds_max": options.wait_max,
        "limits": Limits(),
        "into": _letting_steer(show) if options.step or is_typed() else show,
    }
    if options.modules:
        aggregate = stack.enter_context(aggregate_of(selection.stream or "", options))
        return AggregateReplay(log, *aggregate, selection, **how)
    return Replay(log, selection, **how)


def _letting_steer(show: Callable[[StoredEvent], Any]) -> Callable[[StoredEvent], Awaitable[None]]:
    """Like `show`, but with a checkpoint after each event, so that typed lines take effect."""

    async def show_one(event: StoredEvent) -> None:
        show(event)
        await trio.lowlevel.checkpoint()

    return show_one


def _beginning(log: LogReader, stream: str, version: int) -> str:
    """Where a replay from a snapshot begins, in words."""
    found = [*log.snapshots(stream), *log.snapshots(stream, quarantined=True)]
    unusable = ", ".join(f"{each}" for each in sorted({each.version for each in found if each.version > version}))
    said = f"from the snapshot at version {version}" if version else "no usable snapshot: from the first event"
    passed_over = f"; not usable: the one at {unusable} (eventsrc snapshots says why)" if unusable else ""
    return f"{said}{passed_over}"


def _print_state(replay: "AggregateReplay[Any]", options: argparse.Namespace) -> None:
    data = replay.data
    if options.json:
        print_json({"stream": options.stream, "is_deleted": replay.state.is_deleted, "state": data})
    else:
        print(f"{'deleted; ' if replay.state.is_deleted else ''}state\t{compact_json(data)}")


def _speed(text: str) -> Speed:
    return "flat" if text == "flat" else _number(text, ' or "flat"')


def _number(text: str, otherwise: str = "") -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"give a number{otherwise}, not {text!r}") from None


def add_commands(add: AddCommand) -> None:
    """Add the command to the command line."""
    replay = add("replay", "events of the past once more: all, a selection, since a snapshot, or up to a moment")
    replay.add_argument("--mode", choices=MODES, help="what the other options say, unless given")
    replay.add_argument("--stream", help="only this stream")
    add_filters(replay)
    end = replay.add_mutually_exclusive_group()
    end.add_argument("--to-version", type=count, metavar="VERSION", help="up to this version of the stream")
    end.add_argument("--to-position", type=count, metavar="POSITION", help="up to this position")
    end.add_argument(
        "--to-time", type=time_ns, metavar="TIME", help="up to this moment (ISO 8601; UTC unless it has a zone)"
    )
    replay.add_argument("--speed", type=_speed, metavar="X", help='times the original pace, 0.1 to 100, or "flat"')
    replay.add_argument(
        "--wait-max",
        type=_number,
        default=float("inf"),
        metavar="SECONDS",
        help="the longest wait between two events at a pace; as long as it was unless given",
    )
    replay.add_argument("--step", action="store_true", help="begin paused; Enter lets one event by")
    add_import(replay, "the domain's classes: also show the state")
    replay.set_defaults(run=print_replay)
