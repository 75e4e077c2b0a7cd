"""Forgetting: destroys the keys of a subject and discards everything derived from the data that they opened.

The steps, each of which can be repeated after an interruption:

1. The keys are destroyed, durably. From then on nothing sealed with them can be opened, in the log, a snapshot, the
   archive or any copy of these. The file of keys remembers that the rest is still to be done.
2. Aggregates in memory load their states again, from their events alone: a state may hold data that its class does not
   mark as personal. Handlers and steps of sagas under way may run to their end; whatever they seal for the subject
   meanwhile cannot be opened either.
3. A `SubjectForgotten` event is stored. From its position on, every view that may show the subject is rebuilt, also by
   other processes, and sinks remove their copies. A subject that comes back gets a new key from that position on, not
   before, so nothing of the subject stored earlier can be read. (A retry after a failure may find a subject that has
   come back already.)
4. The snapshots of the streams that held data of the subject are removed, since they may show the subject, and
   compaction of those streams is undone.
5. The file of keys records that all is done, and no longer names the subject.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec
import trio

from ..actors.aggregates.aggregate_actor import AggregateActor
from ..actors.aggregates.decision import RECORD_OVERHEAD_BYTES
from ..actors.aggregates.request import Cause, current_cause
from ..actors.background import in_background, in_thread
from ..actors.errors import EncodingError, RuntimeClosed
from ..actors.future import TrioFuture
from ..actors.journal.journal import CommitSeries, Journal, Write
from ..actors.messages import SAGA_STEP
from ..actors.sagas.instance import ENDING_TYPES
from ..actors.sagas.supervisor import SagaSupervisor
from ..actors.serialization.sealing import key_tag
from ..actors.subjects import SUBJECT_FORGOTTEN
from ..storage.commit import ANY, Appended, NewEvent, StreamAppend
from ..storage.errors import EventSourcingError, EventTooLarge
from ..storage.event_query import EventQuery
from ..storage.keys.subject_keys import KEY_TAG_PREFIX, SubjectKeys
from ..storage.limits import Limits
from ..storage.log import EventLog
from ..storage.query import find_events
from ..storage.record import StoredEvent, utc_time
from ..storage.store import EventReader, EventStore
from .errors import SagaHoldsSubject, SubjectInSagas, UnknownSubject
from .maintenance.upkeep import Upkeep
from .opening import drop_unclaimed_views
from .projections.projections import Projections
from .residents import Residents
from .trio_thread import check_on_trio

SUBJECTS_STREAM: Final = "eventsrc.subjects"
"""Precedes the month in the names of the streams that record forgotten subjects: one stream cannot hold all of them."""
RETRY_SECONDS: Final = 60.0
"""How long to wait before work that was interrupted or failed is tried again."""
WHAT_IS_LEFT: Final = "Where its keys were destroyed, the rest is done when the store is opened again."

logger = logging.getLogger("eventsrc.forgetting")


@attrs.frozen
class Forgotten:
    """The result of forgetting: how many events held data of the subject, and in which streams.

    `position` is the position of the `SubjectForgotten` event.
    """

    subject: str
    events: int
    streams: Sequence[str]
    position: int


@attrs.frozen
class _Request:
    """A request to forget a subject; `cause` or `asking` is set where a saga's step or an actor's handler makes it."""

    subject: str
    metadata: Mapping[str, Any] = attrs.field(factory=dict)
    even_in_sagas: bool = False
    cause: Cause | None = None
    asking: AggregateActor | None = None


class Forgetting:
    """Forgets subjects, one at a time, for a runtime that writes."""

    def __init__(
        self,
        *,
        keys: SubjectKeys,
        store: EventStore,
        journal: Journal,
        residents: Residents,
        projections: Projections,
        nursery: trio.Nursery,
        upkeep: Upkeep,
        limits: Limits,
        wall_clock: Callable[[], int],
    ) -> None:
        self._keys = keys
        self._store = store
        self._journal = journal
        self._residents = residents
        self._projections = projections
        self._nursery = nursery
        self._upkeep = upkeep
        self._limits = limits
        self._wall_clock = wall_clock
        self._one_at_a_time = trio.Lock()
        self._broken_off = trio.Event()
        self.sagas: SagaSupervisor | None = None

    async def forget(self, subject: str, metadata: Mapping[str, Any], *, even_in_sagas: bool = False) -> Forgotten:
        """See `Runtime.forget`."""
        check_on_trio("runtime.forget")
        # Once begun, forgetting runs to its end.
        await trio.lowlevel.checkpoint_if_cancelled()
        _check_encodable(metadata, self._limits)
        outcome: TrioFuture[Forgotten] = TrioFuture()
        request = _Request(subject, metadata, even_in_sagas, current_cause.get(), self._residents.in_hand_of_this_task)
        parts = (self._forget, request, outcome)
        try:
            self._nursery.start_soon(in_background, *parts, name="eventsrc forgetting")
        except RuntimeError as error:  # the nursery is closed
            raise _closed(subject) from error
        return await outcome

    async def _forget(self, request: "_Request", outcome: TrioFuture[Forgotten]) -> None:
        """Run to the end, even where the caller is cancelled."""
        subject = request.subject
        try:
            async with self._one_at_a_time:
                ids = await in_thread(self._ids_of, subject)
                if not ids:
                    raise UnknownSubject(subject, self._keys.path)
                await self._check_sagas(request, ids)
                outcome.settle(await self._do(request))
        except RuntimeClosed:
            outcome.fail(_closed(subject))
        except EventSourcingError as error:
            outcome.fail(error)
            self._broken_off.set()
        except Exception as error:
            # A fault in this code: the caller gets the error, and the runtime goes on.
            logger.exception("a subject was not forgotten")
            outcome.fail(error)
            self._broken_off.set()
        except BaseException:
            outcome.fail(_closed(subject))
            raise

    def _ids_of(self, subject: str) -> list[bytes]:
        """The ids of the subject's keys, including those that an unfinished `forget` has destroyed."""
        return [*self._keys.ids_of(subject), *self._keys.unfinished.get(subject, ())]

    async def finish_interrupted(self) -> None:
        """Resume interrupted work, from before the store was opened or since, whenever there is any.

        Errors are logged, and the work is tried again.
        """
        is_done = self._keys.is_empty or await self._finish_all()
        while True:
            if is_done:
                await self._broken_off.wait()
                self._broken_off = trio.Event()
            await trio.sleep(RETRY_SECONDS)
            is_done = await self._finish_all()

    async def _finish_all(self) -> bool:
        """Finish everything that was interrupted; returns whether all is done."""
        try:
            with ExitStack() as stack:
                # Entered here for all: a subject that waits for its turn, or for a compaction, gets no new key
                # meanwhile.
                unfinished = self._keys.unfinished
                for subject in unfinished:
                    stack.enter_context(self._keys.leaving(subject))
                for subject in unfinished:
                    async with self._one_at_a_time:
                        if subject in self._keys.unfinished:  # no caller has finished it meanwhile
                            await self._do(_Request(subject), interrupted=True)
        except Exception as error:
            is_expected = isinstance(error, EventSourcingError)
            logger.warning("a subject is not wholly forgotten yet: %s", error, exc_info=None if is_expected else error)
            return False
        return True

    # --- the steps ---

    async def _do(self, request: "_Request", *, interrupted: bool = False) -> Forgotten:
        subject = request.subject
        async with self._upkeep.standing_still():
            with self._residents.forgetting():
                with self._keys.leaving(subject):
                    try:
                        ids = await in_thread(self._destroyed, subject, interrupted)
                    finally:
                        # Even where it is unknown whether the keys were destroyed.
                        self._residents.distrust_personal()
                    await self._until_out_of_mind(request, ids)
                    await self._journal.admission.until_passed()
                    # Without a checkpoint before the end of the block: data sealed with a new key is stored after this
                    # event.
                    told = self._tell(subject, ids, request.metadata)
                # By then, earlier decisions and their snapshots are stored or refused.
                position = await told
                await self._journal.admission.until_passed()
                await self._journal.run(lambda: None)
                await self._journal.until_saved()
                events, streams = await self._traces(ids)
                await self._journal.run(partial(self._store.drop_snapshots, sorted(streams)))
                for stream in streams:
                    await self._upkeep.take_back(stream)
        if isinstance(self._store, EventLog):
            await in_thread(drop_unclaimed_views, Path(self._store.path))
        self._projections.forget(position)
        await in_thread(self._keys.finish_forgetting, subject)
        logger.info("forgotten", extra={"events": events, "streams": len(streams), "position": position})
        return Forgotten(subject, events, sorted(streams), position)

    def _destroyed(self, subject: str, interrupted: bool) -> list[bytes]:
        """Destroy the keys of a subject; returns their ids.

        When resuming an interrupted `forget`, keys that the subject got since then stay: the subject has come back.
        """
        if not interrupted:
            return self._keys.forget(subject)
        self._keys.sweep()
        return self._keys.unfinished[subject]

    async def _until_out_of_mind(self, request: "_Request", ids: Sequence[bytes]) -> None:
        """Wait until nothing in memory holds data that was read before the keys were destroyed."""
        await self._residents.personal_loaded_again(request.asking)
        while self.sagas is not None:
            _, streams = await self._traces(ids)
            running = [stream for stream in streams if self.sagas.is_running(stream)]
            if not running:
                return
            await self.sagas.rested(running[0])

    async def _check_sagas(self, request: "_Request", ids: Sequence[bytes]) -> None:
        """Raise `SubjectInSagas` where an unfinished saga holds data of the subject.

        Raises `SagaHoldsSubject` where a step of such a saga makes the request.
        """
        _, streams = await self._traces(ids)
        asking = None if request.cause is None else request.cause.causation_id
        if asking in streams and self.sagas is not None and self.sagas.is_running(asking):
            raise SagaHoldsSubject(request.subject, asking)
        if request.even_in_sagas:
            return
        newest = {stream: self._store.read_stream(stream, backwards=True, limit=1)[0] for stream in streams}
        under_way = [stream for stream, event in newest.items() if _is_under_way(event)]
        if under_way:
            raise SubjectInSagas(request.subject, sorted(under_way))

    async def _traces(self, ids: Sequence[bytes]) -> tuple[int, set[str]]:
        """How many events hold data sealed with one of these keys, and in which streams."""
        positions, streams = set[int](), set[str]()
        for tag in map(key_tag, ids):
            after = 0
            while batch := self._store.read_tag(tag, after=after):
                holding = [event for event in batch if event.type != SUBJECT_FORGOTTEN]
                positions.update(event.position for event in holding)
                streams.update(event.stream for event in holding)
                after = batch[-1].position
                await trio.lowlevel.checkpoint()
        return len(positions), streams

    def _tell(self, subject: str, ids: Sequence[bytes], metadata: Mapping[str, Any]) -> TrioFuture[int]:
        """Store the `SubjectForgotten` event unless it is stored; the future gives its position once it is on disk."""
        outcome: TrioFuture[int] = TrioFuture()
        tags = tuple(map(key_tag, ids))
        told = next(find_events(self._store, EventQuery(types=(SUBJECT_FORGOTTEN,), tags=(tags[0],))), None)
        if told is not None:
            outcome.settle(told.position)
            return outcome
        command_id = secrets.token_hex(8)
        event = NewEvent(
            SUBJECT_FORGOTTEN, {"subject": subject}, 1, "deleted", command_id, command_id, dict(metadata), tags
        )
        stream = f"{SUBJECTS_STREAM}-{utc_time(self._wall_clock()):%Y-%m}"

        def settle(answer: Appended | EventSourcingError) -> None:
            if isinstance(answer, Appended):
                outcome.settle(answer.last_position)
            else:
                outcome.fail(answer)

        self._journal.submit(Write((StreamAppend(stream, ANY, (event,)),), (), 1, 1, CommitSeries(), settle))
        return outcome


