"""What a step of a saga has in its hands: everything it does through it takes effect once, however often it is run."""

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import msgspec
import trio

from ..storage.record import StoredEvent
from .aggregate import Aggregate
from .errors import EncodingError
from .messages import stored_name
from .receipt import Receipt
from .saga_errors import EffectUncertain, WaitTimeout
from .saga_events import EffectBegun, EffectDone, EffectFailed, WaitBegun, WaitOver
from .saga_history import SagaHistory

CALL_KEY: Final = "saga_call"
"""The metadata by which the events of a saga's command are found again, however long ago it was."""
KEY_ARGUMENT: Final = "idempotency_key"

E = TypeVar("E")
T = TypeVar("T")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class Suspended(BaseException):
    """Leaves a step that waits: it is run again, from its beginning, when the wait is over."""


class StepCalls(Protocol):
    """What the context needs of the run that it belongs to."""

    history: SagaHistory
    stream: str
    took_effect: bool

    @property
    def now_ns(self) -> int:
        """The wall clock's time."""

    @property
    def looks_back(self) -> bool:
        """Whether the step was begun before, so that its commands may have taken effect already."""

    async def record(self, *events: Any) -> None:
        """Put records into the saga's stream and wait until they are on disk."""

    async def send(
        self, commands: Sequence[tuple[type[Aggregate], str, object]], key: str, timeout: float | None
    ) -> list[Receipt]:
        """Send commands, as a transaction if there are several, with an idempotency key."""

    async def state_of(self, aggregate_class: type[Any], aggregate_id: str) -> Any:
        """An aggregate's state."""

    def find_call(self, aggregate_class: type[Aggregate], aggregate_id: str, key: str) -> Receipt | None:
        """What a command of this step, with this key, was answered in an earlier run."""

    def find_event(self, event_type: str, where: Mapping[str, Any], after: int) -> StoredEvent | None:
        """The first event of a type with these values in its payload, after a position."""

    def decode(self, stored: StoredEvent) -> Any:
        """A stored event as an object of its class."""

    def position(self) -> int:
        """Where the log is."""

    def check_signal(self, signal: str) -> None:
        """Raise `UnknownSignal` for what the class does not declare."""


