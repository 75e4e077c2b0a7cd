"""The classes that a runtime is opened with."""

from collections.abc import Sequence

from ..actors.aggregate import Aggregate
from ..actors.aggregate_type import AggregateType
from ..actors.errors import DefinitionError
from ..actors.projection import Projection
from ..actors.saga import Saga
from ..actors.serializer import Serializer


def event_classes(
    aggregates: Sequence[type[Aggregate]], projections: Sequence[type[Projection]], sagas: Sequence[type[Saga]]
) -> list[type]:
    """Every event class that one of these classes names. Raises `DefinitionError` for what is no projection."""
    for each in projections:
        if not (isinstance(each, type) and issubclass(each, Projection) and each is not Projection):
            raise DefinitionError(f"{each!r} is no projection: give Runtime.open subclasses of Projection.")
    followed = [event for projection in projections for event in projection.__eventsrc_projection__.handlers]
    starting = [event for saga in sagas for event in saga.__eventsrc_saga__.starts_on]
    own = [event for aggregate in aggregates for event in aggregate.__eventsrc_definition__.event_classes]
    return [*followed, *starting, *own]


def types_of(aggregates: Sequence[type[Aggregate]], serializer: Serializer) -> dict[type[Aggregate], AggregateType]:
    """Their types, by class. Raises `DefinitionError` where two have one category."""
    by_category: dict[str, AggregateType] = {}
    for aggregate_class in dict.fromkeys(aggregates):
        if not (isinstance(aggregate_class, type) and issubclass(aggregate_class, Aggregate)):
            raise DefinitionError(f"{aggregate_class!r} is no aggregate: give Runtime.open subclasses of Aggregate.")
        aggregate_type = AggregateType(aggregate_class, serializer)
        other = by_category.setdefault(aggregate_type.category, aggregate_type)
        if other is not aggregate_type:
            raise DefinitionError(
                f"{aggregate_class.__name__} and {other.aggregate_class.__name__} both have the category "
                f"{aggregate_type.category!r}, so their streams would mix. Give one of them another: "
                f'class {aggregate_class.__name__}(Aggregate, category="...").'
            )
    return {aggregate_type.aggregate_class: aggregate_type for aggregate_type in by_category.values()}
