"""A thousand orders through an unreliable payment gateway, by sagas, in a process that is killed on the way.

At the end every order is shipped and paid once, or cancelled and, if it was paid, refunded once: the demo proves it by
the gateway's own ledger.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import trio
from rich.console import Console

from eventsrc import Runtime

from .orders_domain import Order, PlaceOrder, Shipping
from .orders_gateway import Gateway
from .orders_worker import LIMITS
from .printing import make_console, make_table, print_table

KILLS: Final = 2


@attrs.frozen
class Findings:
    """The outcome of the orders, by the store and by the gateway's ledger."""

    shipped: int
    cancelled: int
    refunded: int
    kills: int
    wrong: list[str]
    """Orders that are neither all done nor all undone."""


def main(store: Path, count: int, console: Console) -> Findings:
    """Place this many orders in the store in this folder, and check their outcome."""
    gateway = [sys.executable, "-m", "eventsrc.demos.orders_gateway"]
    with subprocess.Popen(gateway, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            kills = _place_orders(store, port, count, console)
            return trio.run(_look, store, Gateway(port), count, kills, console)
        finally:
            server.kill()


def run(argv: Sequence[str]) -> int:
    """Run the demo with these arguments; the exit code is 0 when every order is all done or all undone."""
    parser = argparse.ArgumentParser(prog="eventsrc demo orders", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000, metavar="N", help="so many orders (default: 1000)")
    parser.add_argument(
        "--store", type=Path, metavar="PATH", help="keep the store in this new folder (default: a temporary one)"
    )
    parser.add_argument("--json", action="store_true", help="print what came of it; the story goes to standard error")
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error("--count: at least 1")
    if arguments.store is not None and arguments.store.exists():
        # The gateway begins with an empty ledger, which would not agree with the contents of the store.
        parser.error(f"--store: {arguments.store} exists already; name a folder that does not")
    console = make_console(has_json=arguments.json)
    with tempfile.TemporaryDirectory(prefix="eventsrc-orders-") as folder:
        findings = main(arguments.store or Path(folder, "orders.db"), arguments.count, console)
    if arguments.json:
        print(json.dumps(attrs.asdict(findings)))
    return 1 if findings.wrong else 0


def _place_orders(store: Path, port: int, count: int, console: Console) -> int:
    """Run the worker to its end, killing it on the way; returns how often it was killed."""
    kills = 0
    while True:
        worker = [sys.executable, "-m", "eventsrc.demos.orders_worker", str(store), str(port), str(count)]
        with subprocess.Popen(worker, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            ended: Counter[str] = Counter()
            try:
                for line in process.stdout:
                    ended[line.strip()] += 1
                    if kills < KILLS and ended.total() > count * (kills + 1) // (KILLS + 1):
                        kills += 1
                        console.print(f"killed the process when it had told of {ended.total():,} orders")
                        break
                else:
                    if process.wait() == 0:
                        return kills
                    raise SystemExit(f"the worker ended with {process.returncode}")
            finally:
                process.kill()  # also when this process is interrupted: the worker need not get the signal


async def _look(store: Path, gateway: Gateway, count: int, kills: int, console: Console) -> Findings:
    ledger = await trio.to_thread.run_sync(gateway.ledger)
    entries = Counter((entry["order"], entry["kind"]) for entry in ledger)
    wrong = []
    shipped = cancelled = refunded = 0
    PlaceOrder.gateway = gateway
    async with Runtime.open(store, aggregates=[Order, Shipping], sagas=[PlaceOrder], limits=LIMITS) as runtime:
        for number in range(count):
            order_id = f"order-{number}"
            order = await runtime.actor(Order, order_id).state()
            shipments = (await runtime.actor(Shipping, order_id).state()).shipped_count
            charges, refunds = entries[order_id, "charge"], entries[order_id, "refund"]
            is_done = (order.is_cancelled, shipments, charges, refunds) == (False, 1, 1, 0)
            is_undone = (order.is_cancelled, shipments) == (True, 0) and charges == refunds <= 1
            shipped += is_done
            cancelled += is_undone
            refunded += is_undone and refunds == 1
            if not (is_done or is_undone):
                wrong.append(f"{order_id}: shipped {shipments}, charged {charges}, refunded {refunds} times")
        failures = [stored async for stored in runtime.events(types=["saga.effect_failed"])]
    table = make_table(console, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("shipped and paid once", f"{shipped:,}")
    table.add_row("cancelled", f"{cancelled:,}")
    table.add_row("  of these paid, and refunded once", f"{refunded:,}")
    table.add_row("calls of the gateway that failed", f"{len(failures):,}")
    table.add_row("times that the process was killed", f"{kills}")
    print_table(console, "What became of the orders", table)
    for text in wrong:
        console.print(f"[bold red]WRONG: {text}")
    if not wrong:
        console.print(f"The gateway's ledger agrees: each of {count:,} orders is all done or all undone, and once.")
    return Findings(shipped, cancelled, refunded, kills, wrong)
