"""The program that places the orders; the demo `orders` starts it, kills it, and starts it again.

    python -m eventsrc.demos.orders_worker STORE PORT COUNT

Each saga has the order's id as its key, so a saga that was started before a kill goes on and is not started again.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Final

import trio

from eventsrc import Limits, Runtime

from .orders_domain import Order, PlaceOrder, Shipping
from .orders_gateway import Gateway

CLIENTS: Final = 100
LIMITS: Final = Limits(streams_max=100_000, sagas_running_max=200)


async def main(store: Path, port: int, count: int) -> None:
    """Place this many orders, and print a line whenever a saga ends."""
    PlaceOrder.gateway = Gateway(port)
    async with Runtime.open(store, aggregates=[Order, Shipping], sagas=[PlaceOrder], limits=LIMITS) as runtime:
        numbers = iter(range(count))

        async def client() -> None:
            for number in numbers:
                order_id = f"order-{number}"
                order = PlaceOrder(order_id, total=10 + number % 90, weight=number * 37 % 100)
                saga = await runtime.start_saga(order, key=order_id)
                outcome = await saga.wait()
                print(outcome.state, flush=True)

        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(client)


if __name__ == "__main__":
    trio.run(partial(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
