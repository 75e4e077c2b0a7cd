"""The domain that the tests of sagas use: orders, stock, a payment gateway outside, and the saga over all of them."""

from collections import Counter
from typing import ClassVar

from eventsrc import (
    Aggregate,
    EffectUncertain,
    EventMeta,
    Rejected,
    Retry,
    Saga,
    SagaContext,
    applies,
    command,
    event,
    handles,
    starts_on,
    step,
)


@command
class Create:
    total: int


@command
class Cancel:
    pass


@command
class Take:
    count: int


@command
class PutBack:
    count: int


@event("order.created")
class Created:
    total: int


@event("order.cancelled")
class Cancelled:
    pass


@event("stock.taken")
class Taken:
    count: int


@event("stock.put_back")
class HasPutBack:
    count: int


class Order(Aggregate):
    total: int = 0
    state: str = "none"
    changes: int = 0

    @handles
    def create(self, command: Create) -> Created:
        if self.state != "none":
            raise Rejected("the order exists")
        return Created(command.total)

    @handles
    def cancel(self, command: Cancel) -> Cancelled:
        return Cancelled()

    @applies
    def created(self, event: Created) -> None:
        self.total, self.state = event.total, "created"
        self.changes += 1

    @applies
    def cancelled(self, event: Cancelled) -> None:
        self.state = "cancelled"
        self.changes += 1


class Stock(Aggregate):
    count: int = 100
    changes: int = 0

    @handles
    def take(self, command: Take) -> Taken:
        if command.count > self.count:
            raise Rejected("out of stock")
        return Taken(command.count)

    @handles
    def put_back(self, command: PutBack) -> HasPutBack:
        return HasPutBack(command.count)

    @applies
    def taken(self, event: Taken) -> None:
        self.count -= event.count
        self.changes += 1

    @applies
    def has_put_back(self, event: HasPutBack) -> None:
        self.count += event.count
        self.changes += 1


class Gateway:
    """Stands outside: it remembers every payment and every refund, and fails as it is told to."""

    def __init__(self) -> None:
        self.paid: Counter[str] = Counter()
        self.refunded: Counter[str] = Counter()
        self.failures: list[BaseException] = []
        self.calls = 0

    async def charge(self, total: int, idempotency_key: str) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        self.paid[idempotency_key] += 1
        return idempotency_key

    async def refund(self, payment_id: str) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        self.refunded[payment_id] += 1


class PlaceOrder(Saga):
    """Creates, charges, takes from the stock; anything over 100 is out of stock."""

    gateway: ClassVar[Gateway] = Gateway()

    order_id: str
    total: int
    payment_id: str = ""

    @step(compensation="cancel_order")
    async def create_order(self, ctx: SagaContext) -> None:
        await ctx.ask(Order, self.order_id, Create(self.total))

    @step(compensation="refund", retry=Retry(attempts=3, backoff_seconds=0.01))
    async def charge(self, ctx: SagaContext) -> None:
        try:
            self.payment_id = await ctx.effect("charge", self.gateway.charge, self.total)
        except EffectUncertain as uncertain:
            if self.gateway.paid[uncertain.idempotency_key]:
                self.payment_id = uncertain.idempotency_key
            else:
                key = uncertain.idempotency_key
                self.payment_id = await ctx.effect(
                    "charge again", self.gateway.charge, self.total, idempotency_key=key, idempotent=True
                )

    @step(compensation="put_back")
    async def take(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "all", Take(self.total))

    async def cancel_order(self, ctx: SagaContext) -> None:
        await ctx.ask(Order, self.order_id, Cancel())

    async def refund(self, ctx: SagaContext) -> None:
        if self.payment_id:
            try:
                await ctx.effect("refund", self.gateway.refund, self.payment_id)
            except EffectUncertain:
                if not self.gateway.refunded[self.payment_id]:
                    await ctx.effect("refund again", self.gateway.refund, self.payment_id, idempotent=True)

    async def put_back(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, "all", PutBack(self.total))


class Welcome(Saga):
    """Is started by an event."""

    order_id: str

    @starts_on(Created)
    @classmethod
    def on_created(cls, event: Created, meta: EventMeta) -> "Welcome | None":
        return None if event.total == 0 else cls(meta.aggregate_id)

    @step()
    async def greet(self, ctx: SagaContext) -> None:
        await ctx.ask(Stock, f"greeted-{self.order_id}", Take(1))
