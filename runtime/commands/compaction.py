"""The commands for long histories: compact, uncompact, and the snapshots that compaction relies on."""

import argparse
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import attrs
import trio

from ...storage.archive.compacted import Compacted
from ...storage.group import STUB
from ...storage.limits import Limits
from ...storage.query import find_streams
from ...storage.reader import LogReader
from ...storage.snapshot import Snapshot
from ..known_names import check_stream
from ..maintenance.compactor import Compaction
from ..maintenance.maintenance import RetentionReport
from ..maintenance.retention import RetentionPolicy
from ..runtime import Runtime
from .argument_types import AddCommand
from .control_boards import ask_writer, check_store
from .domain_modules import Domain, add_import, domain_in
from .exit_codes import EXIT_REFUSED
from .output import format_time, print_rows


def run_compact(options: argparse.Namespace) -> int:
    """`eventsrc compact PATH [STREAM] [--dry-run]`: done by the store's running runtime, or else by this process."""
    if options.dry_run:
        policy = RetentionPolicy(Limits(), time.time_ns)
        with closing(LogReader.open(options.path)) as log:
            if options.stream is not None:
                check_stream(log, options.stream)
            found = policy.candidates(log)
            rows = [
                {"stream": each.stream, "events": each.events, "reason": each.reason}
                for each in found
                if options.stream in (None, each.stream)
            ]
        print_rows(rows, as_json=options.json)
        return 0
    check_store(options.path)
    asked = ask_writer(options, "compact", options.stream)
    if asked is not None:
        if asked == 0 or options.stream is None:
            with closing(LogReader.open(options.path)) as log:
                print_rows([_compacted_row(each) for each in _compacted(log, options.stream)], as_json=options.json)
        return asked
    done: RetentionReport = trio.run(_compact, options, domain_in(options.modules))
    print_rows([_row(each) for each in done.compacted], as_json=options.json)
    for stream, reason in done.refused.items():
        print_rows([{"stream": stream, "refused": reason}], as_json=options.json)
    return EXIT_REFUSED if done.refused else 0


def run_uncompact(options: argparse.Namespace) -> int:
    """`eventsrc uncompact PATH STREAM`."""
    check_store(options.path)
    asked = ask_writer(options, "uncompact", options.stream)
    if asked is not None:
        return asked
    events = trio.run(_uncompact, options.path, options.stream)
    print_rows([{"stream": options.stream, "events": events}], as_json=options.json)
    return 0


def print_snapshots(options: argparse.Namespace) -> int:
    """`eventsrc snapshots PATH [STREAM]`."""
    with closing(LogReader.open(options.path)) as log:
        if options.stream is not None:
            check_stream(log, options.stream)
        heads = find_streams(log)
        streams = [options.stream] if options.stream is not None else (head.stream for head in heads)
        print_rows(
            [_snapshot_row(each) for stream in streams for each in _snapshots(log, stream)], as_json=options.json
        )
    return 0


def _snapshots(log: LogReader, stream: str) -> list[Snapshot]:
    found = [*log.snapshots(stream), *log.snapshots(stream, quarantined=True)]
    return sorted(found, key=lambda snapshot: -snapshot.version)


def _snapshot_row(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "stream": snapshot.stream,
        "version": snapshot.version,
        "time": format_time(snapshot.time_ns),
        "schema": snapshot.schema,
        "state_hash": snapshot.state_hash.hex()[:16],
        "verdict": _verdict(snapshot),
    }


def _verdict(snapshot: Snapshot) -> str:
    if snapshot.quarantined:
        return f"quarantined: {snapshot.quarantined}"
    return "proved" if snapshot.is_proved else "not proved yet"


def _compacted(log: LogReader, stream: str | None) -> Iterator[Compacted]:
    after = ""
    while batch := log.compacted_streams(after=after):
        yield from (each for each in batch if stream in (None, each.stream))
        after = batch[-1].stream


def _compacted_row(compacted: Compacted) -> dict[str, Any]:
    given_back = compacted.size_bytes - compacted.version * STUB.size
    return _row(
        Compaction(compacted.stream, compacted.version, compacted.version, given_back, compacted.archived_size_bytes)
    )


def _row(done: Compaction) -> dict[str, Any]:
    return attrs.asdict(done)


async def _compact(options: argparse.Namespace, domain: Domain) -> RetentionReport:
    stream: str | None = options.stream
    async with Runtime.open(
        options.path, aggregates=domain.aggregates, converter=domain.converter, keys=options.keys
    ) as runtime:
        if stream is None:
            return await runtime.maintenance.retain()
        return RetentionReport([], [await runtime.maintenance.compact_stream(stream)], {})


async def _uncompact(path: str, stream: str) -> int:
    async with Runtime.open(path) as runtime:
        return await runtime.maintenance.uncompact_stream(stream)


def add_commands(add: AddCommand) -> None:
    """Add these commands to the command line."""
    compacting = add("compact", "move the events of long streams, and of those that ended long ago, to the archive")
    compacting.add_argument("stream", nargs="?", metavar="STREAM", help="only this one; without it as the policy says")
    compacting.add_argument(
        "--dry-run", action="store_true", help="only tell what the policy would compact, by the default limits"
    )
    add_import(compacting, "the domain's classes, where no runtime has the store open")
    compacting.set_defaults(run=run_compact)

    restoring = add("uncompact", "put the events of a stream back from the archive, bit for bit")
    restoring.add_argument("stream", metavar="STREAM")
    restoring.set_defaults(run=run_uncompact)

    snapshots = add("snapshots", "list the snapshots, whether they were proved, and which are in quarantine")
    snapshots.add_argument("stream", nargs="?", metavar="STREAM", help="only of this one")
    snapshots.set_defaults(run=print_snapshots)
