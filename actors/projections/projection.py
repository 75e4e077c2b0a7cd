"""The projection: a class whose methods turn events into rows of tables, which can be queried.

Every declaration is checked when the class is defined, so that a mistake shows where it was made.
"""

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, Literal, Protocol, TypeAlias, TypeVar, overload

import attrs

from ...storage.record import StoredEvent
from ..errors import DefinitionError
from ..marked_methods import ON_MARK, check_marks, mark_of, names_in, put_mark
from ..messages import check_names, event_definition
from ..serialization.annotations import alternatives
from ..state_fields import check_no_argument

F = TypeVar("F", bound=Callable[..., None])
R = TypeVar("R")

EventMeta: TypeAlias = StoredEvent
"""What a handler gets besides the event: the stored record, with its stream, position and time."""

PROJECTION_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,99}")


class Rows(Protocol[R]):
    """A table as a projection's handlers use it: reads see earlier writes."""

    def get(self, *key: Any) -> R | None:
        """The row with this key, or None; pass a key of several fields as several arguments, in order."""

    def put(self, row: R) -> None:
        """Insert the row, or replace the row with the same key."""

    def delete(self, *key: Any) -> None:
        """Remove the row with this key, if there is one."""

    def where(self, **criteria: Any) -> list[R]:
        """All rows that meet the criteria, never a part of them. Raises `QueryTooLarge` for more than a million."""


class Table(Generic[R]):
    """Declares a table in a projection: `rows = Table(Balance, key="account", indexes=["owner"])`.

    Args:
        row_class: an attrs class.
        key: the unique field, or several fields that are unique together.
        indexes: fields by which rows are found without looking at all of them.

    Raises:
        DefinitionError: for a row class that is no attrs class, an unknown field, or no key.

    """

    def __init__(self, row_class: type[R], *, key: str | Sequence[str], indexes: str | Sequence[str] = ()) -> None:
        self.row_class = row_class
        self.key = _field_names("key", key)
        self.indexes = _field_names("indexes", indexes)
        self.name = ""
        self.projection: type[Projection]
        if not (isinstance(row_class, type) and attrs.has(row_class)):
            raise DefinitionError(f"The rows of a table are of an attrs class, and {row_class!r} is none.")
        fields = [field.name for field in attrs.fields(row_class)]
        for field in (*self.key, *self.indexes):
            if field not in fields:
                raise DefinitionError(f"{row_class.__name__} has no field {field!r}; it has {', '.join(fields)}.")
        if not self.key:
            raise DefinitionError(f"The table of {row_class.__name__} needs a key: the name of a field, or several.")

    def __set_name__(self, owner: "type[Projection]", name: str) -> None:
        self.name = name
        self.projection = owner

    @overload
    def __get__(self, instance: None, owner: type) -> "Table[R]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> Rows[R]: ...
    def __get__(self, instance: object | None, owner: type) -> "Table[R] | Rows[R]":
        # A running instance has its rows in its own `__dict__`, which takes precedence.
        if instance is None:
            return self
        raise DefinitionError(
            f"{owner.__name__}.{self.name} can be used in handlers that the runtime calls. Elsewhere query it: "
            f"runtime.view({owner.__name__}.{self.name})."
        )


def _field_names(argument: str, given: str | Sequence[str]) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else given
    if not isinstance(names, Iterable):
        raise DefinitionError(f"{argument}= of a table is the name of a field, or a list of names, not {given!r:.100}.")
    return tuple(dict.fromkeys(names))


@attrs.frozen
class ProjectionDefinition:
    """What a projection class declares: its name, its tables, and the function that handles events of each class."""

    name: str
    tables: Mapping[str, Table[Any]]
    handlers: Mapping[type, Callable[[Any, Any, EventMeta], None]]


def on(*event_classes: type) -> Callable[[F], F]:
    """Mark a method of a projection that handles events of these classes: `def opened(self, event, meta) -> None`.

    Raises `DefinitionError` for no classes, or a class that is no event class.
    """
    for event_class in event_classes:
        if not isinstance(event_class, type) or event_definition(event_class) is None:
            raise DefinitionError(f"@on takes @event classes, and {event_class!r} is none.")
    if not event_classes:
        raise DefinitionError("@on needs the event classes that the method is for: @on(Deposited).")

    def decorate(method: F) -> F:
        put_mark(method, ON_MARK, event_classes)
        return method

    return decorate


