"""Errors of foreign code, whose texts may hold anything: they are kept, and end nothing."""

from pathlib import Path

import pytest
from bank_domain import Account, Deposit, Deposited
from bank_views import Balances
from consumer_cases import QUICK, take
from waiting import until

from eventsrc import EventMeta, Runtime, on
from eventsrc.storage.control.board import ControlBoard
from eventsrc.storage.environment.folder import CONTROL_FOLDER

# The name of a file may be such a text.
ODD = "cannot read \udcff"
LONG = "x" * 5_000


@pytest.mark.parametrize("error", [ODD, ValueError(ODD), ValueError(LONG)])
async def test_an_event_is_parked_with_any_error(tmp_path: Path, error: str | Exception) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
        async with runtime.consume("mailer") as consumer:
            for _ in range(5):
                (message,) = await take(consumer, 1)
                message.fail(error)
            (parked,) = await runtime.subscriptions.parked("mailer")
        assert "\\udcff" in parked.error or len(parked.error) == 2_000
        await runtime.actor(Account, "ann").ask(Deposit(1))


class Odd(Balances, name="odd"):
    @on(Deposited)
    def deposited(self, event: Deposited, meta: EventMeta) -> None:
        raise ValueError(ODD if event.amount == 1 else LONG)


@pytest.mark.parametrize("amount", [1, 2])
async def test_a_projection_fails_with_any_error(tmp_path: Path, amount: int) -> None:
    async with Runtime.open(tmp_path / "store", aggregates=[Account], projections=[Odd], limits=QUICK) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(amount))
        await until(lambda: runtime.lag()["odd"].state == "failed")
        error = runtime.lag()["odd"].error
        assert len(error) < 2_100
    board = ControlBoard(tmp_path / "store" / CONTROL_FOLDER)
    assert board.status()["projection odd"]["error"] == error
    board.close()
