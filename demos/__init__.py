"""Runnable programs, one idea each: `eventsrc demo NAME`."""

from typing import Final

DEMOS: Final[dict[str, tuple[str, str]]] = {
    "agent": ("eventsrc.demos.agent", "an agent on asyncio, killed amid a run that goes on, and is undone"),
    "bank": ("eventsrc.demos.bank", "an account: deposits, a refused withdrawal, a retry that counts once, reopening"),
    "flights": ("eventsrc.demos.flights", "real flights, each aircraft an actor: every answered command is on disk"),
    "forget": (
        "eventsrc.demos.forget",
        "a person is forgotten: what is stored of them cannot be read, in a backup neither",
    ),
    "orders": ("eventsrc.demos.orders", "sagas over an unreliable payment gateway, in a process that is killed"),
    "upgrade": ("eventsrc.demos.upgrade", "a second release reads what the first one stored, which then is refused"),
}
"""Each demo's module, whose `run(argv)` returns the exit code, and what the demo shows."""
