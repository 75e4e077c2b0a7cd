"""Orders and their shipping, and the saga that gets an order paid and shipped, or cancelled and refunded."""

from typing import ClassVar

from eventsrc import Aggregate, Rejected, Retry, Saga, SagaContext, applies, command, event, handles, step

from .orders_gateway import Gateway


@command
class CreateOrder:
    total: int


@command
class CancelOrder:
    pass


@command
class Ship:
    weight: int


@event("order.created")
class OrderCreated:
    total: int


@event("order.cancelled")
class OrderCancelled:
    pass


@event("shipping.shipped")
class Shipped:
    weight: int


class Order(Aggregate):
    """An order, as its customer sees it."""

    total: int = 0
    is_cancelled: bool = False

    @handles
    def create(self, command: CreateOrder) -> OrderCreated:
        if self.total:
            raise Rejected("the order exists already")
        return OrderCreated(command.total)

    @handles
    def cancel(self, command: CancelOrder) -> OrderCancelled | None:
        return None if self.is_cancelled else OrderCancelled()

    @applies
    def created(self, event: OrderCreated) -> None:
        self.total = event.total

    @applies
    def cancelled(self, event: OrderCancelled) -> None:
        self.is_cancelled = True


class Shipping(Aggregate):
    """The parcels that leave the house. Some parcels are too heavy."""

    shipped_count: int = 0

    @handles
    def ship(self, command: Ship) -> Shipped:
        if command.weight > 90:
            raise Rejected("too heavy to be shipped")
        return Shipped(command.weight)

    @applies
    def shipped(self, event: Shipped) -> None:
        self.shipped_count += 1


class PlaceOrder(Saga):
    """Create the order, charge the card, ship. After a failure, the steps are undone in reverse."""

    gateway: ClassVar[Gateway]

    order_id: str
    total: int
    weight: int
    payment_id: str = ""

    @step(compensation="cancel_order")
    async def create_order(self, ctx: SagaContext) -> None:
        await ctx.ask(Order, self.order_id, CreateOrder(self.total))

    # The gateway charges once for each key, so it may be asked again when nobody knows whether a charge took place.
    @step(compensation="refund", retry=Retry(attempts=6, backoff_seconds=0.05), timeout_seconds=30)
    async def charge(self, ctx: SagaContext) -> None:
        self.payment_id = await ctx.effect("charge", self.gateway.charge, self.order_id, self.total, idempotent=True)

    @step()
    async def ship(self, ctx: SagaContext) -> None:
        await ctx.ask(Shipping, self.order_id, Ship(self.weight))

    async def refund(self, ctx: SagaContext) -> None:
        await ctx.effect("refund", self.gateway.refund, self.order_id, idempotent=True)

    async def cancel_order(self, ctx: SagaContext) -> None:
        await ctx.ask(Order, self.order_id, CancelOrder())
