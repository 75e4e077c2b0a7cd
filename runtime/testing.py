"""Tools for testing a domain: given/when/then, wall clocks, an in-memory store, and faults on demand.

    scenario(Account).given(Deposited(100)).when(Withdraw(30)).then(Withdrawn(30))
    scenario(Account).when(Withdraw(30)).then_rejected("balance")
    assert scenario(Customer).given(Registered("ann", "Ann")).forget("ann").state.name == ""
    assert event_from(Deposited, {"cents": 250}, version=1) == Deposited(2.5)

A runtime on `MemoryLog()` writes without a thread, so a test with trio's autojump clock never waits for real.
"""

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar, cast

import cattrs
import msgspec
import trio

from ..actors.aggregates.aggregate import Aggregate
from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.aggregates.decision import encode_decision
from ..actors.aggregates.request import Request
from ..actors.errors import DefinitionError, Rejected, StateReadOnly
from ..actors.messages import stored_name
from ..actors.serialization.event_codecs import EventCodec, EventCodecs
from ..actors.serialization.sealing import is_sealed
from ..actors.serialization.serializer import Serializer
from ..storage.commit import Appended, Commit
from ..storage.errors import EventSourcingError
from ..storage.keys.key_table import KeysInMemory
from ..storage.keys.subject_keys import SubjectKeys
from ..storage.limits import Limits
from ..storage.memory import MemoryLog
from ..storage.record import NS_PER_SECOND, StoredEvent
from ..storage.snapshot import Snapshot
from .arguments import check_count, check_text, checked_time_ns
from .classes import check_class
from .errors import ArgumentInvalid, HandlerIsAsync
from .settings import check_converter

__all__ = ["FaultyLog", "FollowingClock", "MemoryLog", "Scenario", "WallClock", "event_from", "scenario"]

A = TypeVar("A", bound=Aggregate)
E = TypeVar("E")
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class WallClock:
    """A wall clock that stands still until it is moved: pass it as `Runtime.open(..., wall_clock=WallClock())`.

    Raises `ArgumentInvalid` for a start that is no time with a zone. Timers of sagas read the wall clock every 30
    seconds of trio's time.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        self.now_ns = checked_time_ns("start", start)

    def __call__(self) -> int:
        """The time, in UTC nanoseconds."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Move the clock forwards, or backwards by a negative number of seconds, as real clocks sometimes move."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            raise ArgumentInvalid("seconds", seconds, "give a number of seconds")
        self.now_ns += int(seconds * NS_PER_SECOND)


class FollowingClock(WallClock):
    """A wall clock that runs along with trio's clock: on one that jumps, days of saga waits pass at once.

    Such a clock is the `autojump_clock` of pytest-trio, or `trio.testing.MockClock(autojump_threshold=0)`. Create a
    `FollowingClock` inside the trio run: with a store on disk it is called on the journal's thread.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        super().__init__(start)
        self._clock = trio.lowlevel.current_clock() if trio.lowlevel.in_trio_run() else None

    def __call__(self) -> int:
        """The time, in UTC nanoseconds."""
        if self._clock is None:
            self._clock = trio.lowlevel.current_clock()
        return self.now_ns + int(self._clock.current_time() * NS_PER_SECOND)


class FaultyLog(MemoryLog):
    """A store in memory whose next appends fail on demand."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        super().__init__(limits=limits)
        self._failures: list[Exception] = []

    def fail_next(self, error: Exception, *, times: int = 1) -> None:
        """Have the next `times` appends raise `error` and store nothing. Raises `ArgumentInvalid` for no error."""
        if not isinstance(error, Exception):
            raise ArgumentInvalid("error", error, "give the error itself: fail_next(StoreFull(path, reason))")
        check_count("times", times, least=1)
        self._failures += [error] * times

    def append(
        self, commits: Sequence[Commit], snapshots: Sequence[Snapshot] = ()
    ) -> list[Appended | EventSourcingError]:
        """Store the commits, or raise the next error that `fail_next` has set."""
        if self._failures and commits:
            raise self._failures.pop(0)
        return super().append(commits, snapshots)


