"""An agent that books trips: its conversation and budget, and a saga for each run of the agent."""

from typing import Any, ClassVar

import attrs

from eventsrc import (
    Aggregate,
    Rejected,
    Saga,
    SagaContext,
    applies,
    command,
    event,
    handles,
    on_asyncio,
    step,
)

from .agent_world import World


@command
class Say:
    speaker: str
    text: str


@event("conversation.said")
class Said:
    speaker: str
    text: str


class Conversation(Aggregate):
    lines: list[str] = attrs.field(factory=list)

    @handles
    def say(self, command: Say) -> Said:
        return Said(command.speaker, command.text)

    @applies
    def said(self, event: Said) -> None:
        self.lines.append(f"{event.speaker}: {event.text}")


@command
class Spend:
    what: str
    amount: int


@event("budget.spent")
class Spent:
    what: str
    amount: int


class Budget(Aggregate):
    left: int = 400

    @handles
    def spend(self, command: Spend) -> Spent:
        if command.amount > self.left:
            raise Rejected(f"{command.what} costs {command.amount}, and {self.left} is left")
        return Spent(command.what, command.amount)

    @applies
    def spent(self, event: Spent) -> None:
        self.left -= event.amount


class Trip(Saga):
    """One run of the agent. The model and the tools are on asyncio; a failure has the steps undone in reverse."""

    world: ClassVar[World]

    traveller: str
    wish: str
    plan: list[list[Any]] = attrs.field(factory=list)

    @property
    def cost(self) -> int:
        """The cost of the whole plan."""
        return sum(amount for _, amount in self.plan)

    @step(compensation="apologise")
    async def think(self, ctx: SagaContext) -> None:
        await ctx.ask(Conversation, self.traveller, Say(self.traveller, self.wish))
        self.plan = await ctx.effect("plan", on_asyncio(self.world.plan), self.wish)

    @step(compensation="refund")
    async def pay(self, ctx: SagaContext) -> None:
        await ctx.ask(Budget, self.traveller, Spend(self.wish, self.cost))

    # The desk books once for each key, so it may be asked again when nobody knows whether a booking took place.
    @step(compensation="cancel_bookings")
    async def book(self, ctx: SagaContext) -> None:
        for what, _ in self.plan:
            await ctx.effect(f"book the {what}", on_asyncio(self.world.book), what, idempotent=True)

    @step
    async def tell(self, ctx: SagaContext) -> None:
        booked = " and ".join(what for what, _ in self.plan)
        await ctx.ask(Conversation, self.traveller, Say("agent", f"booked: {booked}"))

    async def cancel_bookings(self, ctx: SagaContext) -> None:
        for what, _ in self.plan:
            await ctx.effect(f"cancel the {what}", on_asyncio(self.world.cancel), what, idempotent=True)

    async def refund(self, ctx: SagaContext) -> None:
        await ctx.ask(Budget, self.traveller, Spend(f"refund of {self.wish}", -self.cost))

    async def apologise(self, ctx: SagaContext) -> None:
        await ctx.ask(Conversation, self.traveller, Say("agent", "sorry, that could not be booked"))
