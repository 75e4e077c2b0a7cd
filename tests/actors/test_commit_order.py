"""The order of commits: every write of a group is told what became of it, whatever became of its neighbours."""

import threading
import time
from pathlib import Path

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from eventsrc import (
    NO_STREAM,
    Aggregate,
    Limits,
    MemoryLog,
    Receipt,
    Runtime,
    TooManyStreams,
    VersionConflict,
    applies,
    command,
    event,
    handles,
)
from eventsrc.actors.journal.commit_order import CommitOrder
from eventsrc.actors.journal.journal import CommitSeries, Write
from eventsrc.storage.commit import Appended, NewEvent, StreamAppend


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12), max_size=4))
def test_a_refused_write_takes_the_later_ones_of_its_series_with_it_and_no_other(
    groups: list[list[tuple[str, bool]]],
) -> None:
    log = MemoryLog()
    order = CommitOrder(log, lambda: 1)
    series = {name: CommitSeries() for name in "abc"}
    versions = dict.fromkeys(series, 0)
    has_failed = dict.fromkeys(series, False)
    for group in groups:
        writes = []
        expected: list[tuple[str, int | None]] = []
        for name, is_sound in group:
            version = versions[name] if is_sound else 99
            has_failed[name] |= not is_sound
            versions[name] += not has_failed[name]
            expected.append((name, None if has_failed[name] else versions[name]))
            append = StreamAppend(name, version, [NewEvent("noted", {})])
            writes.append(Write([append], (), 1, 1, series[name], lambda _: None))
        outcomes = {id(write): outcome for write, outcome in order.write(writes)}
        for write, (name, version) in zip(writes, expected, strict=True):
            outcome = outcomes[id(write)]
            if version is None:
                assert isinstance(outcome, VersionConflict)
            else:
                assert isinstance(outcome, Appended)
                assert outcome.heads[name].version == version
    heads = {name: log.head(name) for name in versions}
    assert {name: head.version if head else 0 for name, head in heads.items()} == versions


def test_the_outcomes_of_a_series_come_in_its_order() -> None:
    order, series = CommitOrder(MemoryLog(), lambda: 1), CommitSeries()
    writes = [
        Write([StreamAppend("a", expected, [NewEvent("noted", {})])], (), 1, 1, series, lambda _: None)
        for expected in (NO_STREAM, 1, 7, 3, 4)
    ]
    assert [write for write, _ in order.write(writes)] == writes
    assert [write for write, _ in order.write(writes)] == writes


@command
class Note:
    text: str


@event("pad.noted")
class Noted:
    text: str


class Pad(Aggregate):
    notes: int = 0

    @handles
    def note(self, command: Note) -> Noted:
        return Noted(command.text)

    @applies
    def noted(self, event: Noted) -> None:
        self.notes += 1


async def test_commands_beside_those_of_a_stream_that_is_refused_are_answered_as_they_were_stored(
    tmp_path: Path,
) -> None:
    trio_thread = threading.get_ident()
    disk_is_free = threading.Event()
    disk_is_free.set()

    def clock() -> int:
        if threading.get_ident() != trio_thread:
            assert disk_is_free.wait(60)
        return time.time_ns()

    outcomes: dict[str, Receipt | Exception] = {}

    async def ask(name: str, text: str) -> None:
        try:
            outcomes[text] = await runtime.actor(Pad, name).ask(Note(text))
        except TooManyStreams as error:
            outcomes[text] = error

    limits = Limits(streams_max=2)
    async with Runtime.open(tmp_path / "store", aggregates=[Pad], limits=limits, wall_clock=clock) as runtime:
        await ask("ann", "0")
        await ask("cat", "1")
        disk_is_free.clear()
        async with trio.open_nursery() as nursery:
            for name, text in [("ann", "2"), ("bob", "3"), ("bob", "4"), ("ann", "5"), ("cat", "6"), ("bob", "7")]:
                nursery.start_soon(ask, name, text)
                await trio.testing.wait_all_tasks_blocked()
            disk_is_free.set()
        stored = {runtime.decode(each).text: each async for each in runtime.events()}  # type: ignore[attr-defined]

    assert {text for text, outcome in outcomes.items() if isinstance(outcome, TooManyStreams)} == {"3", "4", "7"}
    assert {
        text: (outcome.stream, outcome.version, outcome.position)
        for text, outcome in outcomes.items()
        if isinstance(outcome, Receipt)
    } == {text: (each.stream, each.version, each.position) for text, each in stored.items()}
