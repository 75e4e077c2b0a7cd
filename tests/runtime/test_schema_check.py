"""What does not fit the classes of a program is refused, or warned of, when it opens a store."""

import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from till_domain import (
    FirstTill,
    PaidCents,
    Pay,
    SecondTill,
    Till,
    Total,
    pay,
)

from eventsrc import (
    Aggregate,
    DecodingError,
    EventMeta,
    EventVersionUnknown,
    Projection,
    Runtime,
    Table,
    applies,
    event,
    on,
)
from eventsrc.storage.archive.errors import ArchiveUnreachable


async def test_what_newer_code_stored_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    await pay(tmp_path / "s", FirstTill, 100)
    await pay(tmp_path / "s", Till, 50)
    with pytest.raises(
        EventVersionUnknown,
        match=r"'till\.paid' of 'till-a' at position 2 was stored with version 3 .* PaidEuros here is version 2\. Run",
    ) as refused:
        await pay(tmp_path / "s", SecondTill, 1)
    assert (refused.value.known_version, refused.value.stored.position) == (2, 2)
    await pay(tmp_path / "s", Till, 1)


@pytest.mark.parametrize(
    ("upcaster", "reason"),
    [
        (lambda old: {"amount": old["cent"]}, "raised KeyError: 'cent' for the event 'till.paid' of 'till-a'"),
        (lambda old: old.update(amount=1), "returned None for the event"),
        (lambda old: {"amount": "much"}, "does not fit Paid: .*amount"),
    ],
)
async def test_an_upcaster_that_cannot_do_it_is_found_when_the_store_is_opened(
    tmp_path: Path, upcaster: Any, reason: str
) -> None:
    @event("till.paid", version=2, upcasters={1: upcaster})
    class Paid:
        amount: int

    class Till(Aggregate):
        @applies
        def paid(self, event: Paid) -> None:
            pass

    await pay(tmp_path / "s", FirstTill, 100)
    with pytest.raises(DecodingError, match=reason):
        await pay(tmp_path / "s", Till)
    await pay(tmp_path / "s", FirstTill, 1)


async def test_a_class_that_was_changed_without_a_version_is_found_when_the_store_is_opened(tmp_path: Path) -> None:
    @event("till.paid")
    class Paid:
        amount: int

    class Till(Aggregate):
        @applies
        def paid(self, event: Paid) -> None:
            pass

    await pay(tmp_path / "s", FirstTill, 100)
    with pytest.raises(
        DecodingError,
        match=r"does not fit Paid: required field missing @ \$\.amount\. Where the class was changed, raise its "
        r"version .*@event\('till\.paid', version=2, upcasters=\{\.\.\.\}\)",
    ):
        await pay(tmp_path / "s", Till)


async def test_a_projection_with_a_class_of_its_own_for_an_event_is_checked_too(tmp_path: Path) -> None:
    class Spent(Projection):
        rows = Table(Total, key="currency")

        @on(PaidCents)
        def paid(self, event: PaidCents, meta: EventMeta) -> None:
            self.rows.put(Total("EUR", event.cents))

    await pay(tmp_path / "s", FirstTill, 100)
    async with Runtime.open(tmp_path / "s", aggregates=[SecondTill], projections=[Spent]) as runtime:
        assert await runtime.view(Spent.rows).get("EUR", at_least=1) == Total("EUR", 100)
    await pay(tmp_path / "s", SecondTill, 100)
    with pytest.raises(EventVersionUnknown, match=r"stored with version 2 of its schema, and PaidCents here"):
        async with Runtime.open(tmp_path / "s", aggregates=[SecondTill], projections=[Spent]):
            pass


async def test_a_new_field_with_a_default_needs_no_version(tmp_path: Path) -> None:
    @event("till.paid")
    class Paid:
        cents: int
        currency: str = "EUR"

    class Till(Aggregate):
        currency: str = ""

        @applies
        def paid(self, event: Paid) -> None:
            self.currency = event.currency

    await pay(tmp_path / "s", FirstTill, 100)
    async with Runtime.open(tmp_path / "s", aggregates=[Till]) as runtime:
        assert (await runtime.actor(Till, "a").state()).currency == "EUR"


async def test_a_field_that_may_have_been_renamed_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @event("till.paid")
    class Paid:
        amount: int = 0
        currency: str = "EUR"

    class Till(Aggregate):
        @applies
        def paid(self, event: Paid) -> None: ...

    await pay(tmp_path / "s", FirstTill, 100)
    async with Runtime.open(tmp_path / "s", aggregates=[Till]):
        (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "'till.paid' at position 1 the class Paid passes over what was stored as cents" in warning
    assert "amount, currency take their defaults: where a field was renamed, raise the version" in warning


async def test_a_field_that_is_set_by_the_class_itself_now_is_not_taken_for_a_renamed_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @event("till.paid")
    class Paid:
        cents: int = attrs.field(init=False, default=0)
        currency: str = "EUR"

    class Till(Aggregate):
        @applies
        def paid(self, event: Paid) -> None: ...

    await pay(tmp_path / "s", FirstTill, 100)
    async with Runtime.open(tmp_path / "s", aggregates=[Till]):
        assert [record for record in caplog.records if record.levelname == "WARNING"] == []


async def test_events_that_the_store_cannot_read_do_not_keep_it_closed(tmp_path: Path) -> None:
    await pay(tmp_path / "s", FirstTill, *[1] * 1100)
    async with Runtime.open(tmp_path / "s", aggregates=[FirstTill]) as runtime:
        await runtime.maintenance.compact(FirstTill, "a")
    (tmp_path / "s" / "archive").rename(tmp_path / "elsewhere")
    async with Runtime.open(tmp_path / "s", aggregates=[FirstTill]) as runtime:
        assert (await runtime.actor(FirstTill, "b").ask(Pay(1))).version == 1
        with pytest.raises(ArchiveUnreachable):
            await runtime.actor(FirstTill, "a").state(at_version=7)


async def test_a_reader_whose_writer_goes_on_with_newer_code_says_so(tmp_path: Path) -> None:
    class Spent(Projection):
        rows = Table(Total, key="currency")

        @on(PaidCents)
        def paid(self, event: PaidCents, meta: EventMeta) -> None:
            self.rows.put(Total("EUR", event.cents))

    await pay(tmp_path / "s", FirstTill, 100)
    async with Runtime.open(tmp_path / "s", role="reader", projections=[Spent]) as reader:
        assert await reader.view(Spent.rows).get("EUR", at_least=1) == Total("EUR", 100)
        path = str(tmp_path / "s")
        script = f"import trio; from till_domain import *; trio.run(pay, Path({path!r}), SecondTill, 50)"
        await trio.run_process([sys.executable, "-c", script], cwd=Path(__file__).parent)
        with trio.fail_after(10):
            while (lag := reader.lag()["spent"]).state != "failed":
                await trio.sleep(0.01)
    assert "stored with version 2 of its schema, and PaidCents here is version 1" in lag.error


class TillWithoutEvents(Aggregate, category="till"):
    cents: int = 0


async def test_a_class_that_was_removed_is_warned_of_when_the_store_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime.open(tmp_path, aggregates=[FirstTill]) as runtime:
        await runtime.actor(FirstTill, "one").ask(Pay(5))
    async with Runtime.open(tmp_path, aggregates=[]):
        assert not caplog.messages
    async with Runtime.open(tmp_path, aggregates=[TillWithoutEvents]):
        (warning,) = caplog.messages
        assert "'till-one' holds an event 'till.paid' (position 1) that TillWithoutEvents does not apply" in warning
