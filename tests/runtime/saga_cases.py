"""What the tests of sagas share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shop_domain import Created, Order, PlaceOrder, Stock, Take

from eventsrc import (
    Aggregate,
    MemoryLog,
    Runtime,
    Saga,
    SagaContext,
    WaitTimeout,
    step,
)
from eventsrc.storage.commit import Appended, Commit
from eventsrc.storage.errors import EventSourcingError
from eventsrc.storage.snapshot import Snapshot
from eventsrc.storage.store import EventStore

AGGREGATES: Sequence[type[Aggregate]] = (Order, Stock)


def open_runtime(store: EventStore | Path, *sagas: type[Saga], **options: Any) -> Any:
    if isinstance(store, MemoryLog):
        store.reopen()
    return Runtime.open(store, aggregates=AGGREGATES, sagas=sagas or (PlaceOrder,), **options)


async def records(runtime: Runtime, saga_id: str) -> list[str]:
    return [event.type.removeprefix("saga.") async for event in runtime.events(stream=saga_id)]


class Patient(Saga, signals=["release"]):
    """Waits in every way there is; what it has seen is in its state."""

    seen: list[str]

    @step()
    async def sleep(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "slept", Take(1))
        await ctx.sleep(days=3)
        self.seen.append("slept")

    @step()
    async def wait(self, ctx: SagaContext) -> None:
        created = await ctx.wait_for(Created, where={"total": 42})
        self.seen.append(f"created {created.total}")

    @step()
    async def approve(self, ctx: SagaContext) -> None:
        self.seen.append(await ctx.approval("release"))
        try:
            await ctx.wait_for(Created, where={"total": 43}, timeout_seconds=3600)
        except WaitTimeout:
            self.seen.append("too late")


class Killed(BaseException):
    """Ends the program there and then."""


class KilledLog(MemoryLog):
    """A store that ends the program before or after its n-th append, and is there afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.appends_left: float = float("inf")
        self.kills_after = False

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        self.appends_left -= 1
        if self.appends_left == 0 and not self.kills_after:
            raise Killed
        outcome = super().append(commits, snapshots)
        if self.appends_left == 0:
            raise Killed
        return outcome
