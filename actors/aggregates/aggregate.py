"""The aggregate: a domain class whose fields are its state, with methods that decide and methods that apply.

Every declaration is checked when the class is defined, so that a mistake shows where it was made.
"""

import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, TypeVar, dataclass_transform

import attrs

from ..errors import DefinitionError, Rejected, StateReadOnly
from ..marked_methods import ROLE_MARK, check_marks, mark_of, names_in, put_mark
from ..messages import check_names, command_definition, event_definition
from ..serialization.annotations import alternatives
from ..state_fields import check_field, check_no_argument, check_no_cache, check_no_init
from .snapshot_policy import Snapshots
from .tombstone import Delete, Deleted, Recreate, Recreated

F = TypeVar("F", bound=Callable[..., Any])

CATEGORY: Final = re.compile(r"[a-z][a-z0-9_]{0,99}")
_ID: Final = "_eventsrc_id"
_IS_DELETED: Final = "_eventsrc_is_deleted"
IS_DECIDING: Final = "_eventsrc_is_deciding"
"""Present in the `__dict__` of a state while a handler decides on it: the fields cannot be set then."""


@attrs.frozen
class AggregateDefinition:
    """What an aggregate class declares: the function that handles or applies objects of each class."""

    category: str
    handlers: Mapping[type, Callable[[Any, Any], Any]]
    appliers: Mapping[type, Callable[[Any, Any], None]]
    event_classes: tuple[type, ...]
    snapshots: Snapshots | None
    """When the state is stored as a snapshot; None means as `Limits` say."""


def handles(method: F) -> F:
    """Mark a method that decides on commands of the class that annotates its parameter (`A | B`: of either class).

    The method returns an event, several events, or None, or raises `Rejected`. It may be `async def`. It must not
    change the state: setting a field raises `StateReadOnly`. Changes inside a list or dict are not detected here, only
    by `scenario` in `eventsrc.runtime.testing`. An exception that is no `Exception` (`SystemExit`, say) does not answer
    the command: it ends the program.
    """
    _check_routine(method, "handles")
    put_mark(method, ROLE_MARK, "handles")
    return method


def applies(method: F) -> F:
    """Mark a method that changes the state by an event of the class that annotates its parameter.

    The method is called for each new event, and again whenever the state is made from the log. It must not decide, fail
    or reach outside.
    """
    _check_routine(method, "applies")
    put_mark(method, ROLE_MARK, "applies")
    return method


def _check_routine(method: object, role: str) -> None:
    if not inspect.isroutine(method):
        raise DefinitionError(
            f"@{role} is written without an argument, and was given {method!r}: it is for the class that the method's "
            "parameter is annotated with."
        )


