"""The context of a saga's step: what a step does through it takes effect once, however often the step is run."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn, Protocol, TypeVar, overload

import trio

from ...storage.record import NS_PER_SECOND, StoredEvent
from ...storage.store import EventReader
from ..aggregates.aggregate import Aggregate
from ..aggregates.receipt import Receipt
from ..errors import DefinitionError
from ..messages import stored_name, stored_version
from .effect_result import EffectResult
from .errors import CallAmbiguous, EffectUncertain, WaitInvalid, WaitTimeout
from .events import EffectBegun, EffectDone, EffectFailed, WaitBegun, WaitOver
from .failure import text_of
from .history import SagaHistory
from .host import Commands, SagaHost
from .saga import WAIT_SECONDS_MAX, digest_of, is_number

CALL_KEY: Final = "saga_call"
"""The metadata key by which the events of a saga's command are found again, at any later time."""
CALL_NAME_BYTES_MAX: Final = 180
"""A longer call name is replaced by its digest, so that the call's key fits `Limits.idempotency_key_bytes_max`."""
KEY_ARGUMENT: Final = "idempotency_key"

E = TypeVar("E")
T = TypeVar("T")


class StepRun(Protocol):
    """What the context needs of its run."""

    host: SagaHost
    history: SagaHistory
    stream: str
    took_effect: bool
    uncertain: dict[str, Commands]
    """By idempotency key: the sent commands of which nobody knows whether they took effect."""
    looked_until: int
    """The position up to which the run has looked for the event that the step waits for."""

    @property
    def now_ns(self) -> int:
        """The wall clock's time, in UTC nanoseconds."""

    outcomes: dict[tuple[str, str], EffectDone | EffectFailed]
    """How effects ended whose outcome this process knows but has not stored."""

    async def record(self, *events: Any) -> None:
        """Add records to the saga's stream and wait until they are on disk."""

    async def record_outcome(self, outcome: EffectDone | EffectFailed) -> None:
        """Record how an effect ended, and wait until it is on disk; if that fails, a later run still knows it."""

    def send(self, commands: Commands, key: str, timeout: float | None) -> Awaitable[list[Receipt]]:
        """Send commands with an idempotency key; several commands are sent as a transaction."""

    async def find_call(self, commands: Commands, key: str) -> list[Receipt] | None:
        """The receipts that these commands of the step, with this key, got in an earlier run; None if there is none."""

    async def find_event(self, event_type: str, where: Mapping[str, Any], after: int) -> StoredEvent | None:
        """The first event after a position with this type and these values that no earlier wait of the saga has got."""

    def check_signal(self, signal: str) -> None:
        """Raise `UnknownSignal` if the class does not declare the signal."""

    def is_in_other_task(self) -> bool:
        """Whether the current task is one that the step has started."""

    def begin_wait(self, call: str) -> None:
        """Raise `WaitInOtherTask` if the current task is one that the step has started."""

    def check_turned(self) -> None:
        """Raise the reason if the saga turns round: the step is then run only to recall what it did."""

    def suspend(self) -> NoReturn:
        """Leave the step until its wait is over."""


