"""A domain whose state has all that may be nested: objects, mappings, sets and lists."""

import attrs

from eventsrc import Aggregate, applies, command, event, handles


@attrs.frozen
class Line:
    amount: int
    price: float = 1.0


@attrs.frozen
class Address:
    city: str
    street: str = ""


@command
class Change:
    sku: str = ""
    amount: int = 0
    tag: str = ""
    city: str = ""


@event("cart.changed")
class Changed:
    sku: str
    amount: int
    tag: str
    city: str


class Cart(Aggregate):
    lines: dict[str, Line] = attrs.field(factory=dict)
    tags: set[str] = attrs.field(factory=set)
    log: list[str] = attrs.field(factory=list)
    address: Address | None = None
    rate: float = float("nan")
    never: int = 7

    @handles
    def change(self, command: Change) -> Changed:
        return Changed(command.sku, command.amount, command.tag, command.city)

    @applies
    def changed(self, event: Changed) -> None:
        if event.sku and not event.amount:
            del self.lines[event.sku]
        elif event.sku:
            self.lines[event.sku] = Line(event.amount)
        if event.tag:
            self.tags ^= {event.tag}
        if event.city:
            self.address = Address(event.city, "Main Street")
        self.log = [*self.log[-1:], event.sku or event.tag or event.city]
