"""The commands that copy stores: backup, restore, fork, export and import."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import rich.console
import rich.progress

from ...storage.copies.backup import backup, fork, restore
from ...storage.copies.exporting import STANDARD_STREAM, export_events
from ...storage.copies.importing import import_store
from ...storage.reader import LogReader
from .argument_types import AddCommand, count, time_ns
from .output import print_json


def run_backup(options: argparse.Namespace) -> int:
    """`eventsrc backup PATH DEST [--since POSITION]`: to a folder, or with `--since` an increment to a file."""
    with closing(LogReader.open(options.path)) as log, _shown("copying", log.last_position) as progress:
        if options.since is not None:
            count = export_events(log, options.destination, after=options.since, progress=progress)
            facts: dict[str, object] = {"events": count, "after": options.since, "position": options.since + count}
        else:
            summary = backup(log, options.destination, progress=progress)
            facts = {"events": summary.events, "position": summary.events, "streams": summary.streams}
            facts |= {"size_bytes": summary.size_bytes, "verified": True}
    return _tell(options, facts, options.destination)


def run_restore(options: argparse.Namespace) -> int:
    """`eventsrc restore BACKUP DEST [INCREMENT ...]`."""
    with closing(LogReader.open(options.path)) as log, _shown("restoring", None) as progress:
        position = restore(
            log,
            options.destination,
            increments=options.increments,
            to_position=options.to_position,
            # Options have microseconds: such a time stands for all of its nanoseconds.
            to_time_ns=None if options.to_time is None else options.to_time + 999,
            progress=progress,
        )
    return _tell(options, {"position": position}, options.destination)


def run_fork(options: argparse.Namespace) -> int:
    """`eventsrc fork PATH DEST --at POSITION`: makes a separate store that shares the history up to the position."""
    with closing(LogReader.open(options.path)) as log, _shown("copying", options.at) as progress:
        position = fork(log, options.at, options.destination, progress=progress)
    return _tell(options, {"position": position}, options.destination)


def run_export(options: argparse.Namespace) -> int:
    """`eventsrc export PATH FILE`."""
    with closing(LogReader.open(options.path)) as log, _shown("exporting", log.last_position) as progress:
        count = export_events(log, options.file, after=options.after, progress=progress)
    return _tell(options, {"events": count, "position": options.after + count}, options.file)


def run_import(options: argparse.Namespace) -> int:
    """`eventsrc import PATH FILE`."""
    with _shown("importing", None) as progress:
        count, position = import_store(options.path, options.file, progress=progress)
    return _tell(options, {"events": count, "position": position})


@contextmanager
def _shown(what: str, last_position: int | None) -> Iterator[Callable[[int], None]]:
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=last_position)
        yield lambda position: progress.update(task, completed=position)


def _tell(options: argparse.Namespace, facts: dict[str, object], destination: Path | None = None) -> int:
    if destination == STANDARD_STREAM:
        # Standard output is the export: nothing else belongs there.
        return 0
    if destination is not None:
        facts["destination"] = str(destination)
    if options.json:
        print_json(facts)
    else:
        print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()))
    return 0


def add_commands(add: AddCommand) -> None:
    """Add these commands to the command line."""
    parser = add("backup", "copy a store while it is in use, and verify the copy; or write what came --since to a file")
    parser.add_argument("destination", type=Path, metavar="DEST", help="a new folder; with --since a file, .jsonl.gz")
    parser.add_argument("--since", type=count, metavar="POSITION", help="only the events after it, as an increment")
    parser.set_defaults(run=run_backup)

    parser = add("restore", "make a store of a backup and increments, up to a moment", "the backup; any store will do")
    parser.add_argument("destination", type=Path, metavar="DEST", help="a new folder")
    parser.add_argument("increments", type=Path, nargs="*", metavar="INCREMENT", help="files of backup --since")
    parser.add_argument("--to-position", type=count, metavar="POSITION", help="up to this position")
    parser.add_argument("--to-time", type=time_ns, metavar="TIME", help="up to this moment (ISO 8601)")
    parser.set_defaults(run=run_restore)

    parser = add("fork", "a store of its own that shares the history up to a position, for what-if commands")
    parser.add_argument("destination", type=Path, metavar="DEST", help="a new folder")
    parser.add_argument("--at", type=count, required=True, metavar="POSITION", help="the last position that both share")
    parser.set_defaults(run=run_fork)

    parser = add("export", "write the events as JSON Lines, with positions, times and hashes")
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="a new file, packed where its name ends in .gz; - for stdout"
    )
    parser.add_argument("--after", type=count, default=0, metavar="POSITION", help="only after this position")
    parser.set_defaults(run=run_export)

    parser = add(
        "import",
        "check an export and append what the store lacks of it; or make one",
        "the store's folder, which nobody may have open; or a path that is free",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="as export wrote it; - for stdin")
    parser.set_defaults(run=run_import)
