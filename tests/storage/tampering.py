"""What the tests that tamper with a store share: changing a table behind the store's back, and what is found then."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import lmdb

from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.errors import StoreError
from eventsrc.storage.verification.finding import Finding
from eventsrc.storage.verification.verify import verify

Rows: TypeAlias = dict[bytes, bytes]


def findings(path: Path) -> list[Finding]:
    """What a verification finds; that a store is refused is a finding, too."""
    try:
        with closing(Environment(path, read_only=True)) as environment:
            return list(verify(environment))
    except StoreError as error:
        return [Finding("refused", str(error))]


def tables_of(folder: Path) -> list[str]:
    with lmdb.open(str(folder), readonly=True, max_dbs=64) as environment, environment.begin() as transaction:
        return [key.decode() for key, _ in transaction.cursor()]


def rows_of(folder: Path, table: str) -> Rows:
    with lmdb.open(str(folder), readonly=True, max_dbs=64) as environment:
        handle = environment.open_db(table.encode(), create=False)
        with environment.begin(db=handle) as transaction:
            return dict(transaction.cursor())


@contextmanager
def tampered(folder: Path, table: str, change: Callable[[Rows], None]) -> Iterator[None]:
    """A table with other rows, until the block ends."""
    before = rows_of(folder, table)
    after = dict(before)
    change(after)
    assert after != before, "nothing was changed"
    _replace(folder, table, before, after)
    try:
        yield
    finally:
        _replace(folder, table, after, before)


def _replace(folder: Path, table: str, old: Rows, new: Rows) -> None:
    with lmdb.open(str(folder), max_dbs=64, sync=False) as environment:
        handle: Any = environment.open_db(table.encode(), create=False)
        with environment.begin(write=True, db=handle) as transaction:
            for key in old.keys() - new.keys():
                transaction.delete(key)
            for key, value in new.items():
                if old.get(key) != value:
                    transaction.put(key, value)
