"""A session: applies events to one projection's view; each transaction holds rows and a checkpoint."""

from collections.abc import Callable, Container, Sequence
from typing import Any, Final, Generic, TypeVar

from ...storage.errors import FileWriteFailed, described
from ...storage.record import StoredEvent
from ..projections.projection import Projection
from ..serialization.event_codecs import EventCodecs
from ..serialization.serializer import Serializer
from .criteria import RowQuery
from .errors import QueryTooLarge, RowInvalid
from .row_type import RowType
from .view_store import Checkpoint, RowChange, StoredView, ViewRetry, ViewWriting

ROWS_FOUND_MAX: Final = 1_000_000
"""The most rows that `where` gives to a handler. More raise `QueryTooLarge`; they are never cut off."""
ROWS_KEPT_MAX: Final = 10_000
"""The most rows of one table that are kept from batch to batch; only immutable rows are."""
RETRIES_MAX: Final = 24

R = TypeVar("R")


class Batch:
    """State that the tables of a projection share while a batch is handled."""

    __slots__ = ("event", "has_written", "refused", "transaction")

    transaction: ViewWriting
    event: StoredEvent
    """The event that is being handled."""

    def __init__(self) -> None:
        self.refused: RowRefused | None = None
        """Why nothing of the batch will be stored, even if a handler has swallowed the error."""
        self.has_written = False
        """Whether rows were written to the transaction early, because a handler queried the table."""

    def begin(self, transaction: ViewWriting) -> None:
        """Use this transaction from now on."""
        self.transaction = transaction
        self.refused = None
        self.has_written = False

    def check(self) -> None:
        """Raise the batch's `RowRefused` again, if there is one."""
        if self.refused is not None:
            raise self.refused


class SessionRows(Generic[R]):
    """A table while events are handled: changes are kept here until they are written to a transaction."""

    __slots__ = ("_batch", "_before", "_changed", "_kept", "_newest_key", "_type")

    def __init__(self, row_type: RowType[R], batch: Batch) -> None:
        self._type = row_type
        self._batch = batch
        # Each row with the event that last changed it.
        self._changed: dict[bytes, tuple[R | None, StoredEvent]] = {}
        self._before: dict[bytes, tuple[bytes, ...] | None] = {}
        self._kept: dict[bytes, tuple[R, tuple[bytes, ...]]] = {}
        self._newest_key: tuple[tuple[Any, ...], bytes] = ((), b"")

    @property
    def changed_count(self) -> int:
        """How many changed rows are not yet in a transaction."""
        return len(self._changed)

    def get(self, *key: Any) -> R | None:
        encoded = self._encoded(key)
        changed = self._changed.get(encoded)
        if changed is None:
            return self._stored(encoded, key)
        row, _ = changed
        # The caller's changes count only when the row is put.
        return row if row is None else self._type.own(row)

    def put(self, row: R) -> None:
        row = self._type.checked(row)
        values = self._type.key_values(row)
        key = self._encoded(values)
        if key not in self._before:
            self._stored(key, values)
        self._changed[key] = (row, self._batch.event)

    def delete(self, *key: Any) -> None:
        encoded = self._encoded(key)
        if encoded not in self._before:
            self._stored(encoded, key)
        self._changed[encoded] = (None, self._batch.event)

    def where(self, **criteria: Any) -> list[R]:
        row_type = self._type
        query = RowQuery(row_type.criteria(criteria), limit=ROWS_FOUND_MAX + 1)
        self._batch.check()
        self.flush()
        found: list[R] = self._batch.transaction.find(row_type, query)
        if len(found) > ROWS_FOUND_MAX:
            raise QueryTooLarge(row_type.name, ROWS_FOUND_MAX, "hand to one event")
        return found

    def flush(self) -> None:
        """Write the changes to the transaction. Raises `RowRefused`."""
        if not self._changed:
            return
        indexed = self._type.indexed
        try:
            changes = [
                RowChange(key, row, self._before[key], None if row is None else indexed(row))
                for key, (row, _) in self._changed.items()
            ]
            self._batch.has_written = True
            self._batch.transaction.write(self._type, changes)
        except RowInvalid as error:
            refused = self._batch.refused = RowRefused(self._event_that_put(error.row), error)
            raise refused from error
        if self._type.is_immutable:
            kept = self._kept
            for change in changes:
                if change.after is None:
                    kept.pop(change.key, None)
                else:
                    kept[change.key] = (change.row, change.after)
            if len(kept) > ROWS_KEPT_MAX:
                kept.clear()
        self._changed.clear()
        self._before.clear()

    def discard(self) -> None:
        """Drop everything, since the transaction was not committed."""
        self._changed.clear()
        self._before.clear()
        self._kept.clear()

    def _event_that_put(self, row: object) -> StoredEvent:
        return next((event for changed, event in self._changed.values() if changed is row), self._batch.event)

    def _encoded(self, key: tuple[Any, ...]) -> bytes:
        """The key as bytes. A row is mostly put under the key that it was read by."""
        self._batch.check()
        newest, encoded = self._newest_key
        if key != newest:
            encoded = self._type.key(key)
            self._newest_key = (key, encoded)
        return encoded

    def _stored(self, encoded: bytes, key: tuple[Any, ...]) -> R | None:
        """The stored row. Its indexed values are remembered, for updating the indexes when the row changes."""
        kept = self._kept.get(encoded)
        if kept is not None:
            row, self._before[encoded] = kept
            return row
        found: R | None = self._batch.transaction.get(self._type, key)
        if found is None:
            self._before[encoded] = None
            return None
        indexed = self._before[encoded] = self._type.indexed(found)
        if self._type.is_immutable:
            self._kept[encoded] = (found, indexed)
        return found


