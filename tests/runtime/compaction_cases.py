"""What the tests of compaction and of the archive share: a store that can be compacted, and looking at all it holds."""

from contextlib import closing
from pathlib import Path

import trio
from bank_domain import Account, Deposit

from eventsrc import Limits, Runtime
from eventsrc.storage.reader import LogReader
from eventsrc.storage.record import StoredEvent
from eventsrc.storage.verification.verify import verify

LIMITS = Limits(snapshot_every_events=10, compaction_events_min=20)


async def fill(runtime: Runtime, count: int = 45) -> None:
    """Events of two accounts, which share some group commits."""
    for number in range(count):
        async with trio.open_nursery() as nursery:
            for name in ("ann", "bob"):
                nursery.start_soon(runtime.actor(Account, name).ask, Deposit(number + 1))


def all_events(path: Path) -> list[StoredEvent]:
    with closing(LogReader.open(path)) as log:
        return log.read(limit=100_000)


def stored_values(path: Path) -> list[tuple[bytes, bytes]]:
    """Every group, as the file holds it."""
    with (
        closing(LogReader.open(path)) as log,
        log.environment.read() as transaction,
        transaction.cursor(log.environment.table("log")) as cursor,
    ):
        return list(cursor)


def sound(path: Path) -> bool:
    with closing(LogReader.open(path)) as log:
        findings = list(verify(log))
    assert findings == []
    return True
