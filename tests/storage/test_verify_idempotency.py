"""Whoever tampers with idempotency keys knows the format: chunks stay in order, and expire when they should."""

import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tampering import tampered

from eventsrc import ANY, EventLog
from eventsrc.storage.commit import IdempotencyEntry, StreamAppend
from eventsrc.storage.contract import TIME_NS, appended, commit, new_event
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.indexes.idempotency import encode_row
from eventsrc.storage.verification.finding import Finding
from eventsrc.storage.verification.verify import verify

EXPIRES_NS = TIME_NS + 1_000
ENTRIES = [IdempotencyEntry("a-1", f"key-{number}", number, number, 1, EXPIRES_NS) for number in (1, 2, 3)]


def fill(log: EventLog) -> None:
    for number in (1, 2, 3):
        keys = [IdempotencyEntry("a-1", f"key-{number}", number, 0, 1, EXPIRES_NS)]
        events = StreamAppend("a-1", ANY, [new_event(number)])
        (outcome,) = log.append([commit(number, events, keys=keys)])
        appended(outcome)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with closing(EventLog(tmp_path / "store")) as log:
        fill(log)
    return tmp_path / "store"


def found_at(path: Path, now_ns: int) -> list[Finding]:
    with closing(Environment(path, read_only=True)) as environment:
        return list(verify(environment, now_ns=lambda: now_ns))


def chunk_of(*entries: IdempotencyEntry) -> Callable[[dict[bytes, bytes]], None]:
    """Puts these rows in the place of those of the only chunk."""

    def change(rows: dict[bytes, bytes]) -> None:
        (key,) = rows
        rows[key] = struct.pack(">Q", EXPIRES_NS) + b"".join(sorted(map(encode_row, entries)))

    return change


def test_the_rows_are_those_of_the_log(store: Path) -> None:
    assert found_at(store, TIME_NS) == []
    assert found_at(store, EXPIRES_NS) == []


def test_keys_are_counted_wherever_they_are(tmp_path: Path) -> None:
    def counted(log: EventLog, now_ns: int) -> int:
        verification = verify(log, now_ns=lambda: now_ns)
        assert list(verification) == []
        assert verification.summary is not None
        return verification.summary.idempotency_keys

    with closing(EventLog(tmp_path / "store")) as log:
        fill(log)
        assert counted(log, TIME_NS) == 3, "they are in the log alone"
        assert counted(log, EXPIRES_NS) == 0
    with closing(EventLog(tmp_path / "store")) as log:
        assert counted(log, TIME_NS) == 3


def test_a_row_that_is_missing_within_its_window(store: Path) -> None:
    with tampered(store, "idempotency", chunk_of(ENTRIES[0], ENTRIES[2])):
        (finding,) = found_at(store, TIME_NS)
        assert found_at(store, EXPIRES_NS) == [], "it might have been dropped by then"
    assert finding == Finding("idempotency", "the key 'key-2' is missing, and has not expired", "a-1", 2, 2)


@pytest.mark.parametrize(
    "forged",
    [
        IdempotencyEntry("a-1", "key-2", 3, 2, 1, EXPIRES_NS),
        IdempotencyEntry("a-1", "key-2", 2, 3, 1, EXPIRES_NS),
        IdempotencyEntry("a-1", "key-2", 2, 99, 1, EXPIRES_NS),
        IdempotencyEntry("a-1", "key-2", 2, 2, 2, EXPIRES_NS),
        IdempotencyEntry("a-1", "key-2", 2, 2, 1, EXPIRES_NS - 1),
    ],
    ids=["version", "position", "beyond the log", "number of events", "expiry"],
)
def test_a_row_that_says_something_else(store: Path, forged: IdempotencyEntry) -> None:
    with tampered(store, "idempotency", chunk_of(ENTRIES[0], forged, ENTRIES[2])):
        (finding,) = found_at(store, EXPIRES_NS)
    assert (finding.table, finding.stream, finding.version) == ("idempotency", "a-1", forged.version)
    assert "no command in the log has left this row" in finding.problem


def test_a_row_of_another_key(store: Path) -> None:
    forged = IdempotencyEntry("a-1", "forged", 2, 2, 1, EXPIRES_NS)
    with tampered(store, "idempotency", chunk_of(*ENTRIES, forged)):
        (finding,) = found_at(store, TIME_NS)
    assert "no command in the log has left this row" in finding.problem
    with tampered(store, "idempotency", chunk_of(ENTRIES[0], forged, ENTRIES[2])):
        problems = [finding.problem for finding in found_at(store, TIME_NS)]
    assert len(problems) == 2, "the key that it replaced is missing"
