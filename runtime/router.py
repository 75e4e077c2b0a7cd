"""The router: brings commands and queries from references to the actors of their aggregates."""

import itertools
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import trio

from ..actors.aggregates.aggregate import Aggregate
from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.aggregates.receipt import Receipt
from ..actors.aggregates.recovery import recover
from ..actors.aggregates.request import Hold, Request, Requests, StateQuery, current_cause
from ..actors.aggregates.ring import Question, ring_through
from ..actors.errors import AggregateDeleted, AggregateWaitsForItself, RuntimeClosed
from ..actors.future import TrioFuture
from ..actors.journal.journal import Journal
from ..storage.commit import ExpectedVersion
from ..storage.errors import EventSourcingError
from ..storage.event_query import EventQuery
from ..storage.limits import Limits
from ..storage.store import EventReader
from .arguments import check_correlation_id, check_expected_version, check_key, check_metadata
from .deadlines import Deadlines
from .errors import WrongThread
from .events import narrowed, resolved
from .history.history import state_at
from .opening import refusal
from .projections.projections import Projections
from .residents import Residents

T = TypeVar("T")
AroundAsk: TypeAlias = Callable[[str, Request], AbstractContextManager[Callable[[Receipt], None]]]
"""Makes a context manager for a stream and a request; its value is called with the receipt."""

logger = logging.getLogger("eventsrc.runtime")


class Router:
    """The part of the runtime that references use. `residents` is None in a reader, which takes no commands."""

    def __init__(
        self, store: EventReader, limits: Limits, projections: Projections, residents: Residents | None
    ) -> None:
        self.limits = limits
        self.projections = projections
        self.trio_token = trio.lowlevel.current_trio_token()
        self.deadlines = Deadlines()
        self.is_closing = False
        self.around_asks: tuple[AroundAsk, ...] = ()
        """Context managers entered around each `ask`, the outermost first: see `telemetry`."""
        self._store = store
        self._residents = residents
        self._thread_id = threading.get_ident()
        self._ids = map(f"{secrets.token_hex(6)}-{{:x}}".format, itertools.count(1))

    @property
    def is_reader(self) -> bool:
        """Whether the runtime was opened with role="reader"."""
        return self._residents is None

    async def recover(self, aggregate_type: AggregateType, stream: str, aggregate_id: str) -> Aggregate:
        """An aggregate's state made from the log. Raises `AggregateDeleted`, `DecodingError`, ..."""
        return _alive((await recover(self._store, aggregate_type, stream, aggregate_id)).state, stream)

    async def state_at(
        self,
        aggregate_type: AggregateType,
        aggregate_id: str,
        *,
        version: int | None,
        position: int | None,
        time: datetime | None,
    ) -> Aggregate:
        """An aggregate's state at a past moment. Raises `NotInHistory`, `AggregateDeleted`."""
        found = await state_at(self._store, aggregate_type, aggregate_id, version=version, position=position, time=time)
        return _alive(found.state, aggregate_type.stream(aggregate_id))

    def version(self, stream: str) -> int:
        """The stored version of a stream; 0 for a stream that does not exist."""
        head = self._store.head(stream)
        return 0 if head is None else head.version

    def request(
        self,
        command: object,
        expected_version: ExpectedVersion | None,
        idempotency_key: str | None,
        correlation_id: str | None,
        metadata: Mapping[str, Any] | None,
        unless: EventQuery | None = None,
    ) -> Request:
        """A checked request with new ids; by default its correlation is that of the command being handled, if any."""
        if idempotency_key is not None:
            check_key(idempotency_key, self.limits)
        if expected_version is not None:
            check_expected_version(expected_version)
        if correlation_id is not None:
            check_correlation_id(correlation_id)
        if metadata is not None:
            check_metadata(metadata)
        cause = current_cause.get()
        command_id = next(self._ids)
        if cause is None:
            correlation_id, caused_by = correlation_id or command_id, None
        else:
            correlation_id, caused_by = correlation_id or cause.correlation_id, cause.causation_id
        condition = None if unless is None else resolved(unless)
        return Request(
            command, command_id, correlation_id, caused_by, expected_version, idempotency_key, metadata, condition
        )

    async def narrowed(self, condition: EventQuery) -> EventQuery:
        """An equivalent append condition that does not search the events stored so far again."""
        return await narrowed(self._store, condition)

    def send(
        self,
        aggregate_type: AggregateType,
        stream: str,
        aggregate_id: str,
        message: Request | Requests | StateQuery | Hold,
    ) -> TrioFuture[Any]:
        """Put a message into the mailbox of an aggregate's actor, and return the future of its answer."""
        if threading.get_ident() != self._thread_id:
            if isinstance(message, StateQuery):
                raise WrongThread("state", instead="portal.call(ref.state)")
            raise WrongThread("ask")
        self._check_open()
        actor = self._actors.get(aggregate_type, stream, aggregate_id)
        asking = self._actors.in_hand_of_this_task
        future: TrioFuture[Any]
        if isinstance(message, Request) and actor.can_decide_now(message):
            future = actor.decide_now(message)
        else:
            if asking is not None and (ring := ring_through(actor, asking)):
                raise AggregateWaitsForItself(ring)
            future = actor.actor_ref.ask(message, block=False)  # type: ignore[assignment]
        if asking is not None:
            asking.question = Question(actor, future)
        return future

    def tell(self, aggregate_type: AggregateType, stream: str, aggregate_id: str, request: Request) -> None:
        """Put a command into the mailbox of an aggregate's actor without an answer, from any thread."""
        actors = self._actors
        if threading.get_ident() == self._thread_id:
            self._check_open()
            actors.get(aggregate_type, stream, aggregate_id).actor_ref.tell(request)
            return
        try:
            self.trio_token.run_sync_soon(self._tell_from_thread, aggregate_type, stream, aggregate_id, request)
        except trio.RunFinishedError:
            raise RuntimeClosed("The runtime was closed; the command was not sent.") from None

    def _tell_from_thread(
        self, aggregate_type: AggregateType, stream: str, aggregate_id: str, request: Request
    ) -> None:
        try:
            self.tell(aggregate_type, stream, aggregate_id, request)
        except EventSourcingError as error:
            logger.error("a command told from another thread was not taken: %s", error, extra={"stream": stream})

    def run_from_thread(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run an async function on the trio thread, and wait for it. Raises `WrongThread`, `RuntimeClosed`."""
        if threading.get_ident() == self._thread_id:
            raise WrongThread("ask_from_thread", is_for_others=True, instead="ask()")
        try:
            return trio.from_thread.run(function, trio_token=self.trio_token)
        except trio.RunFinishedError:
            raise RuntimeClosed("The runtime was closed; the command was not sent.") from None

    @property
    def journal(self) -> Journal:
        """The journal that stores commits. Raises `RuntimeReadOnly`."""
        return self._actors.journal

    @property
    def wall_clock(self) -> Callable[[], int]:
        """The clock by which idempotency keys expire. Raises `RuntimeReadOnly`."""
        return self._actors.wall_clock

    @property
    def _actors(self) -> Residents:
        if self._residents is None:
            raise refusal(self._store)
        return self._residents

    def _check_open(self) -> None:
        # While closing, commands that are being handled may still send others.
        if self.is_closing and current_cause.get() is None:
            raise RuntimeClosed("The runtime is closed or closes; the command was not sent.")


def _alive(state: Aggregate, stream: str) -> Aggregate:
    if state.is_deleted:
        raise AggregateDeleted(stream)
    return state
