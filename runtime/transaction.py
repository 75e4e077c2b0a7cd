"""Transactions: several aggregates decide, each in its own actor, and one commit stores all their events, or none.

The transaction makes the actors stand still one after the other, in the order of their streams, so that two
transactions never deadlock. The actors go on when the commit is stored or refused.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import CoroutineType
from typing import Any, Final

import attrs
import trio

from ..actors.aggregates.aggregate_actor import AggregateActor
from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.aggregates.decision import Decision
from ..actors.aggregates.idempotency import window_seconds
from ..actors.aggregates.receipt import Receipt
from ..actors.aggregates.request import Hold, Request, current_cause
from ..actors.aggregates.turn import Reply
from ..actors.errors import ApplierFailed, HandlerFailed
from ..actors.future import TrioFuture
from ..actors.journal.journal import CommitSeries, Write
from ..storage.commit import WHERE_THE_LOG_IS, Appended, IdempotencyEntry, StreamAppend
from ..storage.errors import CommitTooLarge, CommitTooManyBytes, EventSourcingError
from ..storage.event_query import EventQuery
from ..storage.record import NS_PER_SECOND
from .arguments import PART_SEPARATOR, check_expected_version
from .errors import TransactionKeyReused, TransactionTimeout, TransactionTooLarge
from .router import Router
from .trio_thread import check_on_trio

TURNS_TO_COME_FREE: Final = 2
"""How many turns of trio's scheduler pass until an actor that stood still has gone on."""
logger = logging.getLogger("eventsrc.transaction")


@attrs.frozen
class Part:
    """One command of a transaction, and its aggregate."""

    aggregate_type: AggregateType
    aggregate_id: str
    command: object
    metadata: Mapping[str, Any] | None = None
    """Stored with this command's events in place of the transaction's metadata."""
    stream: str = attrs.field(init=False)

    @stream.default
    def _its_stream(self) -> str:
        return self.aggregate_type.stream(self.aggregate_id)


def part_key(key: str, number: int) -> str:
    """The idempotency key of one command of a transaction."""
    return f"{key}{PART_SEPARATOR}{number}" if number else key