@dataclass_transform(field_specifiers=(attrs.field,))
class Aggregate:
    """Base of aggregates: the annotated fields of a subclass are its state.

    Every field needs a default; the defaults are the state before the first event. The stream of an aggregate is named
    `<category>-<id>`. The category is the class's name in lower case, or the one given: `class Aircraft(Aggregate,
    category="plane")`. `snapshots=` says when the state is stored; by default as the base class says, or every
    `Limits.snapshot_every_events` events. A method that sets an undeclared attribute fails with `DefinitionError`: no
    snapshot would hold it. A subclass inherits the methods of its base. An overriding method keeps the mark of the
    method it overrides, `@handles` or `@applies`, unless it has its own.
    """

    __eventsrc_definition__: ClassVar[AggregateDefinition]
    __eventsrc_settable__: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, *, category: str | None = None, snapshots: Snapshots | None = None) -> None:
        super().__init_subclass__()
        check_marks(cls, ROLE_MARK)
        check_no_argument(cls, "Aggregate", {"category": str, "snapshots": Snapshots})
        check_no_cache(cls)
        check_no_init(cls, ", and give the fields the defaults that they begin with")
        attrs.define(cls, slots=False)
        _check_fields(cls)
        cls.__eventsrc_settable__ = frozenset(_settable_names(cls))
        if "__setattr__" in vars(cls):  # attrs writes a __setattr__ for fields with converters or validators
            cls.__setattr__ = _watched(vars(cls)["__setattr__"])  # type: ignore[method-assign, assignment]
        own_category = cls.__name__.lower() if category is None else category
        if not (isinstance(own_category, str) and CATEGORY.fullmatch(own_category)):
            raise DefinitionError(
                f"{own_category!r} cannot be the category of {cls.__name__}: use lower-case letters, digits and "
                f'underscores, beginning with a letter: class {cls.__name__}(Aggregate, category="...").'
            )
        if not isinstance(snapshots, Snapshots | None):
            raise DefinitionError(
                f"snapshots={snapshots!r} of {cls.__name__} is no policy: give Snapshots.every(...) or the like."
            )
        local_names = sys._getframe(1).f_locals
        handlers = _methods(cls, "handles", local_names)
        appliers = _methods(cls, "applies", local_names)
        _check_promises(cls, handlers, appliers, local_names)
        check_names(appliers)
        cls.__eventsrc_definition__ = AggregateDefinition(
            own_category, handlers, appliers, tuple(appliers), snapshots or _inherited_snapshots(cls)
        )

    @property
    def id(self) -> str:
        """The aggregate's id, without the category."""
        aggregate_id: str = self.__dict__.get(_ID, "")
        return aggregate_id

    @property
    def is_deleted(self) -> bool:
        """Whether the aggregate was deleted and not recreated since. Its fields then have their defaults."""
        return _IS_DELETED in self.__dict__

    @handles
    def decide_deletion(self, command: Delete) -> Deleted:
        """Accept a `Delete`. Override this method to refuse: raise `Rejected` if the aggregate must not be deleted."""
        return Deleted(command.reason)

    @handles
    def decide_recreation(self, command: Recreate) -> Recreated:
        """Accept a `Recreate` of a deleted aggregate; reject it otherwise. Override this method to refuse."""
        if not self.is_deleted:
            raise Rejected("there is nothing to recreate: it was not deleted")
        return Recreated(command.reason)

    @applies
    def _eventsrc_end(self, event: Deleted) -> None:
        self.__dict__.update(type(self)().__dict__)
        self.__dict__[_IS_DELETED] = True

    @applies
    def _eventsrc_begin_anew(self, event: Recreated) -> None:
        self.__dict__.pop(_IS_DELETED, None)

    def _eventsrc_identify(self, aggregate_id: str) -> None:
        self.__dict__[_ID] = aggregate_id

    def __setattr__(self, name: str, value: object) -> None:
        _check_set(self, name)
        object.__setattr__(self, name, value)


def _watched(setting: Callable[[Aggregate, str, object], None]) -> Callable[[Aggregate, str, object], None]:
    """Wrap a class's own `__setattr__` in the check that every aggregate makes."""

    @functools.wraps(setting)
    def checked(state: Aggregate, name: str, value: object) -> None:
        _check_set(state, name)
        setting(state, name, value)

    return checked


def _check_set(state: Aggregate, name: str) -> None:
    if IS_DECIDING in state.__dict__:
        raise StateReadOnly(type(state), name)
    if name not in state.__eventsrc_settable__:
        raise DefinitionError(
            f"{type(state).__name__}.{name} was set, and is no field: it would be lost when the state is read from a "
            f"snapshot. Annotate it in the class, with a default: {name}: int = 0, say."
        )


def _settable_names(cls: type) -> Iterator[str]:
    """The names of the class's fields and of the properties that can be set."""
    yield from (field.name for field in attrs.fields(cls))
    yield from (name for name in dir(cls) if hasattr(inspect.getattr_static(cls, name, None), "__set__"))


def _inherited_snapshots(cls: type) -> Snapshots | None:
    definition: AggregateDefinition | None = getattr(cls, "__eventsrc_definition__", None)
    return None if definition is None else definition.snapshots


