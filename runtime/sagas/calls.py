"""The calls of sagas' steps to aggregates, and the search for their effects, however long ago they took place."""

from collections.abc import Callable, Container, Mapping
from typing import Any

import trio

from ...actors.aggregates.aggregate import Aggregate
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.aggregates.receipt import Receipt
from ...actors.errors import AggregateDeleted, CommandTimeout, DecodingError, EncodingError
from ...actors.journal.journal import CommitSeries
from ...actors.sagas.context import CALL_KEY
from ...actors.sagas.host import Commands
from ...storage.event_query import EventQuery
from ...storage.query import find_batches, find_events
from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..arguments import checked_timeout
from ..reference import AggregateRef
from ..router import Router
from ..transaction import Part, Transaction, part_key


class SagaCalls:
    """Sends the commands of sagas, with their keys in the metadata of the events; fulfils `AggregateCalls`."""

    def __init__(
        self,
        router: Router,
        store: EventReader,
        type_of: Callable[[type[Aggregate]], AggregateType],
        payload_of: Callable[[StoredEvent], Mapping[str, Any] | None],
    ) -> None:
        self._router = router
        self._store = store
        self._type_of = type_of
        self._payload_of = payload_of

    async def send(
        self, commands: Commands, key: str, timeout: float | None, *, is_new: bool, follows: CommitSeries
    ) -> list[Receipt]:
        """Send commands, as a transaction if there are several; see `AggregateCalls`."""
        seconds = checked_timeout(timeout, self._router.limits)
        if len(commands) == 1:
            ((aggregate_class, aggregate_id, command),) = commands
            ref: AggregateRef[Any] = AggregateRef(self._router, self._type_of(aggregate_class), aggregate_id)
            request = self._router.request(command, None, key, None, {CALL_KEY: key})
            request.has_fresh_key = is_new
            request.follows = follows
            return [await ref.ask_request(request, seconds)]
        parts = [
            Part(self._type_of(of), aggregate_id, command, {CALL_KEY: part_key(key, number)})
            for number, (of, aggregate_id, command) in enumerate(commands)
        ]
        return await Transaction(self._router, parts, (), key, None, None, None, [follows]).run(seconds)

    async def state_of(self, aggregate_class: type[Any], aggregate_id: str) -> Any:
        """An aggregate's state after all commands that were sent before."""
        return await AggregateRef(self._router, self._type_of(aggregate_class), aggregate_id).state()

    async def find(self, commands: Commands, key: str, after: int) -> list[Receipt] | None:
        """The receipts of commands with this key, where any of them stored events after a position; otherwise None."""
        types = [(self._type_of(of), aggregate_id) for of, aggregate_id, _ in commands]
        found = [
            await self._events(of.stream(aggregate_id), part_key(key, number), after)
            for number, (of, aggregate_id) in enumerate(types)
        ]
        position = max((events[-1].position for events in found if events), default=0)
        if not position:
            return None
        return [
            self._receipt(of, of.stream(aggregate_id), events, position)
            for (of, aggregate_id), events in zip(types, found, strict=True)
        ]

    async def _events(self, stream: str, key: str, after: int) -> list[StoredEvent]:
        """The events of one command, which are adjacent in their stream."""
        head = self._store.head(stream)
        found: list[StoredEvent] = []
        if head is None or head.position <= after:
            return found
        for batch in find_batches(self._store, EventQuery(after=after), stream=stream):
            for event in batch:
                if event.metadata.get(CALL_KEY) == key:
                    found.append(event)
                elif found:
                    return found
            await trio.lowlevel.checkpoint()
        return found

    def _receipt(self, of: AggregateType, stream: str, events: list[StoredEvent], position: int) -> Receipt:
        if events:
            decoded = tuple(of.decode_event(event) for event in events)
            return Receipt(stream, events[-1].version, events[-1].position, decoded, True)
        # The aggregate took part in a transaction without an event: the receipt tells its stream as of then.
        before = next(find_events(self._store, EventQuery(), stream=stream, before=position, backwards=True), None)
        return Receipt(stream, before.version if before else 0, before.position if before else 0, (), True)

    async def took_effect(self, commands: Commands, key: str, after: int) -> bool:
        """Whether commands that were sent have stored events by now; True where that cannot be found out."""
        for aggregate_class, aggregate_id, _ in commands:
            try:
                # The answer comes when all earlier commands are stored or refused.
                await self.state_of(aggregate_class, aggregate_id)
            except (AggregateDeleted, EncodingError):
                continue
            except CommandTimeout:
                return True
        return await self.find(commands, key, after) is not None

    async def has_calls(self, prefix: str, after: int, until: int) -> bool:
        """Whether any command whose key has this prefix stored events between two positions."""
        for batch in find_batches(self._store, EventQuery(after=after), before=until + 1):
            for event in batch:
                if str(event.metadata.get(CALL_KEY, "")).startswith(prefix):
                    return True
            await trio.lowlevel.checkpoint()
        return False

    async def find_event(
        self, event_type: str, where: Mapping[str, Any], after: int, until: int, unless: Container[int]
    ) -> StoredEvent | None:
        """The first event of a type with these stored values between two positions, except those at `unless`.

        Raises `DecodingError` where the payload of an event before it cannot be read.
        """
        for batch in find_batches(self._store, EventQuery(types=[event_type], after=after), before=until + 1):
            for event in batch:
                if event.position not in unless and _holds(self._payload_of(event), where):
                    return event
            await trio.lowlevel.checkpoint()
        return None

    def came(self, event_type: str, where: Mapping[str, Any], after: int, until: int) -> bool:
        """Whether an event of a type with these stored values is, or may be, between two positions."""
        events = find_events(self._store, EventQuery(types=[event_type], after=after), before=until + 1)
        try:
            return any(_holds(self._payload_of(event), where) for event in events)
        except DecodingError:
            return True  # the search itself raises the error


def _holds(payload: Mapping[str, Any] | None, where: Mapping[str, Any]) -> bool:
    """Whether a payload has these values; a payload that no class can read may have them."""
    return payload is None or all(name in payload and payload[name] == value for name, value in where.items())
