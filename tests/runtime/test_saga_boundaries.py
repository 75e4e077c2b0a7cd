"""A saga of everything there is ends with all or nothing, wherever it is killed and whichever record is refused."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import trio
import trio.testing
from saga_cases import Killed, KilledLog
from shop_domain import Cancel, Create, Created, Order, PutBack, Stock, Take

from eventsrc import (
    Aggregate,
    Limits,
    Rejected,
    Retry,
    Runtime,
    Saga,
    SagaContext,
    SagaRef,
    StoreFull,
    applies,
    command,
    event,
    handles,
    step,
)
from eventsrc.runtime.testing import FollowingClock
from eventsrc.storage.commit import Appended, Commit
from eventsrc.storage.errors import EventSourcingError
from eventsrc.storage.snapshot import Snapshot

QUICK = Limits(restart_backoff_seconds=0.01)
NAMES = ("one", "two", "together", "last")


@command
class Look:
    pass


@event("onlooker.never")
class Never:
    pass


class Onlooker(Aggregate):
    """Takes part in transactions, and never has anything to say."""

    @handles
    def look(self, command: Look) -> None:
        return None

    @applies
    def never(self, event: Never) -> None:
        pass


class Everything(Saga, signals=["go"]):
    """Commands side by side, an effect, a retry, a transaction, a sleep, an event, a signal; and all of it back."""

    keys: ClassVar[set[str]] = set()

    is_refused: bool
    seen: list[str]

    @step(compensation="undo_first", retry=Retry(attempts=3, backoff_seconds=0.5))
    async def first(self, ctx: SagaContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.ask, Stock, "one", Take(1))
            nursery.start_soon(ctx.ask, Stock, "two", Take(1))
        self.seen.append(await ctx.effect("it", self.effect, idempotent=True))
        if ctx.attempt == 1:
            raise OSError("no route")

    @step(compensation="undo_second")
    async def second(self, ctx: SagaContext) -> None:
        await ctx.transact(
            [
                (Stock, "together", Take(1)),
                (Onlooker, "o", Look()),
                (Stock, "together", Take(2)),
                (Order, "mine", Create(7)),
            ]
        )
        await ctx.sleep(hours=1)
        created = await ctx.wait_for(Created, where={"total": 7})
        self.seen.append(f"{created.total}")

    @step(compensation="undo_third")
    async def third(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "last", Take(3))
        self.seen.append(await ctx.approval("go"))
        if self.is_refused:
            raise Rejected("no")

    async def undo_third(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "last", PutBack(3))

    async def undo_second(self, ctx: SagaContext) -> None:
        await ctx.sleep(hours=2)
        await ctx.transact([(Stock, "together", PutBack(3)), (Order, "mine", Cancel())])

    async def undo_first(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "one", PutBack(1))
        await ctx.ask(Stock, "two", PutBack(1))

    async def effect(self, idempotency_key: str) -> str:
        self.keys.add(idempotency_key)
        return "done"


class RefusingLog(KilledLog):
    """Refuses the n-th append of a saga's records, besides."""

    def __init__(self, refused_number: int = 0) -> None:
        super().__init__()
        self.refused_number = refused_number
        self.records_count = 0

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        if commits and commits[0].appends[0].stream.startswith("saga_"):
            self.records_count += 1
            if self.records_count == self.refused_number:
                raise StoreFull("store", "test")
        return super().append(commits, snapshots)


async def to_its_end(log: KilledLog, is_refused: bool, clock: FollowingClock) -> dict[str, Any]:
    """Run it to its end, giving the signal when it waits for that; what it has done then."""
    log.reopen()
    types = (Stock, Order, Onlooker)
    async with Runtime.open(log, aggregates=types, sagas=[Everything], wall_clock=clock, limits=QUICK) as runtime:
        saga: SagaRef[Everything] | None = None
        while saga is None:
            try:
                saga = await runtime.start_saga(Everything(is_refused, []), key="1")
            except StoreFull:
                continue
        while (status := await saga.status()).state not in ("completed", "compensated", "parked"):
            if status.waits_for_signal == "go":
                try:
                    await saga.signal("go", "yes")
                except StoreFull:
                    continue
            await trio.sleep(30)
        outcome = await saga.wait()
        stocks = {name: await runtime.actor(Stock, name).state() for name in NAMES}
        order = await runtime.actor(Order, "mine").state()
        done: dict[str, Any] = {name: (stock.count, stock.changes) for name, stock in stocks.items()}
        return done | {"state": outcome.state, "order": order.state, "seen": outcome.saga.seen}


def expected(is_refused: bool) -> dict[str, Any]:
    if is_refused:
        done = {"one": (100, 2), "two": (100, 2), "together": (100, 3), "last": (100, 2)}
        return done | {"state": "compensated", "order": "cancelled"}
    done = {"one": (99, 1), "two": (99, 1), "together": (97, 2), "last": (97, 1)}
    return done | {"state": "completed", "order": "created"}


def check(done: dict[str, Any], is_refused: bool, where: str) -> None:
    seen = done.pop("seen")
    assert done == expected(is_refused), where
    assert Everything.keys == {"saga_everything-1/first/it"}, where
    assert is_refused or seen == ["done", "7", "yes"], where


@pytest.mark.parametrize("is_refused", [False, True])
async def test_killed_after_any_append_all_is_done_or_undone(
    is_refused: bool, autojump_clock: trio.testing.MockClock
) -> None:
    number = 0
    was_killed = True
    while was_killed:
        number += 1
        Everything.keys.clear()
        log, clock = KilledLog(), FollowingClock()
        log.appends_left, log.kills_after = number, True
        try:
            await to_its_end(log, is_refused, clock)
            was_killed = False
        except BaseExceptionGroup as group:
            _, others = group.split(Killed)
            if others is not None:
                raise
        log.appends_left = float("inf")
        check(await to_its_end(log, is_refused, clock), is_refused, f"killed after append {number}")
    assert number > 15


@pytest.mark.parametrize("is_refused", [False, True])
async def test_whichever_record_is_refused_all_is_done_or_undone(
    is_refused: bool, autojump_clock: trio.testing.MockClock
) -> None:
    number, records_count = 0, 1
    while number < records_count:
        number += 1
        Everything.keys.clear()
        log = RefusingLog(number)
        check(await to_its_end(log, is_refused, FollowingClock()), is_refused, f"refused record {number}")
        records_count = log.records_count
    assert number > 10
