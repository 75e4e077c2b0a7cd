"""What the journal's thread takes from its inbox at a time: one group commit."""

from typing import Any

import msgspec
import pytest
from pykka._envelope import Envelope

from eventsrc.actors import journal
from eventsrc.actors.journal import GROUP_ANSWERS_MIN, GROUP_EVENTS_MAX, Batch, JournalInbox, Lane, Work, Write
from eventsrc.storage.snapshot import Snapshot


def write(*, events: int = 1, answers: int = 1) -> Write:
    return Write((), (), events, answers, Lane(), lambda _: None)


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
    monkeypatch.setattr(journal, "GROUP_EVENTS_MAX", 3)
    assert taken(*[state] * 7) == [[state] * 3, [state] * 3, [state]]


def test_other_work_is_done_between_two_groups() -> None:
    before, after, work = write(), write(), Work(lambda: None, lambda _: None)
    assert taken(before, work, after) == [[before], work, [after]]
