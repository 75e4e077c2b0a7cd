"""Rows of every type, and a small projection, for the tests of where views live."""

import enum
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NewType
from uuid import UUID

from attrs import evolve, field, frozen

from eventsrc import EventMeta, Projection, Table, event, on
from eventsrc.actors.serialization.serializer import Serializer
from eventsrc.actors.views.criteria import Order, RowQuery, criteria_of
from eventsrc.actors.views.row_type import RowType
from eventsrc.actors.views.session import ViewSession
from eventsrc.actors.views.view_store import Checkpoint, Generation, RowChange, StoredView, ViewStore
from eventsrc.storage.record import StoredEvent

FIRST = Generation(1, 1, "first")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


Amount = NewType("Amount", int)


@frozen
class Place:
    name: str
    marks: list[int]


@frozen
class Everything:
    key: str
    number: int = 0
    maybe: int | None = None
    ratio: float = 0.0
    text: str | None = None
    flag: bool = False
    raw: bytes = b""
    when: datetime | None = None
    day: date | None = None
    span: timedelta = timedelta()
    price: Decimal | None = None
    uid: UUID | None = None
    colour: Colour = Colour.RED
    size: Size = Size.SMALL
    amount: Amount = Amount(0)
    place: Place | None = None
    tags: dict[str, bytes] = field(factory=dict[str, bytes])
    free: Any = None


@frozen
class Pair:
    """Nothing but a key of several fields, some of which are no text."""

    left: int
    right: str
    day: date


@event("thing.happened")
class Happened:
    amount: int
    raises: bool = False


@event("thing.undone")
class Undone:
    pass


@frozen
class Balance:
    account: str
    owner: str
    amount: int


class Balances(Projection, name="balances"):
    rows = Table(Balance, key="account", indexes=["amount"])
    pairs = Table(Pair, key=("left", "right", "day"))

    @on(Happened)
    def happened(self, event: Happened, meta: EventMeta) -> None:
        row = self.rows.get(meta.aggregate_id) or Balance(meta.aggregate_id, "ann", 0)
        self.rows.put(evolve(row, amount=row.amount + event.amount))
        self.pairs.put(Pair(meta.position, meta.aggregate_id, date(2024, 1, 1)))
        if event.raises:
            raise ValueError("this event is refused")

    @on(Undone)
    def undone(self, event: Undone, meta: EventMeta) -> None:
        self.rows.delete(meta.aggregate_id)
        for pair in self.pairs.where(right=meta.aggregate_id):
            self.pairs.delete(pair.left, pair.right, pair.day)


PLUS_2 = timezone(timedelta(hours=2))
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
ROWS = [
    Everything("a"),
    Everything(
        "b",
        number=-5,
        maybe=3,
        ratio=-0.5,
        text="Zoe",
        flag=True,
        raw=b"\x00\xff",
        when=NOON,
        day=date(2024, 5, 1),
        span=timedelta(days=-1, microseconds=7),
        price=Decimal("9.50"),
        uid=UUID(int=7),
        colour=Colour.BLUE,
        size=Size.LARGE,
        amount=Amount(12),
        place=Place("here", [1, 2]),
        tags={"x": b"\x01\x02"},
        free={"deep": [1, None, "text", {"$bytes?": 1.5}]},
    ),
    Everything("c", number=2**62, maybe=2, ratio=1e300, text="anna", when=datetime(2024, 5, 1, 13, 30, tzinfo=PLUS_2)),
    Everything("d", number=7, text="Änna", price=Decimal("10.25"), uid=UUID(int=2**127), span=timedelta(hours=3)),
    Everything("e", number=7, text="anna%_", price=Decimal("-1e3"), day=date(1999, 12, 31), raw=b"\x00"),
    Everything("f", number=7, maybe=3, ratio=0.1, text="", when=NOON + timedelta(microseconds=1), flag=True),
    Everything("ß", number=100, text="anna\U0010ffff", ratio=7.0, place=Place("there", [])),
]


def everything(indexes: Sequence[str] = ("number", "text"), key: str = "key", rows: type = Everything) -> RowType[Any]:
    """The table of `Everything`, or of another class, ready to run."""
    table: Table[Any] = Table(rows, key=key, indexes=indexes)
    table.name = "things"
    return RowType(table, Serializer())


def put(view: StoredView, table: RowType[Any], *rows: Any) -> None:
    """Write rows, as if they had not been there."""
    with view.writing() as writing:
        changes = [RowChange(table.key(table.key_values(row)), row, None, table.indexed(row)) for row in rows]
        writing.write(table, changes)


def stored(position: int, stream: str, data: dict[str, Any], kind: str = "thing.happened") -> StoredEvent:
    """An event as a log would hold it."""
    return StoredEvent(
        position=position,
        stream=f"thing-{stream}",
        version=1,
        type=kind,
        schema_version=1,
        kind="updated",
        time_ns=0,
        correlation_id="",
        causation_id="",
        metadata={},
        payload=data,
        tags=(),
        hash=b"x" * 32,
    )


def open_session(views: ViewStore, generation: Generation = FIRST) -> ViewSession:
    serializer = Serializer()
    tables = [RowType(table, serializer) for table in Balances.__eventsrc_projection__.tables.values()]
    return ViewSession(Balances, views.open("balances", generation, tables), serializer)


def apply(session: ViewSession, positions: range) -> None:
    """An event of 1 at each of the positions, on 10 streams, in one batch."""
    events = [stored(position, str(position % 10), {"amount": 1}) for position in positions]
    session.apply(events, Checkpoint(positions[-1], b"h" * 32))


def total(view: StoredView) -> int:
    """The sum over all rows, which is the number of events that took effect."""
    table = RowType(Balances.rows, Serializer())
    with view.reading() as reading:
        return sum(row.amount for row in reading.find(table, RowQuery()))


def ask(
    view: StoredView, table: RowType[Any], *order: str, offset: int = 0, limit: int | None = None, **criteria: Any
) -> str:
    """The keys of the rows that are found, in one text."""
    orders = tuple(Order(field.removeprefix("-"), field.startswith("-")) for field in order)
    query = RowQuery(criteria_of(table.fields, table.name, criteria), orders, offset, limit)
    with view.reading() as reading:
        return "".join(row.key for row in reading.find(table, query))


ODD = [
    Everything("a", number=1, ratio=-0.0, flag=True, price=Decimal("1.0"), when=NOON, text="x"),
    Everything(
        "b",
        number=0,
        ratio=0.0,
        price=Decimal("1.00"),
        when=datetime(2024, 5, 1, 15, tzinfo=timezone(timedelta(hours=4))),
        colour=Colour.BLUE,
    ),
    Everything("c", number=-1, ratio=math.inf, price=Decimal("-1E+2"), size=Size.LARGE),
    Everything("d", number=-(2**62) - 1, ratio=-math.inf, price=Decimal("1E-30"), text="\x7f"),
    Everything("e", number=2**62 + 1, ratio=5e-324, price=Decimal("1E+30"), text="ß", flag=True),
]


def in_pages(view: StoredView, table: RowType[Any], *order: str, size: int = 2) -> list[str]:
    """The keys of all rows, read page by page."""
    orders = tuple(Order(name.removeprefix("-"), name.startswith("-")) for name in order)
    query = RowQuery({}, orders, limit=size)
    found = []
    with view.reading() as reading:
        while page := reading.find(table, query):
            found += [row.key for row in page]
            query = evolve(query, offset=len(found), last=page[-1])
    return found
