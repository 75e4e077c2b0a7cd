"""Walks a table for a verification: entry by entry, in bounded transactions."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from ..environment.environment import Environment, Transaction
from .finding import Finding

TABLE_BATCH_ENTRIES: Final = 2_048
"""The most entries per read transaction."""
TABLE_BATCH_BYTES: Final = 1 << 20
"""A transaction ends once its values have this many bytes."""

EntryCheck: TypeAlias = Callable[[Transaction, bytes, bytes], Iterable[Finding]]


def walk_table(
    environment: Environment, table: str, check: EntryCheck, *, batch_entries: int = TABLE_BATCH_ENTRIES
) -> Iterator[Finding]:
    """Call `check` for every entry of a table, with one transaction per batch, and yield its findings."""
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
    """Yield findings for tables that should not exist; `name` is the `table` of these findings."""
    known = {table.encode() for table in environment.table_names}
    with environment.read() as transaction, transaction.cursor() as cursor:
        found = [key for key in cursor.iternext(keys=True, values=False) if key not in known]
    for key in found:
        yield Finding(name, f"the table {key!r} should not be there")
