"""Rows in the hands of a projection's methods: what is put counts, and nothing else."""

import enum
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NewType
from zoneinfo import ZoneInfo

import pytest
from attrs import define, evolve, field, frozen
from bank_domain import Account, Deposit, Deposited, Note, Noted

from eventsrc import (
    EventMeta,
    MemoryLog,
    Projection,
    ProjectionUnavailable,
    RowInvalid,
    Runtime,
    Table,
    make_converter,
    on,
)
from eventsrc.actors.serialization.immutable import is_immutable
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.actors.views import session
from eventsrc.actors.views.row_type import RowType
from eventsrc.storage.environment.view_environment import ViewEnvironment
from eventsrc.storage.limits import Limits
from eventsrc.storage.store import EventStore


@frozen
class Listed:
    """Frozen, but for the list in it."""

    account: str
    texts: list[str] = field(factory=list[str])
    amount: int = 0


@define
class Open:
    account: str
    texts: list[str] = field(factory=list[str])
    amount: int = 0


@frozen
class Noticed:
    account: str


@pytest.mark.parametrize("row_class", [Listed, Open])
async def test_a_row_that_is_changed_and_not_put_is_as_it_was(store: EventStore | Path, row_class: Any) -> None:
    class Texts(Projection):
        rows = Table(row_class, key="account")

        @on(Noted)
        def noted(self, event: Noted, meta: EventMeta) -> None:
            row = self.rows.get(meta.aggregate_id) or row_class(meta.aggregate_id)
            self.rows.put(row)
            row.texts.append("after it was put")
            again: Any = self.rows.get(meta.aggregate_id)
            again.texts.append("and not put")
            for found in self.rows.where(account=meta.aggregate_id):
                found.texts.append("found, and not put")

        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            row: Any = self.rows.get(meta.aggregate_id)
            self.rows.put(evolve(row, amount=row.amount + event.amount))

    async with Runtime.open(store, aggregates=[Account], projections=[Texts]) as runtime:
        ann, view = runtime.actor(Account, "ann"), runtime.view(Texts)
        await ann.ask_many([Note("a"), Note("b"), Deposit(1), Note("c")])
        receipt = await ann.ask(Deposit(2), wait_for=[Texts])
        row: Any = await view.get("ann", at_least=receipt)
        assert (row.texts, row.amount) == ([], 3)
        row.texts.append("by whoever asked")
        assert (await view.get("ann")) == row_class("ann", [], 3)


def row_type_of(row_class: type) -> RowType[Any]:
    return RowType(Table(row_class, key="account"), Serializer())


@pytest.mark.parametrize("define_row", [frozen, define])
def test_a_row_fits_its_class_or_is_refused_when_it_is_put(define_row: Any) -> None:
    class Colour(enum.Enum):
        RED = "red"

    @define_row
    class Row:
        account: str
        amount: float = 0.0
        count: int = 0
        day: date | None = None
        colour: Colour = Colour.RED
        shares: tuple[float, ...] = ()
        size: Literal["small", "large"] = "small"
        grade: Literal[1, 2, "none"] = 1
        finish: Literal["matt", "gloss"] | None = None
        shade: Literal[Colour.RED, "none"] = "none"

    def put(**values: Any) -> Any:
        return rows.checked(Row(**({"account": "ann"} | values)))

    rows = row_type_of(Row)
    day = date(2026, 1, 31)
    fitting: list[dict[str, Any]] = [
        {"day": day},
        {"amount": 3},
        {"amount": math.nan},
        {"shares": [1, 2.5]},
        {"shares": (math.nan,)},
        {"size": "large"},
        {"grade": "none"},
        {"finish": "gloss"},
        {"shade": Colour.RED},
        {"shade": "red"},
    ]
    for good in fitting:
        kept, stored = put(**good), rows.decode(rows.encode(Row("ann", **good)))
        assert kept == stored or math.isnan(kept.amount) or kept.shares
    bad: list[dict[str, Any]] = [
        {"account": None},
        {"amount": "much"},
        {"count": "many"},
        {"count": 1.5},
        {"count": "3"},
        {"count": None},
        {"day": "today"},
        {"colour": "blue"},
        {"shares": (1.0, "x")},
        {"size": "huge"},
        {"size": None},
        {"grade": 3},
        {"grade": "1"},
        {"finish": "rough"},
        {"finish": 1},
    ]
    for values in bad:
        with pytest.raises(RowInvalid, match=r"A row of .* (does not fit|would come back|cannot be stored).*Row\("):
            put(**values)


