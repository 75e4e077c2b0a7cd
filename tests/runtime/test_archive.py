"""An archive that is missing or damaged: what is live goes on, and what cannot be reached is said."""

import json
import re
import shutil
import threading
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lmdb
import msgspec
import pytest
import trio
import trio.lowlevel
from bank_domain import Account, Deposit, Withdraw
from bank_views import Balances
from compaction_cases import LIMITS, all_events, fill, sound

from eventsrc import (
    ArchiveUnreachable,
    EventLog,
    Runtime,
    StoreClosed,
    StoredEvent,
    StoreOutcomeUnknown,
    ViewTooOld,
)
from eventsrc.runtime.command_line import main
from eventsrc.storage.archive.archive import Archive, Segment
from eventsrc.storage.archive.segment_cache import SegmentCache
from eventsrc.storage.archive.segment_numbers import SEGMENTS_KEY, segment_numbers
from eventsrc.storage.copies.exporting import export_events
from eventsrc.storage.environment.environment import Environment, Transaction
from eventsrc.storage.evidence.proof import prove
from eventsrc.storage.reader import LogReader
from eventsrc.storage.record import HASH_SIZE_BYTES
from eventsrc.storage.verification.verify import verify


async def test_without_its_archive_a_store_works_and_says_what_it_cannot_reach(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    shutil.move(path / "archive", path.parent / "away")
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        ann = runtime.actor(Account, "ann")
        assert (await ann.ask(Withdraw(5))).version == 46
        assert (await ann.state()).balance == sum(range(46)) - 5
        assert (await ann.state(at_version=41)).balance == sum(range(42))
        assert (await runtime.actor(Account, "bob").state(at_version=3)).balance == 6
        with pytest.raises(ArchiveUnreachable, match=r"event at position \d+ cannot be reached.* is not there"):
            await ann.state(at_version=3)
        with pytest.raises(ArchiveUnreachable):
            [event async for event in runtime.events()]
        with pytest.raises(ArchiveUnreachable):
            await runtime.maintenance.uncompact(Account, "ann")
        with pytest.raises(ArchiveUnreachable):
            await runtime.maintenance.compact(Account, "bob")
        assert not (path / "archive").exists(), "an archive was begun in the place of the one that is missing"
        assert len([event async for event in runtime.events(stream="account-bob")]) == 45
        await fill(runtime, 30)
        # Nothing of what is live needs the archive.
        newest = runtime.last_position
        assert (await ann.state(at_position=newest)).balance == (await ann.state()).balance
        async with runtime.as_of(position=newest) as past:
            assert (await past.actor(Account, "ann").state()).balance == (await ann.state()).balance
        since = datetime.fromtimestamp(runtime._store.time_at(newest) / 1e9, UTC) - timedelta(microseconds=1)
        assert [event.position async for event in runtime.events(since=since)][-1] == newest
        assert runtime.lag() == {}
    with closing(LogReader.open(path)) as log:
        assert {finding.table for finding in verify(log)} == {"archive"}
    shutil.move(path.parent / "away", path / "archive")
    assert sound(path)


async def test_a_view_lags_behind_events_that_cannot_be_reached(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        for name in ("ann", "bob"):
            await runtime.maintenance.compact(Account, name)
    shutil.move(path / "archive", path.parent / "away")
    async with Runtime.open(path, aggregates=[Account], projections=[Balances], limits=LIMITS) as runtime:
        with trio.fail_after(10):
            while runtime.lag()["balances"].state != "retrying":
                await trio.sleep(0.01)
        lag = runtime.lag()["balances"]
        assert lag.events == runtime.last_position
        assert "the archive" in lag.error
        receipt = await runtime.actor(Account, "ann").ask(Deposit(1))
        with pytest.raises(ViewTooOld):
            await runtime.view(Balances.rows).get("ann", at_least=receipt, timeout=0.2)
    # The list of views, where an operator looks for it, needs no archive either.
    assert main(["projections", str(path), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["behind"], row["state"]) == (receipt.position - row["position"], "not running")
    assert "the archive" in row["error"]


async def test_an_event_of_the_live_part_is_proved_without_the_archive(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(LogReader.open(path)) as log:
        (live,) = log.read_stream("account-bob", from_version=45)
        expected = prove(log, live.position)
    shutil.move(path / "archive", path.parent / "away")
    with closing(LogReader.open(path)) as log:
        assert prove(log, live.position) == expected


async def test_what_a_lost_entry_stood_for_is_not_dropped(path: Path) -> None:
    events = all_events(path)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(EventLog(path)) as log:
        environment = log.environment
        environment.write(lambda transaction: transaction.delete(b"account-ann", db=environment.table("compacted")))
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "bob")
        await runtime.maintenance.uncompact(Account, "bob")
        await runtime.maintenance.compact(Account, "bob")
    assert all_events(path) == events


async def test_a_damaged_segment_is_found(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(EventLog(path)) as log:
        environment = log.archive._opened(create=False)

        def damage(transaction: object) -> None:
            with transaction.cursor(environment.table("segments")) as cursor:  # type: ignore[attr-defined]
                cursor.first()
                content = bytearray(cursor.value())
                content[-20] ^= 1
                cursor.put(cursor.key(), bytes(content))

        environment.write(damage)
    with closing(LogReader.open(path)) as log:
        with pytest.raises(ArchiveUnreachable, match="is damaged in segment 1"):
            log.read_stream("account-ann")
        (finding,) = verify(log)
        assert (finding.table, finding.stream, finding.version) == ("archive", "account-ann", 1)


async def test_an_archive_that_was_closed_stays_closed(path: Path) -> None:
    """Opened again, it would hold the lock of the one writer, and the store's next opener could not have it."""
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(EventLog(path)) as log:
        assert log.archive.records(1)
    for use in (
        lambda: log.archive.segment(1),
        lambda: log.archive.check_has([1]),
        lambda: log.archive.add(2, b""),
        lambda: log.archive.drop([1]),
    ):
        with pytest.raises(StoreClosed, match=re.escape(f"The store {path} is closed")):
            use()
    with closing(EventLog(path)) as again:
        again.archive.drop([])
        assert again.archive.segment(1).stream == "account-ann"


async def test_an_archive_that_could_not_be_opened_again_is_opened_at_its_next_use(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(EventLog(path)) as log:
        archive, away = path / "archive", path.parent / "away"
        lost = log.archive.environment

        def two_faults(_: Transaction) -> None:
            archive.rename(away)
            raise lmdb.DiskError("Input/output error")

        with pytest.raises(StoreOutcomeUnknown):
            lost.write(two_faults)
        with pytest.raises(ArchiveUnreachable, match="is not there"):
            log.archive.check_has([1])
        away.rename(archive)
        log.archive.check_has([1])
        log.archive.drop([2])
    assert sound(path)


async def test_whoever_reads_an_archive_while_it_is_lost_is_told_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(EventLog(path)) as log:
        begin_reading = Environment.begin_reading

        def lost_in_between(environment: Environment) -> Transaction:
            monkeypatch.undo()
            environment.close()
            return begin_reading(environment)

        assert log.archive.environment.path == log.archive.path
        monkeypatch.setattr(Environment, "begin_reading", lost_in_between)
        with pytest.raises(ArchiveUnreachable, match="could not be opened again after a write"):
            log.archive.segment(1)
        assert log.archive.segment(1).stream == "account-ann"


async def test_a_read_of_the_archive_that_is_under_way_ends_before_it_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    log = LogReader.open(path)
    reading, closing_began = threading.Event(), threading.Event()
    event, leave = Archive.event, Environment.close

    def slow_event(archive: Archive, position: int, stub: bytes) -> StoredEvent:
        reading.set()
        assert closing_began.wait(10)
        return event(archive, position, stub)

    def close(environment: Environment) -> None:
        closing_began.set()
        leave(environment)

    monkeypatch.setattr(Archive, "event", slow_event)
    monkeypatch.setattr(Environment, "close", close)
    found: list[StoredEvent] = []
    reader = threading.Thread(target=lambda: found.extend(log.read_stream("account-ann", limit=3)))
    reader.start()
    assert reading.wait(10)
    log.close()
    reader.join(10)
    assert [each.version for each in found] == [1, 2, 3]


async def test_a_verification_may_be_run_again(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(Environment(path, read_only=True)) as environment:
        verification = verify(environment)
        assert list(verification) == list(verification) == []


async def test_a_segment_is_unpacked_once_for_all_that_is_read_of_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        for name in ("ann", "bob"):
            await runtime.maintenance.compact(Account, name)
    unpacked: list[str] = []
    records = Segment.records

    def counted(segment: Segment) -> list[bytes]:
        unpacked.append(segment.stream)
        return records(segment)

    monkeypatch.setattr(Segment, "records", counted)
    with closing(LogReader.open(path)) as log:
        stored = log.encoded_stream("account-ann", 1, 40)
        events = log.read_stream("account-ann", to_version=40)
        assert [record[-HASH_SIZE_BYTES:] for record in stored] == [event.hash for event in events]
        assert unpacked == ["account-ann"]
        export_events(log, tmp_path / "all.jsonl")
        assert unpacked == ["account-ann", "account-bob"]


async def test_segments_that_had_to_make_room_are_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentCache.__init__, "__defaults__", (1,))
    events = all_events(path)
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        for name in ("ann", "bob"):
            await runtime.maintenance.compact(Account, name)
    assert all_events(path) == events
    assert sound(path)


async def test_a_stub_of_another_position_is_told_apart(path: Path) -> None:
    """The hash is that of an event of the segment, and the position is not."""
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(EventLog(path)) as log:
        (event,) = log.read_stream("account-ann", limit=1)
        stub = (1).to_bytes(8, "big") + bytes(8) + event.hash
        assert log.archive.event(event.position, stub) == event
        for read in (log.archive.event, log.archive.encoded):
            with pytest.raises(ArchiveUnreachable, match="does not hold it in segment 1"):
                read(event.position + 1, stub)


@pytest.mark.parametrize("checksum", [[], [None]], ids=["without", "none"])
async def test_what_has_lost_its_checksum_is_damaged(path: Path, checksum: list[None]) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")

    def strip(table: str, key: bytes, environment: Environment) -> None:
        def work(transaction: Transaction) -> None:
            value = transaction.get(key, db=environment.table(table))
            assert value is not None
            stripped = [*msgspec.msgpack.decode(value)[:-1], *checksum]
            transaction.put(key, msgspec.msgpack.encode(stripped), db=environment.table(table))

        environment.write(work)

    with closing(EventLog(path)) as log:
        strip("segments", (1).to_bytes(8, "big"), log.archive.environment)
        strip("meta", SEGMENTS_KEY, log.environment)
    with closing(LogReader.open(path)) as log:
        with pytest.raises(ArchiveUnreachable, match="is damaged in segment 1"):
            log.read_stream("account-ann")
        with log.environment.read() as transaction, pytest.raises(msgspec.MsgspecError):
            segment_numbers(transaction, log.environment.table("meta"))
        assert {finding.table for finding in verify(log)} >= {"archive", "meta"}


async def test_an_archive_that_lmdb_cannot_read(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Account], limits=LIMITS) as runtime:
        await runtime.maintenance.compact(Account, "ann")
    with closing(LogReader.open(path)) as log:
        crowded = log.archive.environment
        with ExitStack() as stack:
            for _ in range(126):
                stack.enter_context(crowded.read())
            with pytest.raises(ArchiveUnreachable, match=r"cannot be read: .*MDB_READERS_FULL"):
                log.archive.segment(1)
            with pytest.raises(ArchiveUnreachable, match="cannot be read"):
                log.archive.check_has([1])
        log.archive.check_has([1])