class Transaction:
    """One call of `Runtime.transact`."""

    def __init__(
        self,
        router: Router,
        parts: Sequence[Part],
        unchanged: Sequence[StreamAppend],
        idempotency_key: str | None,
        correlation_id: str | None,
        metadata: Mapping[str, Any] | None,
        unless: EventQuery | None,
        follows: Sequence[CommitSeries] = (),
    ) -> None:
        self._router = router
        self._parts = parts
        self._unchanged = unchanged
        self._key = idempotency_key
        self._follows = follows
        self.deadline = math.inf
        """On trio's clock, once the transaction runs."""
        self._conditions: tuple[EventQuery, ...] = () if unless is None else (unless,)
        self._types = {part.stream: part for part in sorted(parts, key=lambda part: part.stream)}
        for append in unchanged:
            check_expected_version(append.expected_version, "unchanged")
        bound = router.limits.transaction_aggregates_max
        if len(self._types) > bound:
            raise TransactionTooLarge(
                "Aggregates of a transaction", len(self._types), bound, "Split it, or use a saga."
            )
        self._requests: list[Request] = []
        for part in parts:
            correlation_id = self._requests[0].correlation_id if self._requests else correlation_id
            own = metadata if part.metadata is None else part.metadata
            self._requests.append(router.request(part.command, None, None, correlation_id, own))
        self._replies = [Reply(None) for _ in parts]
        self._actors: dict[str, AggregateActor] = {}
        self._decided: dict[str, tuple[Request, Reply, Decision]] = {}
        self._changed: list[AggregateActor] = []
        self._offsets: dict[str, int] = {}
        self._hold = Hold()
        self._is_submitted = False
        self._outcome: TrioFuture[Appended] = TrioFuture()

    async def run(self, timeout_seconds: float) -> list[Receipt]:
        """Run the transaction; returns the receipts in the order of the commands."""
        check_on_trio("runtime.transact")
        self.deadline = trio.current_time() + timeout_seconds
        try:
            with trio.move_on_after(timeout_seconds):
                self._conditions = tuple([await self._router.narrowed(each) for each in self._conditions])
                for stream, part in self._types.items():
                    self._actors[stream] = await self._router.send(
                        part.aggregate_type, stream, part.aggregate_id, self._hold
                    )
                known = self._known_receipts()
                if known is not None:
                    return known
                await self._decide_all()
                await self._router.journal.until_room()
                self._submit()
                await self._outcome
                return [reply.answer for reply in self._replies if isinstance(reply.answer, Receipt)]
            raise TransactionTimeout(list(self._types), timeout_seconds, may_take_effect=self._is_submitted)
        except BaseException:
            # Before the actors go on: the events that they applied are not stored.
            self._take_back()
            raise
        finally:
            if not self._is_submitted:
                self._hold.over.set()
            # The aggregates come free, and may leave memory, before the caller goes on and needs others.
            for _ in range(TURNS_TO_COME_FREE):
                await trio.lowlevel.cancel_shielded_checkpoint()

    # --- before it is decided ---

    def _known_receipts(self) -> list[Receipt] | None:
        """The receipts of the first transaction with this idempotency key; None for a new key."""
        if self._key is None:
            return None
        receipts = [
            self._actors[part.stream].keys.receipt(key) for part, key in zip(self._parts, self._keys(), strict=True)
        ]
        known = [receipt for receipt in receipts if receipt is not None]
        if not known:
            return None
        if len(known) < len(receipts):
            raise TransactionKeyReused(self._key, self._parts[receipts.index(None)].stream)
        return known

    def _keys(self) -> Iterator[str]:
        """The idempotency key of each command, in any order of streams: the commands of one stream are numbered."""
        numbers: Counter[str] = Counter()
        for part in self._parts:
            yield part_key(f"{self._key}", numbers[part.stream])
            numbers[part.stream] += 1

    # --- deciding ---

    async def _decide_all(self) -> None:
        size_bytes = event_count = 0
        for part, request, reply in zip(self._parts, self._requests, self._replies, strict=True):
            if part.stream in self._decided:
                # The next command of the same aggregate is decided on the state after the one before it.
                self._take(part.stream)
            decision = await self._decide(part, request)
            self._decided[part.stream] = request, reply, decision
            size_bytes += decision.size_bytes
            event_count += len(decision.events)
            # Checked before the events are applied: a turn that is too large for one commit would be split.
            self._check_size(event_count, size_bytes)
        for stream in list(self._decided):
            self._take(stream)

    def _check_size(self, event_count: int, size_bytes: int) -> None:
        limits = self._router.limits
        if event_count > limits.commit_events_max:
            raise CommitTooLarge("Events of a transaction", event_count, limits.commit_events_max, "Split it.")
        if size_bytes > limits.commit_size_bytes_max:
            raise CommitTooManyBytes("Bytes of a transaction", size_bytes, limits.commit_size_bytes_max, "Split it.")

    async def _decide(self, part: Part, request: Request) -> Decision:
        actor = self._actors[part.stream]
        before = current_cause.get()
        try:
            returned = actor.decide(request)
            if isinstance(returned, CoroutineType):
                returned = await returned
            return actor.encode(request, returned)
        except EventSourcingError as error:
            error.add_note(f"{type(part.command).__name__} to {part.stream!r}, in a transaction: nothing was stored")
            raise
        except Exception as error:
            logger.error("handler failed: %s", part.stream, exc_info=error, extra={"stream": part.stream})
            raise HandlerFailed(part.stream, part.command, error) from error
        finally:
            current_cause.set(before)

    def _take(self, stream: str) -> None:
        """Apply the events that an aggregate decided."""
        actor = self._actors[stream]
        self._changed.append(actor)
        try:
            actor.take(*self._decided.pop(stream))
        except ApplierFailed as failure:
            self._changed.remove(actor)
            actor.drop(failure)
            raise

    def _take_back(self) -> None:
        """Have the aggregates that applied events load their state again, since those events are not stored."""
        if self._is_submitted:
            return
        for actor in self._changed:
            # The aggregate has no part in the transaction's failure.
            actor.drop(EventSourcingError("A transaction that it took part in was given up."))
        self._changed.clear()

    # --- the disk ---

    def _submit(self) -> None:
        appends: list[StreamAppend] = []
        entries: list[IdempotencyEntry] = []
        offset = 0
        for stream, actor in self._actors.items():
            turn = actor.join()
            appends.append(StreamAppend(stream, turn.base_version, turn.events))
            self._offsets[stream] = offset
            if self._key is not None:
                entries += self._entries(stream, turn.base_version, offset)
            offset += len(turn.events)
        self._is_submitted = True
        write = Write(
            # Expectations come first: their streams may be among the changed ones.
            (*self._unchanged, *appends),
            entries,
            event_count=offset,
            answer_count=1,
            series=CommitSeries(),
            settle=self._on_settled,
            conditions=self._conditions,
            follows=self._follows,
        )
        self._router.journal.submit(write)

    def _entries(self, stream: str, base_version: int, offset: int) -> Iterator[IdempotencyEntry]:
        limits = self._router.limits
        seconds = max(window_seconds(part.command, limits) for part in self._parts)
        expires_ns = self._router.wall_clock() + int(seconds * NS_PER_SECOND)
        for part, key, reply in zip(self._parts, self._keys(), self._replies, strict=True):
            if part.stream == stream:
                ahead = reply.version - base_version
                position = offset + ahead - 1 if ahead else WHERE_THE_LOG_IS
                yield IdempotencyEntry(stream, key, reply.version, position, len(reply.events), expires_ns)

    def _on_settled(self, outcome: Appended | EventSourcingError) -> None:
        """Take the journal's answer, on the trio thread, whether or not the caller still waits for it."""
        for stream, actor in self._actors.items():
            if isinstance(outcome, Appended):
                first = outcome.first_position + self._offsets[stream]
                head = outcome.heads.get(stream)
                actor.on_settled(Appended(outcome.commit_id, first, head.position if head else 0, outcome.heads))
            else:
                actor.on_settled(outcome)
        self._hold.over.set()
        if isinstance(outcome, Appended):
            self._outcome.settle(outcome)
        else:
            self._outcome.fail(outcome)