def test_a_row_is_kept_as_it_will_be_read_again() -> None:
    @frozen
    class Row:
        account: str
        at: datetime
        opens: time = time(9)

    rows = row_type_of(Row)
    winter = datetime(2026, 1, 31, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    for at in (winter, winter.astimezone(UTC), winter.replace(tzinfo=None), winter.replace(fold=1)):
        row = Row("ann", at, time(9, tzinfo=at.tzinfo))
        kept, stored = rows.checked(row), rows.decode(rows.encode(row))
        # Half a year later the zone's rules tell another offset than the stored one.
        assert kept.at + timedelta(days=182) == stored.at + timedelta(days=182)
        assert (kept.at.utcoffset(), kept.at.fold) == (stored.at.utcoffset(), stored.at.fold)
        assert type(kept.at.tzinfo) is type(stored.at.tzinfo)
        assert kept.opens.tzinfo is stored.opens.tzinfo or kept.opens.utcoffset() == stored.opens.utcoffset()


def test_a_row_that_its_class_or_a_hook_makes_another_of_is_no_row_of_the_view() -> None:
    @frozen
    class Counted:
        account: str
        readings: int = field(default=0, converter=lambda count: count + 1)

    @frozen
    class Completed:
        account: str
        readings: int = 0

        def __attrs_post_init__(self) -> None:
            object.__setattr__(self, "readings", self.readings + 1)

    for row in (Counted("ann"), Completed("ann")):
        with pytest.raises(RowInvalid, match="would come back as another"):
            row_type_of(type(row)).checked(row)

    converter = make_converter()
    converter.register_unstructure_hook(str, str.lower)
    rows = RowType(Table(Noticed, key="account"), Serializer(converter))
    assert rows.checked(Noticed("Ann")) == Noticed("ann")


async def test_a_row_that_does_not_fit_its_class_leaves_the_view_as_it_was(store: EventStore | Path) -> None:
    class Amounts(Projection):
        rows = Table(Listed, key="account")

        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            amount: Any = "many" if event.amount == 13 else event.amount
            self.rows.put(Listed(meta.aggregate_id, amount=amount))

    limits = Limits(restart_backoff_seconds=0.001)
    async with Runtime.open(store, aggregates=[Account], projections=[Amounts], limits=limits) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(1), wait_for=[Amounts])
        with pytest.raises(ProjectionUnavailable, match=r"does not fit Listed: .*amount.* at position 2"):
            await ann.ask(Deposit(13), wait_for=[Amounts])
        assert await runtime.view(Amounts).all().rows() == [Listed("ann", amount=1)]


def test_what_can_be_changed() -> None:
    class Colour(enum.Enum):
        RED = 1

    @frozen
    class Still:
        name: str
        colours: tuple[Colour, ...]

    kinds: list[Any] = [
        int,
        str | None,
        tuple[int, ...],
        frozenset[str],
        Literal["a"],
        NewType("N", int),
        Decimal,
        Colour,
    ]
    assert all(map(is_immutable, kinds))
    assert not any(
        map(is_immutable, [Any, list[int], dict[str, int], tuple[list[int], ...], Open, Listed, object, tuple])
    )


async def test_where_never_leaves_rows_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counts(Projection):
        rows = Table(Listed, key="account")
        counts = Table(Listed, key="account")

        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            for number in range(event.amount):
                self.rows.put(Listed(f"{number:06}"))
            self.counts.put(Listed("found", amount=len(self.rows.where(amount=0))))

    limits = Limits(restart_backoff_seconds=0.001)
    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Counts], limits=limits) as runtime:
        ann = runtime.actor(Account, "ann")
        await ann.ask(Deposit(10_050), wait_for=[Counts], timeout=60)
        assert (await runtime.view(Counts.counts).get("found")) == Listed("found", amount=10_050)
        monkeypatch.setattr(session, "ROWS_FOUND_MAX", 10_040)
        with pytest.raises(ProjectionUnavailable, match="more than 10040 rows"):
            await ann.ask(Deposit(1), wait_for=[Counts], timeout=60)


async def test_a_view_makes_room_for_itself_also_in_the_middle_of_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ViewEnvironment.__init__, "__kwdefaults__", {"map_size_bytes": 1 << 17})

    class Many(Projection):
        rows = Table(Listed, key="account", indexes=["amount"])

        @on(Deposited)
        def deposited(self, event: Deposited, meta: EventMeta) -> None:
            for number in range(event.amount):
                self.rows.put(Listed(f"{meta.position}-{number}", ["x" * 100]))
            assert len(self.rows.where(amount=0)) == meta.position * event.amount

    async with Runtime.open(MemoryLog(), aggregates=[Account], projections=[Many]) as runtime:
        for _ in range(3):
            await runtime.actor(Account, "ann").ask(Deposit(2_000), wait_for=[Many], timeout=60)
        assert runtime.lag()["many"].error == ""
        assert await runtime.view(Many).all().count() == 6_000


def test_a_row_with_a_time_in_the_place_of_a_date_is_refused() -> None:
    @frozen
    class Row:
        account: str
        days: tuple[date, ...]

    rows = row_type_of(Row)
    assert rows.checked(Row("ann", (date(2026, 1, 2),))) == Row("ann", (date(2026, 1, 2),))
    with pytest.raises(RowInvalid, match="would come back as another"):
        rows.checked(Row("ann", (datetime(2026, 1, 2, 3, tzinfo=UTC),)))


def test_a_row_with_what_would_come_back_as_none_or_as_no_key_is_refused() -> None:
    class Answer(enum.Enum):
        NONE = None

    @frozen
    class Row:
        account: str
        answer: Answer | None = None
        counts: dict[str, int] = field(factory=dict)

    rows = row_type_of(Row)
    assert rows.checked(Row("ann", None, {"a": 1})) == Row("ann", None, {"a": 1})
    with pytest.raises(RowInvalid, match="would come back as another"):
        rows.checked(Row("ann", Answer.NONE))
    with pytest.raises(RowInvalid, match=r"cannot be read again: .*(keys|unhashable)"):
        rows.checked(Row("ann", counts={Noticed("ann"): 1}))  # type: ignore[dict-item]
