"""The trace of a correlation: what led to what, over aggregates and sagas."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from eventsrc import (
    Aggregate,
    ArgumentInvalid,
    ConditionNotMet,
    EventQuery,
    NotInHistory,
    Runtime,
    Saga,
    SagaContext,
    StoredEvent,
    UnknownCorrelation,
    applies,
    command,
    event,
    handles,
    starts_on,
    step,
)
from eventsrc.runtime import command_line
from eventsrc.runtime.history.trace import traced
from eventsrc.storage.store import EventStore


@command
class Pass:
    """Passed on to the next of a chain, until none is left."""

    left: int


@event("link.passed")
class Passed:
    left: int


class Link(Aggregate):
    runtime: ClassVar[Runtime]

    @handles
    async def on(self, command: Pass) -> Passed:
        if command.left:
            await self.runtime.actor(Link, f"{command.left - 1}").ask(Pass(command.left - 1))
        return Passed(command.left)

    @applies
    def passed(self, event: Passed) -> None:
        pass


@command
class Order:
    item: str


@event("shop.ordered")
class Ordered:
    item: str


class Shop(Aggregate):
    runtime: ClassVar[Runtime]

    @handles
    async def order(self, command: Order) -> Ordered | None:
        if command.item == "nothing":
            return None
        if command.item == "by hand":
            await self.runtime.start_saga(ByHand(), key="1")
        return Ordered(command.item)

    @applies
    def ordered(self, event: Ordered) -> None:
        pass


class Deliver(Saga):
    item: str

    @classmethod
    @starts_on(Ordered)
    def begin(cls, event: Ordered, meta: StoredEvent) -> "Deliver | None":
        return cls(event.item) if event.item == "book" else None

    @step
    async def send(self, ctx: SagaContext) -> None:
        await ctx.ask(Link, "1", Pass(1))


class ByHand(Saga):
    @step
    async def send(self, ctx: SagaContext) -> None:
        await ctx.ask(Link, "0", Pass(0))


@asynccontextmanager
async def shop(store: EventStore | Path) -> AsyncIterator[Runtime]:
    async with Runtime.open(store, aggregates=[Link, Shop], sagas=[Deliver, ByHand]) as runtime:
        Link.runtime = Shop.runtime = runtime
        yield runtime


async def lines(runtime: Runtime, of: Any) -> list[str]:
    """Without the records of sagas that are no beginning."""
    return [
        f"{'  ' * each.depth}{each.event.stream} {each.event.type}"
        for each in await runtime.trace(of)
        if not each.event.type.startswith("saga.") or each.event.type == "saga.started"
    ]


async def test_what_a_command_led_to_in_others_is_below_it(store: EventStore | Path) -> None:
    async with shop(store) as runtime:
        await runtime.actor(Shop, "s").ask(Order("apple"))
        receipt = await runtime.actor(Link, "2").ask(Pass(2), correlation_id="chain")
        told = ["link-2 link.passed", "  link-1 link.passed", "    link-0 link.passed"]
        assert await lines(runtime, receipt) == await lines(runtime, "chain") == told
        assert await lines(runtime, receipt.position - 2) == told, "of any event of it"
        assert await lines(runtime, 1) == ["shop-s shop.ordered"]


async def test_so_is_what_sagas_did_that_an_event_or_a_handler_started(store: EventStore | Path) -> None:
    async with shop(store) as runtime:
        receipt = await runtime.actor(Shop, "s").ask(Order("book"))
        saga = runtime.saga(Deliver, f"shop-s@{receipt.version}")
        await until_there(runtime, "link-1")
        await saga.wait()
        assert await lines(runtime, receipt) == [
            "shop-s shop.ordered",
            f"  {saga.id} saga.started",
            "    link-1 link.passed",
            "      link-0 link.passed",
        ]
        receipt = await runtime.actor(Shop, "s").ask(Order("by hand"))
        await runtime.saga(ByHand, "1").wait()
        by_hand = ["shop-s shop.ordered", "  saga_by_hand-1 saga.started", "    link-0 link.passed"]
        assert await lines(runtime, receipt) == by_hand


async def until_there(runtime: Runtime, stream: str) -> None:
    async for batch in runtime.subscribe():
        if any(stored.stream == stream for stored in batch):
            return


async def test_what_there_is_none_of_is_said(store: EventStore | Path) -> None:
    async with shop(store) as runtime:
        for position in (0, 1, -1):
            with pytest.raises(NotInHistory):
                await runtime.trace(position)
        with pytest.raises(UnknownCorrelation, match="'nothing'"):
            await runtime.trace("nothing")
        receipt = await runtime.actor(Shop, "s").ask(Order("apple"))
        with pytest.raises(ArgumentInvalid):
            await runtime.trace(receipt, limit=0)
        for odd in (1.5, None, b"s"):
            with pytest.raises(ArgumentInvalid, match=f"of={odd!r} cannot be used: give a receipt"):
                await runtime.trace(odd)  # type: ignore[arg-type]


async def test_a_command_that_made_no_event_is_not_taken_for_the_one_before_it(store: EventStore | Path) -> None:
    async with shop(store) as runtime:
        await runtime.actor(Shop, "s").ask(Order("apple"), correlation_id="another")
        receipt = await runtime.actor(Shop, "s").ask(Order("nothing"))
        with pytest.raises(NotInHistory, match="The command to 'shop-s' made no event"):
            await runtime.trace(receipt)


async def test_events_are_found_by_their_correlation(store: EventStore | Path) -> None:
    async with shop(store) as runtime:
        for number in range(6):
            await runtime.actor(Shop, "s").ask(Order("apple"), correlation_id=f"{number % 2}")
        found = [each.version async for each in runtime.events(correlation_id="1")]
        assert found == [2, 4, 6]
        newest = runtime.events(correlation_id="1", types=[Ordered], stream="shop-s", backwards=True, limit=1)
        assert [each.version async for each in newest] == [6]
        for odd in (1, ""):
            with pytest.raises(ArgumentInvalid, match="correlation_id"):
                runtime.events(correlation_id=odd)  # type: ignore[arg-type]
        with pytest.raises(ConditionNotMet, match="correlation 1"):
            await runtime.actor(Shop, "s").ask(Order("apple"), unless=EventQuery(correlation_id="1"))
        await runtime.actor(Shop, "s").ask(Order("apple"), unless=EventQuery(correlation_id="2"))


def stored(position: int, causation_id: str, caused_by: Any) -> StoredEvent:
    metadata = {} if caused_by is None else {"caused_by": caused_by}
    return StoredEvent(
        position, "s-1", position, "some.thing", 1, "updated", 0, "c", causation_id, metadata, {}, (), b""
    )


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from([None, *"abcdefg", 3, ["a"]])), max_size=30))
def test_each_event_is_told_once_whatever_metadata_say_of_its_cause(causes: list[tuple[str, Any]]) -> None:
    events = [stored(number, *cause) for number, cause in enumerate(causes, 1)]
    told = traced(events)
    assert sorted(each.event.position for each in told) == list(range(1, len(events) + 1))
    made = {each.event.causation_id for each in told}
    began = [each for each in told if each.caused_by not in made]
    assert all(each.depth == 0 for each in began)
    assert not told or told[0].depth == 0 or told[0].caused_by in made


def test_a_long_chain_is_told_at_once() -> None:
    events = [stored(number, f"{number}", f"{number - 1}") for number in range(1, 10_001)]
    random.Random(0).shuffle(events)
    told = traced([msgspec.structs.replace(each, position=number) for number, each in enumerate(events, 1)])
    assert max(each.depth for each in told) == 9_999


def test_the_command_line_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "store"

    async def fill() -> None:
        async with shop(path) as runtime:
            await runtime.actor(Link, "2").ask(Pass(2), correlation_id="chain")
            await runtime.actor(Link, "7").ask(Pass(0), correlation_id="other")
            await runtime.actor(Shop, "9").ask(Order("a " * 500), correlation_id="long")
            await runtime.actor(Link, "8").ask(Pass(0), correlation_id="red\x1b[31m\nalarm")

    def printed(*arguments: str) -> tuple[int, str, str]:
        code = command_line.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    trio.run(fill)

    for what in (["1"], ["--correlation", "chain"]):
        code, out, _ = printed("trace", str(path), *what)
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()[2:]] == ["3", "2", "1"]
        assert "    link.passed  link-0" in out
        code, out, _ = printed("trace", str(path), *what, "--json")
        shown = json.loads(out)
        assert shown["correlation_id"] == "chain"
        assert [(each["depth"], each["stream"]) for each in shown["events"]] == [
            (0, "link-2"),
            (1, "link-1"),
            (2, "link-0"),
        ]
        assert shown["events"][1]["caused_by"] == shown["events"][0]["causation_id"]
    code, out, err = printed("trace", str(path), "1", "--limit", "1", "--json")
    assert (len(json.loads(out)["events"]), err) == (
        1,
        "not all of it: it has more than 1 events; --limit N shows more\n",
    )
    code, out, err = printed("trace", str(path), "--correlation", "nothing")
    assert (code, out) == (1, "")
    assert err.startswith("eventsrc: No event in ")
    code, out, _ = printed("trace", str(path), "5")
    assert (code, len(out.splitlines())) == (0, 3), "a line is not broken where there is no terminal"
    code, out, _ = printed("trace", str(path), "6")
    assert (code, out.splitlines()[0]) == (0, r"correlation 'red\x1b[31m\nalarm'"), "a terminal takes no orders of it"
    code, out, _ = printed("events", str(path), "--correlation", "other")
    assert (code, [line.split("\t")[2] for line in out.splitlines()]) == (0, ["link-7"])
