"""Forgetting: the keys of a subject are destroyed, and what was made of what they opened is thrown away.

The steps, each of which may be done again where it was interrupted:

1. The keys are destroyed, durably. Nothing that is stored in the log, in a snapshot, in the archive or in a copy of any
   of them can be opened any more. The file of keys remembers that the rest is still to be done. Steps of sagas that are
   under way have the rest of their time: what they store with a new key goes the same way.
2. Aggregates in memory load their states again, from their events alone: a state may hold what its class does not call
   personal.
3. For the same reason the snapshots of the streams that held something of the subject are removed, and what compaction
   has put in the place of their events is taken back.
4. The log is told, by `SubjectForgotten`: from there on every view that may show the subject is built anew, also by
   other processes, and sinks remove what they have copied.
5. The file of keys is told that all is done, and does not name the subject any more.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs
import msgspec
import trio

from ..actors.aggregates.decision import RECORD_OVERHEAD_BYTES
from ..actors.background import in_background
from ..actors.errors import EncodingError, RuntimeClosed
from ..actors.future import TrioFuture
from ..actors.journal.journal import CommitSeries, Journal, Write
from ..actors.messages import stored_name
from ..actors.sagas.instance import ENDINGS
from ..actors.sagas.supervisor import SagaSupervisor
from ..actors.serialization.personal import key_tag
from ..actors.subjects import SUBJECT_FORGOTTEN
from ..storage.commit import ANY, Appended, NewEvent, StreamAppend
from ..storage.errors import EventSourcingError, EventTooLarge
from ..storage.event_query import EventQuery
from ..storage.keys.subject_keys import SubjectKeys
from ..storage.limits import Limits
from ..storage.query import find_events
from ..storage.record import StoredEvent, utc_time
from ..storage.store import EventStore
from .errors import SubjectInSagas, UnknownSubject
from .projections.projections import Projections
from .residents import Residents

SUBJECTS_STREAM: Final = "eventsrc.subjects"
"""Before the month in the names of the streams that tell who was forgotten: a stream does not hold everybody."""
RETRY_SECONDS: Final = 60.0
"""After which what was interrupted, and could not be finished, is tried again."""
WHAT_IS_LEFT: Final = "Where its keys were destroyed, the rest is done when the store is opened again."
_ENDINGS: Final = {stored_name(ending) for ending in ENDINGS}

logger = logging.getLogger("eventsrc.forgetting")


@attrs.frozen
class Forgotten:
    """What was forgotten of a subject: how many events held something of it, in which streams.

    `position` is that of the event that says so.
    """

    subject: str
    events: int
    streams: Sequence[str]
    position: int


class Forgetting:
    """Forgets subjects, one at a time, for a runtime that writes."""

    def __init__(
        self,
        keys: SubjectKeys,
        store: EventStore,
        journal: Journal,
        residents: Residents,
        projections: Projections,
        nursery: trio.Nursery,
        take_back: Callable[[str], Awaitable[None]],
        limits: Limits,
        wall_clock: Callable[[], int],
    ) -> None:
        self._keys = keys
        self._store = store
        self._journal = journal
        self._residents = residents
        self._projections = projections
        self._nursery = nursery
        self._take_back = take_back
        self._limits = limits
        self._wall_clock = wall_clock
        self._one_at_a_time = trio.Lock()
        self.sagas: SagaSupervisor | None = None

    async def forget(self, subject: str, metadata: Mapping[str, Any], *, even_in_sagas: bool = False) -> Forgotten:
        """See `Runtime.forget`."""
        _check_encodable(metadata, self._limits)
        outcome: TrioFuture[Forgotten] = TrioFuture()
        parts = (self._forget, subject, metadata, even_in_sagas, outcome)
        self._nursery.start_soon(in_background, *parts, name="eventsrc forgetting")
        return await outcome

    async def _forget(
        self, subject: str, metadata: Mapping[str, Any], even_in_sagas: bool, outcome: TrioFuture[Forgotten]
    ) -> None:
        """To the end, also where whoever asked for it is cancelled."""
        try:
            async with self._one_at_a_time:
                ids = await trio.to_thread.run_sync(self._ids_of, subject)
                if not ids:
                    raise UnknownSubject(subject, self._keys.path)
                if not even_in_sagas:
                    await self._check_sagas(subject, ids)
                outcome.settle(await self._do(subject, metadata))
        except Exception as error:
            # Also a fault of ours: it is the answer to who asked, and the runtime goes on.
            outcome.fail(error)
        except BaseException:
            outcome.fail(RuntimeClosed(f"The runtime closed before {subject!r} was forgotten. {WHAT_IS_LEFT}"))
            raise

    def _ids_of(self, subject: str) -> list[bytes]:
        """Of its keys, also of those that were destroyed by a `forget` that did not end."""
        return [*self._keys.ids_of(subject), *self._keys.unfinished.get(subject, ())]

    async def finish_interrupted(self) -> None:
        """Go on with what was interrupted, until all is done. What goes wrong is logged, and tried again."""
        is_done = self._keys.is_empty or await self._finish_all()
        while not is_done:
            await trio.sleep(RETRY_SECONDS)
            is_done = await self._finish_all()

    async def _finish_all(self) -> bool:
        """Whether all is done."""
        try:
            for subject in await trio.to_thread.run_sync(lambda: self._keys.unfinished):
                async with self._one_at_a_time:
                    await self._do(subject, {})
        except Exception as error:
            is_expected = isinstance(error, EventSourcingError)
            logger.warning("a subject is not wholly forgotten yet: %s", error, exc_info=None if is_expected else error)
            return False
        return True

    # --- the steps ---

    async def _do(self, subject: str, metadata: Mapping[str, Any]) -> Forgotten:
        ids = await self._destroy_keys(subject)
        with self._residents.forgetting():
            # What was decided before, and the snapshots of it, are stored or refused by then.
            await self._journal.run(lambda: None)
            await self._journal.until_saved()
            events, streams = await self._traces(ids)
            await self._journal.run(partial(self._store.drop_snapshots, sorted(streams)))
            for stream in streams:
                await self._take_back(stream)
        position = await self._tell(subject, ids, metadata)
        self._projections.forget(position)
        await trio.to_thread.run_sync(self._keys.forgotten, subject)
        logger.info("forgotten", extra={"events": events, "streams": len(streams), "position": position})
        return Forgotten(subject, events, sorted(streams), position)

    async def _destroy_keys(self, subject: str) -> list[bytes]:
        """Destroy them, and what steps that were under way have stored with new ones; returns the ids of all."""
        while True:
            ids = await trio.to_thread.run_sync(self._keys.forget, subject)
            _, streams = await self._traces(ids)
            running = [] if self.sagas is None else [each for each in streams if self.sagas.is_running(each)]
            if self.sagas is None or not running:
                return ids
            await self.sagas.rested(running[0])

    async def _check_sagas(self, subject: str, ids: Sequence[bytes]) -> None:
        """Raise `SubjectInSagas` where one that has not ended holds something of the subject."""
        _, streams = await self._traces(ids)
        newest = {stream: self._store.read_stream(stream, backwards=True, limit=1)[0] for stream in streams}
        under_way = [stream for stream, event in newest.items() if _is_under_way(event)]
        if under_way:
            raise SubjectInSagas(subject, sorted(under_way))

    async def _traces(self, ids: Sequence[bytes]) -> tuple[int, set[str]]:
        """How many events hold something that is sealed with one of these keys, and in which streams."""
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

    async def _tell(self, subject: str, ids: Sequence[bytes], metadata: Mapping[str, Any]) -> int:
        """Store the event that says so, unless it is there; returns its position."""
        tags = tuple(map(key_tag, ids))[: self._limits.event_tags_max]
        told = next(find_events(self._store, EventQuery(types=(SUBJECT_FORGOTTEN,), tags=(tags[0],))), None)
        if told is not None:
            return told.position
        command_id = secrets.token_hex(8)
        event = NewEvent(
            SUBJECT_FORGOTTEN, {"subject": subject}, 1, "deleted", command_id, command_id, dict(metadata), tags
        )
        stream = f"{SUBJECTS_STREAM}-{utc_time(self._wall_clock()):%Y-%m}"
        outcome: TrioFuture[Appended] = TrioFuture()

        def settle(answer: Appended | EventSourcingError) -> None:
            if isinstance(answer, Appended):
                outcome.settle(answer)
            else:
                outcome.fail(answer)

        self._journal.submit(Write((StreamAppend(stream, ANY, (event,)),), (), 1, 1, CommitSeries(), settle))
        return (await outcome).last_position


def _check_encodable(metadata: Mapping[str, Any], limits: Limits) -> None:
    """Raise `EncodingError` or `EventTooLarge` before anything is done."""
    try:
        size_bytes = len(msgspec.msgpack.encode(dict(metadata))) + RECORD_OVERHEAD_BYTES
    except Exception as error:
        raise EncodingError(f"The metadata {dict(metadata)!r:.200} cannot be stored: {error}") from error
    if size_bytes > limits.event_size_bytes_max:
        raise EventTooLarge(SUBJECTS_STREAM, SUBJECT_FORGOTTEN, size_bytes, limits.event_size_bytes_max)


def _is_under_way(newest: StoredEvent) -> bool:
    """Whether the newest event of a stream is one of a saga that has not ended."""
    return newest.kind == "saga_step" and newest.type not in _ENDINGS
