"""How the command line prints: tables for people, one JSON object a line for programs."""

import base64
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

import rich.console
import rich.table

from .arguments import UNIX_EPOCH

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


def format_time(time_ns: int) -> str:
    """UTC in ISO 8601, with microseconds."""
    return utc_time(time_ns).isoformat(timespec="microseconds")


def utc_time(time_ns: int) -> datetime:
    """A time in UTC, to the microsecond that it is in: whoever asks for what is since then gets it."""
    return UNIX_EPOCH + timedelta(microseconds=time_ns // 1_000)


def compact_json(data: object) -> str:
    """JSON for people, in one line and without spaces."""
    return json.dumps(data, ensure_ascii=not _takes_all(), separators=(",", ":"), default=_json_fallback)


def print_json(data: object) -> None:
    """One JSON object on a line of its own, at once."""
    print(_json(data), flush=True)


def print_json_with(data: Mapping[str, Any], name: str, items: Iterable[object]) -> None:
    """The same with one more member, last: a list that may be too long to have in memory."""
    sys.stdout.write(f"{_json(data)[:-1]}{', ' if data else ''}{_json(name)}: [")
    for number, item in enumerate(items):
        sys.stdout.write(f"{', ' if number else ''}{_json(item)}")
    print("]}", flush=True)


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=not _takes_all(), default=_json_fallback)


def escape_what_cannot_be_printed() -> None:
    """Where standard output is not UTF-8, escape the characters that it lacks, in place of an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _takes_all() -> bool:
    """Whether standard output takes any character."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def _json_fallback(value: object) -> str:
    """JSON has no bytes: Base64 stands for them; nor times: ISO 8601."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def make_table(*columns: str) -> rich.table.Table:
    """A table whose columns of numbers are aligned on the right; without lines where it is piped."""
    table = rich.table.Table() if sys.stdout.isatty() else rich.table.Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in NUMBERS else "left")
    return table


def print_tables(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows as they come: a table for each `ROWS_PER_TABLE`, as wide as these need be."""
    console, coming = make_console(), iter(rows)
    part = list(islice(coming, ROWS_PER_TABLE))
    if not part:
        print("none")
    while part:
        table = make_table(*columns)
        for row in part:
            table.add_row(*row)
        console.print(table)
        part = list(islice(coming, ROWS_PER_TABLE))


def make_console() -> rich.console.Console:
    """Standard output, as wide as the terminal."""
    # Piped output is not cut at the width of a terminal that is not there.
    # What is printed is data: brackets in it are no markup.
    width = None if sys.stdout.isatty() else 200
    return rich.console.Console(width=width, markup=False)


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Rows with the same columns: as a table, or as one JSON object a line."""
    if as_json:
        for row in rows:
            print_json(row)
    elif not rows:
        print("none")
    else:
        table = make_table(*rows[0])
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        make_console().print(table)


def _cell(value: object) -> str:
    return ("yes" if value else "") if isinstance(value, bool) else f"{value}"
