"""An agent on asyncio, killed in the middle of a run: it goes on, undoes what cannot be done, and can be explained."""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from eventsrc import AsyncioPortal, EventSourcingError, Runtime

from .agent_domain import Budget, Conversation, Trip
from .agent_world import World
from .printing import make_console, make_table, print_table

ANN: Final = "ann"
TOLD: Final = ("text", "amount", "step", "call", "error")
"""The fields of events that the table shows."""


@asynccontextmanager
async def agent(store: Path, world: World) -> AsyncIterator[AsyncioPortal]:
    """The agent's memory, in a program on asyncio."""
    Trip.world = world
    opening = Runtime.open(store, aggregates=[Conversation, Budget], sagas=[Trip])
    async with AsyncioPortal(opening) as portal:
        yield portal


async def travel(portal: AsyncioPortal, wish: str, key: str) -> str:
    """Run the agent for a wish, or resume the run of this key; returns how it ended."""
    trip = await portal.call(portal.runtime.start_saga, Trip(ANN, wish), key=key)
    outcome = await portal.call(trip.wait)
    return outcome.state if not outcome.error else f"{outcome.state} ({outcome.error})"


async def first_life(folder: Path) -> None:
    """The part of the demo that runs in the process that is killed."""
    async with agent(folder / "agent.db", World(folder, dies_after="flight")) as portal:
        await travel(portal, "Lisbon, in a castle", "trip-1")


async def second_life(folder: Path, console: Console) -> dict[str, Any]:
    """The part of the demo that runs in the next process, on the same store."""
    world = World(folder)
    async with agent(folder / "agent.db", world) as portal:
        runtime = portal.runtime
        for number, wish in enumerate(("Lisbon, in a castle", "Lisbon, in a hostel"), 1):
            console.print(f"{wish}: {await travel(portal, wish, f'trip-{number}')}")
        conversation = await portal.call(runtime.actor(Conversation, ANN).state)
        budget = await portal.call(runtime.actor(Budget, ANN).state)

        console.print("\nwhat was said:", *conversation.lines, sep="\n  ")
        console.print("\nwhat took effect outside, each once:", *(entry["done"] for entry in world.ledger), sep="\n  ")
        console.print(f"\nleft of the budget: {budget.left}\n")
        await _explain(portal, console)
    return {"lines": conversation.lines, "left": budget.left, "ledger": [entry["done"] for entry in world.ledger]}


async def _explain(portal: AsyncioPortal, console: Console) -> None:
    """Print every event that the first wish has led to, as `eventsrc trace` does."""
    table = make_table(console)
    for column in ("position", "event", "stream", "what"):
        table.add_column(column)
    for each in await portal.call(portal.runtime.trace, 1):
        event = each.event
        told = (f"{name}={value}" for name, value in event.payload.items() if name in TOLD)
        table.add_row(f"{event.position}", "  " * each.depth + event.type, event.stream, ", ".join(told))
    print_table(console, "all that the first wish has led to:", table)


def main(folder: Path, console: Console) -> dict[str, Any]:
    """Run the demo in this folder; returns the folder's final contents."""
    first = subprocess.run([sys.executable, "-m", __name__, folder], check=False)
    if first.returncode == -signal.SIGKILL:
        console.print("the first process was killed when the flight was booked, before it heard of that\n")
    return asyncio.run(second_life(folder, console))


def run(argv: Sequence[str]) -> int:
    """Run the demo with these arguments and return the exit code."""
    parser = argparse.ArgumentParser(prog="eventsrc demo agent", description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the store and the ledger here (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print what came of it; the story goes to standard error")
    arguments = parser.parse_args(argv)
    if arguments.folder is not None:
        try:
            arguments.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--folder: {arguments.folder} cannot be made: {error.strerror}; name another one")
    with tempfile.TemporaryDirectory(prefix="eventsrc-agent-") as folder:
        found = main(arguments.folder or Path(folder), make_console(has_json=arguments.json))
    if arguments.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    with suppress(EventSourcingError):  # the next process gets the same error, and prints it
        asyncio.run(first_life(Path(sys.argv[1])))
