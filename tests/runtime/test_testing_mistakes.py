"""The tools for tests tell what they cannot test, and what a program did wrong is told with what was meant."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit, Deposited

from eventsrc import (
    Aggregate,
    ArgumentInvalid,
    DefinitionError,
    EventLog,
    MemoryLog,
    Runtime,
    Saga,
    SagaContext,
    SchemaError,
    StoreClosed,
    StoreFull,
    StoreInUse,
    UnknownCommand,
    command,
    handles,
    step,
)
from eventsrc.runtime.testing import FaultyLog, WallClock, scenario

if TYPE_CHECKING:
    from decimal import Decimal as Money


def test_a_scenario_that_says_what_follows_of_nothing() -> None:
    for say in (scenario(Account).given(Deposited(1)).then, scenario(Account).then_rejected):
        with pytest.raises(AssertionError, match=r"no command was sent: write when\(command\)"):
            say()
    wrong: Any = ValueError
    with pytest.raises(ArgumentInvalid, match=r"match=<class 'ValueError'> cannot be used: give it as a text"):
        scenario(Account).when(Deposit(0)).then_rejected(wrong)


def test_the_state_of_a_scenario_is_of_its_class() -> None:
    state: Account = scenario(Account).given(Deposited(5)).state
    assert state.balance == 5


@pytest.mark.parametrize("start", [datetime(2026, 1, 1), 5, None])
def test_a_wall_clock_begins_at_a_time_with_a_zone(start: Any) -> None:
    with pytest.raises(ArgumentInvalid, match="start="):
        WallClock(start)
    assert WallClock(datetime(1970, 1, 1, 0, 0, 1, 500, tzinfo=UTC))() == 1_000_500_000


@pytest.mark.parametrize("seconds", [timedelta(seconds=5), "5", True, float("nan")])
def test_a_wall_clock_is_moved_by_seconds(seconds: Any) -> None:
    with pytest.raises(ArgumentInvalid, match=r"seconds=.*give a number of seconds"):
        WallClock().advance(seconds)


@pytest.mark.parametrize("error", ["full", StoreFull, None])
def test_a_store_fails_with_an_error(error: Any) -> None:
    with pytest.raises(ArgumentInvalid, match=r"error=.*give the error itself: fail_next\(StoreFull"):
        FaultyLog().fail_next(error)


@pytest.mark.parametrize("sent", [None, {"amount": 5}, "deposit", Deposited(5)])
async def test_what_is_no_command(sent: Any) -> None:
    words = rf"Account was sent .*, which is no command: {type(sent).__name__} has no @command over it"
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        with pytest.raises(UnknownCommand, match=words):
            await runtime.actor(Account, "ann").ask(sent)
    with pytest.raises(UnknownCommand, match=words):
        scenario(Account).when(sent)


async def test_a_store_in_memory_is_reopened_with_what_it_holds() -> None:
    log = MemoryLog()
    async with Runtime.open(log, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(5))
    with pytest.raises(StoreClosed, match=r"To go on with what it holds, open log\.reopen\(\)"):
        async with Runtime.open(log, aggregates=[Account]):
            pass
    async with Runtime.open(log.reopen(), aggregates=[Account]) as runtime:
        assert runtime.last_position == 1


@pytest.mark.parametrize("in_memory", [True, False])
async def test_a_store_is_written_by_one_runtime_at_a_time(tmp_path: Path, in_memory: bool) -> None:
    log = MemoryLog() if in_memory else EventLog(tmp_path)
    async with Runtime.open(log, aggregates=[Account]) as runtime:
        with pytest.raises(StoreInUse, match="is open for writing by another runtime of this process"):
            async with Runtime.open(log, aggregates=[Account]):
                pass
        await runtime.actor(Account, "ann").ask(Deposit(5))


def test_a_type_that_is_imported_for_type_checkers_alone() -> None:
    class Till(Aggregate):
        total: "Money | None" = None

    with pytest.raises(SchemaError, match=r"Till\.total .* name 'Money' is not defined\. Import it .*TYPE_CHECKING"):
        scenario(Till)

    with pytest.raises(DefinitionError, match=r"Drawer\.take cannot be resolved .*not only under TYPE_CHECKING"):

        @command
        class Take:
            amount: int

        class Drawer(Aggregate):
            @handles
            def take(self, command: Take) -> "Money": ...


@pytest.mark.parametrize("commands", [None, (Account, "a", Deposit(1)), [(Account, Deposit(1))], [Deposit(1)]])
async def test_a_transaction_of_a_step_that_is_no_list_of_tuples(
    commands: Any, autojump_clock: trio.testing.MockClock
) -> None:
    class Pay(Saga):
        @step
        async def pay(self, ctx: SagaContext) -> None:
            await ctx.transact(commands)

    async with Runtime.open(MemoryLog(), aggregates=[Account], sagas=[Pay]) as runtime:
        outcome = await (await runtime.start_saga(Pay(), key="k")).wait()
        assert "DefinitionError: ctx.transact takes a list of tuples, each with a class, an id" in outcome.error
