"""Exports events from a log to JSON Lines."""

import sys
from pathlib import Path
from typing import IO, Final

from ..evidence.proof import root_at
from ..reader import LogReader
from .errors import PointUnreachable
from .export import EXPORT_VERSION, ExportWriter, Header, packed
from .partial import partial_file, translated_errors
from .transfer import ReportPosition, groups_of

STANDARD_STREAM: Final = Path("-")
"""Stands for standard output in an export, and for standard input in an import."""


def export_events(store: LogReader, path: Path, *, after: int = 0, progress: ReportPosition | None = None) -> int:
    """Write the events after a position to a new file of JSON Lines; return how many.

    The file is compressed with gzip if its name ends in `.gz`. It appears as a whole or not at all.

    Raises `PointUnreachable` if the log does not have the position, the errors of `partial_file`, and `CorruptRecord`
    or `ArchiveUnreachable` if the store is damaged. An export to standard output raises `BrokenPipeError` if the reader
    has closed the pipe.
    """
    through = store.last_position
    if not 0 <= after <= through:
        raise PointUnreachable(store.path, f"position {after}", f"it goes to {through}")
    if path == STANDARD_STREAM:
        with translated_errors("standard output"):
            _export(store, sys.stdout.buffer, after, through, progress)
            sys.stdout.buffer.flush()
    else:
        with partial_file(path, source=store.path) as file, packed(file, path) as packing:
            _export(store, packing, after, through, progress)
    return through - after


def _export(store: LogReader, file: IO[bytes], after: int, through: int, progress: ReportPosition | None) -> None:
    header = Header(EXPORT_VERSION, after, root_at(store, after).hex(), through - after, through)
    writer = ExportWriter(file, header)
    for group in groups_of(store, after=after, through=through):
        writer.add(group)
        if progress is not None:
            progress(group.events[-1].position)
    writer.end(through - after, through, root_at(store, through).hex())
