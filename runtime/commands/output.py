"""How the command line prints: tables for people, one JSON object a line for programs."""

import base64
import errno
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

import rich.console
import rich.table
from rich.cells import cell_len

from ...actors.serialization.sealing import is_sealed, key_id_of
from ...storage.record import utc_time
from .exit_codes import EXIT_ERROR, EXIT_UNREAD

NUMBERS: Final = (
    "position",
    "version",
    "shared_version",
    "other_version",
    "events",
    "behind",
    "seconds",
    "parked",
    "attempts",
    "in hand",
    "given_back_bytes",
    "archived_bytes",
)

ROWS_PER_TABLE: Final = 1_000
CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
"""What a terminal would obey, and how it is shown."""
WIDTH_PIPED: Final = 200
"""The width of output that is no terminal; tables there are as wide as they need be."""


def format_time(time_ns: int) -> str:
    """A UTC time in ISO 8601, with microseconds."""
    return utc_time(time_ns).isoformat(timespec="microseconds")


def compact_json(data: object) -> str:
    """JSON for people, on one line and without spaces."""
    return json.dumps(data, ensure_ascii=not _takes_all(), separators=(",", ":"), default=_json_fallback)


def print_json(data: object) -> None:
    """Print one JSON object on a line of its own, and flush it."""
    print(_json(data), flush=True)


def print_json_with(data: Mapping[str, Any], name: str, items: Iterable[object]) -> None:
    """Like `print_json` with one more member at the end: a list that may be too long for memory."""
    sys.stdout.write(f"{_json(data)[:-1]}{', ' if data else ''}{_json(name)}: [")
    for number, item in enumerate(items):
        sys.stdout.write(f"{', ' if number else ''}{_json(item)}")
    print("]}", flush=True)


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=not _takes_all(), default=_json_fallback)


def replace_closed_streams() -> None:
    """Open the null device for each standard stream that the caller has closed (`>&-`).

    Python sets such a stream to None: `print` then prints nothing, everything else fails, and text for standard error
    would go to standard output. Files of a store would get the free descriptors.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)  # the lowest free descriptor, which is the stream's own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "r" if flags == os.O_RDONLY else "w", encoding="utf-8"))


def escape_what_cannot_be_printed() -> None:
    """Where standard output is not UTF-8, escape the characters that it lacks instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def code_where_refused() -> int:
    """The exit code where standard output takes no more, else 0; drops the rest of the output, and says so.

    Standard output may be a file on a full disk, or a pipe whose reader has seen enough (`eventsrc events PATH |
    head`); for a pipe nothing is said.
    """
    try:
        print(flush=True)
    except BrokenPipeError:
        give_up_rest()
        return EXIT_UNREAD
    except OSError as error:
        give_up_rest()
        advice = "What was printed is not whole: free some space, or have it written elsewhere"
        reason = error.strerror or str(error)
        print(f"eventsrc: standard output cannot be written: {reason}. {advice}.", file=sys.stderr)
        return EXIT_ERROR
    return 0


def give_up_rest() -> None:
    """Flush what waits to be printed; where that fails, keep Python from trying again, and complaining, at exit."""
    try:
        print(end="", flush=True)
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _takes_all() -> bool:
    """Whether standard output can encode every character."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def _json_fallback(value: object) -> object:
    """JSON for values that JSON lacks: Base64 for bytes, ISO 8601 for times, the id of the key for sealed values."""
    if is_sealed(value):
        return {"sealed_with": key_id_of(value).hex()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def installed_version(name: str) -> str:
    """The version of a package, for people; a copy in a zip or a plain folder has no version to show."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def bare_table(*, is_terminal: bool = False, show_header: bool = True) -> rich.table.Table:
    """A table without columns; it has borders on a terminal only."""
    if is_terminal:
        return _Table(show_header=show_header)
    return _Table(show_header=show_header, box=None, pad_edge=False)


class _Table(rich.table.Table):
    """What is in it, such as the text of an error, may come from anywhere, and is not to steer the terminal."""

    def add_row(self, *cells: rich.console.RenderableType | None, **options: Any) -> None:
        super().add_row(*(each.translate(CONTROLS) if isinstance(each, str) else each for each in cells), **options)


def make_table(*columns: str) -> rich.table.Table:
    """A table with columns of numbers aligned on the right; without borders where it is piped."""
    table = bare_table(is_terminal=sys.stdout.isatty())
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in NUMBERS else "left")
    return table


def print_tables(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as they come: a table for each `ROWS_PER_TABLE`, with columns as wide as its rows need."""
    coming = iter(rows)
    part = list(islice(coming, ROWS_PER_TABLE))
    if not part:
        print("none")
    while part:
        table = make_table(*columns)
        for row in part:
            table.add_row(*row)
        print_table(table)
        part = list(islice(coming, ROWS_PER_TABLE))


def print_table(table: rich.table.Table) -> None:
    """On a terminal as wide as that is; where it is piped each row is a line, however long."""
    if sys.stdout.isatty():
        make_console().print(table)
        return
    columns: list[list[str]] = []
    for column in table.columns:
        cells = [f"{cell}".replace("\n", "\\n") for cell in (column.header, *column.cells)]
        width = max(map(cell_len, cells))
        gaps = [" " * (width - cell_len(cell)) for cell in cells]
        is_right = column.justify == "right"
        columns.append([gap + cell if is_right else cell + gap for cell, gap in zip(cells, gaps, strict=True)])
    for line in zip(*columns, strict=True):
        print("  ".join(line).rstrip())


def make_console(file: TextIO | None = None, *, markup: bool = False, highlight: bool = True) -> rich.console.Console:
    """A console on standard output or another file, as wide as the terminal.

    Brackets in the output are printed as they are, not as markup, unless `markup` is set.
    """
    out = sys.stdout if file is None else file
    width = None if out.isatty() else WIDTH_PIPED
    return _Console(file=out, width=width, markup=markup, highlight=highlight)


class _Console(rich.console.Console):
    """Raises on a broken pipe: rich's own console ends the program at once, but stores must be closed first."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows with the same columns: as a table, or as one JSON object a line."""
    if as_json:
        for row in rows:
            print_json(row)
    elif not rows:
        print("none")
    else:
        table = make_table(*rows[0])
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        print_table(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return ("yes" if value else "") if isinstance(value, bool) else f"{value}"
