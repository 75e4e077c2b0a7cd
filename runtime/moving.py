"""The commands that copy stores: backup, restore, fork, export and import."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import rich.console
import rich.progress

from ..storage.backup import backup, restore
from ..storage.log import EventLog
from ..storage.reader import LogReader
from ..storage.transfer import LIMITS, export_events, import_events
from .output import print_json


def run_backup(options: argparse.Namespace) -> int:
    """`eventsrc backup PATH DEST [--since POSITION]`: a folder, or a file of what came since."""
    with closing(LogReader.open(options.path)) as log, _shown("copying", log.last_position) as progress:
        if options.since is not None:
            count = export_events(log, options.destination, after=options.since, progress=progress)
            return _tell(options, {"events": count, "after": options.since, "destination": str(options.destination)})
        summary = backup(log, options.destination)
    facts = {"events": summary.events, "streams": summary.streams, "size_bytes": summary.size_bytes}
    return _tell(options, {**facts, "destination": str(options.destination), "verified": True})


def run_restore(options: argparse.Namespace) -> int:
    """`eventsrc restore BACKUP DEST [INCREMENT ...]`."""
    with closing(LogReader.open(options.path)) as log, _shown("restoring", log.last_position) as progress:
        position = restore(
            log,
            options.destination,
            increments=options.increments,
            to_position=options.to_position,
            to_time_ns=options.to_time,
            progress=progress,
        )
    return _tell(options, {"position": position, "destination": str(options.destination)})


def run_fork(options: argparse.Namespace) -> int:
    """`eventsrc fork PATH DEST --at POSITION`: a store of its own that shares the history up to there."""
    with closing(LogReader.open(options.path)) as log, _shown("copying", options.at) as progress:
        position = restore(log, options.destination, to_position=options.at, progress=progress)
    return _tell(options, {"position": position, "destination": str(options.destination)})


def run_export(options: argparse.Namespace) -> int:
    """`eventsrc export PATH FILE`."""
    with closing(LogReader.open(options.path)) as log, _shown("exporting", log.last_position) as progress:
        count = export_events(log, options.file, after=options.after, progress=progress)
    return _tell(options, {"events": count, "file": str(options.file)})


def run_import(options: argparse.Namespace) -> int:
    """`eventsrc import PATH FILE`."""
    with closing(EventLog(options.path, limits=LIMITS)) as log, _shown("importing", None) as progress:
        count = import_events(log, options.file, progress=progress)
        position = log.last_position
    return _tell(options, {"events": count, "position": position})


@contextmanager
def _shown(what: str, last_position: int | None) -> Iterator[Callable[[int], None]]:
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=last_position)
        yield lambda position: progress.update(task, completed=position)


def _tell(options: argparse.Namespace, facts: dict[str, object]) -> int:
    if options.json:
        print_json(facts)
    else:
        print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()))
    return 0


def add_commands(
    add: Callable[[str, str], argparse.ArgumentParser],
    count: Callable[[str], int],
    time: Callable[[str], int],
) -> None:
    """Add these commands to the command line."""
    parser = add("backup", "copy a store while it is in use, and verify the copy; or write what came --since to a file")
    parser.add_argument("destination", type=Path, metavar="DEST", help="a new folder; with --since a file, .jsonl.gz")
    parser.add_argument("--since", type=count, metavar="POSITION", help="only the events after it, as an increment")
    parser.set_defaults(run=run_backup)

    parser = add("restore", "make a store of a backup and increments, up to a moment")
    parser.add_argument("destination", type=Path, metavar="DEST", help="a new folder")
    parser.add_argument("increments", type=Path, nargs="*", metavar="INCREMENT", help="files of backup --since")
    parser.add_argument("--to-position", type=count, metavar="POSITION", help="up to this position")
    parser.add_argument("--to-time", type=time, metavar="TIME", help="up to this moment (ISO 8601)")
    parser.set_defaults(run=run_restore)

    parser = add("fork", "a store of its own that shares the history up to a position, for what-if commands")
    parser.add_argument("destination", type=Path, metavar="DEST", help="a new folder")
    parser.add_argument("--at", type=count, required=True, metavar="POSITION", help="the last position that both share")
    parser.set_defaults(run=run_fork)

    parser = add("export", "write the events as JSON Lines, with positions, times and hashes")
    parser.add_argument("file", type=Path, metavar="FILE", help="packed where its name ends in .gz")
    parser.add_argument("--after", type=count, default=0, metavar="POSITION", help="only after this position")
    parser.set_defaults(run=run_export)

    parser = add("import", "append the events of an export to a store that is new, or ends where the export begins")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.set_defaults(run=run_import)
