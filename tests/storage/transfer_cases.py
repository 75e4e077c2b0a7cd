"""What the tests of exports, backups and forks share."""

from contextlib import closing
from itertools import count
from pathlib import Path

from eventsrc.storage.commit import ANY, Commit, IdempotencyEntry, NewEvent, StreamAppend
from eventsrc.storage.contract import appended
from eventsrc.storage.group import KEY, Group
from eventsrc.storage.log import EventLog
from eventsrc.storage.reader import LogReader
from eventsrc.storage.record import StoredEvent
from eventsrc.storage.verification.verify import verify

ODD = [
    {"bytes": b"\x00\xff", "float": 0.1, "nan": float("inf"), "none": None, "text": "ß\U0001f600"},
    {"nested": {"list": [1, [2, {"three": b"3"}]], "big": 2**63, "small": -(2**63), "whole": 1.0}},
    {"keys": {1: "int", "1": "text"}},
    {},
]
SECOND = 10**9


def fill(log: EventLog, commits: int = 300) -> None:
    """Commits of three events each, in groups of one to four; three commits have the same time."""
    first = log.last_commit_id + 1
    numbers = iter(range(first, first + commits))
    for size in count():
        group = [_commit(number) for _, number in zip(range(1 + size % 4), numbers, strict=False)]
        if not group:
            return
        for outcome in log.append(group):
            appended(outcome)


def _commit(number: int) -> Commit:
    payload = ODD[number] if number < len(ODD) else {"number": number}
    odd = NewEvent(
        f"type.{number % 3}", payload, 1 + number % 2, None, f"c{number}", "cause", {"m": number}, (f"t{number % 5}",)
    )
    more = NewEvent("more", {"and": number})
    appends = [StreamAppend(f"s{number % 7}-x", ANY, [odd, more]), StreamAppend(f"u{number % 4}-y", ANY, [more])]
    return Commit(number, number // 3 * SECOND, appends)


def store_with(path: Path, commits: int = 300) -> Path:
    with closing(EventLog(path)) as log:
        fill(log, commits)
    return path


def keyed(number: int, key: str, *, expires_ns: int) -> Commit:
    """A commit of one event that answers an idempotency key."""
    append = StreamAppend(f"keyed-{key}", ANY, [NewEvent("t", {})])
    return Commit(number, number * SECOND, [append], [IdempotencyEntry(append.stream, key, 1, 0, 1, expires_ns)])


def groups(path: Path) -> list[tuple[int, int, int, int]]:
    """(first position, number of events, first and last commit id) of every group commit with events."""
    found = []
    with closing(LogReader.open(path)) as log:
        environment = log.environment
        with environment.read() as transaction, transaction.cursor(environment.table("log")) as cursor:
            for key, value in cursor.iternext(keys=True, values=True):
                group = Group(KEY.unpack(key)[0], value)
                if group.count:
                    found.append((group.first_position, group.count, group.first_commit_id, group.last_commit_id))
    return found


def all_of(path: Path) -> list[StoredEvent]:
    """Every event of a store, which is sound."""
    with closing(LogReader.open(path)) as log:
        assert not list(verify(log))
        return log.read(limit=1_000_000)


def root(path: Path) -> bytes:
    with closing(LogReader.open(path)) as log:
        return log.tree[1]
