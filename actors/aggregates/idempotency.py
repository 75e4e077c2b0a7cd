"""The idempotency keys of one aggregate's commands: those on their way to the disk, and those in the log."""

from collections.abc import Iterable

from ...storage.commit import IdempotencyEntry
from ...storage.limits import Limits
from ...storage.record import NS_PER_SECOND
from ..messages import command_definition
from .aggregate_type import AggregateType
from .host import AggregateHost
from .receipt import Receipt
from .request import Request
from .turn import Reply, Turn


class IdempotencyKeys:
    """Knows whether a command was taken before."""

    __slots__ = ("_host", "_in_flight", "_looked_up", "_stream", "_type")

    def __init__(self, host: AggregateHost, aggregate_type: AggregateType, stream: str) -> None:
        self._host = host
        self._type = aggregate_type
        self._stream = stream
        self._in_flight: dict[str, Reply] | None = None
        self._looked_up: dict[str, IdempotencyEntry | None] | None = None

    def look_up(self, requests: Iterable[Request]) -> None:
        """Read the keys of several commands from the log at once. Call `drop_looked_up` when they are decided."""
        self._looked_up = self._read([request.idempotency_key for request in requests])

    def drop_looked_up(self) -> None:
        """Drop what `look_up` found."""
        self._looked_up = None

    def in_flight(self, key: str) -> Reply | None:
        """The reply of the command with this key that is on its way to the disk, if any."""
        return self._in_flight.get(key) if self._in_flight else None

    def receipt(self, key: str) -> Receipt | None:
        """The receipt of the stored command with this key, marked as a duplicate; None if there is none."""
        known = self._looked_up
        if known is None or key not in known:
            known = self._read([key])
        entry = known[key]
        if entry is None:
            return None
        # A command without events was answered with the stream's last event.
        first = entry.version - max(entry.event_count, 1) + 1
        stored = self._host.store.read_stream(
            self._stream, from_version=max(first, 1), to_version=entry.version, limit=max(entry.event_count, 1)
        )
        position = stored[-1].position if stored else 0
        events = tuple(self._type.decode_event(event) for event in stored) if entry.event_count else ()
        return Receipt(self._stream, entry.version, position, events, True)

    def remember(self, turn: Turn, request: Request, key: str, reply: Reply) -> None:
        """Add the key of a decided command to its turn."""
        expires_ns = self._host.wall_clock() + int(window_seconds(request.command, self._host.limits) * NS_PER_SECOND)
        # -1 if no event of the turn comes before the answer: the entry then refers to the stream's last stored event.
        offset = reply.version - turn.base_version - 1
        turn.idempotency.append(
            IdempotencyEntry(self._stream, key, reply.version, offset, len(reply.events), expires_ns)
        )
        reply.key = key
        if self._looked_up is not None:
            # The looked-up entry is out of date; another command with this key looks it up again.
            self._looked_up.pop(key, None)
        if self._in_flight is None:
            self._in_flight = {}
        self._in_flight[key] = reply

    def settled(self, key: str) -> None:
        """Note that the commit of the command with this key was stored, or failed."""
        if self._looked_up is not None:
            # At the time of the look-up the command was in flight, not in the log.
            self._looked_up.pop(key, None)
        if self._in_flight is not None:
            del self._in_flight[key]

    def _read(self, keys: Iterable[str | None]) -> dict[str, IdempotencyEntry | None]:
        given = [key for key in keys if key is not None]
        if not given:
            return {}
        found = self._host.store.idempotency(self._stream, given, now_ns=self._host.wall_clock())
        return {key: found.get(key) for key in given}


def window_seconds(command: object, limits: Limits) -> float:
    """How long the idempotency key of a command is remembered, in seconds."""
    declared = command_definition(type(command))
    own = None if declared is None else declared.idempotency_window_seconds
    return limits.idempotency_window_seconds if own is None else own