def scenario(
    aggregate_class: type[A], *, aggregate_id: str = "test", converter: cattrs.Converter | None = None
) -> "Scenario[A]":
    """Begin a test of one aggregate, without a store or a runtime.

    `converter` is the one that the program gives to `Runtime.open`, if any. Raises `DefinitionError` for a class that
    is no aggregate, `ArgumentInvalid` for what is no converter.
    """
    check_class(aggregate_class, Aggregate)
    check_converter(converter)
    return Scenario(aggregate_class, aggregate_id, converter)


class Scenario(Generic[A]):
    """A test of one aggregate: given these events, when this command comes, then these events follow.

    Events go through the serializer as they would through a store, so a field that cannot be stored fails here.
    """

    def __init__(self, aggregate_class: type[A], aggregate_id: str, converter: cattrs.Converter | None = None) -> None:
        self._keys = SubjectKeys(KeysInMemory())
        self._type = AggregateType(aggregate_class, Serializer(converter, self._keys))
        self._past: list[tuple[EventCodec, bytes]] = []
        self._stream = self._type.stream(aggregate_id)
        self.state: A = cast("A", self._type.initial_state(aggregate_id))
        """The aggregate's state after every event so far."""
        self._version = 0
        self._events: tuple[Any, ...] = ()
        self._rejection: Rejected | None = None
        self._is_sent = False

    def given(self, *events: object) -> "Scenario[A]":
        """Apply past events. Raises `ArgumentInvalid` for an object that is no event that the aggregate applies."""
        for event in events:
            codec = self._type.codecs.get(type(event))
            if codec is None:
                names = ", ".join(each.__name__ for each in self._type.appliers)
                advice = f"give objects of events that {type(self.state).__name__} applies: {names}"
                raise ArgumentInvalid("event", event, advice)
            payload, as_stored = self._type.encode_event(codec, event)
            self._past.append((codec, payload))
            self._type.appliers[codec.event_class](self.state, as_stored)
        self._version += len(events)
        return self

    def forget(self, subject: str) -> "Scenario[A]":
        """Forget a subject: the state becomes the one that its events give without the subject's data.

        Asserts that the events hold personal data of the subject, and that in a snapshot of the state before every
        field without a mark has the same value: a field that still shows the subject is to be marked as personal.
        """
        snapshot = msgspec.msgpack.decode(self._type.encode_state(self.state))
        self._keys.flush()
        _check(
            bool(self._keys.forget(subject)),
            f"nothing personal of {subject!r} was given: look at the id, which is the one that personal fields name",
        )
        aggregate_id, was_deleted = self.state.id, self.state.is_deleted
        self.state = cast("A", self._type.initial_state(aggregate_id))
        for codec, payload in self._past:
            event = codec.structure(msgspec.msgpack.decode(payload), codec.event_class)
            self._type.appliers[codec.event_class](self.state, event)
        now = self._type.data(self.state)
        kept = now if was_deleted else self._type.data(self._type.decode_state(snapshot, aggregate_id))
        telling = [name for name, value in kept.items() if value != now[name] and not is_sealed(snapshot.get(name))]
        if telling:
            name = telling[0]
            raise AssertionError(
                f"{type(self.state).__name__}.{name} would be {kept[name]!r} in a snapshot, and is "
                f"{now[name]!r} once {subject!r} is forgotten: mark the field "
                f"with Annotated[..., Personal(...)], naming what holds {subject!r}"
            )
        return self

    def when(self, command: object) -> "Scenario[A]":
        """Send a command, and apply the events that it makes. Async handlers are run to their end (see `when_async`).

        Raises the runtime's errors: `UnknownCommand`, `NotAnEvent`, ...; `Rejected` is kept for `then_rejected`. A
        handler that changes the state, including a list or dict in it, raises `StateReadOnly`.
        """
        if type(command) in self._type.async_commands and trio.lowlevel.in_trio_run():
            raise HandlerIsAsync
        returned = None
        with self._deciding():
            returned = _finished(self._type.decide(self.state, self._version, command))
        return self._take(command, returned)

    async def when_async(self, command: object) -> "Scenario[A]":
        """`when` in an async test, for async handlers: `(await scenario(...).when_async(Transfer(5))).then(...)`."""
        returned = None
        with self._deciding():
            returned = self._type.decide(self.state, self._version, command)
            if inspect.isawaitable(returned):
                returned = await returned
        return self._take(command, returned)

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """Surrounds a handler's decision: keeps a rejection, and checks that the state is unchanged."""
        self._events, self._rejection, self._is_sent = (), None, True
        before = self._type.data(self.state)
        try:
            yield
        except Rejected as rejection:
            self._rejection = rejection
        for field, value in self._type.data(self.state).items():
            if value != before[field]:
                raise StateReadOnly(type(self.state), field)

    def _take(self, command: object, returned: Any) -> "Scenario[A]":
        if self._rejection is not None:
            return self
        decision = encode_decision(
            self._type, self._stream, self._version, Request(command, "test", "test"), returned, Limits()
        )
        self._events = decision.events
        return self.given(*decision.events)

    def then(self, *events: object) -> "Scenario[A]":
        """Assert that the command made exactly these events."""
        self._check_sent()
        _check(self._rejection is None, f"the command was rejected: {self._rejection}")
        expected = self._as_stored(events)
        _check(self._events == expected, f"the command made {list(self._events)}, not {list(expected)}")
        return self

    def then_rejected(self, match: str = "") -> "Scenario[A]":
        """Assert that the domain rejected the command, with a message that the regular expression `match` finds."""
        check_text("match", match)
        self._check_sent()
        _check(self._rejection is not None, f"the command was not rejected; it made {list(self._events)}")
        _check(re.search(match, str(self._rejection)) is not None, f"{str(self._rejection)!r} does not match {match!r}")
        return self

    def _check_sent(self) -> None:
        _check(self._is_sent, "no command was sent: write when(command) before it is said what follows")

    def _as_stored(self, events: Sequence[object]) -> tuple[object, ...]:
        codecs = self._type.codecs
        return tuple(
            self._type.encode_event(codecs[type(event)], event)[1] if type(event) in codecs else event
            for event in events
        )