class SagaContext:
    """Given to every step and compensation. Each call is named by what it is and how often that came before."""

    def __init__(self, run: StepCalls, scope: str, attempt: int) -> None:
        self.attempt = attempt
        """Which attempt at the step this is, counted from 1."""
        self._run = run
        self._scope = scope
        self._names: Counter[str] = Counter()

    @property
    def saga_id(self) -> str:
        """The saga's id, which is the name of its stream."""
        return self._run.stream

    @property
    def key(self) -> str:
        """The key that the saga was started with."""
        return self._run.history.key

    # --- inside ---

    async def ask(
        self, aggregate_class: type[Aggregate], aggregate_id: str, command: object, *, timeout: float | None = None
    ) -> Receipt:
        """Send a command to an aggregate, as `AggregateRef.ask` does; a step that is run again gets the same receipt.

        Raises what `ask` raises. `Rejected` that leaves the step is final: the saga is compensated.
        """
        (receipt,) = await self._send([(aggregate_class, aggregate_id, command)], timeout)
        return receipt

    async def transact(
        self, commands: Sequence[tuple[type[Aggregate], str, object]], *, timeout: float | None = None
    ) -> list[Receipt]:
        """Have several aggregates decide and commit at once, as `Runtime.transact` does."""
        return await self._send(commands, timeout)

    async def state(self, aggregate_class: type[T], aggregate_id: str) -> T:
        """A copy of an aggregate's state as it is now: a step that is run again may see another one."""
        state: T = await self._run.state_of(aggregate_class, aggregate_id)
        return state

    async def _send(
        self, commands: Sequence[tuple[type[Aggregate], str, object]], timeout: float | None
    ) -> list[Receipt]:
        run = self._run
        names = [f"{of.__name__}/{aggregate_id}/{type(command).__name__}" for of, aggregate_id, command in commands]
        key = f"{run.stream}/{self._scope}/{self._numbered('+'.join(names))}"
        if run.looks_back and commands:
            found = [run.find_call(of, aggregate_id, key) for of, aggregate_id, _ in commands]
            receipts = [receipt for receipt in found if receipt is not None]
            if len(receipts) == len(commands):
                run.took_effect = True
                return receipts
        receipts = await run.send(commands, key, timeout)
        run.took_effect = run.took_effect or any(receipt.events for receipt in receipts)
        return receipts

    # --- outside ---

    async def effect(
        self, name: str, function: Callable[..., Any], *args: Any, idempotent: bool = False, **kwargs: Any
    ) -> Any:
        """Call something outside, once: what it returned is stored, and returned again when the step is run again.

        Args:
            name: what the effect is called in the saga's history.
            function: an async function, or a plain one, which is called in a worker thread. If it has a parameter
                `idempotency_key`, it gets the effect's key, which stays the same whenever it is tried again.
            args: what it is called with.
            idempotent: it may be called again where nobody knows whether it took place.
            kwargs: the same by name.

        Returns:
            What it returned, as plain data: what MessagePack can hold.

        Raises:
            EffectUncertain: it was begun before, and nobody knows whether it took place.
            EncodingError: what it returned is no plain data.
            Exception: what it raised; the next attempt at the step calls it again.

        """
        run = self._run
        call = self._numbered(name)
        key = f"{run.stream}/{self._scope}/{call}"
        before = run.history.effects.get((self._scope, call))
        if isinstance(before, EffectDone):
            run.took_effect = True
            return before.result
        if isinstance(before, EffectBegun) and not idempotent:
            run.took_effect = True
            raise EffectUncertain(name, key)
        await run.record(EffectBegun(self._scope, call))
        run.took_effect = True
        if KEY_ARGUMENT not in kwargs and _takes_key(function):
            kwargs[KEY_ARGUMENT] = key
        try:
            plain = _as_data(name, await _called(function, args, kwargs))
        except Exception as error:
            await run.record(EffectFailed(self._scope, call, repr(error)))
            raise
        await run.record(EffectDone(self._scope, call, plain))
        return plain

    # --- time ---

    async def sleep(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Wait so long by the wall clock, restarts included. Costs no task."""
        run = self._run
        call = self._numbered("sleep")
        known = run.history.waits.get((self._scope, call))
        if known is None:
            duration = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
            until_ns = run.now_ns + int(duration * 1e9)
            known = WaitBegun(self._scope, call, until_ns, took_effect=run.took_effect)
            await run.record(known)
        if isinstance(known, WaitBegun):
            assert known.until_ns is not None, "a sleep has an end"
            if run.now_ns < known.until_ns:
                raise Suspended
            await run.record(WaitOver(self._scope, call))

    async def wait_for(
        self, event_class: type[E], *, where: Mapping[str, Any] | None = None, timeout_seconds: float | None = None
    ) -> E:
        """Wait for an event, stored after the saga was started, whose fields have these values. Costs no task.

        Raises `WaitTimeout` when none came in time, `DefinitionError` for what is no event class.
        """
        run = self._run
        event_type, wanted = stored_name(event_class), dict(where or {})
        call = self._numbered(f"wait for {event_type}")
        known = run.history.waits.get((self._scope, call))
        if isinstance(known, WaitOver):
            found = None if known.is_timeout else run.find_event(event_type, {}, known.position - 1)
        else:
            position = run.position()
            found = run.find_event(event_type, wanted, run.history.started_position)
            if found is not None:
                await run.record(WaitOver(self._scope, call, found.position))
            else:
                until_ns = self._until(timeout_seconds)
                await self._wait(known, self._begin(call, until_ns, event_type, wanted, position))
        if found is None:
            raise WaitTimeout(event_type, timeout_seconds or 0)
        event: E = run.decode(found)
        return event

    async def approval(self, name: str, *, timeout_seconds: float | None = None) -> Any:
        """Wait for the signal `name`, and return what came with it. Costs no task.

        Raises `WaitTimeout` when it did not come in time, `UnknownSignal` for one that the class does not declare.
        """
        run = self._run
        run.check_signal(name)
        call = self._numbered(f"signal {name}")
        known = run.history.waits.get((self._scope, call))
        if not isinstance(known, WaitOver):
            if name in run.history.signals:
                await run.record(WaitOver(self._scope, call))
                return run.history.signals[name]
            until_ns = self._until(timeout_seconds)
            await self._wait(known, self._begin(call, until_ns, signal=name))
        elif not known.is_timeout:
            return run.history.signals[name]
        raise WaitTimeout(f"the signal {name!r}", timeout_seconds or 0)

    def _until(self, timeout_seconds: float | None) -> int | None:
        return None if timeout_seconds is None else self._run.now_ns + int(timeout_seconds * 1e9)

    def _begin(
        self,
        call: str,
        until_ns: int | None,
        event_type: str = "",
        where: Mapping[str, Any] | None = None,
        after: int = 0,
        signal: str = "",
    ) -> WaitBegun:
        took_effect = self._run.took_effect
        return WaitBegun(self._scope, call, until_ns, event_type, dict(where or {}), after, signal, took_effect)

    async def _wait(self, known: WaitBegun | None, begun: WaitBegun) -> None:
        """Leave the step, unless it has waited long enough: then return."""
        run = self._run
        if known is None:
            await run.record(begun)
            raise Suspended
        if known.until_ns is None or run.now_ns < known.until_ns:
            raise Suspended
        await run.record(WaitOver(begun.scope, begun.call, is_timeout=True))

    def _numbered(self, name: str) -> str:
        self._names[name] += 1
        count = self._names[name]
        return name if count == 1 else f"{name}#{count}"


def _takes_key(function: Callable[..., Any]) -> bool:
    try:
        return KEY_ARGUMENT in inspect.signature(function).parameters
    except (TypeError, ValueError):
        # Some functions of C have no signature, and none of them has this parameter.
        return False


def _as_data(name: str, result: Any) -> Any:
    """The result as it will be read again."""
    try:
        return _decode(_encode(result))
    except Exception as error:
        raise EncodingError(f"The effect {name!r} returned what is no plain data: {error}") from error


async def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not inspect.iscoroutinefunction(function):
        result = await trio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)
    else:
        result = function(*args, **kwargs)
    return await result if isinstance(result, Awaitable) else result
