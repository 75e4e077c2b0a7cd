"""The testing helpers that domain authors use."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import trio
import trio.testing
from bank_domain import Account, Deposit, Deposited, Grow, ReturnNonsense, Slow, Withdraw, Withdrawn
from people_domain import Message, Person, Registered, Said

from eventsrc import (
    Aggregate,
    ArgumentInvalid,
    DefinitionError,
    HandlerIsAsync,
    NotAnEvent,
    Personal,
    Rejected,
    Runtime,
    UnknownCommand,
    applies,
    command,
    event,
    handles,
)
from eventsrc.runtime.testing import FollowingClock, WallClock, scenario


@command
class Move: ...


@command
class Stay: ...


@event("mover.moved")
class Moved: ...


class Mover(Aggregate):
    is_there: bool = False

    @handles
    async def move(self, command: Move) -> Moved:
        await trio.lowlevel.checkpoint()
        if self.is_there:
            raise Rejected("it is there already")
        return Moved()

    @handles
    def stay(self, command: Stay) -> None: ...

    @applies
    def moved(self, event: Moved) -> None:
        self.is_there = True


def test_a_scenario_that_holds() -> None:
    scenario(Account).given(Deposited(100)).when(Withdraw(30)).then(Withdrawn(30))


def test_a_scenario_goes_on_after_its_command() -> None:
    steps = scenario(Account).when(Deposit(5)).then(Deposited(5)).when(Withdraw(5)).then(Withdrawn(5))
    assert steps.state.balance == 0


def test_a_scenario_that_does_not_hold_says_what_happened() -> None:
    with pytest.raises(AssertionError, match=r"made \[Withdrawn\(amount=30\)\], not \[Withdrawn\(amount=31\)\]"):
        scenario(Account).given(Deposited(100)).when(Withdraw(30)).then(Withdrawn(31))
    with pytest.raises(AssertionError, match="was rejected: the balance is too small"):
        scenario(Account).when(Withdraw(30)).then()
    with pytest.raises(AssertionError, match="was not rejected"):
        scenario(Account).when(Deposit(30)).then_rejected()


def test_what_does_not_hold_is_found_without_assert_statements_too() -> None:
    code = """
from people_domain import Person, Registered
from eventsrc.runtime.testing import scenario

ann = scenario(Person, aggregate_id="ann").given(Registered("ann", "Ann"))
for step in (
    lambda: ann.then(Registered("ann", "Ann")),
    lambda: ann.then_rejected(),
    lambda: ann.forget("bob"),
    lambda: ann.forget("ann"),
):
    try:
        step()
    except AssertionError:
        print("found")
"""
    ran = subprocess.run(
        [sys.executable, "-O", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert ran.stdout.split() == ["found"] * 4, ran


def test_a_refusal_is_matched_by_its_words() -> None:
    scenario(Account).when(Withdraw(30)).then_rejected("too small")
    with pytest.raises(AssertionError, match="does not match"):
        scenario(Account).when(Withdraw(30)).then_rejected("too large")


def test_what_is_wrong_with_the_class_is_raised_as_by_the_runtime() -> None:
    with pytest.raises(UnknownCommand):
        scenario(Account).when(Grow(1))
    with pytest.raises(NotAnEvent):
        scenario(Account).when(ReturnNonsense())
    with pytest.raises(UnknownCommand):
        scenario(Slow).when(Deposit(1))


def test_of_several_events_the_one_that_nothing_applies_is_named() -> None:
    class Mixed(Account):
        @handles
        def grow(self, command: Grow) -> list[object]:
            return [Deposited(command.by), Moved()]

    with pytest.raises(NotAnEvent, match=r"returned \[Deposited\(.*, and nothing applies Moved\(\)\. Return"):
        scenario(Mixed).when(Grow(1))


async def test_async_handlers_in_async_tests() -> None:
    with pytest.raises(HandlerIsAsync, match="when_async"):
        scenario(Mover).when(Move())
    moved = await scenario(Mover).when_async(Move())
    moved.then(Moved()).when(Stay()).then()
    (await moved.when_async(Stay())).then()
    (await moved.when_async(Move())).then_rejected("there already")


def test_async_handlers_in_other_tests() -> None:
    scenario(Mover).when(Move()).then(Moved()).when(Move()).then_rejected("there already")


def test_the_wall_clock_moves_when_it_is_told_to() -> None:
    clock = WallClock()
    before = clock()
    assert clock() == before
    clock.advance(1.5)
    assert clock() - before == 1_500_000_000
    clock.advance(-2)
    assert clock() < before


def test_a_scenario_is_given_an_aggregate_and_its_events() -> None:
    for wrong in (Stay(), Moved, Deposited(5)):
        with pytest.raises(ArgumentInvalid, match=r"give objects of events that Mover applies: .*Moved"):
            scenario(Mover).given(wrong)
    instance: Any = Mover()
    with pytest.raises(DefinitionError, match="is no aggregate: give subclasses of Aggregate"):
        scenario(instance)


async def test_a_clock_that_follows_that_of_trio_is_one_for_a_store_on_disk_too(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    clock = FollowingClock()
    async with Runtime.open(tmp_path / "store", aggregates=[Account], wall_clock=clock) as runtime:
        for _ in range(2):
            await runtime.actor(Account, "ann").ask(Deposit(1))
            mock_clock.jump(86_400)
        first, second = [stored.time async for stored in runtime.events()]
    assert (second - first).days == 1


def test_a_subject_is_forgotten_and_the_state_tells_no_more_than_its_events() -> None:
    ann = scenario(Person, aggregate_id="ann").given(Registered("ann", "Ann"))
    assert ann.state.name == "Ann"
    with pytest.raises(AssertionError, match=r"Person\.nickname would be 'ann' in a snapshot, and is 'somebody' once"):
        ann.forget("ann")
    greeted = scenario(Greeted, aggregate_id="ann").given(Registered("ann", "Ann")).forget("ann")
    assert greeted.state.greeting == "hello"
    greeted.when(Greet()).then(Registered("ann", "somebody"))


def test_a_marked_field_may_keep_what_no_event_of_the_subject_has_set() -> None:
    ann = scenario(Person, aggregate_id="ann").given(Said(Message("ann", "something hushed"))).forget("ann")
    assert (ann.state.name, ann.state.messages) == ("", [Message("ann", "...")])


@command
class Greet:
    pass


class Greeted(Aggregate):
    greeting: Annotated[str, Personal("id")] = "hello"

    @handles
    def greet(self, command: Greet) -> Registered:
        return Registered(self.id, "somebody")

    @applies
    def registered(self, event: Registered) -> None:
        self.greeting = "hello" if event.name == "somebody" else f"hello, {event.name}"
