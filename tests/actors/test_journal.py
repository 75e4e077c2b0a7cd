"""What the journal's thread takes from its inbox at a time: one group commit."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from pykka._envelope import Envelope

from eventsrc import EventSourcingError, MemoryLog, RuntimeClosed
from eventsrc.actors.errors import JournalFailed
from eventsrc.actors.journal import journal_actor
from eventsrc.actors.journal.journal import CommitSeries, Work, Write
from eventsrc.actors.journal.journal_actor import GROUP_ANSWERS_MIN, GROUP_EVENTS_MAX, Batch, JournalInbox
from eventsrc.actors.journal.thread_journal import ThreadJournal
from eventsrc.storage.commit import ANY, Appended, Commit, NewEvent, StreamAppend
from eventsrc.storage.snapshot import Snapshot


def write(*, events: int = 1, answers: int = 1) -> Write:
    return Write((), (), events, answers, CommitSeries(), lambda _: None)


def noted(settle: Callable[[Appended | EventSourcingError], None]) -> Write:
    append = StreamAppend("bank-ann", ANY, [NewEvent("noted", {})])
    return Write([append], (), 1, 1, CommitSeries(), settle)


def snapshot() -> Snapshot:
    return Snapshot("bank-ann", 1, "", 1, b"", msgspec.Raw(b"\x80"))


def taken(*messages: Any) -> list[Any]:
    """What an inbox that was sent these messages hands out, call by call."""
    inbox = JournalInbox()
    for message in messages:
        inbox.put(Envelope(message))
    found: list[Any] = []
    while not inbox.empty():
        message = inbox.get().message
        found.append(message.messages if isinstance(message, Batch) else message)
    return found


def test_what_waits_is_one_group_up_to_as_many_answers_as_are_worth_it() -> None:
    writes = [write() for _ in range(GROUP_ANSWERS_MIN * 2 + 3)]
    assert taken(*writes) == [writes[:GROUP_ANSWERS_MIN], writes[GROUP_ANSWERS_MIN:-3], writes[-3:]]


def test_records_that_nobody_waits_for_one_by_one_are_one_answer() -> None:
    writes = [write(events=3) for _ in range(GROUP_ANSWERS_MIN)]
    assert taken(*writes) == [writes]


def test_a_write_that_has_no_room_left_begins_the_next_group() -> None:
    first, large, last = write(answers=10), write(events=10, answers=10), write()
    assert taken(first, large, last) == [[first], [large, last]]


def test_a_group_holds_no_more_events_than_the_bound_but_for_a_single_write() -> None:
    most, one, huge = write(events=GROUP_EVENTS_MAX), write(), write(events=GROUP_EVENTS_MAX + 1)
    assert taken(most, one, huge, one) == [[most], [one], [huge], [one]]
    unanswered = write(events=GROUP_EVENTS_MAX - 1, answers=0)
    assert taken(unanswered, most) == [[unanswered], [most]]


def test_a_snapshot_rides_along(monkeypatch: pytest.MonkeyPatch) -> None:
    few, state = [write() for _ in range(GROUP_ANSWERS_MIN - 1)], snapshot()
    assert taken(state, *few, state, few[0]) == [[state, *few, state, few[0]]]
    assert taken(state, huge := write(events=GROUP_EVENTS_MAX + 1)) == [[state, huge]]
    monkeypatch.setattr(journal_actor, "GROUP_EVENTS_MAX", 3)
    assert taken(*[state] * 7) == [[state] * 3, [state] * 3, [state]]


def test_other_work_is_done_between_two_groups() -> None:
    before, after, work = write(), write(), Work(lambda: None, lambda _: None)
    assert taken(before, work, after) == [[before], work, [after]]


class SlowLog(MemoryLog):
    """A store whose disk takes as long as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        self.may_go_on.wait()
        return super().append(commits, snapshots)


@pytest.fixture
def log() -> Iterator[SlowLog]:
    slow = SlowLog()
    yield slow
    slow.may_go_on.set()


def journal_of(log: SlowLog) -> ThreadJournal:
    return ThreadJournal(log, wall_clock=lambda: 1, commits_waiting_max=10, on_commit=lambda: None)


async def test_what_is_decided_after_the_end_is_refused_behind_what_was_before_it(log: SlowLog) -> None:
    journal = journal_of(log)
    outcomes: list[tuple[str, Appended | EventSourcingError]] = []

    def note(name: str) -> Write:
        append = StreamAppend("bank-ann", ANY, [NewEvent("noted", {})])
        return Write([append], (), 1, 1, CommitSeries(), lambda outcome: outcomes.append((name, outcome)))

    journal.submit(note("first"))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.close)
            await trio.testing.wait_all_tasks_blocked()
            journal.submit(note("late"))
            assert outcomes == []
            log.may_go_on.set()
    journal.submit(note("later"))
    assert [(name, type(outcome)) for name, outcome in outcomes] == [
        ("first", Appended),
        ("late", RuntimeClosed),
        ("later", RuntimeClosed),
    ]
    assert log.last_position == 1


async def test_a_clock_that_fails_is_told_to_who_waits_and_the_journal_goes_on(log: SlowLog) -> None:
    log.may_go_on.set()
    is_broken = True

    def clock() -> int:
        return int(trio.current_time()) if is_broken else 1  # on the journal's thread there is no trio

    journal = ThreadJournal(log, wall_clock=clock, commits_waiting_max=10, on_commit=lambda: None)
    outcomes: list[Appended | EventSourcingError] = []
    for _ in range(2):
        settled = trio.Event()

        def settle(outcome: Appended | EventSourcingError, settled: trio.Event = settled) -> None:
            outcomes.append(outcome)
            settled.set()

        journal.submit(noted(settle))
        with trio.fail_after(60):
            await settled.wait()
        is_broken = False
    await journal.close()
    assert [type(outcome) for outcome in outcomes] == [JournalFailed, Appended]


async def test_a_filter_of_the_programs_logging_that_fails_ends_no_journal(log: SlowLog) -> None:
    log.may_go_on.set()

    def fail(record: object) -> bool:
        raise LookupError("a filter that fails")

    def work() -> None:
        raise ZeroDivisionError("a fault of ours")

    is_broken = True
    journal = ThreadJournal(
        log, wall_clock=lambda: 1 // (not is_broken), commits_waiting_max=10, on_commit=lambda: None
    )
    journal_logger = logging.getLogger("eventsrc.journal")
    journal_logger.addFilter(fail)
    outcomes: list[Appended | EventSourcingError] = []
    try:
        with trio.fail_after(60):
            with pytest.raises(JournalFailed, match="a filter that fails"):
                await journal.run(work)
            journal.submit(noted(outcomes.append))
            await journal.until_saved()
            is_broken = False
            journal.submit(noted(outcomes.append))
            await journal.close()
    finally:
        journal_logger.removeFilter(fail)
    assert [type(outcome) for outcome in outcomes] == [JournalFailed, Appended]


async def test_a_closed_journal_takes_no_work_and_no_snapshots(log: SlowLog) -> None:
    log.may_go_on.set()
    journal = journal_of(log)
    await journal.close()
    with pytest.raises(RuntimeClosed):
        await journal.run(lambda: None)
    with pytest.raises(RuntimeClosed):
        await journal.save_now([snapshot()])
    journal.save_with_next_commit(snapshot())
    assert log.snapshots("bank-ann") == []
