"""Queries of a view: one table of a projection, and the required freshness of the answer."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypeVar

import attrs
import trio

from ...actors.aggregates.receipt import Receipt
from ...actors.background import in_thread
from ...actors.errors import DefinitionError
from ...actors.projections.projection import Projection, Table
from ...actors.views.criteria import Order, RowQuery, criteria_of
from ...actors.views.errors import ProjectionUnavailable, QueryInvalid, ViewRemoved, ViewUnreachable
from ...actors.views.row_type import RowType
from ...actors.views.view_store import ViewReading, ViewReadTooLong, ViewRetry
from ..arguments import check_timeout, checked_timeout
from ..errors import ArgumentInvalid, ViewStillRemembers, ViewTooOld
from ..iteration import Batches, Items
from ..trio_thread import check_on_trio
from .generations import RunningProjection
from .open_generation import OpenGeneration
from .projections import Projections

PAGE_ROWS: Final = 100
"""Rows that an iteration reads at a time."""
ROWS_AT_ONCE: Final = 1_000
"""How many rows a query looks at before it goes on in a worker thread, so that it holds up no other task."""
COUNT_MAX: Final = (1 << 62) - 1
"""More rows than any view has. Greater limits and offsets are cut to it, since databases do not take every number."""
LOOKS_MAX: Final = 10
"""How often a query is begun again, where the view had to grow meanwhile or its transaction conflicted with another."""

R = TypeVar("R")
T = TypeVar("T")
OnTimeout: TypeAlias = Literal["raise", "stale"]


@attrs.frozen(kw_only=True)
class Freshness:
    """How fresh an answer must be, how long to wait for that (seconds), and what to do after that time.

    Raises `ArgumentInvalid` for invalid values.
    """

    at_least: Receipt | int | None = None
    timeout: float | None = None
    on_timeout: OnTimeout = "raise"

    def __attrs_post_init__(self) -> None:
        at_least = self.at_least
        if not (at_least is None or isinstance(at_least, Receipt) or _is_count(at_least)):
            raise ArgumentInvalid("at_least", at_least, "give the receipt of a command, or a position, 0 or more")
        if self.on_timeout not in ("raise", "stale"):
            raise ArgumentInvalid("on_timeout", self.on_timeout, 'give "raise" or "stale"')
        check_timeout(self.timeout)

    @property
    def position(self) -> int:
        """The position that the view must have seen."""
        if self.at_least is None:
            return 0
        return self.at_least.position if isinstance(self.at_least, Receipt) else self.at_least


_ANY: Final = Freshness()


class View(Generic[R]):
    """Queries one table of a projection: `runtime.view(Balances)`. Answers hold whole commits of the projection.

    `get`, and `fresh` of a query, take `at_least=` (a `Receipt` or a position that the view must have seen), `timeout=`
    (seconds; `Limits.command_timeout_seconds` unless given) and `on_timeout=`: "raise" (`ViewTooOld`) or "stale", which
    answers with the rows as they are. `await view.where(owner="ann").fresh(at_least=receipt).rows()`.
    """

    __slots__ = ("_projections", "_running", "_table")

    def __init__(self, projections: Projections, running: RunningProjection, table: Table[R] | None) -> None:
        self._projections = projections
        self._running = running
        self._table = table
        _table_name(running, table)

    @property
    def _table_type(self) -> RowType[Any]:
        return self._running.tables[_table_name(self._running, self._table)]

    @property
    def position(self) -> int:
        """The position of the newest event that the view has seen."""
        return self._running.position

    async def get(
        self,
        *key: object,
        at_least: Receipt | int | None = None,
        timeout: float | None = None,
        on_timeout: OnTimeout = "raise",
    ) -> R | None:
        """The row with this key, or None; a key of several fields is given in their order.

        Raises `ViewTooOld` or `ProjectionUnavailable` when the view did not become fresh enough, `NotInHistory` where
        `at_least` is beyond the past of `as_of`.
        """
        fresh = Freshness(at_least=at_least, timeout=timeout, on_timeout=on_timeout)
        return await self._ask(fresh, lambda reading, table: reading.get(table, key))

    def where(self, **criteria: Any) -> "Query[R]":
        """The rows that meet all criteria: a value, `between(10, 20)`, `one_of("a", "b")`, `starting_with("x")`.

        Raises `QueryInvalid` for a field that the rows do not have, and for a list where a field never holds one.
        """
        return Query(self, RowQuery(self._table_type.criteria(criteria)), _ANY)

    def all(self) -> "Query[R]":
        """Every row: the query that the methods below begin with."""
        return self.where()

    def order_by(self, *fields: str) -> "Query[R]":
        """Every row, in this order; see `Query.order_by`."""
        return self.all().order_by(*fields)

    def limit(self, count: int) -> "Query[R]":
        """At most this many rows; see `Query.limit`."""
        return self.all().limit(count)

    def offset(self, count: int) -> "Query[R]":
        """All rows but the first ones; see `Query.offset`."""
        return self.all().offset(count)

    def fresh(
        self,
        *,
        at_least: Receipt | int | None = None,
        timeout: float | None = None,
        on_timeout: OnTimeout = "raise",
    ) -> "Query[R]":
        """Every row, as fresh as this."""
        return self.all().fresh(at_least=at_least, timeout=timeout, on_timeout=on_timeout)

    async def rows(self) -> list[R]:
        """Every row, in one consistent read; see `Query.rows`."""
        return await self.all().rows()

    async def first(self) -> R | None:
        """The row with the first key, or None; see `Query.first`."""
        return await self.all().first()

    async def count(self) -> int:
        """How many rows there are."""
        return await self.all().count()

    def pages(self, size: int = PAGE_ROWS) -> AsyncIterator[list[R]]:
        """Every row, in pages; see `Query.pages`."""
        return self.all().pages(size)

    def __aiter__(self) -> AsyncIterator[R]:
        return aiter(self.all())

    async def _ask(self, fresh: Freshness, read: Callable[[ViewReading, RowType[Any]], T]) -> T:
        while True:
            await self._wait(fresh)
            # No checkpoint in between: the generation that is queried is the one that is fresh enough.
            built = self._projections.answering(self._running)
            try:
                return await self._look_at(built, read)
            except ViewRemoved:
                # Another process has rebuilt the view; the query is repeated on the new generation.
                with trio.move_on_after(checked_timeout(fresh.timeout, self._projections.limits)) as scope:
                    await self._projections.wait_for_next(self._running, built)
                if scope.cancelled_caught:
                    raise

    async def _look_at(self, built: OpenGeneration, read: Callable[[ViewReading, RowType[Any]], T]) -> T:
        table = built.tables[_table_name(self._running, self._table)]

        def look(rows_max: int | None = None) -> T:
            with built.view.reading(rows_max=rows_max) as reading:
                return read(reading, table)

        with built.in_use():
            if not built.view.waits:
                with contextlib.suppress(ViewReadTooLong, ViewRetry):
                    return look(ROWS_AT_ONCE)
            limiter = self._projections.queries if built.view.waits else self._projections.scans
            for _ in range(LOOKS_MAX):
                with contextlib.suppress(ViewRetry):
                    # A query whose caller was cancelled ends by itself; its view stays open until then.
                    return await in_thread(look, limiter=limiter, abandon_on_cancel=True)
        raise ViewUnreachable(self._running.name, f"it could not be looked at in {LOOKS_MAX} attempts")

    async def _wait(self, fresh: Freshness) -> None:
        running = self._running
        check_on_trio("A query", "portal.call(view.get, key) or portal.call(query.rows)")
        await trio.lowlevel.checkpoint()
        if running.position >= fresh.position:
            return
        seconds = checked_timeout(fresh.timeout, self._projections.limits)
        with trio.move_on_after(seconds) as scope:
            if fresh.on_timeout == "stale":
                await self._projections.wait_while_possible(running, fresh.position)
            else:
                await self._projections.wait_for(running, fresh.position)
        if scope.cancelled_caught and fresh.on_timeout == "raise" and running.position < fresh.position:
            raise ViewTooOld(running.name, running.position, fresh.position, seconds, running.state, running.error)


@attrs.frozen
class Query(Generic[R]):
    """A query that can be narrowed and then run. Every method returns a new query; nothing is read before it is run."""

    _view: View[R]
    _rows: RowQuery
    _fresh: Freshness

    def where(self, **criteria: Any) -> Self:
        """Of these rows those that meet further criteria; see `View.where`.

        Raises `QueryInvalid` as that does, and for a field that is asked for already.
        """
        known = self._rows.criteria
        for field in criteria:
            if field in known:
                raise QueryInvalid(f"{field} is asked for already, as {known[field]}. Put both into one criterion.")
        both = {**known, **self._view._table_type.criteria(criteria)}
        return attrs.evolve(self, rows=attrs.evolve(self._rows, criteria=both))

    def order_by(self, *fields: str) -> Self:
        """Order by these fields; a minus before the name reverses the order: `order_by("-amount")`.

        Raises `QueryInvalid` for a field that the rows do not have.
        """
        for field in fields:
            if not isinstance(field, str):
                raise QueryInvalid(
                    f'order_by() takes names of fields, order_by("-amount", "name"), not {field!r:.100}.'
                )
        order = tuple(Order(field.removeprefix("-"), field.startswith("-")) for field in fields)
        view = self._view
        table = view._table_type
        criteria_of(table.fields, table.name, {each.field: None for each in order})
        return attrs.evolve(self, rows=attrs.evolve(self._rows, order=order))

    def limit(self, count: int) -> Self:
        """At most this many rows. Raises `QueryInvalid` for a negative number."""
        return attrs.evolve(self, rows=attrs.evolve(self._rows, limit=_not_negative("limit", count)))

    def offset(self, count: int) -> Self:
        """Skip this many rows. Raises `QueryInvalid` for a negative number."""
        return attrs.evolve(self, rows=attrs.evolve(self._rows, offset=_not_negative("offset", count)))

    def fresh(
        self,
        *,
        at_least: Receipt | int | None = None,
        timeout: float | None = None,
        on_timeout: OnTimeout = "raise",
    ) -> Self:
        """Require a freshness of the answer; see `View`."""
        return attrs.evolve(self, fresh=Freshness(at_least=at_least, timeout=timeout, on_timeout=on_timeout))

    async def rows(self) -> list[R]:
        """All rows, in one consistent read. Raises `QueryTooLarge`, `ViewTooOld`, `ProjectionUnavailable`."""
        return await self._view._ask(self._fresh, lambda reading, table: reading.find(table, self._rows))

    async def first(self) -> R | None:
        """The first row, or None."""
        limit = self._rows.limit
        found = await self.limit(1 if limit is None else min(limit, 1)).rows()
        return found[0] if found else None

    async def count(self) -> int:
        """How many rows meet the criteria, whatever the limit."""
        criteria = dict(self._rows.criteria)
        return await self._view._ask(self._fresh, lambda reading, table: reading.count(table, criteria))

    def pages(self, size: int = PAGE_ROWS) -> AsyncIterator[list[R]]:
        """The rows in pages, each a read of its own that begins after the last row of the page before.

        A row that keeps its place in the order is returned once, whatever is added or removed around it; a row that
        moves may be returned twice or not at all. Raises `QueryInvalid` for a size below 1.
        """
        return Batches(self._page_reader(size))

    def __aiter__(self) -> AsyncIterator[R]:
        return Items(self._page_reader(PAGE_ROWS))

    def _page_reader(self, size: int) -> Callable[[], Awaitable[list[R]]]:
        if not _is_count(size) or not size:
            raise QueryInvalid(f"A page has at least one row, not {size!r}.")
        size = min(size, COUNT_MAX)
        done = 0
        last: R | None = None

        async def read() -> list[R]:
            nonlocal done, last
            left = size if self._rows.limit is None else min(size, self._rows.limit - done)
            if not left:
                return []
            page = attrs.evolve(self._rows, offset=self._rows.offset + done, limit=left, last=last)
            found = await attrs.evolve(self, rows=page).rows()
            done += len(found)
            last = found[-1] if found else None
            return found

        return read


def _table_name(running: RunningProjection, table: Table[Any] | None) -> str:
    """The name of the given table, or of the only one. Raises `DefinitionError` where several leave the choice open."""
    if table is not None:
        return table.name
    first, *others = running.tables
    if others:
        name = running.projection_class.__name__
        raise DefinitionError(f"{name} has several tables; say which: view({name}.{first}).")
    return first


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _not_negative(name: str, count: int) -> int:
    if not _is_count(count):
        raise QueryInvalid(f"{name}() takes a whole number, 0 or more, not {count!r}.")
    return min(count, COUNT_MAX)


async def wait_for_views(
    projections: Projections,
    classes: Sequence[type[Projection]],
    position: int,
    deadline: float,
    receipt: Receipt | None = None,
) -> None:
    """Wait until the views of these projections have seen a position, until the trio time `deadline`.

    Raises `ViewTooOld` or `ProjectionUnavailable`, with the `receipt` of the command whose events are on disk.
    """
    started = trio.current_time()
    for projection_class in classes:
        running = projections.get(projection_class)
        if running.position >= position:
            continue
        try:
            with trio.move_on_at(deadline) as scope:
                await projections.wait_for(running, position)
        except ProjectionUnavailable as unavailable:
            unavailable.receipt = receipt
            raise
        if scope.cancelled_caught and running.position < position:
            too_old = ViewTooOld(
                running.name, running.position, position, deadline - started, running.state, running.error
            )
            too_old.receipt = receipt
            raise too_old


async def wait_until_forgotten(
    projections: Projections, classes: Sequence[type[Projection]], subject: str, seconds: float
) -> None:
    """Wait until the views of these projections show nothing of a forgotten subject.

    Raises `ViewStillRemembers` or `ProjectionUnavailable`.
    """
    with trio.move_on_after(seconds) as scope:
        for projection_class in classes:
            await projections.wait_until_forgotten(projection_class)
    left = [projections.get(each) for each in classes if not projections.has_forgotten(each)]
    if scope.cancelled_caught and left:
        raise ViewStillRemembers(left[0].name, subject, seconds, left[0].state, left[0].error)
