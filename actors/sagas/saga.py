"""The saga: a class whose fields are its state and whose steps are done in order, or compensated in reverse.

    class PlaceOrder(Saga):
        order_id: str
        total: int
        payment_id: str = ""

        @step(compensation="cancel_order")
        async def create_order(self, ctx: SagaContext) -> None:
            await ctx.ask(Order, self.order_id, CreateOrder(self.total))

An undeclared attribute that a method sets (`self.note = ...`) becomes a field: it is None at first, and holds plain
data.

Every declaration is checked when the class is defined, so that a mistake shows where it was made.
"""

import dis
import inspect
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, TypeVar, dataclass_transform, overload

import attrs

from ...storage.errors import StreamNameInvalid
from ...storage.names import check_stream_name
from ..errors import DefinitionError
from ..marked_methods import STARTS_ON_MARK, STEP_MARK, check_marks, mark_of, names_in, put_mark
from ..messages import event_definition
from ..serialization.annotations import own_annotations
from ..state_fields import attrs_class, check_field, check_no_argument, check_no_cache, check_no_init

if TYPE_CHECKING:
    from .context import SagaContext

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M")
StepMethod: TypeAlias = Callable[[Any, "SagaContext"], Awaitable[None]]

SAGA_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,79}")
CATEGORY_PREFIX: Final = "saga_"
SAGA_ID_BYTES_MAX: Final = 240
"""A saga's id is a row key in the view of all sagas, and part of the idempotency key of each of its commands."""
STEP_TIMEOUT_SECONDS: Final = 60.0
"""How long an attempt at a step or compensation may run, unless the step says otherwise. Waits do not count."""
WAIT_SECONDS_MAX: Final = 200 * 365 * 86_400.0
"""The longest wait, back-off or deadline: times are stored as 64-bit nanoseconds since 1970."""
JITTER: Final = 0.25
"""The largest part of a back-off by which it is shortened or lengthened at random."""
_UNTYPED: Final = "eventsrc_untyped"
_ARGUMENTS: Final[Mapping[str, Any]] = {
    "name": str,
    "version": int,
    "signals": Sequence,
    "deadline_seconds": int | float,
    "older_instances": str,
}