class SagaContext:
    """Given to every step and compensation. A call is identified by its name and how often the name occurred before."""

    def __init__(self, run: StepRun, scope: str, attempt: int) -> None:
        self.attempt = attempt
        """The number of this attempt at the step, counted from 1."""
        self._run = run
        self._scope = scope
        self._names: dict[str, int] = {}
        self._tasks: dict[str, trio.lowlevel.Task] = {}

    @property
    def saga_id(self) -> str:
        """The saga's id, which is also the name of its stream."""
        return self._run.stream

    @property
    def key(self) -> str:
        """The key with which the saga was started."""
        return self._run.history.key

    # --- inside ---

    async def ask(
        self, aggregate_class: type[Aggregate], aggregate_id: str, command: object, *, timeout: float | None = None
    ) -> Receipt:
        """Send a command to an aggregate, as `AggregateRef.ask` does. A step that is run again gets the same receipt.

        Tasks that the step has started may send commands concurrently, if each goes to another aggregate or is of
        another class.

        Raises `CallAmbiguous` if two tasks send the same class of command to one aggregate, and what `AggregateRef.ask`
        raises. A `Rejected` that leaves the step is final: the saga is compensated.
        """
        (receipt,) = await self._send([(aggregate_class, aggregate_id, command)], timeout)
        return receipt

    async def transact(self, commands: Commands, *, timeout: float | None = None) -> list[Receipt]:
        """Have several aggregates decide and commit at once, as `Runtime.transact` does.

        Raises as `ask` does, and `DefinitionError` for what is no list of tuples.
        """
        for each in commands if isinstance(commands, Sequence) else (commands,):
            if not (isinstance(each, tuple) and len(each) == 3):
                raise DefinitionError(
                    f"ctx.transact takes a list of tuples, each with a class, an id and a command, not {each!r:.100}."
                )
        return await self._send(commands, timeout)

    async def state(self, aggregate_class: type[T], aggregate_id: str) -> T:
        """A copy of an aggregate's current state. A step that is run again may see another state."""
        state: T = await self._run.host.calls.state_of(aggregate_class, aggregate_id)
        return state

    async def _send(self, commands: Commands, timeout: float | None) -> list[Receipt]:
        run = self._run
        names = [f"{_category(of)}-{aggregate_id}/{type(command).__name__}" for of, aggregate_id, command in commands]
        key = f"{run.stream}/{self._scope}/{_bounded(self._numbered('+'.join(names)))}"
        found = await run.find_call(commands, key) if commands else []
        if found is not None:
            run.took_effect = run.took_effect or bool(found)
            return found
        run.check_turned()
        # From here on the commands may take effect, whatever becomes of this step.
        run.uncertain[key] = commands
        try:
            receipts = await run.send(commands, key, timeout)
        except Exception as error:
            if not getattr(error, "may_take_effect", False):
                del run.uncertain[key]
            raise
        del run.uncertain[key]
        run.took_effect = run.took_effect or any(receipt.events for receipt in receipts)
        return receipts

    # --- outside ---

    @overload
    async def effect(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        returns: type[T],
        idempotent: bool = False,
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def effect(
        self, name: str, function: Callable[..., Any], *args: Any, idempotent: bool = False, **kwargs: Any
    ) -> Any: ...

    async def effect(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        returns: type[Any] | None = None,
        idempotent: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call an outside function once: its result is stored, and returned again when the step is run again.

        Args:
            name: the name of the effect in the saga's history.
            function: an async function, or a plain one, which is called in a worker thread. If it has a parameter
                `idempotency_key`, it gets the effect's key, which is the same for every attempt.
            args: the function's positional arguments.
            returns: the type of the result, such as `Message` or `list[Message]`: any type that a field may have.
            idempotent: whether the function may be called again if nobody knows whether the effect took place.
            kwargs: the function's keyword arguments.

        Returns:
            The result as it is read again: of the type `returns`, or else plain data that MessagePack can hold.

        Raises:
            CallAmbiguous: two tasks of the step use the same name.
            EffectUncertain: the effect was begun before, and nobody knows whether it took place.
            EncodingError: the result is no plain data, or would not come back as `returns`.
            DefinitionError: `name` is no text, `function` cannot be called, or `returns` cannot be stored or has
                personal data, which would not be sealed.
            Exception: what the function raised; the next attempt at the step calls it again.

        """
        run = self._run
        if not isinstance(name, str):
            raise DefinitionError(f"The name of an effect is a text, not {name!r}.")
        if not callable(function):
            raise DefinitionError(f"The effect {name!r} calls a function, not {function!r:.100}.")
        result = run.host.codec.result_of(name, returns)
        call = self._numbered(name)
        key = f"{run.stream}/{self._scope}/{call}"
        before = run.history.effects.get((self._scope, call))
        known = run.outcomes.get((self._scope, call))
        if isinstance(before, EffectBegun) and known is not None:
            await run.record_outcome(known)
            before = known
        if isinstance(before, EffectDone):
            run.took_effect = True
            return result.decode(before.result)
        if isinstance(before, EffectBegun) and not idempotent:
            run.took_effect = True
            raise EffectUncertain(name, key)
        run.check_turned()
        if KEY_ARGUMENT not in kwargs and _takes_key(function):
            kwargs[KEY_ARGUMENT] = key
        called = partial(function, *args, **kwargs)
        if _is_async(function):
            return await self._take_effect(call, called, result)
        # Wait for a thread first: the effect is not recorded as begun before the function can run.
        async with run.host.threads.place() as place:
            return await self._take_effect(call, partial(place.call, called), result)

    async def _take_effect(self, call: str, function: Callable[[], Awaitable[Any]], result: EffectResult) -> Any:
        run = self._run
        await run.record(EffectBegun(self._scope, call))
        run.took_effect = True
        try:
            returned = await function()
            if isinstance(returned, Awaitable):
                returned = await returned
            plain, again = result.encode(returned)
        except Exception as error:
            await run.record_outcome(EffectFailed(self._scope, call, text_of(error)))
            raise
        await run.record_outcome(EffectDone(self._scope, call, plain))
        return again

    # --- time ---

    async def sleep(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Wait for a time by the wall clock, restarts included. The wait uses no task.

        Raises `WaitInvalid` if the time cannot be waited for, and `WaitInOtherTask` in a task that the step has
        started.
        """
        run = self._run
        for argument, value in (("days", days), ("hours", hours), ("minutes", minutes), ("seconds", seconds)):
            _check_wait(argument, value)
        in_all = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        _check_wait("seconds", in_all)
        call = self._numbered("sleep")
        run.begin_wait(call)
        known = run.history.waits.get((self._scope, call))
        if known is None:
            known = self._begin(call, self._until(in_all))
            await run.record(known)
        if isinstance(known, WaitBegun):
            assert known.until_ns is not None, "a sleep has an end"
            if run.now_ns < known.until_ns:
                run.suspend()
            await run.record(WaitOver(self._scope, call))

    async def wait_for(
        self, event_class: type[E], *, where: Mapping[str, Any] | None = None, timeout_seconds: float | None = None
    ) -> E:
        """Wait for an event of a class with these field values, and return it. The wait uses no task.

        The search begins where the saga began: after the event that started the saga, or after the log's end when
        `start_saga` was called. It includes the saga's own events. Each event is given to one wait of the saga; another
        wait for the same gets the next event. Values are compared as they are stored.

        Raises `WaitTimeout` if no event came in time, `DefinitionError` for a class that is no event class or has no
        such field, `EncodingError` for a value that cannot be stored, `WaitInvalid` for a timeout that cannot be waited
        for, and `WaitInOtherTask` in a task that the step has started.
        """
        run = self._run
        _check_wait("timeout_seconds", timeout_seconds)
        if not isinstance(event_class, type):
            raise DefinitionError(f"ctx.wait_for takes the class of an event, not {event_class!r:.100}")
        event_type, version = stored_name(event_class), stored_version(event_class)
        wanted = run.host.codec.encode_where(event_class, where or {})
        call = self._numbered(f"wait for {event_type}")
        run.begin_wait(call)
        known = run.history.waits.get((self._scope, call))
        if isinstance(known, WaitOver):
            found = None if known.is_timeout else _event_at(run.host.store, known.position)
        else:
            until_ns = self._until(timeout_seconds) if known is None else known.until_ns
            after = known.after if known is not None and known.where == wanted else run.history.waits_after
            found = await run.find_event(event_type, wanted, after)
            if found is not None:
                await run.record(WaitOver(self._scope, call, found.position))
            else:
                begun = self._begin(call, until_ns, event_type, wanted, run.looked_until, event_version=version)
                is_as_before = known is not None and (known.where, known.event_version) == (wanted, version)
                await self._wait(known if is_as_before else None, begun)
        if found is None:
            raise WaitTimeout(event_type, timeout_seconds or 0)
        return run.host.codec.decode_event(found, event_class)

    async def approval(self, name: str, *, timeout_seconds: float | None = None) -> Any:
        """Wait for the signal `name`, and return its payload. The wait uses no task.

        The signal may have come before the wait. The first signal of the name counts, for every wait of the saga.

        Raises `WaitTimeout` if the signal did not come in time, `UnknownSignal` if the class does not declare it,
        `WaitInvalid` for a timeout that cannot be waited for, and `WaitInOtherTask` in a task that the step has
        started.
        """
        run = self._run
        _check_wait("timeout_seconds", timeout_seconds)
        run.check_signal(name)
        call = self._numbered(f"signal {name}")
        run.begin_wait(call)
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
        if timeout_seconds is None:
            return None
        return self._run.now_ns + int(max(timeout_seconds, 0) * NS_PER_SECOND)

    def _begin(
        self,
        call: str,
        until_ns: int | None,
        event_type: str = "",
        where: Mapping[str, Any] | None = None,
        after: int = 0,
        signal: str = "",
        event_version: int = 1,
    ) -> WaitBegun:
        # The wait cancels commands that the step's tasks have sent and that have no answer yet.
        took_effect = self._run.took_effect or bool(self._run.uncertain)
        return WaitBegun(
            self._scope,
            call,
            until_ns,
            event_type=event_type,
            where=dict(where or {}),
            after=after,
            signal=signal,
            took_effect=took_effect,
            event_version=event_version,
        )

    async def _wait(self, known: WaitBegun | None, begun: WaitBegun) -> None:
        """Leave the step; return only if the wait has timed out."""
        run = self._run
        if known is None:
            await run.record(begun)
            run.suspend()
        if known.until_ns is None or run.now_ns < known.until_ns:
            run.suspend()
        await run.record(WaitOver(begun.scope, begun.call, is_timeout=True))

    def _numbered(self, name: str) -> str:
        """The name of this call among the calls of the step, the same whenever the step is run again."""
        if self._run.is_in_other_task():
            task = trio.lowlevel.current_task()
            if self._tasks.setdefault(name, task) is not task:
                raise CallAmbiguous(name)
        names = self._names
        count, call = names.get(name, 0) + 1, name
        if count > 1:
            while (call := f"{name}#{count}") in names:
                count += 1
            names[call] = 1
        names[name] = count
        return call


def _category(aggregate_class: type[Aggregate]) -> str:
    """The prefix of the aggregate's streams, since classes may be renamed while a saga is under way."""
    definition = getattr(aggregate_class, "__eventsrc_definition__", None)
    return repr(aggregate_class) if definition is None else str(definition.category)


def _bounded(call: str) -> str:
    if len(call) <= CALL_NAME_BYTES_MAX // 4 or len(call.encode(errors="replace")) <= CALL_NAME_BYTES_MAX:
        return call
    return digest_of(call)


def _check_wait(argument: str, value: float | None) -> None:
    if value is not None and not (is_number(value) and value <= WAIT_SECONDS_MAX):
        raise WaitInvalid(argument, value, WAIT_SECONDS_MAX)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _takes_key(function: Callable[..., Any]) -> bool:
    try:
        return KEY_ARGUMENT in inspect.signature(function).parameters
    except (TypeError, ValueError):
        # Some C functions have no signature, and none of them has this parameter.
        return False


def _event_at(store: EventReader, position: int) -> StoredEvent:
    (event,) = store.read(after=position - 1, limit=1)
    return event
