"""How the demos print: in colour and with lines on a terminal, plainly where they are piped."""

import sys

from rich.console import Console
from rich.table import Table

from ..runtime.commands import output


def make_console(*, has_json: bool) -> Console:
    """Where the story goes: standard error where a JSON object has standard output to itself."""
    return output.make_console(sys.stderr if has_json else sys.stdout, markup=True, highlight=False)


def make_table(console: Console, *, show_header: bool = True) -> Table:
    """A table for this console, to which columns and rows are added."""
    return output.bare_table(is_terminal=console.is_terminal, show_header=show_header)


def print_table(console: Console, title: str, table: Table) -> None:
    """A table under its title, which may be wider."""
    console.print(title, style="italic", markup=False)
    console.print(table)
