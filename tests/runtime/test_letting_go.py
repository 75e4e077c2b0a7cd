"""What nobody needs any more is let go of, whatever went wrong: a program may run for months."""

import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio.testing
from bank_domain import Account, Deposit

from eventsrc import ConditionNotMet, EventQuery, EventSourcingError, Rejected, Runtime, VersionConflict
from eventsrc.actors.aggregates.aggregate_actor import AggregateActor
from eventsrc.runtime.subscriptions.dispatcher import Dispatcher


async def is_rejected(runtime: Runtime) -> None:
    with pytest.raises(Rejected):
        await runtime.actor(Account, "ann").ask(Deposit(-1))


async def matches_a_condition(runtime: Runtime) -> None:
    with pytest.raises(ConditionNotMet):
        await runtime.actor(Account, "ann").ask(Deposit(1), unless=EventQuery(types=["account.deposited"]))


async def conflicts(runtime: Runtime) -> None:
    with pytest.raises(VersionConflict):
        await runtime.transact([(Account, "ann", Deposit(1))], unchanged=[(Account, "bob", 7)])


async def is_refused_at_work(runtime: Runtime) -> None:
    def refuse() -> None:
        raise EventSourcingError("refused")

    assert runtime._journal is not None
    with pytest.raises(EventSourcingError):
        await runtime._journal.run(refuse)


def living(kind: type) -> int:
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


@pytest.mark.parametrize("fail", [is_rejected, matches_a_condition, conflicts, is_refused_at_work])
async def test_a_runtime_in_which_something_failed(tmp_path: Path, fail: Callable[[Runtime], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
            await runtime.actor(Account, "bob").ask(Deposit(1))
            await fail(runtime)

    before = [living(kind) for kind in (Runtime, AggregateActor)]
    await opened()
    assert [living(kind) for kind in (Runtime, AggregateActor)] == before


async def test_a_subscription_that_was_deleted(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account]) as runtime:
        before = len(runtime._durable._consumers), living(Dispatcher)
        for number in range(3):
            async with runtime.consume(f"of-request-{number}"):
                pass
            await runtime.subscriptions.delete(f"of-request-{number}")
        await trio.testing.wait_all_tasks_blocked()
        assert (len(runtime._durable._consumers), living(Dispatcher)) == before