def _check(holds: bool, otherwise: str) -> None:
    """Like `assert`, but also under `python -O`, which drops asserts except those that pytest rewrites."""
    if not holds:
        raise AssertionError(otherwise)


def event_from(
    event_class: type[E], payload: Mapping[str, Any], *, version: int, converter: cattrs.Converter | None = None
) -> E:
    """The event that a payload stored with this schema version is read as; for tests of upcasters.

    `converter` is the one that the program gives to `Runtime.open`, if any.

    Raises `EventVersionUnknown`, `UpcasterFailed` or `DecodingError`, as opening a store with this event would;
    `DefinitionError` for a class that is no event, `ArgumentInvalid` for a payload that could not be stored.
    """
    if not isinstance(event_class, type):
        raise DefinitionError(f"event_from takes the class of an event, not {event_class!r:.100}")
    check_count("version", version, least=1)
    check_converter(converter)
    try:
        stored_payload = msgspec.msgpack.decode(msgspec.msgpack.encode(dict(payload)), type=dict[str, Any])
    except Exception as error:
        raise ArgumentInvalid("payload", payload, f"give a dict of plain data, as it was stored ({error})") from error
    stored = StoredEvent(
        position=1,
        stream="test-1",
        version=1,
        type=stored_name(event_class),
        schema_version=version,
        kind="created",
        time_ns=0,
        correlation_id="",
        causation_id="",
        metadata={},
        payload=stored_payload,
        tags=(),
        hash=b"",
    )
    serializer = Serializer(converter, SubjectKeys(KeysInMemory()))
    codecs = EventCodecs([event_class], serializer)
    return cast("E", codecs.decode_as(codecs.of_class[event_class], stored))


def _finished(returned: Any) -> Any:
    if not inspect.iscoroutine(returned):
        return returned

    async def finish() -> Any:
        return await returned

    return trio.run(finish)
