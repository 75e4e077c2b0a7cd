"""The classes that a runtime is opened with."""

import inspect
from collections.abc import Collection, Sequence

from ..actors.aggregates.aggregate import Aggregate
from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.errors import DefinitionError
from ..actors.messages import check_names
from ..actors.projections.projection import Projection, check_bounds
from ..actors.sagas.instance import SagaInstances
from ..actors.sagas.saga import Saga
from ..actors.serialization.serializer import Serializer
from ..storage.limits import Limits
from .errors import ArgumentInvalid, TooManyProjections


def with_sagas_view(
    projections: Sequence[type[Projection]], sagas: Sequence[type[Saga]], limits: Limits
) -> Sequence[type[Projection]]:
    """The given projections and, if there are sagas, the runtime's own view of sagas.

    Raises `TooManyProjections`, `ArgumentInvalid` unless both are collections, and `DefinitionError` for a member that
    is no projection or no saga.
    """
    _check_classes("projections", projections, Projection)
    _check_classes("sagas", sagas, Saga)
    for each in projections:
        check_bounds(each)
    given, bound = len(projections), limits.projections_max
    if given > bound:
        raise TooManyProjections("Projections of a runtime", given, bound, "Split it, or raise the limit.")
    return (*projections, SagaInstances) if sagas else projections


def event_classes(
    aggregates: Sequence[type[Aggregate]], projections: Sequence[type[Projection]], sagas: Sequence[type[Saga]]
) -> list[type]:
    """Every event class that one of these classes names.

    Raises `DefinitionError` where a saga starts on an event class and an aggregate stores another class under the same
    name. Projections may read events by classes of their own.
    """
    followed = [event for projection in projections for event in projection.__eventsrc_projection__.handlers]
    starting = [event for saga in sagas for event in saga.__eventsrc_saga__.starts_on]
    own = [event for aggregate in aggregates for event in aggregate.__eventsrc_definition__.event_classes]
    check_names((*starting, *own))
    return [*followed, *starting, *own]


def _check_classes(argument: str, given: Collection[type], base: type) -> None:
    if not isinstance(given, Collection):
        raise ArgumentInvalid(argument, given, f"give a list of subclasses of {base.__name__}")
    for each in given:
        check_class(each, base)


def check_class(given: object, base: type) -> None:
    """Raise `DefinitionError` unless `given` is a proper subclass of `base` (`Aggregate`, `Projection` or `Saga`).

    The class must not be abstract, nor frozen by a decorator over it.
    """
    name = base.__name__
    if not (isinstance(given, type) and issubclass(given, base) and given is not base):
        raise DefinitionError(f"{given!r} is no {name.lower()}: give subclasses of {name}.")
    if inspect.isabstract(given):
        missing = ", ".join(sorted(getattr(given, "__abstractmethods__", ())))
        raise DefinitionError(f"{given.__name__} is abstract (without {missing}): give subclasses that have that.")
    if getattr(getattr(given, "__dataclass_params__", None), "frozen", False):
        raise DefinitionError(f"{given.__name__} is a frozen dataclass, and {name} makes its fields: leave that out.")


def types_of(aggregates: Sequence[type[Aggregate]], serializer: Serializer) -> dict[type[Aggregate], AggregateType]:
    """The type of each aggregate class, by class.

    Raises `DefinitionError` where two aggregates have the same category, two event classes have the same name, or a
    member is no aggregate, and `ArgumentInvalid` unless `aggregates` is a collection.
    """
    _check_classes("aggregates", aggregates, Aggregate)
    check_names(event for aggregate in aggregates for event in aggregate.__eventsrc_definition__.event_classes)
    by_category: dict[str, AggregateType] = {}
    for aggregate_class in dict.fromkeys(aggregates):
        aggregate_type = AggregateType(aggregate_class, serializer)
        other = by_category.setdefault(aggregate_type.category, aggregate_type)
        if other is not aggregate_type:
            raise DefinitionError(
                f"{aggregate_class.__name__} and {other.aggregate_class.__name__} both have the category "
                f"{aggregate_type.category!r}, so their streams would mix. Give one of them another: "
                f'class {aggregate_class.__name__}(Aggregate, category="...").'
            )
    return {aggregate_type.aggregate_class: aggregate_type for aggregate_type in by_category.values()}
