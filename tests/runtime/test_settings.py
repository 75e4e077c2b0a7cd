"""How a runtime is to work: settings of a wrong kind are told when it is opened."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cattrs
import pytest
from bank_domain import Account, Deposited
from bank_views import Balances

from eventsrc import ArgumentInvalid, MemoryLog, Runtime
from eventsrc.actors.views.sql import SqlViews
from eventsrc.runtime.testing import WallClock, event_from, scenario


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (":memory:", r"a store in memory is MemoryLog\(\)"),
        ("~", r"only a shell knows"),
        ("~/bank.db", r"expanduser\(\)"),
        (Path("~/bank.db"), r"expanduser\(\)"),
        ("sqlite:///bank.db", "it is no path"),
        (MemoryLog, "give the path of a folder as a text, or a store"),
    ],
)
async def test_what_is_a_store_elsewhere(given: Any, words: str) -> None:
    with pytest.raises(ArgumentInvalid, match=f"store=.*{words}"):
        async with Runtime.open(given):
            pass


async def no_clock() -> int:
    return 0


@pytest.mark.parametrize(
    ("argument", "given", "words"),
    [
        ("converter", "x", r"give a cattrs\.Converter"),
        ("converter", cattrs.Converter, r"give a cattrs\.Converter"),
        ("converter", cattrs.BaseConverter(), r"give a cattrs\.Converter"),
        ("wall_clock", 5, "give a function that returns UTC nanoseconds"),
        ("wall_clock", WallClock, "give a function"),
        ("wall_clock", no_clock, "give a function"),
        ("wall_clock", time.time, r"it returned \d+\.\d+; give a function"),
        ("wall_clock", lambda: datetime.now(UTC), r"it returned datetime"),
        ("wall_clock", lambda: {}["now"], r"it raised KeyError: 'now'; give a function"),
        ("role", "reader", "the given store is open for writing; a reader opens the path"),
        ("views", "sqlite:///views.db", r"a database for views is given by projection: views=\{Balances"),
        ("views", {Balances: SqlViews}, "by class of projection it says where its views live"),
    ],
)
async def test_settings_of_a_wrong_kind(argument: str, given: Any, words: str) -> None:
    given_argument: Any = {argument: given}
    with pytest.raises(ArgumentInvalid, match=f"(?s){argument}=.*{words}"):
        async with Runtime.open(MemoryLog(), aggregates=[Account], **given_argument):
            pass


def test_a_scenario_takes_a_converter_alone() -> None:
    wrong: Any = "x"
    with pytest.raises(ArgumentInvalid, match=r"converter='x' cannot be used: give a cattrs\.Converter"):
        scenario(Account, converter=wrong)
    with pytest.raises(ArgumentInvalid, match=r"converter='x' cannot be used: give a cattrs\.Converter"):
        event_from(Deposited, {"amount": 1}, version=1, converter=wrong)
