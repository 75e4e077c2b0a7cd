"""How a verification goes through a table: entry by entry, in bounded transactions."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from ..environment.environment import Environment, Transaction
from .finding import Finding

TABLE_BATCH_ENTRIES: Final = 2_048
"""Index entries per read transaction, at most."""
TABLE_BATCH_BYTES: Final = 1 << 20
"""It ends sooner where they are large."""

EntryCheck: TypeAlias = Callable[[Transaction, bytes, bytes], Iterable[Finding]]


def walk_table(
    environment: Environment, table: str, check: EntryCheck, *, batch_entries: int = TABLE_BATCH_ENTRIES
) -> Iterator[Finding]:
    """Show every entry of a table to `check`, with a transaction for each batch, and yield what it finds."""
    after: bytes | None = None
    more = True
    while more:
        found: list[Finding] = []
        size_bytes = entries = 0
        with environment.read() as transaction, transaction.cursor(environment.table(table)) as cursor:
            more = (
                cursor.first() if after is None else cursor.set_range(after) and (cursor.key() > after or cursor.next())
            )
            while more and entries < batch_entries and size_bytes < TABLE_BATCH_BYTES:
                after, value = cursor.key(), cursor.value()
                found += check(transaction, after, value)
                entries += 1
                size_bytes += len(value)
                more = cursor.next()
        yield from found


def unknown_tables(environment: Environment, name: str) -> Iterator[Finding]:
    """Tables that should not be there; `name` is what the findings call it."""
    known = {table.encode() for table in environment.names}
    with environment.read() as transaction, transaction.cursor() as cursor:
        found = [key for key in cursor.iternext(keys=True, values=False) if key not in known]
    for key in found:
        yield Finding(name, f"the table {key!r} should not be there")
