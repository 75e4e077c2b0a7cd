"""What changed between two versions, down to the innermost values, and what set each field last."""

from pathlib import Path

import pytest
from cart_domain import Cart, Change

from eventsrc import ABSENT, NotInHistory, Runtime
from eventsrc.storage.store import EventStore

CHANGES = [
    Change(sku="apple", amount=1),
    Change(sku="pear", amount=2, tag="gift"),
    Change(sku="apple", amount=3, city="Ulm"),
    Change(sku="pear", tag="gift", city="Bonn"),
    Change(tag="fast"),
]


async def test_the_innermost_values_that_changed_are_told(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Cart]) as runtime:
        await runtime.actor(Cart, "c").ask_many(CHANGES)

        async def changed(first: int, second: int) -> dict[str, tuple[object, object]]:
            found = await runtime.diff(Cart, "c", first, second)
            return {path: (before, after) for path, before, after in found.values if not path.startswith("log")}

        apple, pear = {"amount": 1, "price": 1.0}, {"amount": 2, "price": 1.0}
        assert await changed(0, 2) == {
            "lines['apple']": (ABSENT, apple),
            "lines['pear']": (ABSENT, pear),
            "tags{'gift'}": (ABSENT, "gift"),
        }
        assert await changed(2, 3) == {
            "lines['apple'].amount": (1, 3),
            "address": (None, {"city": "Ulm", "street": "Main Street"}),
        }
        assert await changed(3, 5) == {
            "lines['pear']": (pear, ABSENT),
            "tags{'gift'}": ("gift", ABSENT),
            "tags{'fast'}": (ABSENT, "fast"),
            "address.city": ("Ulm", "Bonn"),
        }
        assert await changed(3, 2) == {
            "lines['apple'].amount": (3, 1),
            "address": ({"city": "Ulm", "street": "Main Street"}, None),
        }
        assert await changed(4, 4) == {}, "NaN has not changed either"
        places = (await runtime.diff(Cart, "c", 1, 3)).values
        assert [tuple(change) for change in places if change.path.startswith("log")] == [
            ("log[0]", ABSENT, "pear"),
        ]
        whole = (await runtime.diff(Cart, "c", 3, 4)).changes
        assert set(whole) == {"lines", "tags", "log", "address"}
        for first, second in ((0, 6), (6, 0), (-1, 2)):
            with pytest.raises(NotInHistory, match="it goes from 0 to 5"):
                await runtime.diff(Cart, "c", first, second)
        assert (await runtime.diff(Cart, "c", 5, 1)).events == []


async def test_every_field_has_its_blame(store: EventStore | Path) -> None:
    async with Runtime.open(store, aggregates=[Cart]) as runtime:
        cart = runtime.actor(Cart, "c")
        for number, change in enumerate(CHANGES):
            await cart.ask(change, metadata={"principal": number} if number % 2 else {})
        blamed = await runtime.blame(Cart, "c")
        assert {name: blame.version for name, blame in blamed.items()} == {
            "lines": 4,
            "tags": 5,
            "log": 5,
            "address": 4,
            "rate": 0,
            "never": 0,
        }
        assert [blamed[name].principal for name in ("address", "tags", "never")] == ["3", None, None]
        assert (blamed["never"].value, blamed["never"].is_set, blamed["never"].event_type) == (7, False, "")
        assert blamed["lines"].is_set
        assert blamed["lines"].correlation_id == blamed["lines"].command_id, "a command of nobody's is its own cause"
