"""`verify` finds whatever was done to a store behind its back, and says where."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest

from eventsrc import ANY, EventLog, StoredEvent
from eventsrc.storage.commit import IdempotencyEntry, NewEvent, StreamAppend
from eventsrc.storage.contract import TIME_NS, append_to, appended, commit, key_entry, new_event
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.group import KEY, Group, encode_group
from eventsrc.storage.record import seal
from eventsrc.storage.snapshot import Snapshot
from eventsrc.storage.verification.finding import Finding
from eventsrc.storage.verification.verify import verify

Table = Any
Tamper = Callable[[Any, Table], object]
encode = msgspec.msgpack.Encoder().encode


def make_store(path: Path, *, flushed: bool) -> None:
    """Nine events of three streams in three groups, a snapshot and an idempotency key."""
    log = EventLog(path)
    number = 0
    for _ in range(3):
        commits = []
        for stream in ("a-1", "a-2", "b-1"):
            number += 1
            keys = [key_entry(stream, f"key-{number}", version=(number + 2) // 3)]
            commits.append(
                commit(
                    number,
                    StreamAppend(stream, ANY, [new_event(number, type=f"t.{stream[0]}", tags=(stream,))]),
                    keys=keys,
                )
            )
        for outcome in log.append(commits):
            appended(outcome)
    head = log.head("a-1")
    assert head is not None
    log.append([], [Snapshot("a-1", head.version, "schema", TIME_NS, head.hash, {"x": 1})])
    if flushed:
        log.close()
    else:
        log.environment.close()  # as if it was killed: the indexes are not flushed


def tamper(path: Path, table: str, change: Tamper) -> None:
    """Change a table behind the back of the store."""
    with lmdb.open(str(path), max_dbs=16) as environment:
        handle = environment.open_db(table.encode(), create=False)
        with environment.begin(write=True, db=handle) as transaction:
            change(transaction, handle)


def findings(path: Path) -> list[Finding]:
    with closing(Environment(path, read_only=True)) as environment:
        return list(verify(environment))


def items(transaction: Any) -> list[tuple[bytes, bytes]]:
    with transaction.cursor() as cursor:
        return list(cursor)


@pytest.fixture(params=[True, False], ids=["flushed", "not flushed"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make_store(tmp_path / "store", flushed=request.param)
    return tmp_path / "store"


def test_a_sound_store(path: Path) -> None:
    with closing(Environment(path, read_only=True)) as environment:
        verification = verify(environment)
        assert list(verification) == []
        summary = verification.summary
    assert (summary.events, summary.streams, summary.snapshots, summary.findings) == (9, 3, 1, 0)


def test_an_empty_store(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path)) as log:
        assert list(verify(log)) == []


# -- the log: whoever tampers is clever enough to make the checksums right


def rewrite(position: int, change: Callable[[list[bytes]], list[bytes]]) -> Tamper:
    """Give the group that begins at a position other records, with a right checksum."""

    def work(transaction: Any, _: Table) -> None:
        key, value = next(each for each in items(transaction) if KEY.unpack(each[0])[0] == position)
        group = Group(position, value)
        records = change(group.encoded_records())
        transaction.put(
            key, encode_group(group.first_commit_id, group.last_commit_id, group.root, records, group.idempotency())
        )

    return work


def changed(record: bytes, previous_hash: bytes | None = None, **fields: Any) -> bytes:
    """A record with other fields; its hash stays, or is made to fit a previous one."""
    event = msgspec.msgpack.decode(record, type=StoredEvent)
    encoded = encode(msgspec.structs.replace(event, **fields))
    return encoded if previous_hash is None else seal(previous_hash, encoded)[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": {"number": 7}},
        {"metadata": {"user": "eve"}},
        {"time_ns": TIME_NS + 1},
        {"type": "t.other"},
        {"schema_version": 2},
        {"kind": "deleted"},
        {"correlation_id": "x"},
        {"causation_id": "x"},
        {"hash": bytes(32)},
        {"version": 3},
        {"position": 55},
        {"stream": "a-2"},
        {"tags": ("forged",)},
    ],
)
def test_a_changed_field_of_a_record(path: Path, fields: dict[str, Any]) -> None:
    tamper(path, "log", rewrite(4, lambda records: [changed(records[0], **fields), *records[1:]]))
    found = findings(path)
    assert (found[0].table, found[0].position) == ("log", 4), found
    expected = "hash does not match" if "position" not in fields else "its position is 55"
    assert expected in found[0].problem


def test_a_record_that_was_changed_with_its_own_hash_breaks_the_next_one(path: Path) -> None:
    with closing(EventLog(path)) as log:
        (first,) = log.read_stream("a-1", limit=1)
    change = changed_payload(first.hash)
    tamper(path, "log", rewrite(4, change))
    found = [each for each in findings(path) if each.table == "log"]
    assert [(each.stream, each.version, each.position) for each in found] == [("a-1", 3, 7)]


def changed_payload(previous_hash: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda records: [changed(records[0], previous_hash, payload={"number": 7}), *records[1:]]


@pytest.mark.parametrize(
    ("change", "position"),
    [
        pytest.param(lambda records: records[1:], 4, id="removed"),
        pytest.param(lambda records: [records[1], records[0], records[2]], 4, id="exchanged"),
        pytest.param(lambda records: [*records, records[0]], 7, id="inserted"),
        pytest.param(lambda records: records[:2], 6, id="the last of a group removed"),
    ],
)
def test_records_that_are_not_where_they_were(
    path: Path, change: Callable[[list[bytes]], list[bytes]], position: int
) -> None:
    tamper(path, "log", rewrite(4, change))
    found = [each for each in findings(path) if each.table == "log"]
    assert found[0].position == position, found


def test_a_group_that_is_missing(path: Path) -> None:
    def remove(transaction: Any, _: Table) -> None:
        transaction.delete(items(transaction)[1][0])

    tamper(path, "log", remove)
    found = findings(path)
    assert (found[0].table, found[0].position) == ("log", 4)
    assert "positions 4 to 6 are missing" in found[0].problem


def test_the_end_of_the_log_is_missing(tmp_path: Path) -> None:
    make_store(tmp_path, flushed=True)

    def remove(transaction: Any, _: Table) -> None:
        transaction.delete(items(transaction)[-1][0])

    tamper(tmp_path, "log", remove)
    found = findings(tmp_path)
    assert "the log ends at position 6" in found[0].problem, found


def test_a_group_under_another_key(path: Path) -> None:
    def move(transaction: Any, _: Table) -> None:
        key, value = items(transaction)[1]
        transaction.delete(key)
        position, commit_id = KEY.unpack(key)
        transaction.put(KEY.pack(position + 1, commit_id), value)

    tamper(path, "log", move)
    assert findings(path)[0].position in (4, 5)


def test_a_group_twice(path: Path) -> None:
    def double(transaction: Any, _: Table) -> None:
        key, value = items(transaction)[1]
        position, commit_id = KEY.unpack(key)
        transaction.put(KEY.pack(position, commit_id + 1), value)

    tamper(path, "log", double)
    assert any("a group begins here" in each.problem for each in findings(path))


def test_an_idempotency_key_that_names_what_is_not_there(path: Path) -> None:
    def work(transaction: Any, _: Table) -> None:
        key, value = items(transaction)[0]
        group = Group(1, value)
        entries = [IdempotencyEntry("a-1", "forged", 9, 1, 1, TIME_NS + 10)]
        records = group.encoded_records()
        transaction.put(key, encode_group(group.first_commit_id, group.last_commit_id, group.root, records, entries))

    tamper(path, "log", work)
    assert "'forged' names an event that is not there" in findings(path)[0].problem


# -- the indexes: `test_tampering` has the rest


def test_how_far_the_indexes_reach(tmp_path: Path) -> None:
    make_store(tmp_path, flushed=True)
    tamper(tmp_path, "meta", lambda transaction, _: transaction.put(b"indexed_through", encode((99, 99))))
    assert any(
        "the indexes reach to position 99, but the log ends at position 9" in str(each) for each in findings(tmp_path)
    )
    tamper(tmp_path, "meta", lambda transaction, _: transaction.put(b"indexed_through", b"\xff"))
    assert "cannot be read" in findings(tmp_path)[0].problem


# -- while it is written


def test_a_store_may_be_verified_while_it_is_written(tmp_path: Path) -> None:
    problems: list[Finding] = []
    stop = threading.Event()

    with closing(EventLog(tmp_path)) as log:
        appended(log.append([commit(1, append_to("a-1"))])[0])

        def look() -> None:
            while not stop.is_set():
                problems.extend(verify(log))
                stop.wait(0.001)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for batch in batches(60):
                for outcome in log.append(batch):
                    appended(outcome)
                if batch[0].id % 7 == 0:
                    log.flush()
        finally:
            stop.set()
            thread.join()
        assert problems == []
        assert list(verify(log)) == []


def batches(count: int) -> Iterator[list[Any]]:
    number = 1
    for size in range(1, count):
        batch = []
        for _ in range(size):
            number += 1
            event = NewEvent("thing.happened", {"text": "x" * size})
            batch.append(commit(number, StreamAppend(f"a-{number % 11}", ANY, [event])))
        yield batch