def _check_fields(cls: type) -> None:
    for name in (*(field.name for field in attrs.fields(cls) if field.name in vars(Aggregate)), "id", "is_deleted"):
        if name in vars(cls) or name in attrs.fields_dict(cls):
            raise DefinitionError(
                f"{cls.__name__}.{name} cannot be a field or a method: every aggregate has a {name} of its own. "
                "Rename it."
            )
    for field in attrs.fields(cls):
        if field.default is attrs.NOTHING:
            raise DefinitionError(
                f"{cls.__name__}.{field.name} has no default. The fields of an aggregate are its state, and their "
                "defaults are the state before its first event: give it one."
            )
        check_field(cls, field)


def _methods(cls: type, role: str, local_names: Mapping[str, Any]) -> dict[type, Callable[[Any, Any], Any]]:
    """The functions of one role, by their message classes; a child's method replaces its parent's of the same name."""
    found: dict[type, Callable[[Any, Any], Any]] = {}
    for name in names_in(cls):
        function = inspect.getattr_static(cls, name)
        if mark_of(cls, name, ROLE_MARK) != role or not callable(function):
            continue
        _check_kind(f"{cls.__name__}.{name}", function, role)
        for message_class in _parameter_classes(cls, function, role, local_names):
            if message_class in found:
                raise DefinitionError(
                    f"{cls.__name__}.{found[message_class].__name__} and {cls.__name__}.{name} both have @{role} for "
                    f"{message_class.__name__}. Keep one of them."
                )
            found[message_class] = function
    return found


def _check_kind(where: str, function: Callable[..., Any], role: str) -> None:
    """Check that what the function does is done when it is called."""
    if inspect.isasyncgenfunction(function):
        raise DefinitionError(f"{where} is async and yields. Have it return its events, or make it a plain def.")
    if role == "applies" and (inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function)):
        raise DefinitionError(
            f"{where} applies an event, so it must not be async and must not yield: make it a plain def."
        )


def _parameter_classes(
    cls: type, function: Callable[..., Any], role: str, local_names: Mapping[str, Any]
) -> tuple[type, ...]:
    where = f"{cls.__name__}.{function.__name__}"
    wanted, declared = (
        ("a @command class", command_definition) if role == "handles" else ("an @event class", event_definition)
    )
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if len(parameters) != 1:
        raise DefinitionError(f"{where} has @{role}, so it takes self and one parameter, annotated with {wanted}.")
    annotation = _hints(cls, function, local_names).get(parameters[0].name)
    if annotation is None:
        raise DefinitionError(f"The parameter {parameters[0].name!r} of {where} is not annotated: give it {wanted}.")
    classes = alternatives(annotation)
    for message_class in classes:
        if not isinstance(message_class, type) or declared(message_class) is None:
            raise DefinitionError(f"{where} is annotated with {message_class!r}, which is not {wanted}.")
    return classes


def _check_promises(
    cls: type, handlers: Mapping[type, Any], appliers: Mapping[type, Any], local_names: Mapping[str, Any]
) -> None:
    """Check that every event in a handler's return annotation is applied."""
    for function in dict.fromkeys(handlers.values()):
        for promised in _mentioned_classes(_hints(cls, function, local_names).get("return")):
            if event_definition(promised) is not None and promised not in appliers:
                raise DefinitionError(
                    f"{cls.__name__}.{function.__name__} returns {promised.__name__}, which nothing applies. Add a "
                    f"method to {cls.__name__}: @applies def ...(self, event: {promised.__name__}) -> None."
                )


def _hints(cls: type, function: Callable[..., Any], local_names: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, localns=dict(local_names))
    except NameError as error:
        raise DefinitionError(
            f"The annotations of {cls.__name__}.{function.__name__} cannot be resolved ({error}). Define the class "
            "that it names before this one, in a place that both can see, and import it when the program runs as well, "
            "not only under TYPE_CHECKING."
        ) from error


def _mentioned_classes(annotation: Any) -> list[type]:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _mentioned_classes(part)]
