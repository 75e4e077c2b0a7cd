"""The command `eventsrc`: demos, the benchmark, and commands that inspect a store without the classes that wrote it."""

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ..actors.error_text import errors_in
from ..storage.errors import EventSourcingError
from .commands import (
    compaction,
    copies,
    diff,
    events,
    evidence,
    forget,
    output,
    projections,
    replay,
    sagas,
    show,
    subscriptions,
    trace,
    watch,
)
from .commands.command_parser import CommandParser
from .commands.exit_codes import EXIT_ERROR, EXIT_INTERRUPTED

COMMANDS: Final = (
    events,
    show,
    replay,
    diff,
    trace,
    copies,
    evidence,
    compaction,
    forget,
    watch,
    projections,
    subscriptions,
    sagas,
)
"""The modules of the commands, in the order of `eventsrc --help`."""
DEMOS_MODULE: Final = "eventsrc.demos"
BENCHMARK_MODULE: Final = "eventsrc.runtime.benchmarks.benchmark"
"""Imported only when the benchmark runs: the import takes a tenth of a second, which no other command should pay."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. An `EventSourcingError` is printed as one line, not as a traceback."""
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
    # Only the list is asked for, so all options are known here, including --help.
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
    benchmark = importlib.import_module(BENCHMARK_MODULE)
    return _guarded(lambda: int(benchmark.run(sys.argv[1:] if argv is None else argv)))


def _guarded(work: Callable[[], int]) -> int:
    # SIGTERM is handled like an interrupt: stores are closed and temporary stores are removed. A shell's background
    # job, which may ignore interrupts, keeps its handler. SIGHUP (a closed terminal) is handled likewise, unless
    # `nohup` ignores it.
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
        # trio wraps errors that end its nurseries in groups.
        interrupts, rest = group.split(KeyboardInterrupt)
        errors, rest = (None, None) if rest is None else rest.split(EventSourcingError)
        code = EXIT_ERROR
        if rest is not None:
            code = output.code_where_refused() if rest.split(OSError)[1] is None else 0
            if not code:
                raise
        # An error that a hundred commands got at once is printed once.
        for said in dict.fromkeys(str(leaf) for leaf in (() if errors is None else errors_in(errors))):
            print(f"eventsrc: {said}", file=sys.stderr)
        output.give_up_rest()
        return EXIT_INTERRUPTED if interrupts is not None else code


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

    for module in COMMANDS:
        module.add_commands(partial(_reading, commands))
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
