"""How the demos print: in colour and with borders on a terminal, plainly where they are piped."""

import sys

from rich.console import Console
from rich.table import Table

from ..runtime.commands import output


def make_console(*, has_json: bool) -> Console:
    """The console of the story: on standard error where a JSON object has standard output to itself."""
    return output.make_console(sys.stderr if has_json else sys.stdout, markup=True, highlight=False)


def make_table(console: Console, *, show_header: bool = True) -> Table:
    """An empty table for this console."""
    return output.bare_table(is_terminal=console.is_terminal, show_header=show_header)


def print_table(console: Console, title: str, table: Table) -> None:
    """Print a table under its title, which may be wider."""
    console.print(title, style="italic", markup=False)
    console.print(table)