def is_number(value: object) -> bool:
    """Whether the value can be a number of seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@attrs.frozen
class Retry:
    """How many attempts to make, and how long to wait between them: the wait doubles each time, with some jitter."""

    attempts: int = 1
    backoff_seconds: float = 0.1
    backoff_seconds_max: float = 60.0

    def __attrs_post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise DefinitionError(f"{self!r}: attempts are a whole number.")
        are_times = is_number(self.backoff_seconds) and is_number(self.backoff_seconds_max)
        is_backoff = are_times and 0 < self.backoff_seconds <= self.backoff_seconds_max <= WAIT_SECONDS_MAX
        if self.attempts < 1 or not is_backoff:
            raise DefinitionError(
                f"{self!r}: attempts begin at 1, backoff_seconds is positive, backoff_seconds_max no smaller."
            )

    def wait_seconds(self, attempt: int) -> float:
        """How long to wait after this attempt, counted from 1, has failed; in seconds."""
        seconds = min(self.backoff_seconds * 2.0 ** min(attempt - 1, 64), self.backoff_seconds_max)
        return seconds * random.uniform(1 - JITTER, 1 + JITTER)


COMPENSATION_RETRY: Final = Retry(attempts=10, backoff_seconds=0.5)
"""How a compensation is retried before the saga is parked, unless the step says otherwise."""


@attrs.frozen
class StepDefinition:
    """What `@step` declares for one step."""

    name: str
    method: StepMethod
    compensation: str | None
    undo: StepMethod | None
    retry: Retry
    compensation_retry: Retry
    timeout_seconds: float


@attrs.frozen
class SagaDefinition:
    """What a saga class declares."""

    name: str
    version: int
    signals: tuple[str, ...]
    deadline_seconds: float | None
    older_instances: "OlderInstances"
    steps: Mapping[str, StepDefinition]
    starts_on: Mapping[type, Callable[..., Any]]
    fields: frozenset[str]
    """The names of the fields of the state."""
    untyped: frozenset[str]
    """The fields that are not declared but set by methods."""

    @property
    def replaces_older(self) -> bool:
        """Whether instances of an older version do not go on."""
        return self.version > 1 and self.older_instances != "continue"


def saga_id(saga_class: "type[Saga]", key: str) -> str:
    """The id of a saga, which is also the name of its stream. Raises `StreamNameInvalid`."""
    if not isinstance(key, str):
        raise StreamNameInvalid(repr(key), "the key of a saga is a text: give str(key)")
    stream = f"{CATEGORY_PREFIX}{saga_class.__eventsrc_saga__.name}-{key}"
    check_stream_name(stream if key else "")
    size = len(stream.encode())
    if size > SAGA_ID_BYTES_MAX:
        raise StreamNameInvalid(stream, f"it takes {size} bytes and {SAGA_ID_BYTES_MAX} fit as the id of a saga")
    return stream


def digest_of(text: str) -> str:
    """A digest that replaces a text too long to be part of a key."""
    return "~" + blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()


OlderInstances: TypeAlias = Literal["continue", "compensate", "park"]


@overload
def step(method: F, /) -> F: ...
@overload
def step(
    *,
    compensation: str | None = None,
    retry: Retry | None = None,
    compensation_retry: Retry = COMPENSATION_RETRY,
    timeout_seconds: float = STEP_TIMEOUT_SECONDS,
) -> Callable[[F], F]: ...
def step(
    method: F | None = None,
    /,
    *,
    compensation: str | None = None,
    retry: Retry | None = None,
    compensation_retry: Retry = COMPENSATION_RETRY,
    timeout_seconds: float = STEP_TIMEOUT_SECONDS,
) -> F | Callable[[F], F]:
    """Mark a method `async def ...(self, ctx)` as the next step: `@step`, or with arguments.

    A step may be run again from its beginning, after a crash or a wait. What it does through `ctx` takes effect once.

    Args:
        method: the method, when used as `@step`.
        compensation: the name of the method that compensates the step; without one there is nothing to undo.
        retry: how a step that raises is retried. `Rejected` is final: everything done is compensated at once.
        compensation_retry: how the compensation is retried; after the last attempt the saga is parked.
        timeout_seconds: how long an attempt may run; waits through `ctx` do not count.

    Raises:
        DefinitionError: for a timeout that is not positive, a compensation that is no name, a retry that is no `Retry`,
            or when used on something that is no method.

    """
    if not isinstance(compensation, str | None):
        raise DefinitionError(f"the compensation of a step is named by a text, not by {compensation!r}")
    for declared in (retry, compensation_retry):
        if declared is not None and not isinstance(declared, Retry):
            raise DefinitionError(f"a step is retried as a Retry says, Retry(attempts=3) for one, not as {declared!r}")
    if not (is_number(timeout_seconds) and timeout_seconds > 0):
        raise DefinitionError(f"timeout_seconds of a step must be positive, not {timeout_seconds!r}")

    def decorate(method: F) -> F:
        if not inspect.isroutine(method):
            raise DefinitionError(f'@step stands over a method, not {method!r}: @step(compensation="...") names one.')
        declared = (compensation, Retry() if retry is None else retry, compensation_retry, timeout_seconds)
        put_mark(method, STEP_MARK, declared)
        return method

    return decorate if method is None else decorate(method)


def starts_on(event_class: type) -> Callable[[M], M]:
    """Mark a class method `def ...(cls, event, meta)` that makes a saga of each such event, or returns None.

    The method is called for events stored after a runtime was first opened with the class. Each event starts one saga.

    Raises `DefinitionError` if `event_class` is no event class, or when used on a class.
    """
    if not isinstance(event_class, type) or event_definition(event_class) is None:
        raise DefinitionError(f"@starts_on takes an @event class, not {event_class!r}.")

    def decorate(method: M) -> M:
        if isinstance(method, type):
            raise DefinitionError(
                f"@starts_on({event_class.__name__}) stands over the class {method.__name__}: put it over a method of "
                "it that makes the saga, with @classmethod below: def on_event(cls, event, meta)."
            )
        function = method.__func__ if isinstance(method, classmethod) else method
        put_mark(function, STARTS_ON_MARK, event_class)
        return method

    return decorate


@dataclass_transform(field_specifiers=(attrs.field,))
class Saga:
    """Base of sagas: the annotated fields of a subclass are its state, which is stored after every step.

    Class arguments, all optional: `name`, by default the class's name in snake case; `version` of the definition;
    `signals`, the names that `ctx.approval` may wait for; `deadline_seconds`, after which an unfinished saga is
    compensated; `older_instances`, which says what happens to sagas that a lower version began: "continue" (with the
    steps of this class that are not done), "compensate" or "park" (as soon as a runtime is opened, even if they wait).
    A subclass has the steps of its base before its own. An overriding method keeps the mark of the method it overrides,
    `@step` or `@starts_on`, unless it has its own.
    """

    __eventsrc_saga__: ClassVar[SagaDefinition]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int = 1,
        signals: Sequence[str] = (),
        deadline_seconds: float | None = None,
        older_instances: OlderInstances = "continue",
    ) -> None:
        super().__init_subclass__()
        check_marks(cls, STEP_MARK, STARTS_ON_MARK)
        check_no_argument(cls, "Saga", _ARGUMENTS)
        check_no_cache(cls)
        check_no_init(cls, ": the fields are its arguments")
        _declare_what_methods_set(cls, [inspect.getattr_static(cls, each) for each in names_in(cls)])
        attrs_class(cls, attrs.define(slots=False), "Saga")
        own_name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower() if name is None else name
        if not (isinstance(own_name, str) and SAGA_NAME.fullmatch(own_name)):
            raise DefinitionError(
                f"{own_name!r} cannot be the name of {cls.__name__}: use up to 80 lower-case letters, digits and "
                f'underscores, beginning with a letter: class {cls.__name__}(Saga, name="...").'
            )
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise DefinitionError(f"the version of {cls.__name__} must be a whole number from 1 on, not {version!r}")
        if deadline_seconds is not None and not (
            is_number(deadline_seconds) and 0 < deadline_seconds <= WAIT_SECONDS_MAX
        ):
            raise DefinitionError(
                f"deadline_seconds of {cls.__name__} must be positive and up to {WAIT_SECONDS_MAX:g}, not "
                f"{deadline_seconds!r}"
            )
        if older_instances not in ("continue", "compensate", "park"):
            raise DefinitionError(
                f'older_instances of {cls.__name__} is "continue", "compensate" or "park", not {older_instances!r}'
            )
        known = None if isinstance(signals, str) or not isinstance(signals, Iterable) else tuple(signals)
        if known is None or not all(isinstance(signal, str) for signal in known):
            raise DefinitionError(f"signals of {cls.__name__} is a list of names, not {signals!r}")
        fields: Mapping[str, attrs.Attribute[Any]] = attrs.fields_dict(cls)  # type: ignore[arg-type]
        for field in fields.values():
            check_field(cls, field)
        cls.__eventsrc_saga__ = SagaDefinition(
            own_name,
            version,
            known,
            deadline_seconds,
            older_instances,
            _steps(cls),
            _starts(cls),
            frozenset(fields),
            frozenset(name for name, field in fields.items() if _UNTYPED in field.metadata),
        )


def _steps(cls: type) -> dict[str, StepDefinition]:
    steps: dict[str, StepDefinition] = {}
    for attribute in names_in(cls):
        function = inspect.getattr_static(cls, attribute)
        declared = mark_of(cls, attribute, STEP_MARK)
        if declared is None or not callable(function):
            continue
        name = function.__name__
        compensation, retry, compensation_retry, timeout_seconds = declared
        _check_method(cls, function)
        undo = None
        if compensation is not None:
            undo = inspect.getattr_static(cls, compensation, None)
            if undo is None:
                raise DefinitionError(
                    f"{cls.__name__}.{name} names the compensation {compensation!r}, which {cls.__name__} does not "
                    f"have. Write it: async def {compensation}(self, ctx)."
                )
            _check_method(cls, undo)
        steps[name] = StepDefinition(name, function, compensation, undo, retry, compensation_retry, timeout_seconds)
    for each in steps.values():
        if each.compensation in steps:
            raise DefinitionError(
                f"{cls.__name__}.{each.name} names {each.compensation!r} as its compensation, which is a step, so it "
                "would also be done without a failure. Write a method without @step."
            )
    if not steps:
        raise DefinitionError(f"{cls.__name__} has no step: mark its methods with @step(), in order.")
    return steps


def _check_method(cls: type, function: Any) -> None:
    name = f"{cls.__name__}.{getattr(function, '__name__', function)}"
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(f"{name} must be async: async def ...(self, ctx).")
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2 or any(each.kind is each.KEYWORD_ONLY for each in parameters):
        raise DefinitionError(f"{name} takes self and ctx, and nothing else: what it needs belongs in the state.")
    for attribute in _set_by(function):
        is_settable = hasattr(inspect.getattr_static(cls, attribute, None), "__set__")
        if attribute not in attrs.fields_dict(cls) and not is_settable:
            raise DefinitionError(
                f"{name} sets self.{attribute}, which is no field of {cls.__name__} but an attribute of the class, so "
                f"it would be lost. Declare it: {attribute}: ... = ..."
            )


def _declare_what_methods_set(cls: type, functions: Sequence[Any]) -> None:
    """Make a field of each undeclared attribute that a method sets: else it would be lost when a step is run again."""
    declared = {name for base in cls.__mro__ for name in own_annotations(base)}
    for function in functions:
        for name in _set_by(function):
            if name not in declared and inspect.getattr_static(cls, name, attrs.NOTHING) is attrs.NOTHING:
                declared.add(name)
                cls.__annotations__ = {**own_annotations(cls), name: Any}
                setattr(cls, name, attrs.field(default=None, kw_only=True, metadata={_UNTYPED: True}))


def _set_by(method: Any) -> Iterator[str]:
    """The names of the attributes that a method sets: `self.x = ...`."""
    function = inspect.unwrap(method) if inspect.isfunction(method) else None
    if not inspect.isfunction(function) or not function.__code__.co_argcount:
        return
    own = function.__code__.co_varnames[0]
    for loaded, stored in pairwise(dis.get_instructions(function)):
        # Some versions of Python load two names at once.
        is_own = loaded.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and loaded.argrepr.rpartition(", ")[2] == own
        if stored.opname == "STORE_ATTR" and is_own:
            yield stored.argval


def _starts(cls: type) -> dict[type, Callable[..., Any]]:
    starts: dict[type, Callable[..., Any]] = {}
    for name in names_in(cls):
        attribute = inspect.getattr_static(cls, name)
        function = attribute.__func__ if isinstance(attribute, classmethod) else attribute
        event_class = mark_of(cls, name, STARTS_ON_MARK)
        if event_class is None or function is None:
            continue
        if not isinstance(attribute, classmethod):
            raise DefinitionError(
                f"{cls.__name__}.{function.__name__} makes a saga: put @classmethod below @starts_on."
            )
        if event_class in starts:
            raise DefinitionError(f"{cls.__name__} has @starts_on({event_class.__name__}) twice. Keep one of them.")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise DefinitionError(
                f"{cls.__name__}.{function.__name__} makes a saga at once: make it a plain def that returns it, and do "
                "the rest in a step."
            )
        try:
            inspect.signature(function).bind(cls, None, None)
        except TypeError as error:
            raise DefinitionError(
                f"{cls.__name__}.{function.__name__} is called with the event and where it is stored: "
                f"def {function.__name__}(cls, event, meta)."
            ) from error
        starts[event_class] = function
    return starts
