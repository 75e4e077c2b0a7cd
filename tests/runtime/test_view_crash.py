"""Whatever kills the process, each event has taken effect in each view exactly once."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from bank_domain import Account
from bank_views import Balances, Notes

from eventsrc import Runtime

HERE = Path(__file__).parent
WRITES_MAX = 15
CHILD = """
import itertools, sys, trio
from bank_domain import Account, Deposit, Note
from bank_views import Balances, Notes
from eventsrc import Runtime
async def main():
    async with Runtime.open(sys.argv[1], aggregates=[Account], projections=[Balances, Notes]) as runtime:
        async def write(name):
            for number in itertools.count():
                await runtime.actor(Account, name).ask_many([Deposit(1), Note("x"), Deposit(2)])
                if name == "a0":
                    print(number, flush=True)
                    await runtime.projections.rebuild(Notes)
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(write, f"a{number}")
trio.run(main)
"""


async def check(path: Path) -> int:
    """Compare the views with the events; return the number of events."""
    async with Runtime.open(path, aggregates=[Account], projections=[Balances, Notes]) as runtime:
        await trio.lowlevel.checkpoint()
        amounts: dict[str, int] = {}
        changes: dict[str, int] = {}
        newest: dict[str, int] = {}
        async for event in runtime.events():
            name = event.aggregate_id
            if event.type == "account.deposited":
                amounts[name] = amounts.get(name, 0) + event.payload["amount"]
                changes[name] = changes.get(name, 0) + 1
            else:
                newest[name] = event.version
        balances = await runtime.view(Balances).all().fresh(at_least=runtime.last_position, timeout=60).rows()
        assert {row.account: row.amount for row in balances} == amounts
        assert {row.account: row.changes for row in balances} == changes
        notes = await runtime.view(Notes.newest).all().fresh(at_least=runtime.last_position, timeout=60).rows()
        assert {row.account: row.version for row in notes} == newest
        return runtime.last_position


@pytest.mark.slow
def test_views_are_right_after_the_process_was_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    chance, reached = random.Random(7), 0
    for _ in range(6 if os.environ.get("CI") else 20):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        with process:
            assert process.stdout is not None
            # After so many writes and rebuildings, not so many seconds, in which a busy machine may do next to nothing.
            for number in range(chance.randint(1, WRITES_MAX)):
                assert process.stdout.readline() == f"{number}\n"
            process.send_signal(signal.SIGKILL)
        position = trio.run(check, tmp_path)
        assert position > reached
        reached = position
