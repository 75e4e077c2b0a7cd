"""The command `eventsrc`: demos, the benchmark, and looking into a store without the classes that wrote it."""

import argparse
import importlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from ..storage.errors import EventSourcingError
from ..storage.event_query import AnyOf
from .arguments import checked_time_ns
from .benchmarks import benchmark
from .commands import (
    evidence,
    housekeeping,
    inspection,
    moving,
    output,
    past_inspection,
    privacy,
    replay_inspection,
    saga_timeline,
    steering,
    stream_inspection,
    tracing,
    watch,
)
from .commands.command_parser import CommandParser
from .commands.domain_modules import add_keys
from .commands.exit_codes import EXIT_ERROR, EXIT_INTERRUPTED

TIME_FORM: Final = "ISO 8601; UTC unless it has a zone"
DEMOS_MODULE: Final = "eventsrc.demos"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors of ours are one line, not a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        return demo_main(arguments[1:])
    if arguments[:1] == ["bench"]:
        return bench_main(arguments[1:])
    options = _parser().parse_args(arguments)
    options.check(options)
    return _guarded(lambda: int(options.run(options)))


def demo_main(argv: Sequence[str] | None = None) -> int:
    """The command `eventsrc demo [NAME]`, also installed as `eventsrc-demo`."""
    demos = importlib.import_module(DEMOS_MODULE)
    parser = argparse.ArgumentParser(prog="eventsrc demo", description="Run a demo, or list them.", add_help=False)
    parser.add_argument("name", nargs="?", choices=sorted(demos.DEMOS))
    arguments = list(sys.argv[1:] if argv is None else argv)
    options, rest = parser.parse_known_args(arguments)
    if options.name is not None:
        module_name, _ = demos.DEMOS[options.name]
        module = importlib.import_module(module_name)
        return _guarded(lambda: int(module.run(rest)))
    # Nothing but the list is asked for, so here the options are known, --help among them.
    listing = argparse.ArgumentParser(prog="eventsrc demo", usage="%(prog)s [-h] [--json] [NAME ...]")
    listing.description = "Run the demo of this name, or list the demos. eventsrc demo NAME --help tells more."
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    rows = [{"name": name, "description": description} for name, (_, description) in sorted(demos.DEMOS.items())]
    return _guarded(partial(_list, rows, as_json=listing.parse_args(arguments).json))


def _list(rows: Sequence[dict[str, str]], *, as_json: bool) -> int:
    output.print_rows(rows, as_json=as_json)
    return 0


def bench_main(argv: Sequence[str] | None = None) -> int:
    """The command `eventsrc bench`, also installed as `eventsrc-bench` and `es-bench`."""
    return _guarded(lambda: benchmark.run(sys.argv[1:] if argv is None else argv))


def _guarded(work: Callable[[], int]) -> int:
    # SIGTERM is handled as an interrupt is: stores are closed, and temporary ones removed. Not in a shell's background
    # job, which may ignore interrupts. So is a terminal that is closed, unless `nohup` has it ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, _interrupt)
    output.replace_closed_streams()
    output.escape_what_cannot_be_printed()
    try:
        code = work()
        print(end="", flush=True)
        return code
    except EventSourcingError as error:
        print(f"eventsrc: {error}", file=sys.stderr)
        output.give_up_rest()
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError:
        code = output.code_where_refused()
        if not code:
            raise
        return code
    except BaseExceptionGroup as group:
        # trio wraps what ends its nurseries.
        interrupts, rest = group.split(KeyboardInterrupt)
        errors, rest = (None, None) if rest is None else rest.split(EventSourcingError)
        code = EXIT_ERROR
        if rest is not None:
            code = output.code_where_refused() if rest.split(OSError)[1] is None else 0
            if not code:
                raise
        # An error that a hundred commands got at once is printed once.
        for said in dict.fromkeys(str(leaf) for leaf in _leaves(errors)):
            print(f"eventsrc: {said}", file=sys.stderr)
        output.give_up_rest()
        return EXIT_INTERRUPTED if interrupts is not None else code


def _leaves(group: BaseExceptionGroup[BaseException] | None) -> Iterator[BaseException]:
    for error in () if group is None else group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eventsrc", description="Event sourcing with actors on LMDB.", epilog="eventsrc COMMAND --help tells more."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {output.installed_version('eventsrc')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    commands.add_parser("demo", help="run a demo: eventsrc demo [NAME]")
    commands.add_parser("bench", help="measure on this disk")

    streams = _reading(commands, "streams", "list the streams of a store")
    streams.add_argument("--category", help="only this category")
    streams.set_defaults(run=inspection.print_streams)

    events = _reading(commands, "events", "list events by position")
    events.add_argument("--stream", help="only this stream")
    inspection.add_filters(events, _pair)
    inspection.add_correlation(events, "only with this correlation id; trace tells what led to what")
    events.add_argument("--subject", help="only what holds personal data of this subject")
    events.add_argument("--unseal", action="store_true", help="show personal data as they are, by their keys")
    add_keys(events)
    events.add_argument("--after", type=_count, default=0, metavar="POSITION", help="only after this position")
    events.add_argument("--before", type=_count, metavar="POSITION", help="only before this position")
    events.add_argument("--since", type=_time, metavar="TIME", help=f"only from this time on ({TIME_FORM})")
    events.add_argument("--until", type=_time, metavar="TIME", help=f"only before this time ({TIME_FORM})")
    events.add_argument("--limit", type=_positive, metavar="N", help="at most so many, 1 or more")
    events.add_argument("--follow", action="store_true", help="go on with new events until interrupted")
    events.set_defaults(run=inspection.print_events)

    stream_inspection.add_commands(partial(_reading, commands), _count, _time)
    replay_inspection.add_commands(partial(_reading, commands), _count, _time, _pair)
    past_inspection.add_commands(partial(_reading, commands), _count)
    tracing.add_commands(partial(_reading, commands), _positive)
    moving.add_commands(partial(_reading, commands), _count, _time)
    evidence.add_commands(partial(_reading, commands), _count)
    housekeeping.add_commands(partial(_reading, commands))
    privacy.add_commands(partial(_reading, commands))

    watching = _reading(commands, "watch", "see what a store's runtime is doing, as it does it")
    watching.add_argument("--seconds", type=_count, metavar="N", help="end after so long; without it when interrupted")
    watching.set_defaults(run=watch.print_watch)

    steering.add_commands(partial(_reading, commands))
    saga_timeline.add_commands(partial(_reading, commands))
    return parser


def _reading(
    commands: "argparse._SubParsersAction[CommandParser]",
    name: str,
    help_text: str,
    path_help: str = "the store's folder; it may be in use",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("path", metavar="PATH", help=path_help)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(check=lambda _: None)
    return parser


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"give a whole number, not {text!r}") from None


def _count(text: str) -> int:
    number = _whole(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _positive(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return min(number, sys.maxsize)


def _pair(text: str) -> tuple[str, AnyOf]:
    """Metadata: a text, or what it means in JSON: 3 is the number and the text, "3" in quotes the text alone."""
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("write KEY=VALUE")
    try:
        meant = json.loads(value)
    except ValueError:
        return key, AnyOf((value,))
    return key, AnyOf((meant,) if isinstance(meant, str) else (value, meant))


def _time(text: str) -> int:
    """UTC nanoseconds; a time without a zone is taken as UTC, as times are printed."""
    try:
        time = datetime.fromisoformat(text)
        in_utc = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("write a time as 2026-01-31T12:00:00Z") from None
    return checked_time_ns("time", in_utc)
