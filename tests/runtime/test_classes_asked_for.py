"""Where a class is meant, its name, an object of it or one of its tables is told, with the class that was meant."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from bank_domain import Account, Deposit
from bank_views import Balances

from eventsrc import ArgumentInvalid, MemoryLog, Runtime, Saga, SagaContext, UnknownAggregate, UnknownProjection, step


class Book(Saga):
    @step
    async def pay(self, ctx: SagaContext) -> None: ...


async def asking(runtime: Runtime, wait_for: Any) -> object:
    return await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[wait_for])


async def viewing(runtime: Runtime, of: Any) -> object:
    return runtime.view(of)


async def pausing(runtime: Runtime, of: Any) -> None:
    await runtime.projections.pause(of)


async def measuring(runtime: Runtime, of: Any) -> object:
    return runtime.projections.lag(of)


@pytest.mark.parametrize("ask", [asking, viewing, pausing, measuring])
async def test_a_projection(ask: Callable[[Runtime, Any], Awaitable[object]]) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Balances]) as runtime:
        for given in ("Balances", "balances", Balances(), None, [Balances]):
            with pytest.raises(ArgumentInvalid, match=r"projection=.*give the class itself, such as Balances\."):
                await ask(runtime, given)
        with pytest.raises(UnknownProjection, match="was not opened with Account"):
            await ask(runtime, Account)
        assert runtime.last_position == 0


@pytest.mark.parametrize("given", ["Account", "ann", Account(), None, [Account]])
async def test_an_aggregate(given: Any) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        with pytest.raises(ArgumentInvalid, match=r"aggregate_class=.*give the class itself, such as Account\."):
            runtime.actor(given, "ann")
        with pytest.raises(ArgumentInvalid, match="give the class itself"):
            await runtime.transact([(given, "ann", Deposit(1))])
        with pytest.raises(UnknownAggregate, match="was not opened with Balances"):
            runtime.actor(Balances, "ann")  # type: ignore[type-var]


async def test_a_saga() -> None:
    async with Runtime.open(MemoryLog(), sagas=[Book]) as runtime:
        for given in ("Book", Book()):
            wrong: Any = given
            with pytest.raises(ArgumentInvalid, match=r"saga_class=.*give the class itself, such as Book\."):
                runtime.saga(wrong, "k")
        for other in ("k", None, Account()):
            wrong = other
            with pytest.raises(ArgumentInvalid, match="give an object of a saga's class; its key is given by key="):
                await runtime.start_saga(wrong, key="k")
