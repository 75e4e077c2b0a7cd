"""How the demos print: in colour and with lines on a terminal, plainly where they are piped."""

import sys
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH_PIPED: Final = 200
"""Lines are not broken at the width of a terminal that is not there."""


def make_console(*, has_json: bool) -> Console:
    """Where the story goes: standard error where a JSON object has standard output to itself."""
    file = sys.stderr if has_json else sys.stdout
    return Console(highlight=False, file=file, width=None if file.isatty() else WIDTH_PIPED)


def make_table(console: Console, *, show_header: bool = True) -> Table:
    """A table for this console, to which columns and rows are added."""
    lines, is_terminal = box.HEAVY_HEAD if console.is_terminal else None, console.is_terminal
    return Table(show_header=show_header, box=lines, pad_edge=is_terminal)


def print_table(console: Console, title: str, table: Table) -> None:
    """A table under its title, which may be wider."""
    console.print(title, style="italic", markup=False)
    console.print(table)
