"""Whatever is changed, removed, added or exchanged in any row of any table is found, and the table is named."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
from damage_store import make_store
from tampering import Rows, findings, rows_of, tables_of, tampered

from eventsrc.storage.archive.archive import ARCHIVE_TABLES
from eventsrc.storage.environment.environment import TABLES

ROWS_PER_TABLE = 12
RELATED = {
    "expiries": {"expiries", "idempotency"},
    "idempotency": {"expiries", "idempotency"},
    # What a compacted event stands for is missed in the archive, and in the log.
    "compacted": {"compacted", "archive"},
    "meta": {"meta", "refused"},
}
"""The tables that the first finding may name; the one that was changed, unless it is listed here."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tampering") / "store"
    make_store(path)
    return path


Change = Callable[[Rows, bytes, random.Random], None]


def flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def change_byte(rows: Rows, key: bytes, chance: random.Random) -> None:
    rows[key] = flipped(rows[key], chance)


def insert_bytes(rows: Rows, key: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(rows[key]) + 1)
    rows[key] = rows[key][:at] + b"inserted" + rows[key][at:]


def remove_bytes(rows: Rows, key: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(rows[key]))
    rows[key] = rows[key][:at] + rows[key][at + chance.randrange(1, 9) :]


def reorder_bytes(rows: Rows, key: bytes, chance: random.Random) -> None:
    value = rows[key]
    turned = [value[at:] + value[:at] for at in range(1, len(value)) if value[at:] + value[:at] != value]
    rows[key] = chance.choice(turned)


def change_key(rows: Rows, key: bytes, chance: random.Random) -> None:
    value = rows.pop(key)
    new = flipped(key, chance)
    while new in rows or new == key:
        new = flipped(key, chance)
    rows[new] = value


def add(rows: Rows, key: bytes, chance: random.Random) -> None:
    new = flipped(key, chance)
    while new in rows:
        new = flipped(new, chance)
    rows[new] = rows[key]


def remove(rows: Rows, key: bytes, _: random.Random) -> None:
    del rows[key]


def exchange(rows: Rows, key: bytes, chance: random.Random) -> None:
    others = [other for other in rows if rows[other] != rows[key]]
    other = chance.choice(others)
    rows[key], rows[other] = rows[other], rows[key]


CHANGES: dict[str, Change] = {
    "a byte changed": change_byte,
    "bytes inserted": insert_bytes,
    "bytes removed": remove_bytes,
    "bytes reordered": reorder_bytes,
    "under another key": change_key,
    "added": add,
    "removed": remove,
    "exchanged": exchange,
}


def applies_to(change: Change, rows: Rows, key: bytes) -> bool:
    if change in (change_byte, remove_bytes, reorder_bytes):
        return bool(rows[key]) and (change is not reorder_bytes or len(set(rows[key])) > 1)
    if change is exchange:
        return any(value != rows[key] for value in rows.values())
    return True


def cases(folder: Path, table: str, change: Change) -> Iterator[tuple[bytes, random.Random]]:
    """Some rows of a table, each with its own chance."""
    rows = rows_of(folder, table)
    chance = random.Random(f"{table} {change.__name__}")
    keys = sorted(rows) if len(rows) <= ROWS_PER_TABLE else chance.sample(sorted(rows), ROWS_PER_TABLE)
    for key in keys:
        if applies_to(change, rows, key):
            yield key, random.Random(f"{key.hex()} {change.__name__}")


def test_the_store_is_sound_and_has_rows_in_every_table(store: Path) -> None:
    assert findings(store) == []
    assert set(tables_of(store)) == set(TABLES)
    assert set(tables_of(store / "archive")) == set(ARCHIVE_TABLES)
    assert [table for table in TABLES if not rows_of(store, table)] == []


ALL = [(table, change) for table in TABLES for change in CHANGES]
ALL.remove(("snapshots", "removed"))  # one may be dropped at any time: see the test of that


@pytest.mark.parametrize(("table", "change"), ALL)
def test_any_row_of_the_store(store: Path, table: str, change: str) -> None:
    work = CHANGES[change]
    for key, chance in cases(store, table, work):
        with tampered(store, table, lambda rows, key=key, chance=chance: work(rows, key, chance)):
            found = findings(store)
        assert found, f"{change}: {key!r}"
        assert {each.table for each in found} & RELATED.get(table, {table}), (key, found)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("table", ARCHIVE_TABLES)
def test_any_row_of_the_archive(store: Path, table: str, change: str) -> None:
    work = CHANGES[change]
    for key, chance in cases(store / "archive", table, work):
        with tampered(store / "archive", table, lambda rows, key=key, chance=chance: work(rows, key, chance)):
            found = findings(store)
        assert "archive" in {each.table for each in found}, (key, found)


def test_what_bzip2_does_not_look_at(store: Path) -> None:
    """The size of the blocks may be any: what is unpacked is the same."""

    def change(rows: Rows) -> None:
        for key, value in rows.items():
            rows[key] = value.replace(b"BZh1", b"BZh9")

    with tampered(store / "archive", "segments", change):
        found = findings(store)
    assert "its checksum does not match" in found[0].problem


def test_a_snapshot_that_is_missing_is_no_fault(store: Path) -> None:
    """Any may be dropped at any time, and is made anew from the events."""
    for key in rows_of(store, "snapshots"):
        with tampered(store, "snapshots", lambda rows, key=key: remove(rows, key, random.Random())):
            assert findings(store) == []


def test_a_table_too_many(store: Path) -> None:
    with lmdb.open(str(store), max_dbs=64) as environment:
        environment.open_db(b"forged")
    (found,) = findings(store)
    with lmdb.open(str(store), max_dbs=64) as environment:
        forged = environment.open_db(b"forged")
        with environment.begin(write=True) as transaction:
            transaction.drop(forged)
    assert "b'forged' should not be there" in found.problem
