"""Sagas wait over changes of the events that they wait for."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from eventsrc import (
    Aggregate,
    DefinitionError,
    EventMeta,
    Projection,
    Runtime,
    Saga,
    SagaContext,
    Table,
    applies,
    command,
    event,
    handles,
    on,
    starts_on,
    step,
)
from eventsrc.runtime.testing import WallClock


@command
class Pay:
    order: int
    cents: int


@event("desk.paid")
class PaidCents:
    order: int
    amount: int


class FirstDesk(Aggregate, category="desk"):
    @handles
    def pay(self, command: Pay) -> PaidCents:
        return PaidCents(command.order, command.cents)

    @applies
    def paid(self, event: PaidCents) -> None:
        pass


class FirstTake(Saga, name="take"):
    order: int
    cents: int
    seen: str = ""

    @step()
    async def wait(self, ctx: SagaContext) -> None:
        where = {"order": self.order, "amount": self.cents}
        self.seen = repr(await ctx.wait_for(PaidCents, where=where, timeout_seconds=3_600))


def in_euros(payload: dict[str, Any]) -> dict[str, Any]:
    return {"order": f"o-{payload['order']}", "amount": payload["amount"] // 100}


@event("desk.paid", version=2, upcasters={1: in_euros})
class Paid:
    """Of the same fields: one with another type, one in other units."""

    order: str
    amount: int


class Desk(Aggregate):
    @handles
    def pay(self, command: Pay) -> Paid:
        return Paid(f"o-{command.order}", command.cents // 100)

    @applies
    def paid(self, event: Paid) -> None:
        pass


class Take(Saga):
    order: int
    cents: int
    seen: str = ""

    @step()
    async def wait(self, ctx: SagaContext) -> None:
        where = {"order": f"o-{self.order}", "amount": self.cents // 100}
        self.seen = repr(await ctx.wait_for(Paid, where=where, timeout_seconds=3_600))


@attrs.frozen
class Seen:
    order: str


async def begin(path: Path, *orders: int) -> None:
    """Have sagas of the first program wait."""
    async with Runtime.open(path, aggregates=[FirstDesk], sagas=[FirstTake]) as runtime:
        for order in orders:
            await runtime.start_saga(FirstTake(order, 500), key=str(order))
        while runtime.saga_counts["waiting"] < len(orders):
            await trio.sleep(0.01)


async def seen(runtime: Runtime, order: int) -> str:
    with trio.fail_after(60):
        return (await runtime.saga(Take, str(order)).wait()).saga.seen


async def test_an_event_of_a_class_that_only_a_step_names_is_read_in_its_schema_of_today(tmp_path: Path) -> None:
    await begin(tmp_path / "s", 1, 2)
    async with Runtime.open(tmp_path / "s", aggregates=[FirstDesk]) as runtime:
        for order in (3, 2, 1):
            await runtime.actor(FirstDesk, "a").ask(Pay(order, 500))
    async with Runtime.open(tmp_path / "s", sagas=[Take]) as runtime:
        assert await seen(runtime, 1) == "Paid(order='o-1', amount=5)"
        assert await seen(runtime, 2) == "Paid(order='o-2', amount=5)"


async def test_a_step_cannot_wait_for_an_event_by_another_class_than_the_runtime_has(tmp_path: Path) -> None:
    @event("desk.paid")
    class Other:
        order: int

    class Wait(Saga):
        @step()
        async def wait(self, ctx: SagaContext) -> None:
            await ctx.wait_for(Other)

    async with Runtime.open(tmp_path / "s", aggregates=[FirstDesk], sagas=[Wait]) as runtime:
        outcome = await (await runtime.start_saga(Wait(), key="k")).wait()
    assert outcome.state == "compensated"
    assert "PaidCents and Other are both stored as 'desk.paid'" in outcome.error


async def test_a_saga_cannot_start_on_another_class_than_the_one_that_is_stored(tmp_path: Path) -> None:
    @event("desk.paid")
    class Other:
        order: int

    class Begin(Saga):
        order: int

        @classmethod
        @starts_on(Other)
        def of(cls, event: Other, meta: EventMeta) -> "Begin":
            return cls(event.order)

        @step()
        async def rest(self, ctx: SagaContext) -> None:
            pass

    with pytest.raises(DefinitionError, match=r"Other and PaidCents are both stored as 'desk\.paid'"):
        async with Runtime.open(tmp_path / "s", aggregates=[FirstDesk], sagas=[Begin]):
            pass


class Paids(Projection):
    rows = Table(Seen, key="order")

    @on(PaidCents)
    def paid(self, event: PaidCents, meta: EventMeta) -> None:
        self.rows.put(Seen(str(event.order)))


def test_a_projection_cannot_have_two_classes_of_one_event() -> None:
    with pytest.raises(DefinitionError, match=r"PaidCents and Paid are both stored as 'desk\.paid'"):

        class Both(Paids):
            @on(Paid)
            def paid_since(self, event: Paid, meta: EventMeta) -> None:
                pass


async def test_a_saga_that_waits_finds_an_event_by_a_value_that_is_stored_otherwise_since(tmp_path: Path) -> None:
    await begin(tmp_path / "s", 1, 2, 3)
    async with Runtime.open(tmp_path / "s", aggregates=[FirstDesk]) as runtime:
        await runtime.actor(FirstDesk, "a").ask(Pay(1, 500))
    for _ in range(2):  # the second time it waits for them by what it found out the first time
        async with Runtime.open(tmp_path / "s", aggregates=[Desk], sagas=[Take]) as runtime:
            assert await seen(runtime, 1) == "Paid(order='o-1', amount=5)"
            while runtime.saga_counts["ready"] or runtime.saga_counts["running"]:
                await trio.sleep(0.01)
            assert runtime.saga_counts["waiting"] == 2
            assert await records(runtime, "wait_begun") == 1 + 2 * 2
    async with Runtime.open(tmp_path / "s", aggregates=[Desk], sagas=[Take]) as runtime:
        for order in (2, 3):
            await runtime.actor(Desk, "a").ask(Pay(order, 500))
            assert await seen(runtime, order) == f"Paid(order='o-{order}', amount=5)"


async def records(runtime: Runtime, name: str) -> int:
    return len([each async for each in runtime.events(types=[f"saga.{name}"])])


async def test_a_wait_keeps_its_end_when_it_goes_on_by_other_values(tmp_path: Path) -> None:
    await begin(tmp_path / "s", 1)
    clock = WallClock(datetime.now(UTC) + timedelta(seconds=3_000))
    async with Runtime.open(tmp_path / "s", aggregates=[Desk], sagas=[Take], wall_clock=clock) as runtime:
        while await records(runtime, "wait_begun") < 2:
            await trio.sleep(0.01)
    clock.advance(700)
    async with Runtime.open(tmp_path / "s", aggregates=[Desk], sagas=[Take], wall_clock=clock) as runtime:
        with trio.fail_after(60):
            outcome = await runtime.saga(Take, "1").wait()
    assert outcome.state == "compensated"
    assert "WaitTimeout" in outcome.error
