"""Snapshots and compaction where somebody was forgotten: a state is the one that its events give."""

from pathlib import Path
from typing import Annotated

import pytest
from compaction_cases import sound
from people_domain import Person, Register, Say

from eventsrc import Aggregate, CompactionRefused, Limits, Personal, Runtime, applies, command, event, handles
from eventsrc.runtime.testing import WallClock

LIMITS = Limits(snapshot_every_events=5, compaction_events_min=5)


@command
class Visit:
    pass


@command
class Mention:
    customer: str
    text: str


@event("customer.visited")
class Visited:
    pass


@event("diary.mentioned")
class Mentioned:
    customer: str
    text: Annotated[str, Personal("customer", forgotten="...")]


class Customer(Aggregate):
    """Of one who has no name yet, a snapshot holds an empty name, which is personal; none of its events is."""

    visits: int = 0
    name: Annotated[str, Personal("id", forgotten="somebody")] = ""

    @handles
    def visit(self, command: Visit) -> Visited:
        return Visited()

    @applies
    def visited(self, event: Visited) -> None:
        self.visits += 1


class Diary(Aggregate):
    texts: int = 0

    @handles
    def mention(self, command: Mention) -> Mentioned:
        return Mentioned(command.customer, command.text)

    @applies
    def mentioned(self, event: Mentioned) -> None:
        self.texts += 1


async def fill(runtime: Runtime) -> None:
    """A customer with a snapshot, and what somebody else has noted of the same person."""
    await runtime.actor(Customer, "ann").ask_many([Visit()] * 12)
    await runtime.actor(Diary, "1").ask(Mention("ann", "Ann was here"))


async def test_an_aggregate_whose_events_say_nothing_of_a_subject_stays_as_it_was(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Customer, Diary], limits=LIMITS) as runtime:
        await fill(runtime)
        assert (await runtime.forget("ann")).streams == ["diary-1"]
        assert (await runtime.actor(Customer, "ann").state()).name == ""
    async with Runtime.open(tmp_path / "store", aggregates=[Customer, Diary], limits=LIMITS) as runtime:
        state = await runtime.actor(Customer, "ann").state()
        assert (state.name, state.visits) == ("", 12)
        assert await runtime.maintenance.prove(Customer, "ann") == []
        assert await runtime.maintenance.quarantined() == []


async def test_the_same_where_its_events_are_in_the_archive(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Customer, Diary], limits=LIMITS) as runtime:
        customer = runtime.actor(Customer, "ann")
        await fill(runtime)
        await runtime.maintenance.compact(Customer, "ann")
        await runtime.forget("ann")
        assert (await customer.state()).name == ""
        await customer.ask_many([Visit()] * 12)
        assert (await runtime.maintenance.compact(Customer, "ann")).version == 24
        state = await customer.state()
        assert (state.name, state.visits) == ("", 24)
    assert sound(tmp_path / "store")


async def test_a_compaction_that_finds_only_a_snapshot_of_before_makes_its_own(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Customer, Diary], limits=LIMITS) as runtime:
        await fill(runtime)
        await runtime.forget("ann")
        assert (await runtime.maintenance.compact(Customer, "ann")).version == 12
        assert (await runtime.actor(Customer, "ann").state(at_version=12)).name == ""


async def test_a_copy_with_snapshots_of_before_gives_the_states_of_its_events(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Person], limits=LIMITS) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann Secret"))
        await runtime.actor(Person, "ann").ask_many([Say("hush")] * 6)
        await runtime.backup(tmp_path / "backup")
        await runtime.forget("ann")
    async with Runtime.open(
        tmp_path / "backup", aggregates=[Person], limits=LIMITS, keys=tmp_path / "store.keys"
    ) as runtime:
        state = await runtime.actor(Person, "ann").state()
        assert (state.name, state.nickname) == ("somebody", "somebody")
        assert await runtime.maintenance.prove(Person, "ann") == []


async def test_the_records_of_who_was_forgotten_are_no_candidates_for_compaction(tmp_path: Path) -> None:
    clock = WallClock()
    async with Runtime.open(
        tmp_path / "store", aggregates=[Diary], limits=Limits(compaction_events_min=2), wall_clock=clock
    ) as runtime:
        for name in ("ann", "bob", "cy"):
            await runtime.actor(Diary, "1").ask(Mention(name, "was here"))
            await runtime.forget(name)
        clock.advance(40 * 86_400)
        report = await runtime.maintenance.retain()
        assert [each.stream for each in report.candidates] == ["diary-1"]
        assert report.refused == {}
        with pytest.raises(CompactionRefused, match="it records who was forgotten"):
            await runtime.maintenance.compact_stream("eventsrc.subjects-2026-01")
