"""What was stored with an older version of an event's schema is read as today's."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given, settings
from till_domain import (
    GENERATIONS,
    FirstTill,
    Paid,
    PaidEuros,
    Pay,
    SecondTill,
    Till,
    Total,
    Totals,
    pay,
)

from eventsrc import (
    Aggregate,
    EventVersionUnknown,
    Runtime,
    Saga,
    SagaContext,
    UpcasterFailed,
    applies,
    command,
    event,
    handles,
    step,
)
from eventsrc.runtime.testing import event_from

# --- reading what is older ---


async def test_whatever_reads_an_event_gets_it_in_the_schema_of_its_class(tmp_path: Path) -> None:
    for cents, till in zip((100, 20, 3), GENERATIONS, strict=True):
        await pay(tmp_path / "s", till, cents)
    async with Runtime.open(tmp_path / "s", aggregates=[Till], projections=[Totals]) as runtime:
        ref = runtime.actor(Till, "a")
        assert (await ref.state()).amount == 123
        assert (await ref.state(at_version=2)).amount == 120
        view = runtime.view(Totals.rows)
        assert await view.get("EUR", at_least=runtime.last_position) == Total("EUR", 123)
        stored = [each async for each in runtime.events(types=[Paid])]
        assert [runtime.decode(each) for each in stored] == [Paid(100, "EUR"), Paid(20, "EUR"), Paid(3, "EUR")]
        decoded = list[Any]()
        await runtime.replay("full", into=lambda each: decoded.append(runtime.decode(each))).run()
        assert decoded == [runtime.decode(each) for each in stored]
        assert (await runtime.diff(Till, "a", 1, 3)).changes == {"amount": (100, 123)}


async def test_what_is_stored_stays_as_it_is_although_an_upcaster_changes_what_it_is_given(tmp_path: Path) -> None:
    await pay(tmp_path / "s", FirstTill, 100)
    async with Runtime.open(tmp_path / "s", aggregates=[SecondTill]) as runtime:
        (stored,) = [each async for each in runtime.events()]
        assert runtime.decode(stored) == runtime.decode(stored) == PaidEuros(1.0)
        assert (stored.payload, stored.schema_version) == ({"cents": 100}, 1)
        await runtime.actor(SecondTill, "a").ask(Pay(50))
        assert [each.schema_version async for each in runtime.events()] == [1, 2]


async def test_the_answer_of_a_command_that_older_code_did_is_told_in_the_schema_of_today(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "s", aggregates=[FirstTill]) as runtime:
        await runtime.actor(FirstTill, "a").ask(Pay(100), idempotency_key="once")
    async with Runtime.open(tmp_path / "s", aggregates=[Till]) as runtime:
        receipt = await runtime.actor(Till, "a").ask(Pay(100), idempotency_key="once")
    assert (receipt.duplicate, receipt.events) == (True, (Paid(100, "EUR"),))


async def test_events_in_the_archive_are_read_in_the_schema_of_today(tmp_path: Path) -> None:
    await pay(tmp_path / "s", FirstTill, *[1] * 1100)
    async with Runtime.open(tmp_path / "s", aggregates=[FirstTill]) as runtime:
        await runtime.maintenance.compact(FirstTill, "a")
    async with Runtime.open(tmp_path / "s", aggregates=[Till], projections=[Totals]) as runtime:
        assert (await runtime.actor(Till, "a").state()).amount == 1100
        assert (await runtime.actor(Till, "a").state(at_version=7)).amount == 7
        assert await runtime.view(Totals.rows).get("EUR", at_least=runtime.last_position) == Total("EUR", 1100)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.integers(1, 999), max_size=4), min_size=3, max_size=3))
def test_whichever_programs_wrote_a_log_the_newest_reads_all_of_it(written: list[list[int]]) -> None:
    async def run(path: Path) -> int:
        for till, cents in zip(GENERATIONS, written, strict=True):
            await pay(path, till, *cents)
        async with Runtime.open(path, aggregates=[Till]) as runtime:
            return (await runtime.actor(Till, "a").state()).amount

    with TemporaryDirectory() as folder:
        assert trio.run(run, Path(folder) / "s") == sum(map(sum, written))


def test_a_payload_of_any_version_is_tested_without_a_store() -> None:
    assert event_from(Paid, {"cents": 250}, version=1) == Paid(250, "EUR")
    assert event_from(Paid, {"euros": 2.5}, version=2) == Paid(250, "EUR")
    assert event_from(Paid, {"amount": 250, "currency": "USD"}, version=3) == Paid(250, "USD")
    with pytest.raises(UpcasterFailed, match="from version 2 to 3 raised KeyError: 'euros'"):
        event_from(Paid, {"cents": 250}, version=2)
    with pytest.raises(EventVersionUnknown):
        event_from(Paid, {}, version=4)


# --- sagas ---


@event("till.closed")
class ClosedBy:
    clerk: str


@event("till.closed", version=2, upcasters={1: lambda old: {"by": old["clerk"]}})
class Closed:
    by: str


@command
class Close:
    by: str


class FirstShop(Aggregate, category="shop"):
    @handles
    def close(self, command: Close) -> ClosedBy:
        return ClosedBy(command.by)

    @applies
    def closed(self, event: ClosedBy) -> None:
        pass


class Shop(Aggregate):
    @handles
    def close(self, command: Close) -> Closed:
        return Closed(command.by)

    @applies
    def closed(self, event: Closed) -> None:
        pass


class FirstCount(Saga, name="count"):
    clerk: str
    seen: str = ""

    @step()
    async def wait(self, ctx: SagaContext) -> None:
        self.seen = (await ctx.wait_for(ClosedBy, where={"clerk": self.clerk})).clerk


class Count(Saga):
    clerk: str
    seen: str = ""

    @step()
    async def wait(self, ctx: SagaContext) -> None:
        self.seen = (await ctx.wait_for(Closed, where={"by": self.clerk})).by


async def test_a_saga_that_waits_finds_an_event_by_a_field_that_was_renamed_meanwhile(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "s", aggregates=[FirstShop], sagas=[FirstCount]) as runtime:
        for key, clerk in (("early", "ann"), ("late", "bob")):
            await runtime.start_saga(FirstCount(clerk), key=key)
        while runtime.saga_counts["waiting"] < 2:
            await trio.sleep(0.01)
    async with Runtime.open(tmp_path / "s", aggregates=[FirstShop]) as runtime:
        await runtime.actor(FirstShop, "a").ask(Close("ann"))
    async with Runtime.open(tmp_path / "s", aggregates=[Shop], sagas=[Count]) as runtime:
        early, late = runtime.saga(Count, "early"), runtime.saga(Count, "late")
        assert (await early.wait()).saga.seen == "ann"
        await runtime.actor(Shop, "a").ask(Close("cid"))
        await runtime.actor(Shop, "a").ask(Close("bob"))
        assert (await late.wait()).saga.seen == "bob"


async def test_a_saga_that_meets_an_event_that_cannot_be_read_fails_by_it_and_says_so(tmp_path: Path) -> None:
    def mend(payload: dict[str, Any]) -> dict[str, Any]:
        return {"by": {"ann": "Ann", "bob": "Bob"}[payload["clerk"]]}

    @event("till.closed", version=2, upcasters={1: mend})
    class Closed:
        by: str

    class Shop(Aggregate):
        @applies
        def closed(self, event: Closed) -> None:
            pass

    class Count(Saga):
        clerk: str

        @step()
        async def wait(self, ctx: SagaContext) -> None:
            await ctx.wait_for(Closed, where={"by": self.clerk})

    async with Runtime.open(tmp_path / "s", aggregates=[FirstShop], sagas=[FirstCount]) as runtime:
        await runtime.start_saga(FirstCount("bob"), key="k")
        for clerk in ("ann", "unheard of", "bob"):
            await runtime.actor(FirstShop, "a").ask(Close(clerk))
        await runtime.saga(FirstCount, "k").wait()
        await runtime.start_saga(FirstCount("cid"), key="waits")
        for clerk in ("ann", "unheard of", "bob"):
            await runtime.actor(FirstShop, "a").ask(Close(clerk))
    async with Runtime.open(tmp_path / "s", aggregates=[Shop], sagas=[Count]) as runtime:
        outcome = await runtime.saga(Count, "waits").wait()
    assert outcome.state == "compensated"
    assert "UpcasterFailed: The upcaster of Closed from version 1 to 2 raised KeyError: 'unheard of'" in outcome.error
