"""The command `eventsrc`: demos, the benchmark, and looking into a store without the classes that wrote it."""

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from ..storage.errors import EventSourcingError
from . import benchmark, evidence, housekeeping, inspection, moving, past_inspection, saga_timeline, steering, watch
from .replay import MODES

EXIT_ERROR: Final = 1
EXIT_INTERRUPTED: Final = 130
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
    options, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if options.name is None:
        for name, (_, description) in sorted(demos.DEMOS.items()):
            print(f"{name:10} {description}")
        return 0
    module_name, _ = demos.DEMOS[options.name]
    module = importlib.import_module(module_name)
    return _guarded(lambda: int(module.run(rest)))


def bench_main(argv: Sequence[str] | None = None) -> int:
    """The command `eventsrc bench`, also installed as `eventsrc-bench` and `es-bench`."""
    return _guarded(lambda: benchmark.run(sys.argv[1:] if argv is None else argv))


def _guarded(work: Callable[[], int]) -> int:
    # A reader that closes the pipe (`eventsrc events PATH | head`) ends the command quietly, as it ends others.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        return work()
    except EventSourcingError as error:
        print(f"eventsrc: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BaseExceptionGroup as group:
        # trio wraps what ends its nurseries.
        interrupts, rest = group.split(KeyboardInterrupt)
        errors, rest = (None, None) if rest is None else rest.split(EventSourcingError)
        if rest is not None:
            raise
        for leaf in _leaves(errors):
            print(f"eventsrc: {leaf}", file=sys.stderr)
        return EXIT_INTERRUPTED if interrupts is not None else EXIT_ERROR


def _leaves(group: BaseExceptionGroup[BaseException] | None) -> Iterator[BaseException]:
    for error in () if group is None else group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eventsrc", description="Event sourcing with actors on LMDB.", epilog="eventsrc COMMAND --help tells more."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("demo", help="run a demo: eventsrc demo [NAME]")
    commands.add_parser("bench", help="measure on this disk")

    streams = _reading(commands, "streams", "list the streams of a store")
    streams.add_argument("--category", help="only this category")
    streams.set_defaults(run=inspection.print_streams)

    events = _reading(commands, "events", "list events by position")
    events.add_argument("--stream", help="only this stream")
    events.add_argument("--type", action="append", dest="types", help="only this stored type; may be repeated")
    events.add_argument("--category", help="only this category")
    events.add_argument("--after", type=_count, default=0, metavar="POSITION", help="only after this position")
    events.add_argument("--tag", action="append", dest="tags", help="only with this tag; may be repeated: with all")
    events.add_argument(
        "--metadata", action="append", type=_pair, metavar="KEY=VALUE", help="only with this in its metadata"
    )
    events.add_argument("--before", type=_count, metavar="POSITION", help="only before this position")
    events.add_argument("--since", type=_time, metavar="TIME", help="only from this time on (ISO 8601)")
    events.add_argument("--until", type=_time, metavar="TIME", help="only before this time (ISO 8601)")
    events.add_argument("--limit", type=_count, metavar="N", help="at most so many")
    events.add_argument("--follow", action="store_true", help="go on with new events until interrupted")
    events.set_defaults(run=inspection.print_events)

    show = _reading(commands, "show", "one stream: its head, its newest snapshot, its events")
    show.add_argument("stream", metavar="STREAM")
    show.add_argument("--at", type=_count, metavar="VERSION", help="as of this version")
    show.set_defaults(run=inspection.print_stream)

    replay = _reading(commands, "replay", "events of the past once more: all, a selection, or up to a moment")
    replay.add_argument("--mode", choices=MODES, help="what the other options say, unless given")
    replay.add_argument("--stream", help="only this stream")
    replay.add_argument("--type", action="append", dest="types", help="only this stored type; may be repeated")
    replay.add_argument("--category", help="only this category")
    replay.add_argument("--tag", action="append", dest="tags", help="only with this tag; may be repeated: with all")
    replay.add_argument("--metadata", action="append", type=_pair, metavar="KEY=VALUE", help="only with this metadata")
    replay.add_argument("--to-version", type=_count, metavar="VERSION", help="up to this version of the stream")
    replay.add_argument("--to-position", type=_count, metavar="POSITION", help="up to this position")
    replay.add_argument("--to-time", type=_time, metavar="TIME", help="up to this moment (ISO 8601)")
    replay.add_argument("--speed", type=float, metavar="X", help="times the original pace, 0.1 to 100")
    replay.add_argument("--step", action="store_true", help="begin paused; Enter lets one event by")
    replay.set_defaults(run=past_inspection.print_replay)

    diff = _reading(commands, "diff", "what happened between two versions, or in one store and not in another")
    diff.add_argument("stream", nargs="?", metavar="STREAM")
    diff.add_argument("first", nargs="?", type=_count, metavar="FIRST")
    diff.add_argument("second", nargs="?", type=_count, metavar="SECOND")
    diff.add_argument("--with", dest="other", metavar="OTHER", help="another store, such as a fork: where the two part")
    diff.set_defaults(run=past_inspection.print_difference)
    blame = _reading(commands, "blame", "for each field of an aggregate's state: the event that set it last")
    blame.add_argument("stream", metavar="STREAM")
    blame.set_defaults(run=past_inspection.print_blame)
    for parser_of_one, is_needed in ((diff, False), (blame, True)):
        parser_of_one.add_argument(
            "--import",
            action="append",
            dest="modules",
            required=is_needed,
            metavar="MODULE",
            help="the domain's classes",
        )

    moving.add_commands(partial(_reading, commands), _count, _time)
    evidence.add_commands(partial(_reading, commands), _count)
    housekeeping.add_commands(partial(_reading, commands))

    watching = _reading(commands, "watch", "see what a store's runtime is doing, as it does it")
    watching.add_argument("--seconds", type=_count, metavar="N", help="end after so long; without it when interrupted")
    watching.set_defaults(run=watch.print_watch)

    projections = _reading(commands, "projections", "list the views with position, lag, state and error, or steer one")
    _add_actions(
        projections,
        {
            "pause": "have it stay where it is, also after a restart",
            "resume": "have it go on",
            "retry": "have it try again after it failed",
            "rebuild": "build it anew beside the view that answers",
            "parked": "list those that stand still on an event, with the error",
        },
        unnamed=("parked",),
    )
    projections.set_defaults(run=steering.steer_projections)

    sagas = _reading(commands, "sagas", "list the sagas, show the timeline of one, or decide on one that is parked")
    sagas.add_argument("id", nargs="?", metavar="ID", help="the saga's id, as the list shows it")
    sagas.add_argument(
        "action", nargs="?", choices=["retry", "skip", "abandon", "signal"], help="what to do with it; see --reason"
    )
    sagas.add_argument("name", nargs="?", metavar="NAME", help="signal: which")
    sagas.add_argument("payload", nargs="?", metavar="PAYLOAD", help="signal: what comes with it, as JSON or text")
    sagas.add_argument("--reason", help="retry, skip, abandon: why; it is recorded")
    sagas.add_argument("--state", help="list only those in this state")
    sagas.set_defaults(run=saga_timeline.print_sagas)

    subscriptions = _reading(commands, "subscriptions", "list the durable subscriptions, or steer one")
    _add_actions(
        subscriptions,
        {
            "parked": "list the events that were parked, with the error",
            "retry": "hand out again what is parked",
            "delete": "forget it, its progress and what is parked",
        },
        unnamed=("parked",),
    )
    subscriptions.add_argument("--stream", help="retry: only what is parked of this stream")
    subscriptions.set_defaults(run=steering.steer_subscriptions)
    return parser


def _add_actions(parser: argparse.ArgumentParser, actions: dict[str, str], *, unnamed: Sequence[str]) -> None:
    """`PATH [ACTION] [NAME]`; a name is needed for all actions but those `unnamed`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "actions:\n" + "\n".join(f"  {action:10}{text}" for action, text in actions.items())
    parser.add_argument("action", nargs="?", choices=[*actions], metavar="ACTION", help=", ".join(actions))
    parser.add_argument("name", nargs="?", metavar="NAME", help="of which")

    def check(options: argparse.Namespace) -> None:
        if options.action not in (None, *unnamed) and options.name is None:
            parser.error(f"name it: {options.action} NAME")

    parser.set_defaults(check=check)


def _reading(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, help_text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("path", metavar="PATH", help="the store's folder; it may be in use")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(check=lambda _: None)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("write KEY=VALUE")
    return key, value


def _time(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("write a time as 2026-01-31T12:00:00Z") from None
    return round(time.timestamp() * 1_000_000) * 1_000
