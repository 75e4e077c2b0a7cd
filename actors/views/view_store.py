"""The port to view stores: what a projector and a query need of LMDB, SQL, or another store."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from .criteria import Criterion, RowQuery
from .row_type import RowType


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How far a view has come: a position, and the hash of the event there, which identifies the history."""

    position: int
    event_hash: bytes


class RowChange(msgspec.Struct, frozen=True, gc=False):
    """One row to be written or, if `row` is None, removed.

    `before` and `after` are the row's indexed values before and after the change, None if there is no row.
    """

    key: bytes
    row: Any
    before: tuple[bytes, ...] | None
    after: tuple[bytes, ...] | None


class ViewReading(Protocol):
    """A consistent snapshot of a view."""

    def get(self, table: RowType[Any], key: tuple[Any, ...]) -> Any | None:
        """The row with this key."""

    def find(self, table: RowType[Any], query: RowQuery) -> list[Any]:
        """The rows that a query selects. Raises `QueryTooLarge`."""

    def count(self, table: RowType[Any], criteria: "dict[str, Criterion]") -> int:
        """How many rows meet the criteria."""


class ViewWriting(ViewReading, Protocol):
    """One transaction: the rows of a batch together with their checkpoint, or nothing."""

    def write(self, table: RowType[Any], changes: Sequence[RowChange]) -> None:
        """Write the changes of one table."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint."""


class StoredView(Protocol):
    """One generation of one projection's tables."""

    @property
    def waits(self) -> bool:
        """Whether the view's calls wait for a disk or a network, so that they belong in a worker thread."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The stored checkpoint; position 0 in a new view. Raises `ViewRemoved`."""

    def reading(self, *, rows_max: int | None = None) -> AbstractContextManager[ViewReading]:
        """Begin a reading transaction.

        A view that does not wait raises `ViewReadTooLong` if a query would look at more than `rows_max` rows; the
        caller can then query in a worker thread. Raises `ViewRetry` if the query must be run again, `ViewRemoved` if
        another process has removed the view.
        """

    def writing(self) -> AbstractContextManager[ViewWriting]:
        """Begin a writing transaction, which is committed if the block ends without an exception.

        Raises `ViewRetry` if the block must be run again, `ViewRemoved` if another process has removed the view.
        """

    def close(self) -> None:
        """Close the view. Idempotent."""


class ViewRetry(Exception):
    """The view had to grow, or the transaction met another one: run the same again."""


class ViewReadTooLong(Exception):
    """A query would look at more rows than is allowed in one go on the trio thread."""


class Generation(msgspec.Struct, frozen=True):
    """One build of a projection's view: its number, and the version and schema that it was built with.

    `schema` covers the version and the tables.
    """

    number: int
    version: int
    schema: str


class ViewStore(Protocol):
    """Stores the views of projections, one or two generations of each."""

    def generations(self, projection: str) -> list[Generation]:
        """The stored generations, the active one first."""

    def open(self, projection: str, generation: Generation, tables: Iterable[RowType[Any]]) -> StoredView:
        """Open a generation; make it if it is not there."""

    def activate(self, projection: str, generation: Generation) -> None:
        """Make this generation the one that answers queries, from now on and after every restart."""

    def drop(self, projection: str, generation: Generation) -> None:
        """Remove a closed generation. May take long; call it in a worker thread."""

    def tidy(self, projection: str) -> None:
        """Remove what is left of interrupted removals of generations. May take long; call it in a worker thread."""
