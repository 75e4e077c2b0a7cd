"""What a type checker knows of calls through a portal."""

import textwrap
from pathlib import Path

import pytest
from mypy import api

PROGRAM = """
    from typing import assert_type

    from bank_domain import Account, Deposit
    from bank_views import Balance, Balances
    from eventsrc import AsyncioPortal, BlockingPortal, EventSourcingError, Receipt

    def on_threads(portal: BlockingPortal) -> None:
        ann = portal.runtime.actor(Account, "ann")
        assert_type(portal.call(ann.ask, Deposit(1), idempotency_key="d-1"), Receipt)
        assert_type(portal.call(ann.ask_many, [Deposit(1)]), list[Receipt | EventSourcingError])
        assert_type(portal.call(portal.runtime.transact, [(Account, "ann", Deposit(1))]), list[Receipt])
        assert_type(portal.call(ann.state), Account)
        view = portal.runtime.view(Balances.rows)
        assert_type(portal.call(view.get, "ann"), Balance | None)
        assert_type(portal.call(view.where(amount=1).rows), list[Balance])
        portal.call(ann.ask)  # type: ignore[call-overload]
        portal.call(ann.ask, Deposit(1), key="d-1")  # type: ignore[call-arg]

    async def on_asyncio(portal: AsyncioPortal) -> None:
        ann = portal.runtime.actor(Account, "ann")
        assert_type(await portal.call(ann.ask, Deposit(1), idempotency_key="d-1"), Receipt)
        assert_type(await portal.call(portal.runtime.view(Balances.rows).get, "ann"), Balance | None)
"""


def test_calls_have_the_types_of_what_they_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For mypy a call of what takes an `Any` is one: two overloads match it, and it does not choose."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    monkeypatch.setenv("MYPYPATH", str(Path(__file__).parent))
    output, errors, _ = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(program)])
    assert [line for line in output.splitlines() if "program.py" in line] == []
    assert errors == ""
    assert "Success" in output, output
