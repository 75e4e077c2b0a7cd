"""The errors of rows, queries and view stores."""

from typing import TYPE_CHECKING, ClassVar

from ...storage.errors import EventSourcingError, StoreError

if TYPE_CHECKING:
    from ..aggregates.receipt import Receipt


class RowInvalid(EventSourcingError):
    """A row does not fit its table, or its key or an indexed value has no order. `row` is the row, if there is one."""

    code: ClassVar[str] = "row_invalid"

    def __init__(self, message: str, row: object = None) -> None:
        super().__init__(message)
        self.row = row


class QueryInvalid(EventSourcingError):
    """A query names a field that the rows do not have, or asks for something impossible."""

    code: ClassVar[str] = "query_invalid"


class QueryTooLarge(EventSourcingError):
    """A query would have to hold more rows in memory than allowed."""

    code: ClassVar[str] = "query_too_large"

    def __init__(self, table: str, bound: int, purpose: str = "sort in memory") -> None:
        super().__init__(
            f"The query of {table} meets more than {bound} rows, which it would have to {purpose}. Give the field "
            "that it orders by an index, use limit(), or ask for less."
        )
        self.bound = bound
        self.table = table


class ProjectionUnavailable(EventSourcingError):
    """A projection is paused, failed or closed and will not see what the caller waits for, or it has no view yet.

    The events of a command that waited for the projection are on disk.
    """

    code: ClassVar[str] = "projection_unavailable"

    def __init__(self, name: str, state: str, reason: str) -> None:
        because = f" ({reason})" if reason else ""
        advice = "so nothing can be waited for. What was written is on disk."
        if state == "retrying":
            advice = "so no view can answer yet. It goes on by itself once it can: ask again later."
        elif state != "closed":
            advice += f" Resume it with `eventsrc projections PATH resume {name}`, or ask for what it has with "
            advice += 'on_timeout="stale".'
        super().__init__(f"The projection {name!r} is {state}{because}, {advice}")
        self.name = name
        self.state = state
        self.receipt: Receipt | None = None
        """The receipt of the command that waited; its events are on disk."""
        self.reason = reason


class ViewUnreachable(StoreError):
    """The database of a view is unreachable, or locked by others. The projection tries again; commands go on."""

    code: ClassVar[str] = "view_unreachable"

    def __init__(self, path: str, reason: str, *, is_locked: bool = False) -> None:
        trouble = "cannot be reached"
        advice = "see that the server runs, and that the address and the login are right"
        if is_locked:
            trouble, advice = "is locked", "see which other transaction it waits for"
        super().__init__(
            path,
            f"The database of a view, {path}, {trouble}: {reason}. The projection tries again with a back-off; "
            f"{advice}.",
        )
        self.reason = reason


class ViewWriteFailed(StoreError):
    """The database of a view refused a statement. Nothing of the batch was stored."""

    code: ClassVar[str] = "view_write_failed"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"The database of a view, {path}, refused: {reason}. Nothing of the batch was stored, and it is tried "
            "again with a back-off.",
        )
        self.reason = reason


class ViewReadFailed(StoreError):
    """The database of a view refused a query. The view is unchanged, and only the caller can try again."""

    code: ClassVar[str] = "view_read_failed"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"The database of a view, {path}, could not answer a query: {reason}. The view is as it was: see to the "
            "database, and ask again.",
        )
        self.reason = reason


class ViewRemoved(StoreError):
    """Another process has rebuilt a view and removed its old tables.

    The projection switches to the new tables if they are of its own version.
    """

    code: ClassVar[str] = "view_removed"

    def __init__(self, path: str, view: str) -> None:
        super().__init__(
            path,
            f"The view {view} in {path} was removed by another process, which has built it anew. The projection goes "
            "over to what took its place; ask again later.",
        )
        self.view = view


class CheckpointMoved(StoreError):
    """A view's stored checkpoint is not the one that its projector left.

    Another process projects into the same tables, or a commit took effect although its answer was lost. Nothing of the
    batch was stored: read the checkpoint again and go on from there.
    """

    code: ClassVar[str] = "checkpoint_moved"

    def __init__(self, path: str, view: str, expected_position: int, stored_position: int) -> None:
        super().__init__(
            path,
            f"The view {view} in {path} is at position {stored_position}, and its projector left it at "
            f"{expected_position}: another process projects into the same tables, or the answer to a commit was lost. "
            "Nothing was stored; the projection goes on from what is there. Let one process keep a view.",
        )
        self.view = view
        self.expected_position = expected_position
        self.stored_position = stored_position