class ViewSession:
    """Applies batches of events to one view with the methods of one projection."""

    def __init__(self, projection_class: type[Projection], view: StoredView, serializer: Serializer) -> None:
        definition = projection_class.__eventsrc_projection__
        self.view = view
        self._codecs = EventCodecs(definition.handlers, serializer)
        self._handlers: dict[str, Callable[[Any, Any, StoredEvent], None]] = {
            name: definition.handlers[codec.event_class] for name, codec in self._codecs.of_name.items()
        }
        self._projection = projection_class()
        self._batch = Batch()
        self._searches = False
        self._is_bounded = (projection_class.max_lag_events, projection_class.max_lag_seconds) != (None, None)
        self._rows: list[SessionRows[Any]] = []
        for name, table in definition.tables.items():
            rows: SessionRows[Any] = SessionRows(RowType(table, serializer), self._batch)
            self._projection.__dict__[name] = rows
            self._rows.append(rows)

    @property
    def handled_types(self) -> Container[str]:
        """The stored types of the events for which the projection has a method."""
        return self._handlers

    @property
    def may_wait(self) -> bool:
        """Whether the changes by events may be stored later.

        False if the view's calls wait, if the projection's lag is bounded, or if handlers query rows, which must be
        stored.
        """
        return not (self.view.waits or self._searches or self._is_bounded)

    @property
    def waiting_rows(self) -> int:
        """How many changed rows wait to be stored."""
        return sum(rows.changed_count for rows in self._rows)

    def apply(self, events: Sequence[StoredEvent], checkpoint: Checkpoint, *, may_wait: bool = False) -> bool:
        """Handle the events and commit their changes together with the checkpoint. Returns whether they were committed.

        With `may_wait`, the commit is mostly left to a later call, so that rows that change again are written once.
        After any exception the uncommitted changes are gone, and the events after the stored checkpoint must be handled
        again. This includes `ViewRetry`, which is raised only if changes of earlier calls were waiting.

        Raises `EventFailed` for an event whose method raised.
        """
        waited = self.waiting_rows > 0
        for _ in range(RETRIES_MAX):
            try:
                return self._apply(events, checkpoint, may_wait=may_wait)
            except ViewRetry:
                self._discard()
                if waited:
                    raise
            except RowRefused as refused:
                self._discard()
                raise EventFailed(refused.event, refused.error) from refused.error
            except BaseException:
                self._discard()
                raise
        raise RuntimeError(f"the view could not be written in {RETRIES_MAX} attempts")

    def _apply(self, events: Sequence[StoredEvent], checkpoint: Checkpoint, *, may_wait: bool) -> bool:
        handlers, decode, projection, batch = self._handlers, self._codecs.decode, self._projection, self._batch
        with self.view.writing() as transaction:
            batch.begin(transaction)
            for stored in events:
                handler = handlers.get(stored.type)
                if handler is None:
                    continue
                batch.event = stored
                try:
                    handler(projection, decode(stored), stored)
                except (ViewRetry, RowRefused, FileWriteFailed):
                    # The event is not at fault.
                    raise
                except Exception as error:
                    if batch.refused is not None:
                        raise batch.refused from error
                    raise EventFailed(stored, error) from error
                # The method may have swallowed the error.
                batch.check()
            self._searches |= batch.has_written
            if may_wait and not batch.has_written:
                return False
            for rows in self._rows:
                rows.flush()
            transaction.save(checkpoint)
        return True

    def _discard(self) -> None:
        for rows in self._rows:
            rows.discard()


class EventFailed(Exception):
    """A projection's method raised on an event, or put a row that does not fit its table."""

    def __init__(self, event: StoredEvent, error: Exception) -> None:
        super().__init__(f"{event.type!r} of {event.stream!r} at position {event.position}: {described(error)}")
        self.event = event
        self.error = error


class RowRefused(Exception):
    """A row that an event put does not fit its table, which was found when the row was written."""

    def __init__(self, event: StoredEvent, error: RowInvalid) -> None:
        super().__init__(str(error))
        self.event = event
        self.error = error