class Projection:
    """Base of projections: tables, and methods with `@on` that change their rows.

    The stored name is the class's name in snake case, or the one given: `class Board(Projection, name="board")`. A
    subclass has the tables and methods of its base, but its own rows. An overriding method handles the events of the
    method it overrides, unless it has its own `@on`. Raise `version` when the meaning of the methods changes: the view
    is then rebuilt beside the old one. A projection must keep everything in rows: setting an attribute on it raises
    `DefinitionError`.
    """

    version: ClassVar[int] = 1
    max_lag_events: ClassVar[int | None] = None
    """How many events the view may be behind the log."""
    max_lag_seconds: ClassVar[float | None] = None
    """How long the oldest event that the view has not seen may have waited."""
    on_lag: ClassVar[Literal["report", "slow_writers"]] = "report"
    """What happens at these bounds: a warning in the log, or commands wait until the view has caught up.

    A commit of more events than the bound is admitted once the view has seen all events. When the runtime closes,
    nothing waits any more.
    """

    __eventsrc_projection__: ClassVar[ProjectionDefinition]

    def __init_subclass__(cls, *, name: str | None = None) -> None:
        super().__init_subclass__()
        own_name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower() if name is None else name
        if not (isinstance(own_name, str) and PROJECTION_NAME.fullmatch(own_name)):
            raise DefinitionError(
                f"{own_name!r} cannot be the name of {cls.__name__}: use lower-case letters, digits and underscores, "
                f'beginning with a letter: class {cls.__name__}(Projection, name="...").'
            )
        check_marks(cls, ON_MARK)
        check_no_argument(cls, "Projection", {"name": str})
        if "__init__" in vars(cls):
            raise DefinitionError(
                f"{cls.__name__} has an __init__ of its own, but is made by the runtime, without arguments, and keeps "
                "nothing outside of its rows. Remove it."
            )
        tables = _tables_of(cls)
        handlers = _handlers_of(cls)
        if not tables or not handlers:
            missing = "table: rows = Table(...)" if not tables else "method with @on(...)"
            raise DefinitionError(f"The projection {cls.__name__} has no {missing}.")
        check_bounds(cls)
        cls.__eventsrc_projection__ = ProjectionDefinition(own_name, tables, handlers)

    def __setattr__(self, name: str, value: object) -> None:
        raise DefinitionError(
            f"{type(self).__name__}.{name} was set, and is stored nowhere: it would begin anew whenever the runtime is "
            "opened, while the rows go on. Keep it in a row."
        )


def _tables_of(cls: type[Projection]) -> dict[str, Table[Any]]:
    """The tables of a class by name. A table that is inherited, or has two names, is copied for each class and name."""
    found: dict[str, Table[Any]] = {}
    for name in names_in(cls):
        table = inspect.getattr_static(cls, name)
        if not isinstance(table, Table):
            continue
        if table.projection is not cls or table.name != name:
            table = Table(table.row_class, key=table.key, indexes=table.indexes)
            table.__set_name__(cls, name)
            setattr(cls, name, table)
        found[name] = table
    return found


def _handlers_of(cls: type) -> dict[type, Callable[[Any, Any, EventMeta], None]]:
    found: dict[type, Callable[[Any, Any, EventMeta], None]] = {}
    for name in names_in(cls):
        function = inspect.getattr_static(cls, name)
        for event_class in mark_of(cls, name, ON_MARK) or () if callable(function) else ():
            where = f"{cls.__name__}.{name}"
            if inspect.iscoroutinefunction(function):
                raise DefinitionError(
                    f"{where} must be a plain def: its rows are one transaction with the checkpoint. For effects "
                    "outside, use a subscription."
                )
            if inspect.isgeneratorfunction(function):
                raise DefinitionError(f"{where} yields, so nothing of it would be run. Put rows: self.rows.put(row).")
            parameters = list(inspect.signature(function).parameters.values())
            if len(parameters) != 3 or any(each.kind is each.KEYWORD_ONLY for each in parameters):
                raise DefinitionError(f"{where} takes an event and what is known of it: def {name}(self, event, meta).")
            for parameter, given in zip(parameters[1:], (event_class, StoredEvent), strict=True):
                if not _admits(_hint(function, parameter.name), given):
                    raise DefinitionError(
                        f"{where} is given a {given.__name__} and says that {parameter.name!r} is a "
                        f"{inspect.formatannotation(parameter.annotation)}. Change its annotation, or its @on(...)."
                    )
            if event_class in found:
                raise DefinitionError(
                    f"{cls.__name__}.{found[event_class].__name__} and {where} both have @on for "
                    f"{event_class.__name__}. Keep one of them."
                )
            found[event_class] = function
    check_names(found)
    return found


def _hint(function: Callable[..., Any], parameter: str) -> Any:
    try:
        return typing.get_type_hints(function).get(parameter, Any)
    except (NameError, TypeError):
        # The annotation names something that only type checkers know.
        return Any


def _admits(annotation: Any, given: type) -> bool:
    """Whether an object of the class may be passed for this annotation; True if that is not sure."""
    return any(
        part is Any or not isinstance(part, type) or issubclass(given, part) for part in alternatives(annotation)
    )


def check_bounds(cls: type[Projection]) -> None:
    """Raise `DefinitionError` for a version or a bound of the lag that is none: they may be set later."""
    if isinstance(cls.version, bool) or not isinstance(cls.version, int) or cls.version < 1:
        raise DefinitionError(f"{cls.__name__}.version must be a whole number from 1 on, not {cls.version!r}.")
    if cls.on_lag not in ("report", "slow_writers"):
        raise DefinitionError(f'{cls.__name__}.on_lag must be "report" or "slow_writers", not {cls.on_lag!r}.')
    for bound in ("max_lag_events", "max_lag_seconds"):
        value = getattr(cls, bound)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise DefinitionError(f"{cls.__name__}.{bound} must be a positive number, not {value!r}.")
        if bound == "max_lag_events" and not isinstance(value, int):
            raise DefinitionError(f"{cls.__name__}.{bound} must be a whole number, not {value!r}.")
    if cls.on_lag == "slow_writers" and cls.max_lag_events is None and cls.max_lag_seconds is None:
        raise DefinitionError(
            f"{cls.__name__} slows writers down at no bound. Give it max_lag_events or max_lag_seconds, or leave out "
            "on_lag."
        )
