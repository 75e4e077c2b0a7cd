"""The port to where views live: what a projector and a query need of LMDB, of SQL, or of another store."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from .criteria import Criterion, RowQuery
from .row_type import RowType


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How far a view has come: the position, and the hash of the event there, which tells one history from another."""

    position: int
    event_hash: bytes


class RowChange(msgspec.Struct, frozen=True, gc=False):
    """One row to be written or, with `row` of None, removed.

    `before` and `after` are its indexed values, None where there is no row.
    """

    key: bytes
    row: Any
    before: tuple[bytes, ...] | None
    after: tuple[bytes, ...] | None


class ViewReading(Protocol):
    """A consistent look at a view."""

    def get(self, table: RowType[Any], key: tuple[Any, ...]) -> Any | None:
        """The row with this key."""

    def find(self, table: RowType[Any], query: RowQuery) -> list[Any]:
        """The rows that a query asks for. Raises `QueryTooLarge`."""

    def count(self, table: RowType[Any], criteria: "dict[str, Criterion]") -> int:
        """How many rows meet the criteria."""


class ViewWriting(ViewReading, Protocol):
    """One transaction: the rows of a batch and the checkpoint that they stand for, or nothing."""

    def write(self, table: RowType[Any], changes: Sequence[RowChange]) -> None:
        """Put the changes of one table in."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Put the checkpoint in."""


class StoredView(Protocol):
    """One generation of one projection's tables."""

    @property
    def waits(self) -> bool:
        """Whether its calls wait for a disk or a network, so that they belong in a worker thread."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The stored checkpoint; position 0 in a new view. Raises `ViewRemoved`."""

    def reading(self, *, rows_max: int | None = None) -> AbstractContextManager[ViewReading]:
        """Look at it.

        Raises `ViewReadTooLong` where a query that may not wait would look at more than `rows_max` rows, so that the
        caller can ask in a worker thread; `ViewRetry` where the caller should ask again; `ViewRemoved` where another
        process has removed the view.
        """

    def writing(self) -> AbstractContextManager[ViewWriting]:
        """Change it; committed when the block ends well.

        Raises `ViewRetry` where the block is to be run again, `ViewRemoved` where another process has removed it.
        """

    def close(self) -> None:
        """Close it. Idempotent."""


class ViewRetry(Exception):
    """The transaction made room for itself or met another: run the same again."""


class ViewReadTooLong(Exception):
    """A query has to look at more rows than may be looked at in one go on the trio thread."""


class Generation(msgspec.Struct, frozen=True):
    """One building of a projection: what it was built by, and its number. `schema` covers version and tables."""

    number: int
    version: int
    schema: str


class ViewStore(Protocol):
    """Where the views of projections live, a generation of each or two."""

    def generations(self, projection: str) -> list[Generation]:
        """Those that are stored, the one that answers first."""

    def open(self, projection: str, generation: Generation, tables: Iterable[RowType[Any]]) -> StoredView:
        """Open a generation, made when it is not there."""

    def activate(self, projection: str, generation: Generation) -> None:
        """Let this generation be the one that answers, from now on and after every restart."""

    def drop(self, projection: str, generation: Generation) -> None:
        """Remove a generation that was closed. May take long; call it in a worker thread."""

    def tidy(self, projection: str) -> None:
        """Remove what is left of generations whose removal was broken off. May take long, too."""
