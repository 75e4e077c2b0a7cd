"""The domain's classes for the command line: `--import MODULE`."""

import importlib
import inspect
import sys
from collections.abc import Sequence

from ...actors.aggregates.aggregate import Aggregate
from ...actors.aggregates.aggregate_type import AggregateType
from ...actors.errors import DefinitionError
from ...actors.serialization.serializer import Serializer
from ...storage.errors import described


def aggregates_in(modules: Sequence[str]) -> list[type[Aggregate]]:
    """The aggregate classes in these modules, which may be in the current folder.

    Raises `DefinitionError` for a module that cannot be imported.
    """
    found: dict[type[Aggregate], None] = {}
    sys.path.insert(0, "")
    try:
        for name in modules:
            try:
                module = importlib.import_module(name)
            except Exception as error:
                reason = error if isinstance(error, ImportError) else described(error)
                raise DefinitionError(f"The module {name!r} cannot be imported: {reason}.") from error
            for value in vars(module).values():
                if inspect.isclass(value) and issubclass(value, Aggregate) and value is not Aggregate:
                    found[value] = None
    finally:
        sys.path.remove("")
    return list(found)


def aggregate_of(stream: str, modules: Sequence[str]) -> tuple[AggregateType, str]:
    """The type and id of the aggregate that a stream belongs to, among the classes of these modules.

    Raises `DefinitionError` where none of them has its category.
    """
    category, _, aggregate_id = stream.partition("-")
    known = {each.__eventsrc_definition__.category: each for each in aggregates_in(modules)}
    if category not in known:
        raise DefinitionError(
            f"No aggregate of the category {category!r} is in {', '.join(modules)}; there is "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    return AggregateType(known[category], Serializer()), aggregate_id