def _closed(subject: str) -> RuntimeClosed:
    return RuntimeClosed(f"The runtime closed before {subject!r} was forgotten. {WHAT_IS_LEFT}")


def forget_again(store: EventReader, keys: SubjectKeys | None) -> None:
    """Destroy the keys that the log records as destroyed, where the file of keys was replaced by an older copy.

    The log is read from the newest record back to the first whose keys the file already lacks: the file lacks all
    earlier ones as well. Raises `SubjectKeysUnusable`.
    """
    before = store.last_position + 1
    while keys is not None and (told := store.read_type(SUBJECT_FORGOTTEN, before=before, backwards=True, limit=1)):
        ids = [bytes.fromhex(tag.removeprefix(KEY_TAG_PREFIX)) for tag in told[0].tags]
        if not keys.forget_again(ids):
            return
        logger.warning(
            "the keys are an older copy; who was forgotten since is forgotten again", extra={"keys": keys.path}
        )
        before = told[0].position


def _check_encodable(metadata: Mapping[str, Any], limits: Limits) -> None:
    """Raise `EncodingError` or `EventTooLarge` before anything is done."""
    try:
        size_bytes = len(msgspec.msgpack.encode(dict(metadata))) + RECORD_OVERHEAD_BYTES
    except Exception as error:
        raise EncodingError(f"The metadata {dict(metadata)!r:.200} cannot be stored: {error}") from error
    if size_bytes > limits.event_size_bytes_max:
        raise EventTooLarge(SUBJECTS_STREAM, SUBJECT_FORGOTTEN, size_bytes, limits.event_size_bytes_max)


def _is_under_way(newest: StoredEvent) -> bool:
    """Whether the newest event of a stream belongs to a saga that has not ended."""
    return newest.kind == SAGA_STEP and newest.type not in ENDING_TYPES
