"""The world of the demo's agent, on asyncio: a model to ask, and a desk that books, cancels and keeps a ledger."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any, Final

PLANS: Final = {
    "Lisbon, in a castle": [["flight", 180], ["castle", 200]],
    "Lisbon, in a hostel": [["flight", 180], ["hostel", 60]],
}
SOLD_OUT: Final = ("castle",)


class SoldOut(Exception):
    """The desk has no more of this."""


class World:
    """The effects outside of the store; the file of `ledger` outlives the process.

    A process with `dies_after` is killed once that was booked, before it gets the answer.
    """

    def __init__(self, folder: Path, dies_after: str = "") -> None:
        self._ledger = folder / "ledger.jsonl"
        self._dies_after = dies_after

    @property
    def ledger(self) -> list[dict[str, str]]:
        """The effects in order: each with a text, and the key that it was done under."""
        if not self._ledger.exists():
            return []
        return [json.loads(line) for line in self._ledger.read_text().splitlines()]

    async def plan(self, wish: str) -> list[list[Any]]:
        """Ask the model which tools to use, and what each may cost."""
        await asyncio.sleep(0.001)  # as a client of a model would wait
        self._do("asked the model", f"{len(self.ledger)}")
        return PLANS[wish]

    async def book(self, what: str, idempotency_key: str) -> None:
        """Book something, once for each key. Raises `SoldOut`."""
        await asyncio.sleep(0.001)
        if what in SOLD_OUT:
            raise SoldOut(what)
        self._do(f"booked the {what}", idempotency_key)
        if what == self._dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    async def cancel(self, what: str, idempotency_key: str) -> None:
        """Cancel a booking, once for each key, if there is one."""
        await asyncio.sleep(0.001)
        if f"booked the {what}" in (entry["done"] for entry in self.ledger):
            self._do(f"cancelled the {what}", idempotency_key)

    def _do(self, done: str, key: str) -> None:
        if key not in (entry["key"] for entry in self.ledger):
            with self._ledger.open("a") as file:
                file.write(json.dumps({"done": done, "key": key}) + "\n")
